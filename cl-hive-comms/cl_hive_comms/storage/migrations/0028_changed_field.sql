-- What was changed by a write that left the fees of a channel as they were
-- (docs/protocol/02-fleet-management.md §7.5, docs/decisions/0477).
ALTER TABLE comms_fee_history ADD COLUMN field TEXT NOT NULL DEFAULT 'htlc_maximum_msat';
UPDATE comms_fee_history SET field = 'balance'
 WHERE command_id IN (SELECT command_id FROM comms_commands WHERE schema_id = 'hive:rebalance/v1');
