-- Advisors, their credentials, names, and the operator's policy (docs/protocol/08-client-and-plugins.md §5.3,
-- docs/protocol/02-fleet-management.md §2 and §11). Times are Unix seconds.

-- npub holds the x-only key in hex; the npub form exists only where people read it.
CREATE TABLE comms_advisors (
    advisor_id TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,
    npub TEXT UNIQUE,
    did TEXT UNIQUE,
    display_name TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('active', 'revoked')),
    access_template TEXT NOT NULL,
    daily_limit_sats INTEGER,
    note TEXT NOT NULL DEFAULT '',
    source TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    revoked_at INTEGER,
    reason TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE comms_credentials (
    credential_id TEXT PRIMARY KEY,
    advisor_id TEXT NOT NULL REFERENCES comms_advisors (advisor_id),
    format TEXT NOT NULL CHECK (format IN ('native', 'vc')),
    issuer_id TEXT NOT NULL,
    agent_key TEXT NOT NULL,
    tier TEXT NOT NULL,
    schemas_json TEXT NOT NULL,
    constraints_json TEXT NOT NULL,
    permissions_json TEXT NOT NULL,
    trust TEXT NOT NULL,
    document_json TEXT NOT NULL,
    source TEXT NOT NULL,
    rune_id TEXT,
    valid_from INTEGER NOT NULL,
    valid_until INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('active', 'superseded', 'revoked')),
    superseded_by TEXT,
    acked_at INTEGER,
    revoked_at INTEGER,
    revocation_reason TEXT,
    last_check_at INTEGER,
    last_check_status TEXT,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_credentials_advisor ON comms_credentials (advisor_id, status);
CREATE INDEX comms_credentials_agent ON comms_credentials (agent_key);

CREATE TABLE comms_aliases (
    alias_key TEXT PRIMARY KEY,
    alias TEXT NOT NULL,
    target TEXT NOT NULL,
    origin TEXT NOT NULL CHECK (origin IN ('local', 'profile')),
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX comms_aliases_target ON comms_aliases (target);

-- One row: the operator's document. `version` rises with every change of policy, rules and overrides too.
CREATE TABLE comms_policy (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL,
    document_json TEXT NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE comms_policy_rules (
    rule_id TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    rule_json TEXT NOT NULL,
    origin TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE comms_policy_overrides (
    override_id TEXT PRIMARY KEY,
    values_json TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'expired', 'cleared', 'replaced')),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    ended_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX comms_policy_overrides_one ON comms_policy_overrides (state) WHERE state = 'active';
