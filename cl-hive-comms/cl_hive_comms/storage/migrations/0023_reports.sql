-- Pings to agents and what became of them; reports on their work and what they are compared with
-- (docs/protocol/02-fleet-management.md §10, 11-advisor-kit.md §15.8).

CREATE TABLE comms_pings (
    ping_id       TEXT PRIMARY KEY,
    credential_id TEXT NOT NULL,
    sent_at       INTEGER NOT NULL,
    answered_at   INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_pings_credential ON comms_pings (credential_id, sent_at);
CREATE INDEX comms_pings_age ON comms_pings (sent_at);

CREATE TABLE comms_reports (
    credential_id TEXT NOT NULL,
    kind          TEXT NOT NULL CHECK (kind IN ('daily', 'weekly')),
    until         INTEGER NOT NULL,
    document_json TEXT NOT NULL,
    created_at    INTEGER NOT NULL,
    PRIMARY KEY (credential_id, kind, until)
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_reports_age ON comms_reports (created_at);

CREATE TABLE comms_baselines (
    credential_id TEXT PRIMARY KEY,
    document_json TEXT NOT NULL,
    signature     TEXT NOT NULL,
    created_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
