-- Trials (docs/protocol/04-marketplace-and-nostr.md §10, §11). contract_id is NULL for a direct hire; it gets
-- its foreign key with the table of contracts.

CREATE TABLE marketplace_trials (
    trial_id        TEXT PRIMARY KEY,
    contract_id     TEXT,
    advisor_did     TEXT NOT NULL,
    node_id         TEXT NOT NULL,
    scope           TEXT NOT NULL,
    sequence_number INTEGER NOT NULL DEFAULT 1,
    flat_fee_sats   INTEGER NOT NULL,
    start_at        INTEGER NOT NULL,
    end_at          INTEGER NOT NULL,
    evaluation_json TEXT,
    outcome         TEXT CHECK (outcome IN ('pass', 'fail', 'review', 'extended', 'withdrawn', 'stopped')),
    ended_at        INTEGER,
    baseline_json   TEXT NOT NULL,
    criteria_json   TEXT NOT NULL,
    payment_id      TEXT,
    credential_id   TEXT NOT NULL UNIQUE
) STRICT, WITHOUT ROWID;
CREATE INDEX marketplace_trials_scope ON marketplace_trials (node_id, scope, start_at);
CREATE INDEX marketplace_trials_start ON marketplace_trials (start_at);
CREATE INDEX marketplace_trials_running ON marketplace_trials (end_at) WHERE outcome IS NULL;
CREATE INDEX marketplace_trials_unreviewed ON marketplace_trials (end_at) WHERE evaluation_json IS NULL;

CREATE TABLE marketplace_trial_scopes (
    trial_id   TEXT NOT NULL REFERENCES marketplace_trials (trial_id),
    capability TEXT NOT NULL,
    PRIMARY KEY (trial_id, capability)
) STRICT, WITHOUT ROWID;
