-- Which batch an id stands for (docs/protocol/11-advisor-kit.md §10, §12): the same id never sends another one.
-- How far a batch is, its commands say.
CREATE TABLE adv_batches (
    batch_id TEXT PRIMARY KEY,
    digest   TEXT NOT NULL,
    lines    INTEGER NOT NULL,
    created  INTEGER NOT NULL
) STRICT;
CREATE INDEX adv_commands_retries ON adv_commands (retry_of) WHERE retry_of IS NOT NULL;
