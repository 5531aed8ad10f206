-- Escrow tickets of contracts and tasks, as payer and as payee (docs/protocol/03-escrow-and-payments.md §8).
-- The status of a ticket is that of its items, kept beside them; preimages are sealed.

CREATE TABLE comms_escrow_tickets (
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
CREATE INDEX comms_escrow_tickets_status ON comms_escrow_tickets (status, created_at);
CREATE INDEX comms_escrow_tickets_advisor ON comms_escrow_tickets (advisor_id, status);
CREATE INDEX comms_escrow_tickets_time ON comms_escrow_tickets (created_at, ticket_id);

CREATE TABLE comms_escrow_items (
    ticket_id     TEXT NOT NULL REFERENCES comms_escrow_tickets (ticket_id),
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
CREATE INDEX comms_escrow_items_time ON comms_escrow_items (state, locktime);
-- One item pays one task.
CREATE UNIQUE INDEX comms_escrow_items_command ON comms_escrow_items (command_id) WHERE command_id IS NOT NULL;
CREATE INDEX comms_escrow_items_owed ON comms_escrow_items (ticket_id) WHERE owed_sats > 0 AND owed_by = '';

-- A hash is of one item for good: it is bound once, and never freed.
CREATE TABLE comms_escrow_secrets (
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
CREATE INDEX comms_escrow_secrets_task ON comms_escrow_secrets (task_id) WHERE ticket_id IS NULL;
CREATE UNIQUE INDEX comms_escrow_secrets_item ON comms_escrow_secrets (ticket_id, i) WHERE ticket_id IS NOT NULL;

CREATE TABLE comms_escrow_disputes (
    dispute_id    TEXT PRIMARY KEY,
    ticket_id     TEXT NOT NULL REFERENCES comms_escrow_tickets (ticket_id),
    i             INTEGER NOT NULL,
    role          TEXT NOT NULL CHECK (role IN ('payer', 'payee')),
    claim         TEXT NOT NULL,
    evidence_json TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('open', 'replaced', 'paid', 'rejected')),
    due_at        INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    resolved_at   INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX comms_escrow_disputes_open ON comms_escrow_disputes (ticket_id, i) WHERE state = 'open';
CREATE INDEX comms_escrow_disputes_due ON comms_escrow_disputes (due_at) WHERE state = 'open';
