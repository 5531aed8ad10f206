-- Ecash under a condition (docs/protocol/03-escrow-and-payments.md §8): one row for an item's share at one
-- mint. Planned in the transaction that begins its swap; what could be spent is sealed.
-- `counted_sats` is what limits count of it (§7.2). `next_at` is when it is looked at again; after a swap that
-- the mint did not carry out at most `batch` locks go into the next one with it (0: no bound).

CREATE TABLE comms_cashu_locks (
    lock_id           TEXT PRIMARY KEY,
    owner             TEXT NOT NULL CHECK (owner IN ('comms', 'hive')),
    ref               TEXT NOT NULL,
    role              TEXT NOT NULL CHECK (role IN ('payer', 'payee', 'cosigner', 'observer')),
    kind              TEXT NOT NULL CHECK (kind IN ('HTLC', 'P2PK')),
    mint_url          TEXT NOT NULL,
    keyset_id         TEXT NOT NULL,
    amount_sats       INTEGER NOT NULL CHECK (amount_sats > 0),
    face_sats         INTEGER NOT NULL CHECK (face_sats > 0),
    hash              TEXT,
    keys_json         TEXT NOT NULL,
    n_sigs            INTEGER,
    sigflag           TEXT,
    refund_pubkey     TEXT NOT NULL,
    key_context       TEXT NOT NULL,
    locktime          INTEGER NOT NULL,
    terms_hash        TEXT NOT NULL,
    item              INTEGER NOT NULL,
    share             INTEGER NOT NULL,
    token_enc         BLOB,
    ys_json           TEXT NOT NULL,
    state             TEXT NOT NULL CHECK (state IN ('planned', 'locked', 'delivered', 'redeemable', 'redeeming',
                          'redeemed', 'refundable', 'refunding', 'refunded', 'lost', 'failed')),
    released_at       INTEGER,
    refund_hold_until INTEGER NOT NULL DEFAULT 0,
    witness_enc       BLOB,
    op_id             TEXT NOT NULL DEFAULT '',
    request_key       TEXT NOT NULL,
    content           TEXT NOT NULL,
    budget            TEXT,
    advisor_id        TEXT,
    counted_sats      INTEGER NOT NULL DEFAULT 0 CHECK (counted_sats >= 0),
    batch             INTEGER NOT NULL DEFAULT 0,
    tries             INTEGER NOT NULL DEFAULT 0,
    next_at           INTEGER NOT NULL,
    error             TEXT NOT NULL DEFAULT '',
    reason            TEXT NOT NULL DEFAULT '',
    created_at        INTEGER NOT NULL,
    updated_at        INTEGER NOT NULL,
    UNIQUE (terms_hash, item, share, role)
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_cashu_locks_time ON comms_cashu_locks (state, locktime);
CREATE INDEX comms_cashu_locks_due ON comms_cashu_locks (state, next_at);
CREATE INDEX comms_cashu_locks_hash ON comms_cashu_locks (hash) WHERE hash IS NOT NULL;
CREATE INDEX comms_cashu_locks_request ON comms_cashu_locks (request_key);
CREATE INDEX comms_cashu_locks_counted ON comms_cashu_locks (budget, created_at, advisor_id, counted_sats)
    WHERE counted_sats > 0;
