-- What agents changed of the node's settings (docs/protocol/02-fleet-management.md §5.4, §11). "group" is the
-- isolation group of config adjust, '' for what has none.

CREATE TABLE comms_config_history (
    parameter  TEXT NOT NULL,
    at         INTEGER NOT NULL,
    command_id TEXT NOT NULL,
    "group"    TEXT NOT NULL,
    old        TEXT NOT NULL,
    new        TEXT NOT NULL,
    reason     TEXT NOT NULL,
    PRIMARY KEY (parameter, at, command_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_config_history_group ON comms_config_history ("group", at);
