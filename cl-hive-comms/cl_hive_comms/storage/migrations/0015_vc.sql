-- The W3C form of a credential that cl-hive-archon issued (docs/protocol/02-fleet-management.md §2.1); the row's
-- document stays the truth for what it allows, archon's answer for whether it stands.
ALTER TABLE comms_credentials ADD COLUMN vc_json TEXT;
