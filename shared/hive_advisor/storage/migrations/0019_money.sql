-- What nodes owe us and how they are to pay it, what we pay them, and the ways by which (docs/protocol/11-advisor-kit.md
-- §8, §12). A payment is on disk before any wallet hears of it, and its hash is there once.
CREATE TABLE adv_invoices (
    earning_id   TEXT PRIMARY KEY,
    client_id    TEXT NOT NULL REFERENCES adv_clients (client_id),
    purpose      TEXT NOT NULL,
    command_id   TEXT NOT NULL UNIQUE,
    amount_sats  INTEGER NOT NULL CHECK (amount_sats > 0),
    state        TEXT NOT NULL CHECK (state IN ('due', 'invoiced', 'paid', 'unpaid', 'disputed', 'void')),
    due_at       INTEGER NOT NULL,
    way          TEXT NOT NULL DEFAULT '',
    invoice      TEXT NOT NULL DEFAULT '',
    payment_hash TEXT NOT NULL DEFAULT '',
    expires_at   INTEGER NOT NULL DEFAULT 0,
    look_at      TEXT NOT NULL DEFAULT '',
    looks        INTEGER NOT NULL DEFAULT 0,
    next_look    INTEGER NOT NULL DEFAULT 0,
    former_json  TEXT NOT NULL DEFAULT '[]',
    evidence     TEXT NOT NULL DEFAULT '' CHECK (evidence IN ('', 'preimage', 'wallet')),
    preimage     TEXT NOT NULL DEFAULT '',
    request_key  TEXT NOT NULL DEFAULT '',
    asked_json   TEXT,
    created      INTEGER NOT NULL,
    updated      INTEGER NOT NULL
) STRICT;
CREATE INDEX adv_invoices_state ON adv_invoices (state, next_look);
CREATE INDEX adv_invoices_client ON adv_invoices (client_id, created);
CREATE UNIQUE INDEX adv_invoices_request ON adv_invoices (client_id, request_key) WHERE request_key <> '';
CREATE UNIQUE INDEX adv_invoices_hash ON adv_invoices (payment_hash) WHERE payment_hash <> '';

CREATE TABLE adv_payments (
    payment_hash    TEXT PRIMARY KEY,
    client_id       TEXT NOT NULL REFERENCES adv_clients (client_id),
    command_id      TEXT NOT NULL,
    method          TEXT NOT NULL CHECK (method IN ('bolt11', 'l402')),
    way             TEXT NOT NULL,
    invoice         TEXT NOT NULL,
    amount_sats     INTEGER NOT NULL CHECK (amount_sats > 0),
    max_fee_msat    INTEGER NOT NULL CHECK (max_fee_msat >= 0),
    invoice_expires INTEGER NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('sending', 'unknown', 'paid', 'failed')),
    why             TEXT NOT NULL DEFAULT '',
    created         INTEGER NOT NULL,
    updated         INTEGER NOT NULL
) STRICT;
CREATE INDEX adv_payments_state ON adv_payments (state, created);
CREATE INDEX adv_payments_client ON adv_payments (client_id, created);

-- Secrets of ways, and hosts that a human said may stand behind a Lightning address.
CREATE TABLE adv_ways (
    name       TEXT PRIMARY KEY,
    secret_enc BLOB,
    created    INTEGER NOT NULL
) STRICT;
