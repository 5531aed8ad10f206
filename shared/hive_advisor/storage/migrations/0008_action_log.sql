-- What nodes told of our commands by the action log (docs/protocol/02-fleet-management.md §10, 11 §12).
CREATE TABLE adv_action_log (
    client_id    TEXT NOT NULL,
    receipt_id   INTEGER NOT NULL,
    receipt_hash TEXT NOT NULL,
    at           INTEGER NOT NULL,
    schema_id    TEXT NOT NULL,
    action       TEXT NOT NULL,
    status       TEXT NOT NULL,
    rest_json    TEXT NOT NULL,
    PRIMARY KEY (client_id, receipt_id)
) STRICT, WITHOUT ROWID;
