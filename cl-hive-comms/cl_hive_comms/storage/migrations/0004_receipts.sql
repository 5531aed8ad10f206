-- The receipt chain (docs/protocol/02 §9, 08 §5.3). `document` is the signed text. The columns after it
-- repeat what it says so that it can be searched; `verify` names a receipt whose columns disagree with it.

CREATE TABLE management_receipts (
    receipt_id     INTEGER PRIMARY KEY,
    advisor_id     TEXT NOT NULL,
    document       TEXT NOT NULL,
    receipt_hash   TEXT NOT NULL UNIQUE,
    node_signature TEXT NOT NULL,
    prev_hash      TEXT NOT NULL,
    created_at     INTEGER NOT NULL,
    schema_id      TEXT NOT NULL,
    action         TEXT NOT NULL,
    status         TEXT NOT NULL,
    command_id     TEXT,
    credential_id  TEXT,
    agent_id       TEXT
) STRICT;
CREATE INDEX management_receipts_advisor ON management_receipts (advisor_id, created_at);
CREATE INDEX management_receipts_advisor_id ON management_receipts (advisor_id, receipt_id);
CREATE INDEX management_receipts_time ON management_receipts (created_at);
CREATE INDEX management_receipts_command ON management_receipts (command_id) WHERE command_id IS NOT NULL;

CREATE TRIGGER management_receipts_gapless BEFORE INSERT ON management_receipts
WHEN NEW.receipt_id <> (SELECT COALESCE(MAX(receipt_id), 0) + 1 FROM management_receipts)
BEGIN SELECT RAISE(ABORT, 'receipt ids are gapless'); END;
CREATE TRIGGER management_receipts_no_update BEFORE UPDATE ON management_receipts
BEGIN SELECT RAISE(ABORT, 'receipts are append-only'); END;
CREATE TRIGGER management_receipts_no_delete BEFORE DELETE ON management_receipts
BEGIN SELECT RAISE(ABORT, 'receipts are append-only'); END;

CREATE TABLE comms_receipt_roots (
    period         TEXT PRIMARY KEY,
    kind           TEXT NOT NULL CHECK (kind IN ('hour', 'day', 'prune')),
    start          INTEGER NOT NULL,
    first_id       INTEGER NOT NULL,
    last_id        INTEGER NOT NULL,
    count          INTEGER NOT NULL,
    merkle_root    TEXT NOT NULL,
    last_hash      TEXT NOT NULL,
    node_signature TEXT NOT NULL,
    hsm_signature  TEXT
) STRICT;
CREATE INDEX comms_receipt_roots_last ON comms_receipt_roots (kind, last_id);

CREATE TABLE comms_receipt_acks (
    receipt_id INTEGER NOT NULL REFERENCES management_receipts (receipt_id),
    sender_key TEXT NOT NULL,
    signature  TEXT NOT NULL,
    at         INTEGER NOT NULL,
    PRIMARY KEY (receipt_id, sender_key)
) STRICT, WITHOUT ROWID;
