-- Adverts of others (docs/protocol/04-marketplace-and-nostr.md §11). What is lost here the relays have again.

CREATE TABLE marketplace_profiles (
    advisor_did       TEXT PRIMARY KEY,
    profile_json      TEXT NOT NULL,
    nostr_pubkey      TEXT NOT NULL,
    version           TEXT NOT NULL,
    capabilities_json TEXT NOT NULL,
    pricing_json      TEXT NOT NULL,
    reputation_score  INTEGER NOT NULL DEFAULT 0,
    last_seen         INTEGER NOT NULL,
    source            TEXT NOT NULL
                      CHECK (source IN ('nostr', 'gossip', 'archon', 'directory', 'referral', 'local')),
    claimed_did       TEXT,
    did_state         TEXT NOT NULL CHECK (did_state IN ('verified', 'unverified', 'failed')),
    event_id          TEXT NOT NULL,
    created_at        INTEGER NOT NULL,
    valid_until       INTEGER NOT NULL,
    name              TEXT NOT NULL,
    trust_score       INTEGER NOT NULL,
    pow_bits          INTEGER NOT NULL,
    first_seen        INTEGER NOT NULL,
    relays_json       TEXT NOT NULL,
    flags             TEXT NOT NULL,
    status            TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX marketplace_profiles_reputation ON marketplace_profiles (reputation_score DESC);
CREATE INDEX marketplace_profiles_pubkey ON marketplace_profiles (nostr_pubkey);
CREATE INDEX marketplace_profiles_seen ON marketplace_profiles (last_seen);

CREATE TABLE marketplace_capabilities (
    advisor_did TEXT NOT NULL REFERENCES marketplace_profiles (advisor_did) ON DELETE CASCADE,
    capability  TEXT NOT NULL,
    level       TEXT NOT NULL CHECK (level IN ('primary', 'secondary', 'experimental')),
    PRIMARY KEY (advisor_did, capability)
) STRICT, WITHOUT ROWID;
CREATE INDEX marketplace_capabilities_capability ON marketplace_capabilities (capability);

CREATE TABLE marketplace_offers (
    pubkey            TEXT NOT NULL,
    offer_id          TEXT NOT NULL,
    advisor_did       TEXT NOT NULL,
    event_id          TEXT NOT NULL,
    created_at        INTEGER NOT NULL,
    expires_at        INTEGER NOT NULL,
    capabilities_json TEXT NOT NULL,
    pricing_model     TEXT NOT NULL,
    price_sats        INTEGER NOT NULL,
    price_period      TEXT NOT NULL,
    performance_pct   REAL,
    trial_days        INTEGER NOT NULL,
    max_channels      INTEGER,
    min_node_capacity INTEGER NOT NULL,
    sla_response_s    INTEGER,
    sla_uptime        REAL,
    methods_json      TEXT NOT NULL,
    content           TEXT NOT NULL,
    origin            TEXT NOT NULL CHECK (origin IN ('own', 'remote')),
    status            TEXT NOT NULL CHECK (status IN ('draft', 'active', 'filled', 'withdrawn', 'expired')),
    trust_score       INTEGER NOT NULL,
    pow_bits          INTEGER NOT NULL,
    first_seen        INTEGER NOT NULL,
    last_seen         INTEGER NOT NULL,
    PRIMARY KEY (pubkey, offer_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX marketplace_offers_status ON marketplace_offers (status, expires_at);

CREATE TABLE marketplace_tombstones (
    ref        TEXT PRIMARY KEY,
    pubkey     TEXT NOT NULL,
    deleted_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE marketplace_blocklist (
    ref    TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    until  INTEGER
) STRICT, WITHOUT ROWID;
