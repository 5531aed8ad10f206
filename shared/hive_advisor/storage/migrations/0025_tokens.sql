-- Ecash that nodes sent for commands (docs/protocol/11-advisor-kit.md §8, §12): kept before anything else is done with
-- it, until it is our own. Known by the hash of its text, so that the same token is taken once.
CREATE TABLE adv_tokens (
    token_hash  TEXT PRIMARY KEY,
    client_id   TEXT NOT NULL,
    command_id  TEXT NOT NULL,
    context     TEXT NOT NULL,
    amount_sats INTEGER NOT NULL CHECK (amount_sats > 0),
    token_enc   BLOB,
    state       TEXT NOT NULL CHECK (state IN ('held', 'taken', 'lost')),
    net_sats    INTEGER NOT NULL DEFAULT 0,
    why         TEXT NOT NULL DEFAULT '',
    tries       INTEGER NOT NULL DEFAULT 0,
    next_at     INTEGER NOT NULL DEFAULT 0,
    created     INTEGER NOT NULL,
    updated     INTEGER NOT NULL
) STRICT;
CREATE INDEX adv_tokens_state ON adv_tokens (state, next_at);
