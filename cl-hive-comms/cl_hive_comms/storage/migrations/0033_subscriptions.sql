-- Subscriptions (docs/protocol/03 §7.4, §8): what is paid to an advisor period by period.
-- `period_key` of a payment is subscription and period: of each period only one payment has not failed.

CREATE TABLE comms_subscriptions (
    sub_id             TEXT PRIMARY KEY,
    advisor_id         TEXT NOT NULL,
    kind               TEXT NOT NULL CHECK (kind IN ('bolt12', 'offer', 'bolt11')),
    offer              TEXT NOT NULL,
    period             TEXT NOT NULL,
    amount_sats        INTEGER NOT NULL CHECK (amount_sats > 0),
    next_due           INTEGER NOT NULL,
    state              TEXT NOT NULL CHECK (state IN ('active', 'suspended', 'ended')),
    failures           INTEGER NOT NULL DEFAULT 0 CHECK (failures >= 0),
    recurrence_counter INTEGER NOT NULL CHECK (recurrence_counter >= 0),
    recurrence_label   TEXT NOT NULL UNIQUE,
    recurrence_start   INTEGER,
    window_start       INTEGER NOT NULL,
    window_end         INTEGER NOT NULL,
    error              TEXT,
    created_at         INTEGER NOT NULL,
    updated_at         INTEGER NOT NULL
) STRICT;
CREATE INDEX comms_subscriptions_due ON comms_subscriptions (state, next_due);

ALTER TABLE comms_payments ADD COLUMN period_key TEXT;
CREATE UNIQUE INDEX comms_payments_period ON comms_payments (period_key)
    WHERE period_key IS NOT NULL AND state NOT IN ('failed', 'expired');
