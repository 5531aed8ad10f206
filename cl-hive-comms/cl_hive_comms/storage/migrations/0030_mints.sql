-- The mints the operator named and what is known of them (docs/protocol/03-escrow-and-payments.md §4.2, §8).
CREATE TABLE comms_cashu_mints (
    mint_url     TEXT PRIMARY KEY,
    role         TEXT NOT NULL CHECK (role IN ('primary', 'backup', 'former')),
    status       TEXT NOT NULL CHECK (status IN ('trusted', 'probation', 'disabled')),
    version      TEXT NOT NULL DEFAULT '',
    info_json    TEXT NOT NULL DEFAULT '{}',
    caps_json    TEXT NOT NULL DEFAULT '{}',
    probe_at     INTEGER NOT NULL DEFAULT 0,
    skew_s       INTEGER,
    failures     INTEGER NOT NULL DEFAULT 0,
    checked_at   INTEGER NOT NULL DEFAULT 0,
    last_ok_at   INTEGER NOT NULL DEFAULT 0,
    last_error   TEXT NOT NULL DEFAULT '',
    added_at     INTEGER NOT NULL
) STRICT;

-- Their keysets in sat.
CREATE TABLE comms_cashu_keysets (
    mint_url      TEXT NOT NULL,
    keyset_id     TEXT NOT NULL,
    unit          TEXT NOT NULL,
    active        INTEGER NOT NULL CHECK (active IN (0, 1)),
    input_fee_ppk INTEGER NOT NULL,
    final_expiry  INTEGER,
    keys_json     TEXT NOT NULL,
    first_seen    INTEGER NOT NULL,
    PRIMARY KEY (mint_url, keyset_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_cashu_keysets_by_id ON comms_cashu_keysets (keyset_id);
