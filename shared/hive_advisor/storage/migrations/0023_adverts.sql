-- What we offer on the market, and the events by which we said so (docs/protocol/04-marketplace-and-nostr.md §5).
-- One profile; an event is on disk before any relay hears of it, and every earlier one of its address stays named
-- until a deletion has to name it.
CREATE TABLE adv_profile (
    number      INTEGER PRIMARY KEY CHECK (number = 1),
    draft_json  TEXT NOT NULL,
    status      TEXT NOT NULL CHECK (status IN ('draft', 'active', 'paused', 'withdrawn')),
    load        INTEGER NOT NULL DEFAULT 0,
    version     TEXT NOT NULL DEFAULT '',
    signed_at   INTEGER NOT NULL DEFAULT 0,
    valid_until INTEGER NOT NULL DEFAULT 0,
    updated     INTEGER NOT NULL
) STRICT;

CREATE TABLE adv_offers (
    offer_id   TEXT PRIMARY KEY,
    draft_json TEXT NOT NULL,
    status     TEXT NOT NULL CHECK (status IN ('active', 'filled', 'withdrawn')),
    expires_at INTEGER NOT NULL,
    created    INTEGER NOT NULL,
    updated    INTEGER NOT NULL
) STRICT;

CREATE TABLE adv_market_events (
    event_id    TEXT PRIMARY KEY,
    address     TEXT NOT NULL,
    kind        INTEGER NOT NULL,
    d           TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    json        TEXT NOT NULL,
    purpose     TEXT NOT NULL CHECK (purpose IN ('publish', 'delete', 'withdraw')),
    state       TEXT NOT NULL CHECK (state IN ('sending', 'sent', 'partial', 'superseded', 'given_up')),
    relays_json TEXT NOT NULL,
    minimum     INTEGER NOT NULL,
    tries       INTEGER NOT NULL DEFAULT 0,
    next_at     INTEGER NOT NULL,
    until       INTEGER NOT NULL,
    created     INTEGER NOT NULL
) STRICT;
CREATE INDEX adv_market_events_address ON adv_market_events (address, created_at);
CREATE INDEX adv_market_events_due ON adv_market_events (state, next_at);
