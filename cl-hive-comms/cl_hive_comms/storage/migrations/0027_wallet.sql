-- The ecash wallet (docs/protocol/03 §8). A row of comms_cashu_ops is committed before its request leaves.
-- What could be spent, or says who pays whom, is sealed.

CREATE TABLE comms_cashu_proofs (
    y          TEXT PRIMARY KEY,
    mint_url   TEXT NOT NULL,
    keyset_id  TEXT NOT NULL,
    amount     INTEGER NOT NULL CHECK (amount > 0),
    state      TEXT NOT NULL CHECK (state IN ('unspent', 'pending', 'spent', 'quarantined')),
    secret_enc BLOB NOT NULL,
    c_enc      BLOB NOT NULL,
    dleq_enc   BLOB NOT NULL,
    counter    INTEGER,
    origin_op  TEXT NOT NULL,
    used_op    TEXT,
    created_at INTEGER NOT NULL,
    spent_at   INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_cashu_proofs_choice ON comms_cashu_proofs (mint_url, state, amount);
CREATE INDEX comms_cashu_proofs_used ON comms_cashu_proofs (used_op) WHERE used_op IS NOT NULL;
CREATE INDEX comms_cashu_proofs_spent ON comms_cashu_proofs (spent_at) WHERE state = 'spent';

CREATE TABLE comms_cashu_ops (
    op_id           TEXT PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE,
    content         TEXT NOT NULL,
    owner           TEXT NOT NULL CHECK (owner IN ('comms', 'hive')),
    kind            TEXT NOT NULL CHECK (kind IN ('fund', 'lock', 'redeem', 'refund', 'receive', 'send', 'melt',
                                                  'probe', 'consolidate')),
    mint_url        TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('prepared', 'sent', 'recovering', 'done', 'failed')),
    inputs_json     TEXT NOT NULL,
    outputs_enc     BLOB NOT NULL,
    amount_sats     INTEGER NOT NULL CHECK (amount_sats >= 0),
    fee_sats        INTEGER NOT NULL CHECK (fee_sats >= 0),
    quote_id        TEXT NOT NULL,
    quote_key_enc   BLOB,
    payment_id      TEXT NOT NULL,
    lock_ids_json   TEXT NOT NULL,
    attempts        INTEGER NOT NULL,
    next_retry_at   INTEGER NOT NULL,
    expires_at      INTEGER NOT NULL,
    sent_at         INTEGER NOT NULL,
    watch_until     INTEGER NOT NULL,
    error           TEXT NOT NULL,
    reason          TEXT NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_cashu_ops_due ON comms_cashu_ops (state, next_retry_at);
CREATE INDEX comms_cashu_ops_newest ON comms_cashu_ops (created_at, op_id);
CREATE INDEX comms_cashu_ops_watched ON comms_cashu_ops (watch_until) WHERE watch_until > 0;

CREATE TABLE comms_cashu_counters (
    mint_url  TEXT NOT NULL,
    keyset_id TEXT NOT NULL,
    next      INTEGER NOT NULL CHECK (next >= 0),
    PRIMARY KEY (mint_url, keyset_id)
) STRICT, WITHOUT ROWID;
