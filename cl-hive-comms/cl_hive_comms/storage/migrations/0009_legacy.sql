-- What comes from the earlier single plugin (docs/protocol/08-client-and-plugins.md §5.3, §8.3). Rows are
-- kept as they were, as canonical JSON; nothing of them acts. Times are Unix seconds.

-- One row per migration that took something in. The columns from first_seq on are the signed checkpoint
-- that closes its segment of legacy receipts; NULL when it brought none.
CREATE TABLE comms_migrations (
    migration_id   INTEGER PRIMARY KEY,
    at             INTEGER NOT NULL,
    source_sha256  TEXT NOT NULL,
    report_json    TEXT NOT NULL,
    first_seq      INTEGER,
    last_seq       INTEGER,
    merkle_root    TEXT,
    last_digest    TEXT,
    node_signature TEXT,
    hsm_signature  TEXT
) STRICT;

-- `digest` is the SHA-256 of `row_json`; the checkpoint's Merkle root stands over the digests.
CREATE TABLE comms_legacy_receipts (
    seq         INTEGER PRIMARY KEY,
    receipt_id  TEXT NOT NULL UNIQUE,
    executed_at INTEGER NOT NULL,
    schema_id   TEXT NOT NULL,
    digest      TEXT NOT NULL,
    row_json    TEXT NOT NULL
) STRICT;
CREATE INDEX comms_legacy_receipts_time ON comms_legacy_receipts (executed_at, seq);

-- A row that the earlier plugin changed between two migrations stands here in both versions.
CREATE TABLE comms_legacy_rows (
    source_table TEXT NOT NULL,
    row_key      TEXT NOT NULL,
    digest       TEXT NOT NULL,
    migration_id INTEGER NOT NULL,
    row_json     TEXT NOT NULL,
    PRIMARY KEY (source_table, row_key, digest)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER comms_migrations_no_update BEFORE UPDATE ON comms_migrations
BEGIN SELECT RAISE(ABORT, 'migrations are append-only'); END;
CREATE TRIGGER comms_migrations_no_delete BEFORE DELETE ON comms_migrations
BEGIN SELECT RAISE(ABORT, 'migrations are append-only'); END;
CREATE TRIGGER comms_legacy_receipts_no_update BEFORE UPDATE ON comms_legacy_receipts
BEGIN SELECT RAISE(ABORT, 'receipts are append-only'); END;
CREATE TRIGGER comms_legacy_receipts_no_delete BEFORE DELETE ON comms_legacy_receipts
BEGIN SELECT RAISE(ABORT, 'receipts are append-only'); END;
