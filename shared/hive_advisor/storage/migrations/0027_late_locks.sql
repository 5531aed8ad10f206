-- What nobody redeemed is looked at when its locktime is past; until then it is not read
-- (docs/protocol/03-escrow-and-payments.md §6.7).

CREATE INDEX adv_cashu_locks_late ON adv_cashu_locks (state, locktime);
