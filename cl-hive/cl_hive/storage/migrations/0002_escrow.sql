-- Escrow tickets of the fleet (docs/protocol/03-escrow-and-payments.md §8): the money is with cl-hive-comms,
-- task and meaning are here. Tickets, items, preimages and disputes have the columns of comms' own
-- (docs/decisions/0590-tickets-of-cl-hive.md); preimages are sealed, tokens never come here.

CREATE TABLE escrow_tickets (
    ticket_id       TEXT PRIMARY KEY,
    role            TEXT NOT NULL CHECK (role IN ('payer', 'payee')),
    type            TEXT NOT NULL CHECK (type IN ('single', 'batch', 'milestone', 'performance')),
    mode            TEXT NOT NULL CHECK (mode IN ('task', 'receipt', 'p2pk')),
    advisor_id      TEXT,
    contract_id     TEXT,
    terms_json      TEXT NOT NULL,
    terms_hash      TEXT NOT NULL UNIQUE,
    payer_sig       TEXT NOT NULL,
    acked_by        TEXT NOT NULL DEFAULT '',
    amount_sats     INTEGER NOT NULL CHECK (amount_sats > 0),
    danger          INTEGER NOT NULL,
    schema          TEXT NOT NULL,
    params_hash     TEXT NOT NULL,
    credential_ref  TEXT,
    status          TEXT NOT NULL CHECK (status IN ('pending', 'active', 'partial', 'redeemed', 'refunded',
                        'expired', 'failed', 'cancelled', 'disputed')),
    replaces        TEXT,
    idempotency_key TEXT NOT NULL UNIQUE,
    content         TEXT NOT NULL,
    error           TEXT NOT NULL DEFAULT '',
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX escrow_tickets_status ON escrow_tickets (status, created_at);
CREATE INDEX escrow_tickets_agent ON escrow_tickets (advisor_id, status);
CREATE INDEX escrow_tickets_time ON escrow_tickets (created_at, ticket_id);

CREATE TABLE escrow_items (
    ticket_id     TEXT NOT NULL REFERENCES escrow_tickets (ticket_id),
    i             INTEGER NOT NULL,
    label         TEXT NOT NULL,
    amount_sats   INTEGER NOT NULL CHECK (amount_sats > 0),
    hash          TEXT,
    deadline      INTEGER NOT NULL,
    locktime      INTEGER NOT NULL,
    cond_json     TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('planned', 'locked', 'delivered', 'accepted', 'executing',
                      'succeeded', 'failed', 'unknown', 'released', 'redeemed', 'refundable', 'refunding',
                      'refunded', 'lost', 'disputed', 'cancelled')),
    lock_ids_json TEXT NOT NULL DEFAULT '[]',
    command_id    TEXT,
    receipt_id    TEXT,
    metric_json   TEXT,
    released_at   INTEGER,
    delivered_at  INTEGER,
    redeemed_at   INTEGER,
    refunded_at   INTEGER,
    owed_sats     INTEGER NOT NULL DEFAULT 0 CHECK (owed_sats >= 0),
    owed_by       TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (ticket_id, i)
) STRICT, WITHOUT ROWID;
CREATE INDEX escrow_items_time ON escrow_items (state, locktime);
-- One item pays one task.
CREATE UNIQUE INDEX escrow_items_command ON escrow_items (command_id) WHERE command_id IS NOT NULL;
CREATE INDEX escrow_items_owed ON escrow_items (ticket_id) WHERE owed_sats > 0 AND owed_by = '';

-- A hash is of one item for good: it is bound once, and never freed.
CREATE TABLE escrow_secrets (
    hash         TEXT PRIMARY KEY,
    ticket_id    TEXT,
    i            INTEGER,
    task_id      TEXT NOT NULL,
    source       TEXT NOT NULL CHECK (source IN ('generated', 'imported')),
    asked_by     TEXT NOT NULL DEFAULT '',
    secret_enc   BLOB NOT NULL,
    created_at   INTEGER NOT NULL,
    released_at  INTEGER,
    delivered_at INTEGER,
    expires_at   INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX escrow_secrets_task ON escrow_secrets (task_id) WHERE ticket_id IS NULL;
CREATE UNIQUE INDEX escrow_secrets_item ON escrow_secrets (ticket_id, i) WHERE ticket_id IS NOT NULL;

CREATE TABLE escrow_disputes (
    dispute_id    TEXT PRIMARY KEY,
    ticket_id     TEXT NOT NULL REFERENCES escrow_tickets (ticket_id),
    i             INTEGER NOT NULL,
    role          TEXT NOT NULL CHECK (role IN ('payer', 'payee')),
    claim         TEXT NOT NULL,
    evidence_json TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('open', 'replaced', 'paid', 'rejected')),
    due_at        INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    resolved_at   INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX escrow_disputes_open ON escrow_disputes (ticket_id, i) WHERE state = 'open';
CREATE INDEX escrow_disputes_due ON escrow_disputes (due_at) WHERE state = 'open';

-- What cl-hive-comms last said of each lock. A row is there before comms is asked to lock: what became of it
-- is asked, never guessed.
CREATE TABLE escrow_locks (
    lock_id    TEXT PRIMARY KEY,
    ticket_id  TEXT NOT NULL,
    terms_hash TEXT NOT NULL,
    item       INTEGER NOT NULL,
    share      INTEGER NOT NULL,
    role       TEXT NOT NULL CHECK (role IN ('payer', 'payee')),
    locktime   INTEGER NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('planned', 'locked', 'delivered', 'redeemable', 'redeeming',
                   'redeemed', 'refundable', 'refunding', 'refunded', 'lost', 'failed')),
    error      TEXT NOT NULL DEFAULT '',
    next_at    INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX escrow_locks_terms ON escrow_locks (terms_hash, item, share);
CREATE INDEX escrow_locks_due ON escrow_locks (next_at)
    WHERE state NOT IN ('redeemed', 'refunded', 'lost');

-- What comms is to send or tell, stored with what it is about; comms knows the key again.
CREATE TABLE escrow_outbox (
    key        TEXT PRIMARY KEY,
    kind       TEXT NOT NULL CHECK (kind IN ('message', 'tokens', 'release', 'alert')),
    recipient  TEXT NOT NULL,
    body_json  TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    sent_at    INTEGER
) STRICT;
CREATE INDEX escrow_outbox_due ON escrow_outbox (created_at) WHERE sent_at IS NULL;

CREATE TABLE escrow_receipts (
    receipt_id        TEXT PRIMARY KEY,
    ticket_id         TEXT NOT NULL,
    i                 INTEGER NOT NULL,
    schema_id         TEXT NOT NULL,
    action            TEXT NOT NULL,
    params_json       TEXT NOT NULL,
    result_json       TEXT NOT NULL,
    success           INTEGER NOT NULL CHECK (success IN (0, 1)),
    preimage_revealed INTEGER NOT NULL DEFAULT 0 CHECK (preimage_revealed IN (0, 1)),
    agent_signature   TEXT NOT NULL DEFAULT '',
    node_signature    TEXT NOT NULL,
    created_at        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX escrow_receipts_ticket ON escrow_receipts (ticket_id, i);

UPDATE hive_meta SET value = '2' WHERE name = 'schema_version';
