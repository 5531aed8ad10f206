-- What other nodes ask us to approve (docs/protocol/11-advisor-kit.md §7, §12, §15.6).
CREATE TABLE adv_approvals (
    approval_id   TEXT PRIMARY KEY,
    node_key      TEXT NOT NULL,
    command_id    TEXT NOT NULL,
    command_hash  TEXT NOT NULL,
    envelope_json TEXT NOT NULL,                -- the command as its sender signed it
    danger        INTEGER NOT NULL,             -- the node's word
    expires       INTEGER NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('waiting', 'sent', 'counted', 'refused')),
    decision      TEXT CHECK (decision IN ('approve', 'reject')),
    vote_json     TEXT,                         -- our vote as it was signed; the same bytes go out again
    vote_nonce    INTEGER,
    vote_died     INTEGER,                      -- from then on the node refuses those bytes as stale
    slug          TEXT,
    sentence      TEXT NOT NULL DEFAULT '',     -- the node's words about our vote
    created       INTEGER NOT NULL,
    decided       INTEGER,
    UNIQUE (node_key, command_id)
) STRICT;
CREATE INDEX adv_approvals_state ON adv_approvals (state, expires);
CREATE INDEX adv_approvals_vote ON adv_approvals (node_key, vote_nonce);

-- The danger a human confirmed when planning the command; only such a command's challenge is signed without
-- asking at a terminal (§5.3).
ALTER TABLE adv_commands ADD COLUMN confirmed_danger INTEGER;
