-- What agents answered about tickets of a sibling plugin (docs/protocol/03-escrow-and-payments.md §6.6): noted
-- on the lock that it concerns, read by hive-comms-cashu-state.
ALTER TABLE comms_cashu_locks ADD COLUMN answers_json TEXT NOT NULL DEFAULT '[]';
CREATE INDEX comms_cashu_locks_ref ON comms_cashu_locks (ref) WHERE owner = 'hive';
