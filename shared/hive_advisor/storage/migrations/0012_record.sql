-- What became of receipts, what nodes contradicted themselves with, and alerts
-- (docs/protocol/11-advisor-kit.md §5.3, §5.4, §7 "Duties").
ALTER TABLE adv_receipts ADD COLUMN standing TEXT
    CHECK (standing IN ('agrees', 'differs', 'unknown'));      -- NULL: not compared with our command yet
ALTER TABLE adv_receipts ADD COLUMN ack_next INTEGER;         -- when its acknowledgement is due; NULL: not now
ALTER TABLE adv_receipts ADD COLUMN carried_by TEXT;          -- our question whose answer brought a stub
CREATE INDEX adv_receipts_uncompared ON adv_receipts (client_id, receipt_id) WHERE mine = 1 AND standing IS NULL;
CREATE INDEX adv_receipts_unacked ON adv_receipts (ack_next) WHERE ack_next IS NOT NULL;
CREATE INDEX adv_commands_updated ON adv_commands (updated);

-- Where we stand with the record of each client.
CREATE TABLE adv_sync (
    client_id  TEXT PRIMARY KEY REFERENCES adv_clients (client_id) ON DELETE CASCADE,
    due_at     INTEGER,                        -- when receipts are fetched next
    head_id    INTEGER NOT NULL DEFAULT 0,     -- the newest receipt, by the node's newest word
    head_at    INTEGER NOT NULL DEFAULT 0,     -- the node's time of that word, and its number
    head_seq   INTEGER NOT NULL DEFAULT 0,
    head_by    TEXT,                           -- our question that was answered with it
    poll_since INTEGER                         -- pushes after this number may be missing
) STRICT;

CREATE TABLE adv_evidence (
    evidence_id INTEGER PRIMARY KEY AUTOINCREMENT,
    client_id   TEXT NOT NULL,
    why         TEXT NOT NULL,
    doc_json    TEXT NOT NULL,
    at          INTEGER NOT NULL
) STRICT;
CREATE INDEX adv_evidence_client ON adv_evidence (client_id, evidence_id);

CREATE TABLE adv_alerts (
    number    INTEGER PRIMARY KEY AUTOINCREMENT,
    client_id TEXT NOT NULL,
    origin    TEXT NOT NULL CHECK (origin IN ('node', 'kit')),
    alert_id  TEXT NOT NULL,                   -- the node's name of it, or code and subject of ours
    level     TEXT NOT NULL,
    code      TEXT NOT NULL,
    text      TEXT NOT NULL,
    subject   TEXT NOT NULL DEFAULT '',
    state     TEXT NOT NULL CHECK (state IN ('open', 'acking', 'acked', 'resolved')),
    ack_next  INTEGER,                         -- when the node is told of our acknowledgement next
    at        INTEGER NOT NULL,
    updated   INTEGER NOT NULL,
    UNIQUE (client_id, origin, alert_id)
) STRICT;
CREATE INDEX adv_alerts_state ON adv_alerts (state, at);
