-- Identity, transports, messages in and out, alerts and small state (docs/protocol/08-client-and-plugins.md §5.3).
-- Times are Unix seconds. `*_enc` columns are AES-256-GCM sealed.

-- Key material and relay cursors: `config:*`, `relay:*`, `event:*`. Key rows hold sealed bytes.
CREATE TABLE nostr_state (
    key TEXT PRIMARY KEY,
    value BLOB NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE comms_state (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Effects stored with the state change that causes them; sent after commit, at least once.
CREATE TABLE comms_outbox (
    outbox_id INTEGER PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE,
    sender TEXT NOT NULL,
    recipient TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('response', 'push', 'message')),
    content_enc BLOB NOT NULL,
    reply_to TEXT,
    relays_json TEXT NOT NULL DEFAULT '[]',
    state TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'sent', 'expired', 'dropped')),
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    sent_at INTEGER,
    last_error TEXT
) STRICT;
CREATE INDEX comms_outbox_due ON comms_outbox (state, next_at);

-- What was received from known senders, so that a relay's repeat is recognised after a restart.
CREATE TABLE comms_inbox (
    sender_key TEXT NOT NULL,
    msg_id TEXT NOT NULL,
    wrap_id TEXT,
    thread_id TEXT,
    seq INTEGER,
    schema TEXT NOT NULL,
    body_hash TEXT,
    reply_json TEXT,
    state TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    PRIMARY KEY (sender_key, msg_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_inbox_age ON comms_inbox (received_at);

CREATE TABLE comms_alerts (
    alert_id INTEGER PRIMARY KEY,
    level TEXT NOT NULL CHECK (level IN ('info', 'notice', 'warning', 'critical')),
    code TEXT NOT NULL,
    text TEXT NOT NULL,
    dedup_key TEXT NOT NULL,
    count INTEGER NOT NULL DEFAULT 1,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    acked_at INTEGER
) STRICT;
CREATE INDEX comms_alerts_recent ON comms_alerts (dedup_key, last_at);
