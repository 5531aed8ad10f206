-- docs/protocol/11-advisor-kit.md §12: the tables that are served so far.
CREATE TABLE adv_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

CREATE TABLE adv_clients (
    client_id   TEXT PRIMARY KEY,
    alias       TEXT NOT NULL UNIQUE,
    alias_key   TEXT NOT NULL UNIQUE,           -- casefolded NFKC: two names that look alike are one
    node_key    TEXT NOT NULL UNIQUE,
    node_id     TEXT NOT NULL,
    network     TEXT NOT NULL,
    remote_name TEXT NOT NULL DEFAULT '',       -- the node's own words, never used as a name
    relays_json TEXT NOT NULL,
    max_skew_s  INTEGER NOT NULL,
    offset_s    INTEGER NOT NULL DEFAULT 0,
    caps_json   TEXT,
    caps_at     INTEGER,
    last_nonce  INTEGER NOT NULL DEFAULT 0,
    last_seq    INTEGER NOT NULL DEFAULT 0,
    head_id     INTEGER NOT NULL DEFAULT 0,
    head_hash   TEXT NOT NULL DEFAULT '',
    state       TEXT NOT NULL CHECK (state IN ('offered', 'active', 'paused', 'suspect', 'ended')),
    suspect_why TEXT NOT NULL DEFAULT '',
    created     INTEGER NOT NULL,
    updated     INTEGER NOT NULL
) STRICT;

CREATE TABLE adv_credentials (
    credential_id TEXT PRIMARY KEY,
    client_id     TEXT NOT NULL REFERENCES adv_clients (client_id),
    doc_json      TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('offered', 'active', 'superseded', 'revoked', 'declined')),
    valid_until   INTEGER NOT NULL,
    created       INTEGER NOT NULL
) STRICT;
CREATE INDEX adv_credentials_client ON adv_credentials (client_id, created);

CREATE TABLE adv_commands (
    command_id    TEXT PRIMARY KEY,
    client_id     TEXT NOT NULL REFERENCES adv_clients (client_id),
    credential_id TEXT NOT NULL,
    schema        TEXT NOT NULL,
    action        TEXT NOT NULL,
    params_json   TEXT NOT NULL,
    danger_json   TEXT NOT NULL,
    origin        TEXT NOT NULL,
    note          TEXT NOT NULL DEFAULT '',
    nonce         INTEGER NOT NULL,
    timestamp     INTEGER NOT NULL,
    command_hash  TEXT NOT NULL,
    envelope_json TEXT NOT NULL,
    state         TEXT NOT NULL,
    slug          TEXT,
    response_json TEXT,
    challenge     TEXT,
    receipt_id    INTEGER,
    retry_of      TEXT,
    sends         INTEGER NOT NULL DEFAULT 0,
    next_send     INTEGER,
    deadline      INTEGER,
    created       INTEGER NOT NULL,
    updated       INTEGER NOT NULL,
    UNIQUE (client_id, nonce)
) STRICT;
CREATE INDEX adv_commands_state ON adv_commands (state, deadline);
CREATE INDEX adv_commands_client ON adv_commands (client_id, created);

CREATE TABLE adv_inbox (
    rumor_id    TEXT PRIMARY KEY,
    peer        TEXT NOT NULL,
    raw_json    TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('done', 'quarantined')),
    why         TEXT NOT NULL DEFAULT '',
    received_at INTEGER NOT NULL
) STRICT;
CREATE INDEX adv_inbox_state ON adv_inbox (state, received_at);

CREATE TABLE adv_events (
    cursor INTEGER PRIMARY KEY AUTOINCREMENT,
    kind   TEXT NOT NULL,
    ref    TEXT NOT NULL,
    text   TEXT NOT NULL DEFAULT '',
    at     INTEGER NOT NULL
) STRICT;

CREATE TABLE adv_receipts (
    client_id  TEXT NOT NULL REFERENCES adv_clients (client_id),
    receipt_id INTEGER NOT NULL,
    hash       TEXT NOT NULL,
    prev       TEXT NOT NULL,
    mine       INTEGER NOT NULL CHECK (mine IN (0, 1)),
    doc_json   TEXT NOT NULL,
    level      TEXT NOT NULL CHECK (level IN ('stub', 'signed', 'chained', 'anchored')),
    acked      INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (client_id, receipt_id)
) STRICT, WITHOUT ROWID;
