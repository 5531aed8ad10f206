-- Which receipts had their signatures checked (docs/decisions/0290). Only `verify` reads this, and trusts it no
-- further than the signature over it: a seal that is missing or false costs time, never the truth.

CREATE TABLE comms_receipt_seals (
    first_id  INTEGER PRIMARY KEY,
    last_id   INTEGER NOT NULL,
    signature TEXT NOT NULL
) STRICT;

-- A listing by schema reads a page of the index, not the whole chain.
CREATE INDEX management_receipts_schema ON management_receipts (schema_id, receipt_id);
