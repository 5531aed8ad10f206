-- The payment_proof that a command was planned with (docs/protocol/11-advisor-kit.md §5.1, §15.11); NULL: none of
-- its own, a fee for access may go along when it is signed.
ALTER TABLE adv_commands ADD COLUMN payment_json TEXT;
