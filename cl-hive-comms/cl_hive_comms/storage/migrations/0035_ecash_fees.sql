-- Ecash that agents pay for access with (docs/protocol/02 §8; docs/decisions/0575). A row is there from the moment
-- a command holds its token; `op_id` is the swap, begun with the command. A proof pays for one command only.

CREATE TABLE comms_ecash_fees (
    command_id TEXT PRIMARY KEY,
    agent_key  TEXT NOT NULL,
    advisor_id TEXT NOT NULL,
    op_id      TEXT NOT NULL,
    fee_json   TEXT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('held', 'swapping', 'redeemed', 'kept', 'refunded', 'failed')),
    at         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_ecash_fees_op ON comms_ecash_fees (op_id);
CREATE INDEX comms_ecash_fees_at ON comms_ecash_fees (at);

CREATE TABLE comms_ecash_fee_proofs (
    y          TEXT PRIMARY KEY,
    command_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_ecash_fee_proofs_command ON comms_ecash_fee_proofs (command_id);
