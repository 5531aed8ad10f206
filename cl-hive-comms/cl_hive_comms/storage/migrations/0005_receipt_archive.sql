-- Archiving behind signed checkpoints (docs/protocol/02-fleet-management.md §9.2): a receipt may go once a
-- checkpoint (a root of kind 'prune') stands for it. `verify` checks the checkpoints' signatures.

DROP TRIGGER management_receipts_no_delete;
CREATE TRIGGER management_receipts_no_delete BEFORE DELETE ON management_receipts
WHEN NOT EXISTS (SELECT 1 FROM comms_receipt_roots
                 WHERE kind = 'prune' AND OLD.receipt_id BETWEEN first_id AND last_id)
BEGIN SELECT RAISE(ABORT, 'receipts are append-only'); END;

-- The chain goes on after its last checkpoint also when no receipt is left.
DROP TRIGGER management_receipts_gapless;
CREATE TRIGGER management_receipts_gapless BEFORE INSERT ON management_receipts
WHEN NEW.receipt_id <> 1 + MAX(
    (SELECT COALESCE(MAX(receipt_id), 0) FROM management_receipts),
    (SELECT COALESCE(MAX(last_id), 0) FROM comms_receipt_roots WHERE kind = 'prune'))
BEGIN SELECT RAISE(ABORT, 'receipt ids are gapless'); END;

CREATE TRIGGER comms_receipt_roots_no_update BEFORE UPDATE ON comms_receipt_roots
BEGIN SELECT RAISE(ABORT, 'receipt roots are append-only'); END;
CREATE TRIGGER comms_receipt_roots_no_delete BEFORE DELETE ON comms_receipt_roots
BEGIN SELECT RAISE(ABORT, 'receipt roots are append-only'); END;
