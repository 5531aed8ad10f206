-- Hashes that tickets are made with (docs/protocol/03-escrow-and-payments.md §6.5, §6.3 "receipt").

-- What we asked a node for; the preimages of the hashes stay there.
CREATE TABLE adv_secret_requests (
    request_id  TEXT PRIMARY KEY,
    client_id   TEXT NOT NULL,
    params_hash TEXT NOT NULL,
    count       INTEGER NOT NULL,
    hashes_json TEXT NOT NULL,
    asked_at    INTEGER NOT NULL,
    answered_at INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX adv_secret_requests_client ON adv_secret_requests (client_id, asked_at);

-- Preimages of our own, for tickets in mode receipt; `ticket_id` is empty until one came.
CREATE TABLE adv_ticket_preimages (
    hash         TEXT PRIMARY KEY,
    client_id    TEXT NOT NULL,
    peer         TEXT NOT NULL,
    label        TEXT NOT NULL,
    preimage_enc BLOB NOT NULL,
    ticket_id    TEXT NOT NULL,
    i            INTEGER NOT NULL,
    created_at   INTEGER NOT NULL
) STRICT;
CREATE INDEX adv_ticket_preimages_client ON adv_ticket_preimages (client_id, ticket_id);
