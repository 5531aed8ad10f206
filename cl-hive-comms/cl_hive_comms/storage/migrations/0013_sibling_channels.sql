-- Transports and handlers that sibling plugins registered, and what waits on their way
-- (docs/protocol/08-client-and-plugins.md §3.4, §5.3; 02-fleet-management.md §6.4). Times are Unix seconds.

-- `gone_at`: since when the plugin that serves it is stopped; NULL while it runs.
CREATE TABLE comms_transports (
    name          TEXT PRIMARY KEY,
    send_method   TEXT NOT NULL,
    enabled       INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    max_bytes     INTEGER NOT NULL,
    priority      INTEGER NOT NULL,
    metadata_json TEXT NOT NULL DEFAULT '{}',
    registered_at INTEGER NOT NULL,
    gone_at       INTEGER,
    last_ok       INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE comms_handlers (
    pattern       TEXT PRIMARY KEY,
    handler_id    TEXT NOT NULL UNIQUE,
    method        TEXT NOT NULL,
    registered_at INTEGER NOT NULL,
    gone_at       INTEGER
) STRICT, WITHOUT ROWID;

-- What a transport handed in: kept, sealed, from the answer `queued` until it was handled.
ALTER TABLE comms_inbox ADD COLUMN transport TEXT NOT NULL DEFAULT 'nostr_dm';
ALTER TABLE comms_inbox ADD COLUMN sender_did TEXT;
ALTER TABLE comms_inbox ADD COLUMN content_enc BLOB;
CREATE INDEX comms_inbox_waiting ON comms_inbox (received_at) WHERE state = 'queued';

-- The outbox again, now also for events to publish, and with the transport a message has to take
-- ('' = whatever serves).
ALTER TABLE comms_outbox RENAME TO comms_outbox_before;
DROP INDEX comms_outbox_due;
CREATE TABLE comms_outbox (
    outbox_id INTEGER PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE,
    sender TEXT NOT NULL,
    recipient TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('response', 'push', 'message', 'event')),
    content_enc BLOB NOT NULL,
    reply_to TEXT,
    relays_json TEXT NOT NULL DEFAULT '[]',
    transport TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'sent', 'expired', 'dropped')),
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    sent_at INTEGER,
    last_error TEXT
) STRICT;
INSERT INTO comms_outbox (outbox_id, idempotency_key, sender, recipient, kind, content_enc, reply_to,
    relays_json, state, attempts, next_at, created_at, expires_at, sent_at, last_error)
SELECT outbox_id, idempotency_key, sender, recipient, kind, content_enc, reply_to,
    relays_json, state, attempts, next_at, created_at, expires_at, sent_at, last_error FROM comms_outbox_before;
DROP TABLE comms_outbox_before;
CREATE INDEX comms_outbox_due ON comms_outbox (state, next_at);
