-- The last receipt that an action log has told its agent of (docs/protocol/02-fleet-management.md §10).

ALTER TABLE comms_telemetry ADD COLUMN told_to INTEGER NOT NULL DEFAULT 0 CHECK (told_to >= 0);
