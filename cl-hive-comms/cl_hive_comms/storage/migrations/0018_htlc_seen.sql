-- Since when HTLCs are in flight (docs/protocol/02-fleet-management.md §11): the node does not tell it. Rows go
-- when their HTLC ends.

CREATE TABLE comms_htlc_seen (
    scid       TEXT NOT NULL,
    dir        TEXT NOT NULL CHECK (dir IN ('in', 'out')),
    id         INTEGER NOT NULL CHECK (id >= 0),
    first_seen INTEGER NOT NULL,
    PRIMARY KEY (scid, dir, id)
) STRICT, WITHOUT ROWID;
