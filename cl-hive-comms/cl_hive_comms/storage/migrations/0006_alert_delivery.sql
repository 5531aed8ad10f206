-- Where an alert has to go and how far that is (docs/protocol/08-client-and-plugins.md §6 "Alerts").
-- A message is 'queued' once it stands in comms_outbox, which sees to the rest.

ALTER TABLE comms_alerts ADD COLUMN webhook_state TEXT NOT NULL DEFAULT 'none'
    CHECK (webhook_state IN ('none', 'waiting', 'sent', 'failed'));
ALTER TABLE comms_alerts ADD COLUMN webhook_attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE comms_alerts ADD COLUMN webhook_next_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE comms_alerts ADD COLUMN webhook_error TEXT;
ALTER TABLE comms_alerts ADD COLUMN dm_state TEXT NOT NULL DEFAULT 'none'
    CHECK (dm_state IN ('none', 'waiting', 'queued', 'failed'));
CREATE INDEX comms_alerts_webhook ON comms_alerts (webhook_next_at) WHERE webhook_state = 'waiting';
CREATE INDEX comms_alerts_dm ON comms_alerts (alert_id) WHERE dm_state = 'waiting';
