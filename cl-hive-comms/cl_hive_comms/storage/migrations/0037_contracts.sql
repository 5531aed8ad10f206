-- Negotiations and contracts (docs/protocol/04 §9, §10, §11): what was said, what stands, what was signed.
-- `version` counts the changes of a row: a change is made to the version it was decided on, or not at all.

CREATE TABLE marketplace_threads (
    thread_id   TEXT PRIMARY KEY,
    contract_id TEXT NOT NULL UNIQUE,
    kind        TEXT NOT NULL CHECK (kind IN ('direct', 'rfp', 'renewal', 'inquiry')),
    role        TEXT NOT NULL CHECK (role IN ('client', 'advisor')),
    peer_did    TEXT NOT NULL,
    peer_pubkey TEXT NOT NULL,
    round       INTEGER NOT NULL CHECK (round >= 0),
    last_sender TEXT NOT NULL,
    terms_json  TEXT NOT NULL,
    terms_hash  TEXT NOT NULL,
    rounds_json TEXT NOT NULL,
    state       TEXT NOT NULL,
    expires_at  INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX marketplace_threads_state ON marketplace_threads (state, expires_at);

CREATE TABLE marketplace_messages (
    msg_id      TEXT PRIMARY KEY,
    thread_id   TEXT NOT NULL,
    direction   TEXT NOT NULL CHECK (direction IN ('in', 'out')),
    seq         INTEGER NOT NULL,
    verb        TEXT NOT NULL,
    body_json   TEXT NOT NULL,
    sig         TEXT NOT NULL,
    sent_at     INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    received_at INTEGER,
    state       TEXT NOT NULL CHECK (state IN ('held', 'done', 'refused', 'sent')),
    code        TEXT,
    UNIQUE (thread_id, direction, seq)
) STRICT;
CREATE INDEX marketplace_messages_held ON marketplace_messages (received_at) WHERE state = 'held';

CREATE TABLE marketplace_contracts (
    contract_id        TEXT PRIMARY KEY,
    role               TEXT NOT NULL CHECK (role IN ('client', 'advisor')),
    thread_id          TEXT NOT NULL UNIQUE,
    advisor_did        TEXT NOT NULL,
    advisor_name       TEXT NOT NULL,
    operator_id        TEXT NOT NULL,
    node_id            TEXT NOT NULL,
    peer_pubkey        TEXT NOT NULL,
    status             TEXT NOT NULL,
    tier               TEXT NOT NULL,
    scope_json         TEXT NOT NULL,
    pricing_json       TEXT NOT NULL,
    sla_json           TEXT NOT NULL,
    terms_json         TEXT NOT NULL,
    contract_json      TEXT,
    contract_hash      TEXT,
    credential_id      TEXT UNIQUE,
    trial_start        INTEGER,
    trial_end          INTEGER,
    contract_start     INTEGER,
    contract_end       INTEGER,
    auto_renew         INTEGER NOT NULL DEFAULT 0,
    notice_days        INTEGER NOT NULL DEFAULT 7,
    notice_at          INTEGER,
    effective_at       INTEGER,
    terminated_at      INTEGER,
    termination_reason TEXT,
    flags              TEXT NOT NULL DEFAULT '[]',
    renewal_seq        INTEGER NOT NULL DEFAULT 0,
    notified_for       INTEGER,
    version            INTEGER NOT NULL,
    created_at         INTEGER NOT NULL,
    updated_at         INTEGER NOT NULL
) STRICT;
CREATE INDEX marketplace_contracts_advisor ON marketplace_contracts (advisor_did, status);
CREATE INDEX marketplace_contracts_status ON marketplace_contracts (status);
CREATE INDEX marketplace_contracts_end ON marketplace_contracts (contract_end);
