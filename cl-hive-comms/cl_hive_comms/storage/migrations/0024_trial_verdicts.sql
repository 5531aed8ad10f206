-- What an operator said at the end of a trial, and whether its summary was published
-- (docs/protocol/02-fleet-management.md §10 "Period end", 04-marketplace-and-nostr.md §10).

CREATE TABLE marketplace_trial_verdicts (
    trial_id     TEXT PRIMARY KEY REFERENCES marketplace_trials (trial_id),
    verdict      TEXT NOT NULL CHECK (verdict IN ('renew', 'revoke', 'neutral')),
    decided_by   TEXT NOT NULL CHECK (decided_by IN ('operator', 'time')),
    reason       TEXT NOT NULL,
    summary_json TEXT NOT NULL,
    decided_at   INTEGER NOT NULL,
    published    TEXT NOT NULL,
    event_id     TEXT
) STRICT, WITHOUT ROWID;
