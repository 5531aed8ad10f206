-- HTLC bounds (msat) a channel had before it was frozen (docs/protocol/08 §5.3, §6 "Kill switch").

CREATE TABLE comms_saved_channel (
    channel_id TEXT NOT NULL,
    reason     TEXT NOT NULL,
    scid       TEXT NOT NULL,
    htlcmin    INTEGER NOT NULL,
    htlcmax    INTEGER NOT NULL,
    saved_at   INTEGER NOT NULL,
    frozen_at  INTEGER,
    PRIMARY KEY (channel_id, reason)
) STRICT, WITHOUT ROWID;
