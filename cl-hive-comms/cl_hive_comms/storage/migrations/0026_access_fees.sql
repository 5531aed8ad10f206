-- What agents pay for access (docs/protocol/03-escrow-and-payments.md §7.5, §8; 02 §8). A use of a token is
-- taken and given back together with its row in comms_access_uses, so that no command counts twice.

CREATE TABLE comms_l402_tokens (
    token_id      TEXT PRIMARY KEY,
    role          TEXT NOT NULL CHECK (role IN ('server', 'client')),
    service       TEXT NOT NULL,
    agent_key     TEXT NOT NULL,
    credential_id TEXT NOT NULL,
    payment_hash  TEXT NOT NULL UNIQUE,
    caveats_json  TEXT NOT NULL,
    macaroon_enc  BLOB,
    preimage_enc  BLOB,
    price_sats    INTEGER NOT NULL CHECK (price_sats >= 0),
    max_uses      INTEGER NOT NULL CHECK (max_uses >= 1),
    uses          INTEGER NOT NULL DEFAULT 0 CHECK (uses BETWEEN 0 AND max_uses),
    expires_at    INTEGER NOT NULL,
    status        TEXT NOT NULL CHECK (status IN ('open', 'paid', 'revoked'))
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_l402_tokens_agent ON comms_l402_tokens (agent_key, status, expires_at);
CREATE INDEX comms_l402_tokens_status ON comms_l402_tokens (status, expires_at);

CREATE TABLE comms_access_uses (
    command_id TEXT PRIMARY KEY,
    token_id   TEXT NOT NULL,
    fee_json   TEXT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('held', 'redeemed', 'returned')),
    at         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_access_uses_token ON comms_access_uses (token_id);
