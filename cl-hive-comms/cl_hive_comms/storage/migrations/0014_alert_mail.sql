-- How far an alert is by mail, as for the webhook (docs/protocol/08-client-and-plugins.md §6 "Alerts").

ALTER TABLE comms_alerts ADD COLUMN email_state TEXT NOT NULL DEFAULT 'none'
    CHECK (email_state IN ('none', 'waiting', 'sent', 'failed'));
ALTER TABLE comms_alerts ADD COLUMN email_attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE comms_alerts ADD COLUMN email_next_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE comms_alerts ADD COLUMN email_error TEXT;
CREATE INDEX comms_alerts_email ON comms_alerts (email_next_at) WHERE email_state = 'waiting';
