-- Tickets that were handed to this node and not accepted yet, or refused; what was accepted is in
-- comms_escrow_tickets (docs/protocol/03-escrow-and-payments.md §6.6, §8). Tokens are sealed.

CREATE TABLE comms_escrow_received (
    ticket_id  TEXT PRIMARY KEY,
    peer       TEXT NOT NULL,
    intake     TEXT NOT NULL CHECK (intake IN ('collecting', 'checking', 'refused')),
    terms_json TEXT,
    terms_hash TEXT NOT NULL DEFAULT '',
    payer_sig  TEXT NOT NULL DEFAULT '',
    reason     TEXT NOT NULL DEFAULT '',
    detail     TEXT NOT NULL DEFAULT '',
    tries      INTEGER NOT NULL DEFAULT 0,
    next_at    INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_escrow_received_due ON comms_escrow_received (intake, next_at);
CREATE INDEX comms_escrow_received_peer ON comms_escrow_received (peer, intake);

CREATE TABLE comms_escrow_parts (
    ticket_id  TEXT NOT NULL REFERENCES comms_escrow_received (ticket_id) ON DELETE CASCADE,
    first      INTEGER NOT NULL,
    last       INTEGER NOT NULL,
    tokens_enc BLOB NOT NULL,
    PRIMARY KEY (ticket_id, first, last)
) STRICT, WITHOUT ROWID;
