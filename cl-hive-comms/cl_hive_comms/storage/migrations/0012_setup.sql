-- Setup sessions of the operator (docs/protocol/08-client-and-plugins.md §7 "Setup",
-- docs/decisions/0260-one-setup-one-transaction.md). answers_json is what was answered so far; report_json is
-- what a confirmed session did, and which part of it still waits for the node.

CREATE TABLE comms_setup (
    session_id   TEXT PRIMARY KEY,
    state        TEXT NOT NULL CHECK (state IN ('open', 'applying', 'done', 'cancelled', 'expired')),
    step         TEXT NOT NULL,
    answers_json TEXT NOT NULL,
    report_json  TEXT NOT NULL DEFAULT '[]',
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One at a time: two would overwrite each other's choices when they are confirmed.
CREATE UNIQUE INDEX comms_setup_one ON comms_setup ((1)) WHERE state IN ('open', 'applying');
