-- Plans before they are signed (docs/protocol/11-advisor-kit.md §5.2): a draft or held command has no number,
-- no time and no envelope yet. What the guard counts and what waits for a human: §6, §12.
ALTER TABLE adv_commands RENAME TO adv_commands_before;
CREATE TABLE adv_commands (
    command_id       TEXT PRIMARY KEY,
    client_id        TEXT NOT NULL REFERENCES adv_clients (client_id),
    credential_id    TEXT NOT NULL,
    schema           TEXT NOT NULL,
    action           TEXT NOT NULL,
    params_json      TEXT NOT NULL,
    plan_hash        TEXT NOT NULL DEFAULT '',
    danger_json      TEXT NOT NULL,
    origin           TEXT NOT NULL,
    note             TEXT NOT NULL DEFAULT '',
    expected_root    TEXT,
    nonce            INTEGER,
    timestamp        INTEGER,
    command_hash     TEXT NOT NULL DEFAULT '',
    envelope_json    TEXT,
    state            TEXT NOT NULL,
    slug             TEXT,
    response_json    TEXT,
    challenge        TEXT,
    receipt_id       INTEGER,
    retry_of         TEXT,
    retry_until      INTEGER,                       -- until when it is planned anew while the node says busy or cooldown
    sends            INTEGER NOT NULL DEFAULT 0,
    sent_at          INTEGER,                       -- when its bytes left first
    next_send        INTEGER,
    deadline         INTEGER,                       -- of a draft or held one: until when it can be sent
    confirmed_danger INTEGER,
    passed           TEXT NOT NULL DEFAULT ''       -- who let it pass the guard
        CHECK (passed IN ('', 'guard', 'human', 'pin')),
    resigned         INTEGER NOT NULL DEFAULT 0,
    created          INTEGER NOT NULL,
    updated          INTEGER NOT NULL,
    CHECK (state IN ('draft', 'held') OR nonce IS NOT NULL OR state IN ('expired', 'rejected', 'cancelled')),
    UNIQUE (client_id, nonce)
) STRICT;
INSERT INTO adv_commands (command_id, client_id, credential_id, schema, action, params_json, danger_json,
    origin, note, nonce, timestamp, command_hash, envelope_json, state, slug, response_json, challenge,
    receipt_id, retry_of, sends, sent_at, next_send, deadline, confirmed_danger, passed, resigned, created, updated)
SELECT command_id, client_id, credential_id, schema, action, params_json, danger_json,
    origin, note, nonce, timestamp, command_hash, envelope_json, state, slug, response_json, challenge,
    receipt_id, retry_of, sends, CASE WHEN sends > 0 THEN created END, next_send, deadline, confirmed_danger,
    'guard', resigned, created, updated
FROM adv_commands_before;
DROP TABLE adv_commands_before;
CREATE INDEX adv_commands_state ON adv_commands (state, deadline);
CREATE INDEX adv_commands_client ON adv_commands (client_id, created);
CREATE INDEX adv_commands_newest ON adv_commands (created, nonce);

-- What commands use up of the guard's limits; reserved in the transaction that makes the plan.
CREATE TABLE adv_counters (
    command_id TEXT NOT NULL,
    client_id  TEXT NOT NULL,
    name       TEXT NOT NULL,
    amount     INTEGER NOT NULL CHECK (amount >= 0),
    at         INTEGER NOT NULL,
    PRIMARY KEY (command_id, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX adv_counters_client ON adv_counters (client_id, name, at);

-- What waits for a human here: plans that the guard held, and what programs ask.
CREATE TABLE adv_questions (
    approval_id TEXT PRIMARY KEY,
    kind        TEXT NOT NULL,                      -- plan, or the kind of what a program asks
    command_id  TEXT,                               -- the held command of a plan
    plan_hash   TEXT NOT NULL DEFAULT '',
    object      TEXT NOT NULL DEFAULT '',           -- what it is about, by alias or local id
    reason      TEXT NOT NULL DEFAULT '',
    origin      TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('waiting', 'approved', 'rejected', 'expired')),
    expires     INTEGER NOT NULL,
    created     INTEGER NOT NULL,
    decided     INTEGER
) STRICT;
CREATE INDEX adv_questions_state ON adv_questions (state, expires);

-- The last few differences between the node's clock and ours (§4): their median counts.
ALTER TABLE adv_clients ADD COLUMN offsets_json TEXT NOT NULL DEFAULT '[]';
