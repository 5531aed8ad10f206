-- When a contract is to be looked at next (docs/protocol/04 §10), so that those that only run cost nothing:
-- 0 at once, NULL not by the clock. 72 hours are for signing, one is for letters that are late.

ALTER TABLE marketplace_contracts ADD COLUMN due_at INTEGER GENERATED ALWAYS AS (
    CASE
        WHEN status = 'signed' AND effective_at IS NULL THEN 0
        WHEN status IN ('agreed', 'signing') THEN ifnull(contract_start, updated_at) + 72 * 3600 + 3600
        WHEN status IN ('signed', 'trial', 'trial_review', 'active', 'notice')
            THEN min(ifnull(contract_end, effective_at), ifnull(effective_at, contract_end))
    END
) VIRTUAL;
CREATE INDEX marketplace_contracts_due ON marketplace_contracts (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX marketplace_threads_end ON marketplace_threads (expires_at);
