-- Messages go also to those who are no clients yet: `client_id` is a client's id, or the key of one who is none
-- (docs/protocol/04-marketplace-and-nostr.md §6). Of a thread the numbers are without gaps, so its newest
-- message stays as long as one of another area.
ALTER TABLE adv_outbox RENAME TO adv_outbox_old;
CREATE TABLE adv_outbox (
    msg_id     TEXT PRIMARY KEY,
    client_id  TEXT NOT NULL,
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
INSERT INTO adv_outbox SELECT msg_id, client_id, name, area, seq, sender, content, answers, state, sends,
    next_send, expires_at, created FROM adv_outbox_old;
DROP TABLE adv_outbox_old;
CREATE INDEX adv_outbox_due ON adv_outbox (state, next_send);
CREATE INDEX adv_outbox_answers ON adv_outbox (client_id, answers);
CREATE INDEX adv_outbox_area ON adv_outbox (client_id, area, seq);
