-- Short channel ids that a channel was seen under (docs/protocol/02-fleet-management.md §11): a splice gives it
-- another one, and what was said of the old one still holds (docs/decisions/0417).

CREATE TABLE comms_channel_names (
    scid       TEXT PRIMARY KEY,
    channel_id TEXT NOT NULL,
    first_seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_channel_names_channel ON comms_channel_names (channel_id);
