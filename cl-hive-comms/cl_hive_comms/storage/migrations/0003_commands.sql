-- Commands, approvals, replay protection and what executions remember (docs/protocol/02 §11, 08 §5.3).

CREATE TABLE comms_commands (
    command_id    TEXT PRIMARY KEY,
    sender_key    TEXT NOT NULL,
    nonce         INTEGER NOT NULL,
    body_hash     TEXT NOT NULL,
    payload_hash  TEXT NOT NULL,
    credential_id TEXT NOT NULL,
    advisor_id    TEXT NOT NULL,
    transport     TEXT NOT NULL,
    envelope      TEXT NOT NULL,
    schema_id     TEXT NOT NULL,
    action        TEXT NOT NULL,
    danger        INTEGER NOT NULL,
    read_only     INTEGER NOT NULL CHECK (read_only IN (0, 1)),
    state         TEXT NOT NULL,
    slug          TEXT,
    hold_json     TEXT,
    undo_json     TEXT,
    receipt_id    INTEGER,
    received_at   INTEGER NOT NULL,
    deadline      INTEGER,
    updated_at    INTEGER NOT NULL,
    UNIQUE (sender_key, nonce)
) STRICT;
CREATE INDEX comms_commands_state_deadline ON comms_commands (state, deadline);
CREATE INDEX comms_commands_credential ON comms_commands (credential_id, read_only, received_at);
CREATE INDEX comms_commands_refusals ON comms_commands (sender_key, slug, updated_at) WHERE slug IS NOT NULL;
-- Commands that still need a receipt line of an hourly roll-up or a refusal roll-up.
CREATE INDEX comms_commands_unreceipted ON comms_commands (updated_at) WHERE receipt_id IS NULL;

CREATE TABLE comms_pending (
    action_id         TEXT PRIMARY KEY REFERENCES comms_commands (command_id),
    advisor_id        TEXT NOT NULL,
    envelope_json     TEXT NOT NULL,
    danger            INTEGER NOT NULL,
    needed            INTEGER NOT NULL,
    workflow          TEXT NOT NULL CHECK (workflow IN ('queue', 'confirm', 'multisig')),
    created_at        INTEGER NOT NULL,
    expires_at        INTEGER NOT NULL,
    state             TEXT NOT NULL CHECK (state IN
        ('pending', 'approved', 'executing', 'done', 'rejected', 'expired', 'cancelled')),
    params_json       TEXT,
    challenge         TEXT,
    challenge_expires INTEGER,
    confirm_signature TEXT,
    reason            TEXT,
    result_json       TEXT
) STRICT;
CREATE INDEX comms_pending_open ON comms_pending (state, expires_at);
CREATE INDEX comms_pending_advisor ON comms_pending (advisor_id, state);

CREATE TABLE comms_approvals (
    command_id TEXT NOT NULL REFERENCES comms_commands (command_id),
    approver   TEXT NOT NULL,
    decision   TEXT NOT NULL CHECK (decision IN ('approve', 'reject')),
    signature  TEXT,
    at         INTEGER NOT NULL,
    PRIMARY KEY (command_id, approver)
) STRICT, WITHOUT ROWID;

CREATE TABLE comms_replay (
    sender_key TEXT PRIMARY KEY,
    last_nonce INTEGER NOT NULL,
    last_seq   INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- Responses under the nonce they answer; pushes (which answer nothing) under minus their seq.
CREATE TABLE comms_responses (
    sender_key    TEXT NOT NULL,
    nonce         INTEGER NOT NULL,
    body_hash     TEXT NOT NULL,
    response_json TEXT NOT NULL,
    created_at    INTEGER NOT NULL,
    PRIMARY KEY (sender_key, nonce)
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_responses_age ON comms_responses (created_at);

CREATE TABLE comms_timers (
    timer_id     TEXT PRIMARY KEY,
    kind         TEXT NOT NULL,
    subject      TEXT NOT NULL,
    due          INTEGER NOT NULL,
    payload_json TEXT NOT NULL,
    done_at      INTEGER
) STRICT;
CREATE INDEX comms_timers_due ON comms_timers (due) WHERE done_at IS NULL;
CREATE UNIQUE INDEX comms_timers_subject ON comms_timers (kind, subject) WHERE done_at IS NULL;

-- The key's columns come first: SQLite up to 3.40 calls the others NULL in quick_check otherwise.
CREATE TABLE comms_fee_history (
    scid          TEXT NOT NULL,
    ts            INTEGER NOT NULL,
    command_id    TEXT NOT NULL,
    old_ppm       INTEGER NOT NULL,
    new_ppm       INTEGER NOT NULL,
    old_base      INTEGER NOT NULL,
    new_base      INTEGER NOT NULL,
    advisor_id    TEXT NOT NULL,
    credential_id TEXT NOT NULL,
    PRIMARY KEY (scid, ts, command_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_fee_history_time ON comms_fee_history (ts);

-- One row per use: windows slide, and a use is given back by deleting its row.
CREATE TABLE comms_action_counters (
    name       TEXT NOT NULL,
    scope      TEXT NOT NULL,
    at         INTEGER NOT NULL,
    command_id TEXT NOT NULL,
    PRIMARY KEY (name, scope, at, command_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_action_counters_command ON comms_action_counters (command_id);
