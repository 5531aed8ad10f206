-- docs/protocol/05-coordination.md §22: what this version writes. Other tables come with the features that use them.
CREATE TABLE hive_meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO hive_meta (name, value) VALUES ('schema_version', '1');
