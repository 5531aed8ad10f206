-- Trust in an advisor (docs/protocol/02-fleet-management.md §7.3, docs/decisions/0202): a number the operator
-- chose, or what its last 90 days show, counted by day so that a command costs no scan.

ALTER TABLE comms_credentials ADD COLUMN trust_pinned INTEGER NOT NULL DEFAULT 0 CHECK (trust_pinned IN (0, 1));

CREATE TABLE comms_trust_days (
    advisor_id TEXT NOT NULL,
    day        INTEGER NOT NULL,
    writes     INTEGER NOT NULL,
    successes  INTEGER NOT NULL,
    violations INTEGER NOT NULL,
    PRIMARY KEY (advisor_id, day)
) STRICT, WITHOUT ROWID;

-- What finished commands still tell: they are kept for 90 days.
INSERT INTO comms_trust_days (advisor_id, day, writes, successes, violations)
SELECT advisor_id, updated_at / 86400,
       SUM(state IN ('success', 'partial', 'error')),
       SUM(state = 'success'),
       SUM(state = 'rejected' AND slug IN ('tier_insufficient', 'permission_denied', 'schema_not_allowed',
           'constraint_violated', 'protected_channel', 'forbidden_peer'))
  FROM comms_commands
 WHERE read_only = 0 AND advisor_id <> ''
 GROUP BY advisor_id, updated_at / 86400;
