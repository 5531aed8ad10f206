-- A keyset that its mint does not list any more is kept, marked with when that was seen: a ticket of it is not to
-- wait for keys and fees that we had and forgot (docs/decisions/0637).
ALTER TABLE adv_cashu_keysets ADD COLUMN unlisted_at INTEGER;
