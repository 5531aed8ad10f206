-- Signed messages to nodes (docs/protocol/04-marketplace-and-nostr.md §6), until a relay took them or they ran
-- out. `answers` is the msg_id of the message that one answers: where that comes again, so does its answer.
CREATE TABLE adv_outbox (
    msg_id     TEXT PRIMARY KEY,
    client_id  TEXT NOT NULL REFERENCES adv_clients (client_id),
    name       TEXT NOT NULL,
    area       TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    sender     TEXT NOT NULL,
    content    TEXT NOT NULL,
    answers    TEXT NOT NULL DEFAULT '',
    state      TEXT NOT NULL CHECK (state IN ('waiting', 'sent')),
    sends      INTEGER NOT NULL DEFAULT 0,
    next_send  INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    created    INTEGER NOT NULL,
    UNIQUE (client_id, name)
) STRICT;
CREATE INDEX adv_outbox_due ON adv_outbox (state, next_send);
CREATE INDEX adv_outbox_answers ON adv_outbox (client_id, answers);
