-- Every proof of ecash that came for a command (docs/protocol/11-advisor-kit.md §8, §12): in whatever text it comes
-- again, it pays nothing else. They stay when their client is forgotten, and name nobody.
CREATE TABLE adv_token_ys (
    y          TEXT PRIMARY KEY,
    token_hash TEXT NOT NULL
) STRICT, WITHOUT ROWID;
