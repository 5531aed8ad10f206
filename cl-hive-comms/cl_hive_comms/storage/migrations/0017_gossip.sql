-- Management credentials that came by gossip (docs/protocol/02-fleet-management.md §2.5): what other nodes
-- told, never asked by the pipeline. One that authorises here stands in comms_credentials too, with
-- source 'gossip'. Without document_json: a revocation that came before its credential.
CREATE TABLE comms_gossip_credentials (
    issuer_id TEXT NOT NULL,
    credential_id TEXT NOT NULL,
    document_json TEXT,
    first_seen_at INTEGER NOT NULL,
    -- From then on the credential is refused for its age, so nothing need be remembered of it.
    keep_until INTEGER NOT NULL,
    revoked_at INTEGER,
    revocation_reason TEXT,
    PRIMARY KEY (issuer_id, credential_id)
) STRICT, WITHOUT ROWID;
