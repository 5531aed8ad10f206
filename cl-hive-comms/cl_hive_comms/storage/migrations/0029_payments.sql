-- Payments of this node for advisors and sibling plugins, and what it is paid (docs/protocol/03 §7, §8).
-- Amounts are exact in msat; the columns of the sheet in sats are made of them, rounded up.
-- A row is there, committed, before the node is asked for anything. `counted_sats` is what limits count of it.
-- `sent_index` is the node's count of payment parts just before it was told to pay, `sent_at` the time.

CREATE TABLE comms_payments (
    payment_id      TEXT PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE,
    content_hash    TEXT NOT NULL,
    advisor_id      TEXT,
    budget          TEXT CHECK (budget IN ('advisor', 'liquidity', 'fleet', 'provision', 'archon', 'internal')),
    kind            TEXT NOT NULL CHECK (kind IN ('bolt11', 'bolt12', 'keysend', 'l402', 'cashu')),
    purpose         TEXT NOT NULL,
    direction       TEXT NOT NULL CHECK (direction IN ('out', 'in')),
    amount_msat     INTEGER NOT NULL CHECK (amount_msat > 0),
    fee_msat        INTEGER NOT NULL DEFAULT 0 CHECK (fee_msat >= 0),
    max_fee_msat    INTEGER NOT NULL DEFAULT 0 CHECK (max_fee_msat >= 0),
    amount_sats     INTEGER GENERATED ALWAYS AS ((amount_msat + 999) / 1000) VIRTUAL,
    fee_sats        INTEGER GENERATED ALWAYS AS ((fee_msat + 999) / 1000) VIRTUAL,
    max_fee_sats    INTEGER GENERATED ALWAYS AS ((max_fee_msat + 999) / 1000) VIRTUAL,
    counted_sats    INTEGER NOT NULL DEFAULT 0 CHECK (counted_sats >= 0),
    state           TEXT NOT NULL CHECK (state IN ('reserved', 'sending', 'settled', 'failed', 'unknown',
                        'refunded', 'owed', 'awaiting', 'expired')),
    target_enc      BLOB NOT NULL,
    payment_hash    TEXT,
    preimage_enc    BLOB,
    contract_id     TEXT,
    ticket_id       TEXT,
    mint_url        TEXT,
    y               TEXT UNIQUE,
    offer_id        TEXT,
    label           TEXT NOT NULL UNIQUE,
    sent_index      INTEGER,
    sent_at         INTEGER,
    bound_to        TEXT,
    expires_at      INTEGER,
    error           TEXT,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    CHECK ((direction = 'in') = (budget IS NULL))
) STRICT;
-- What failed for good may be tried again in a row of its own.
CREATE UNIQUE INDEX comms_payments_hash ON comms_payments (payment_hash, direction)
    WHERE state NOT IN ('failed', 'expired');
CREATE INDEX comms_payments_state ON comms_payments (state, created_at);
CREATE INDEX comms_payments_advisor ON comms_payments (advisor_id, created_at);
CREATE INDEX comms_payments_budget ON comms_payments (budget, created_at) WHERE counted_sats > 0;
CREATE INDEX comms_payments_time ON comms_payments (created_at, payment_id);

-- Sums of counted_sats by hour, of each scope of limits and, with an advisor, of that one's part of it.
CREATE TABLE comms_payment_sums (
    scope      TEXT NOT NULL,
    advisor_id TEXT NOT NULL,
    hour       INTEGER NOT NULL,
    sats       INTEGER NOT NULL CHECK (sats >= 0),
    PRIMARY KEY (scope, advisor_id, hour)
) STRICT, WITHOUT ROWID;
