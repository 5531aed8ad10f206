-- Other ways to a client than relays (docs/protocol/11-advisor-kit.md §4). `*_enc` columns are sealed.
CREATE TABLE adv_routes (
    client_id   TEXT PRIMARY KEY REFERENCES adv_clients (client_id) ON DELETE CASCADE,
    rest_enc    BLOB,
    socket_path TEXT
) STRICT;

-- What a credential offer said about REST: address and rune.
CREATE TABLE adv_runes (
    credential_id TEXT PRIMARY KEY REFERENCES adv_credentials (credential_id) ON DELETE CASCADE,
    rune_enc      BLOB NOT NULL
) STRICT;
