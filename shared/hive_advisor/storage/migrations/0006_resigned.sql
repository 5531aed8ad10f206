-- How often a command was signed anew because the node refused its number or its time
-- (docs/protocol/11-advisor-kit.md §5.2).
ALTER TABLE adv_commands ADD COLUMN resigned INTEGER NOT NULL DEFAULT 0;
