-- Fees that were paid for access (docs/protocol/11-advisor-kit.md §8, §12): for one action, or a token for many.
-- Whether one is used up says the command that took it along last.
CREATE TABLE adv_l402 (
    payment_hash  TEXT PRIMARY KEY,
    client_id     TEXT NOT NULL REFERENCES adv_clients (client_id),
    credential_id TEXT NOT NULL,
    method        TEXT NOT NULL CHECK (method IN ('bolt11', 'l402')),
    amount_sats   INTEGER NOT NULL CHECK (amount_sats >= 0),
    proof_enc     BLOB NOT NULL,
    expires_at    INTEGER NOT NULL,
    demanded_by   TEXT NOT NULL,
    used_by       TEXT,
    created       INTEGER NOT NULL
) STRICT;
CREATE INDEX adv_l402_client ON adv_l402 (client_id, created);
