-- Locks that ended and whose ticket may still be disputed: comms is asked what agents said of them.
CREATE INDEX escrow_locks_ended ON escrow_locks (next_at)
    WHERE state IN ('redeemed', 'refunded', 'lost') AND next_at < 9999999999;

UPDATE hive_meta SET value = '3' WHERE name = 'schema_version';
