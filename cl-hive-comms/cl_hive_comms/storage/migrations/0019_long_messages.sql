-- The id of the parts in which a message is sent (docs/protocol/04 §6 "Larger"), so that a request for lost
-- ones costs one look; NULL for what fits into one, and for what was queued before.
ALTER TABLE comms_outbox ADD COLUMN chunk_id TEXT;
CREATE INDEX comms_outbox_chunks ON comms_outbox (recipient, chunk_id) WHERE chunk_id IS NOT NULL;
