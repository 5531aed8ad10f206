-- Negotiations and contracts with operators (docs/protocol/04-marketplace-and-nostr.md §9, §10, §11), told by
-- their messages as they were signed.
CREATE TABLE adv_threads (
    thread_id        TEXT PRIMARY KEY,
    contract_id      TEXT NOT NULL UNIQUE,
    peer_key         TEXT NOT NULL,
    agent_key        TEXT NOT NULL,
    state            TEXT NOT NULL,
    negotiation_json TEXT NOT NULL,
    sign_at_once     INTEGER NOT NULL DEFAULT 0 CHECK (sign_at_once IN (0, 1)),
    last_in          INTEGER NOT NULL,
    ends_at          INTEGER NOT NULL,
    why              TEXT NOT NULL DEFAULT '',
    created          INTEGER NOT NULL,
    updated          INTEGER NOT NULL
) STRICT;
CREATE INDEX adv_threads_state ON adv_threads (state, ends_at);
CREATE INDEX adv_threads_peer ON adv_threads (peer_key, state);
CREATE INDEX adv_threads_updated ON adv_threads (updated);

CREATE TABLE adv_messages (
    msg_id      TEXT PRIMARY KEY,
    thread_id   TEXT NOT NULL REFERENCES adv_threads (thread_id),
    direction   TEXT NOT NULL CHECK (direction IN ('in', 'out')),
    seq         INTEGER NOT NULL,
    verb        TEXT NOT NULL,
    content     TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('early', 'taken', 'refused', 'sent')),
    why         TEXT NOT NULL DEFAULT '',
    sent_at     INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    UNIQUE (thread_id, direction, seq)
) STRICT;
CREATE INDEX adv_messages_early ON adv_messages (received_at) WHERE state = 'early';

CREATE TABLE adv_contracts (
    contract_id   TEXT PRIMARY KEY REFERENCES adv_threads (contract_id),
    state         TEXT NOT NULL,
    contract_json TEXT NOT NULL,
    contract_hash TEXT NOT NULL UNIQUE,
    credential_id TEXT NOT NULL,
    ends_at       INTEGER NOT NULL,
    effective_at  INTEGER,
    ended_by      TEXT NOT NULL DEFAULT '' CHECK (ended_by IN ('', 'operator', 'advisor')),
    reason        TEXT NOT NULL DEFAULT '',
    created       INTEGER NOT NULL,
    updated       INTEGER NOT NULL
) STRICT;
CREATE INDEX adv_contracts_state ON adv_contracts (state, updated);
CREATE INDEX adv_contracts_credential ON adv_contracts (credential_id);

-- What was signed limits what is done under a credential that was issued for it.
ALTER TABLE adv_credentials ADD COLUMN contract_id TEXT NOT NULL DEFAULT '';
ALTER TABLE adv_credentials ADD COLUMN scope_json TEXT;
