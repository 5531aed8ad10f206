-- Escrow tickets in our favour (docs/protocol/03-escrow-and-payments.md §6.6, §8; 11-advisor-kit.md §12).
CREATE TABLE adv_tickets (
    ticket_id  TEXT PRIMARY KEY,
    peer       TEXT NOT NULL,
    intake     TEXT NOT NULL CHECK (intake IN ('collecting', 'checking', 'accepted', 'refused')),
    terms_json TEXT,
    terms_hash TEXT UNIQUE,
    payer_sig  TEXT NOT NULL,
    context    TEXT NOT NULL,
    reason     TEXT NOT NULL,
    detail     TEXT NOT NULL,
    tries      INTEGER NOT NULL,
    next_at    INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX adv_tickets_due ON adv_tickets (intake, next_at);
CREATE INDEX adv_tickets_newest ON adv_tickets (created_at, ticket_id);

-- Tokens of tickets that are not decided yet, as they came.
CREATE TABLE adv_ticket_parts (
    ticket_id  TEXT NOT NULL REFERENCES adv_tickets (ticket_id),
    first      INTEGER NOT NULL,
    last       INTEGER NOT NULL,
    tokens_enc BLOB NOT NULL,
    PRIMARY KEY (ticket_id, first, last)
) STRICT, WITHOUT ROWID;

CREATE TABLE adv_ticket_items (
    ticket_id    TEXT NOT NULL REFERENCES adv_tickets (ticket_id),
    i            INTEGER NOT NULL,
    state        TEXT NOT NULL,
    amount_sats  INTEGER NOT NULL,
    hash         TEXT NOT NULL,
    deadline     INTEGER NOT NULL,
    locktime     INTEGER NOT NULL,
    label        TEXT NOT NULL,
    params_hash  TEXT NOT NULL,
    preimage_enc BLOB,
    command_id   TEXT,
    note         TEXT NOT NULL,
    released_at  INTEGER NOT NULL,
    ended_at     INTEGER NOT NULL,
    PRIMARY KEY (ticket_id, i)
) STRICT, WITHOUT ROWID;
CREATE INDEX adv_ticket_items_state ON adv_ticket_items (state, locktime);
CREATE INDEX adv_ticket_items_task ON adv_ticket_items (params_hash, state);
CREATE INDEX adv_ticket_items_command ON adv_ticket_items (command_id);

CREATE TABLE adv_cashu_locks (
    ticket_id   TEXT NOT NULL,
    item        INTEGER NOT NULL,
    share       INTEGER NOT NULL,
    mint_url    TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('delivered', 'redeemable', 'redeeming', 'redeemed', 'lost')),
    token_enc   BLOB NOT NULL,
    ys_json     TEXT NOT NULL,
    net_sats    INTEGER NOT NULL,
    locktime    INTEGER NOT NULL,
    key_context TEXT NOT NULL,
    batch       TEXT NOT NULL,
    tries       INTEGER NOT NULL,
    next_at     INTEGER NOT NULL,
    released_at INTEGER NOT NULL,
    PRIMARY KEY (ticket_id, item, share),
    FOREIGN KEY (ticket_id, item) REFERENCES adv_ticket_items (ticket_id, i)
) STRICT, WITHOUT ROWID;
CREATE INDEX adv_cashu_locks_state ON adv_cashu_locks (state, mint_url);

-- Every proof that a ticket of ours ever had: none pays twice.
CREATE TABLE adv_cashu_lock_ys (
    y         TEXT PRIMARY KEY,
    ticket_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE adv_ticket_disputes (
    dispute_id    TEXT PRIMARY KEY,
    ticket_id     TEXT NOT NULL,
    i             INTEGER NOT NULL,
    claim         TEXT NOT NULL,
    evidence_json TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('open', 'replaced', 'paid', 'rejected')),
    reply         TEXT NOT NULL,
    due_at        INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    resolved_at   INTEGER NOT NULL,
    FOREIGN KEY (ticket_id, i) REFERENCES adv_ticket_items (ticket_id, i)
) STRICT;
CREATE INDEX adv_ticket_disputes_item ON adv_ticket_disputes (ticket_id, i);
