-- What agents subscribed to (docs/protocol/02-fleet-management.md §10). seq is that of the last push; a row
-- ends with its credential, its `until` or telemetry_unsubscribe.

CREATE TABLE comms_telemetry (
    sub_id        TEXT PRIMARY KEY,
    credential_id TEXT NOT NULL,
    advisor_id    TEXT NOT NULL,
    recipient     TEXT NOT NULL,
    metrics       TEXT NOT NULL,
    interval_s    INTEGER NOT NULL CHECK (interval_s BETWEEN 300 AND 86400),
    until         INTEGER NOT NULL,
    seq           INTEGER NOT NULL DEFAULT 0 CHECK (seq >= 0),
    dropped       INTEGER NOT NULL DEFAULT 0 CHECK (dropped BETWEEN 0 AND seq),
    next_at       INTEGER NOT NULL,
    created_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_telemetry_credential ON comms_telemetry (credential_id);
