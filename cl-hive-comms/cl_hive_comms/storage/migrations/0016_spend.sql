-- What executions took out of the node's hands (docs/protocol/02 §11). A row is reserved with the command's
-- `executing` row and settled with its outcome; what did not act leaves none.

CREATE TABLE comms_spend (
    command_id    TEXT NOT NULL,
    class         TEXT NOT NULL CHECK (class IN ('onchain', 'payment', 'rebalance', 'liquidity')),
    credential_id TEXT NOT NULL,
    amount_sat    INTEGER NOT NULL CHECK (amount_sat >= 0),
    fee_sat       INTEGER NOT NULL CHECK (fee_sat >= 0),
    at            INTEGER NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('reserved', 'settled')),
    PRIMARY KEY (command_id, class)
) STRICT, WITHOUT ROWID;
CREATE INDEX comms_spend_credential ON comms_spend (credential_id, class, at);
CREATE INDEX comms_spend_time ON comms_spend (at);
