-- Calls of programs through the MCP server (docs/protocol/11-advisor-kit.md §11, §12). Their rates are counted
-- from here, so they outlive the process.
CREATE TABLE adv_audit (
    audit_id  INTEGER PRIMARY KEY,
    at        INTEGER NOT NULL,
    client    TEXT NOT NULL,                    -- what the program calls itself
    tool      TEXT NOT NULL,
    node      TEXT NOT NULL,
    klass     TEXT NOT NULL,
    args_hash TEXT NOT NULL,                    -- SHA-256 of the arguments
    plan      TEXT,                             -- of the role advisor
    decision  TEXT NOT NULL CHECK (decision IN ('begun', 'done', 'shown', 'refused', 'failed', 'limited')),
    slug      TEXT NOT NULL DEFAULT '',
    out_hash  TEXT NOT NULL DEFAULT ''          -- SHA-256 of what the program was answered
) STRICT;
CREATE INDEX adv_audit_at ON adv_audit (at);
CREATE INDEX adv_audit_tool ON adv_audit (tool, at);
