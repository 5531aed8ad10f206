-- What was measured, decided and aimed at (docs/protocol/11-advisor-kit.md §9, §12).
-- One row a channel and hour; the row with an empty channel_id is the sum of all.
CREATE TABLE adv_snapshots (
    client_id     TEXT NOT NULL REFERENCES adv_clients (client_id) ON DELETE CASCADE,
    channel_id    TEXT NOT NULL,
    at            INTEGER NOT NULL,
    channel       TEXT NOT NULL,                -- the name it had then: short channel id
    channels      INTEGER NOT NULL,             -- 1, or how many the sum is over
    local_msat    INTEGER NOT NULL,
    total_msat    INTEGER NOT NULL,
    sent_out      INTEGER,                      -- HTLCs fulfilled out of the channel in all its life
    fees_day_msat INTEGER,                      -- earned in the 24 hours before; once a day
    PRIMARY KEY (client_id, channel_id, at)
) STRICT, WITHOUT ROWID;
CREATE INDEX adv_snapshots_at ON adv_snapshots (client_id, at);

CREATE TABLE adv_decisions (
    decision_id  INTEGER PRIMARY KEY,
    client_id    TEXT NOT NULL REFERENCES adv_clients (client_id) ON DELETE CASCADE,
    kind         TEXT NOT NULL,
    target       TEXT NOT NULL,                 -- channel, or what else was meant
    reasoning    TEXT NOT NULL,
    confidence   INTEGER CHECK (confidence BETWEEN 0 AND 100),
    predicted    TEXT NOT NULL,
    command_id   TEXT,
    origin       TEXT NOT NULL,
    said         INTEGER NOT NULL,              -- how often it was noted while it was open
    created      INTEGER NOT NULL,
    updated      INTEGER NOT NULL,
    outcome      TEXT CHECK (outcome IN ('better', 'worse', 'unchanged', 'unknown')),
    outcome_json TEXT,
    outcome_at   INTEGER
) STRICT;
CREATE INDEX adv_decisions_open ON adv_decisions (client_id, outcome, created);

CREATE TABLE adv_goals (
    goal_id     INTEGER PRIMARY KEY,
    client_id   TEXT NOT NULL REFERENCES adv_clients (client_id) ON DELETE CASCADE,
    metric      TEXT NOT NULL,
    target      INTEGER NOT NULL,
    first_value INTEGER,                        -- none before the first snapshot
    due         INTEGER NOT NULL,
    note        TEXT NOT NULL,
    created     INTEGER NOT NULL,
    closed      INTEGER
) STRICT;

CREATE TABLE adv_checkpoints (
    goal_id INTEGER NOT NULL REFERENCES adv_goals (goal_id) ON DELETE CASCADE,
    day     INTEGER NOT NULL,                   -- days since 1970
    value   INTEGER NOT NULL,
    PRIMARY KEY (goal_id, day)
) STRICT, WITHOUT ROWID;
