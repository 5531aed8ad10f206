-- Invoices of a period that the agent is asked for (docs/protocol/03 §7.4; docs/decisions/0640): `contract_id`
-- of a subscription that a contract began, `asks` how often the agent was asked for this period's invoice,
-- `asked_sats` for which amount, `invoice` what it gave. A period that its operator pays has none of them.

ALTER TABLE comms_subscriptions ADD COLUMN contract_id TEXT;
ALTER TABLE comms_subscriptions ADD COLUMN asks INTEGER NOT NULL DEFAULT 0 CHECK (asks >= 0);
ALTER TABLE comms_subscriptions ADD COLUMN asked_sats INTEGER NOT NULL DEFAULT 0 CHECK (asked_sats >= 0);
ALTER TABLE comms_subscriptions ADD COLUMN invoice TEXT;
