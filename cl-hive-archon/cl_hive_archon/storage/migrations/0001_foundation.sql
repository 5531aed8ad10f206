-- docs/protocol/09-archon.md §14: what this version writes. Other tables come with the features that use them.
CREATE TABLE archon_migrations (
    version INTEGER PRIMARY KEY,
    at INTEGER NOT NULL
) STRICT;

CREATE TABLE archon_audit (
    id INTEGER PRIMARY KEY,
    event TEXT NOT NULL,
    actor TEXT NOT NULL,
    detail_json TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;

INSERT INTO archon_migrations (version, at) VALUES (1, CAST(strftime('%s', 'now') AS INTEGER));
