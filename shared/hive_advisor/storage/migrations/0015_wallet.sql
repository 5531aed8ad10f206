-- The ecash wallet of the kit (docs/protocol/11 §12, columns of 03 §8). A row of adv_cashu_ops is committed
-- before its request leaves.
-- What could be spent, or says who pays whom, is sealed.

CREATE TABLE adv_cashu_proofs (
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
CREATE INDEX adv_cashu_proofs_choice ON adv_cashu_proofs (mint_url, state, amount);
CREATE INDEX adv_cashu_proofs_used ON adv_cashu_proofs (used_op) WHERE used_op IS NOT NULL;
CREATE INDEX adv_cashu_proofs_spent ON adv_cashu_proofs (spent_at) WHERE state = 'spent';

CREATE TABLE adv_cashu_ops (
    op_id           TEXT PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE,
    content         TEXT NOT NULL,
    owner           TEXT NOT NULL CHECK (owner = 'kit'),
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
CREATE INDEX adv_cashu_ops_due ON adv_cashu_ops (state, next_retry_at);
CREATE INDEX adv_cashu_ops_newest ON adv_cashu_ops (created_at, op_id);
CREATE INDEX adv_cashu_ops_watched ON adv_cashu_ops (watch_until) WHERE watch_until > 0;

CREATE TABLE adv_cashu_counters (
    mint_url  TEXT NOT NULL,
    keyset_id TEXT NOT NULL,
    next      INTEGER NOT NULL CHECK (next >= 0),
    PRIMARY KEY (mint_url, keyset_id)
) STRICT, WITHOUT ROWID;

-- The mints that were named and what is known of them.
CREATE TABLE adv_cashu_mints (
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
CREATE TABLE adv_cashu_keysets (
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
CREATE INDEX adv_cashu_keysets_by_id ON adv_cashu_keysets (keyset_id);
