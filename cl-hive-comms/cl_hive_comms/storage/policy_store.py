"""SQL of comms_policy, comms_policy_rules and comms_policy_overrides."""

import json
import sqlite3

import msgspec

from cl_hive_comms.domain.policy_rules import Override, Rule, parse_rule


class StoredPolicy(msgspec.Struct, frozen=True):
    """What the tables hold: the document's text, all rules, the override that was last begun."""

    version: int
    document: str | None
    rules: tuple[Rule, ...]
    override: Override | None


class PolicyStore:
    """Reads and writes the operator's policy."""

    def load(self, tx: sqlite3.Connection) -> StoredPolicy:
        """Everything; version 0 and no document before the first change."""
        row = tx.execute("SELECT version, document_json FROM comms_policy WHERE id = 1").fetchone()
        rules = tx.execute("SELECT * FROM comms_policy_rules ORDER BY position").fetchall()
        active = tx.execute("SELECT * FROM comms_policy_overrides WHERE state = 'active'").fetchone()
        return StoredPolicy(
            version=0 if row is None else row["version"],
            document=None if row is None else row["document_json"],
            rules=tuple(parse_rule(json.loads(each["rule_json"]), source=each["origin"]) for each in rules),
            override=None if active is None else _override(active),
        )

    def changed_at(self, tx: sqlite3.Connection) -> int:
        """When the document was last stored, Unix s; 0 before."""
        row = tx.execute("SELECT updated_at FROM comms_policy WHERE id = 1").fetchone()
        return 0 if row is None else int(row["updated_at"])

    def save(self, tx: sqlite3.Connection, document: str, now: int) -> int:
        """Stores the document; the new version."""
        row = tx.execute(
            "INSERT INTO comms_policy (id, version, document_json, updated_at) VALUES (1, 1, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET version = version + 1,"
            " document_json = excluded.document_json, updated_at = excluded.updated_at"
            " RETURNING version",
            (document, now),
        ).fetchone()
        return int(row["version"])

    def add_rule(self, tx: sqlite3.Connection, rule: Rule, now: int) -> None:
        """Appends a rule. Raises sqlite3.IntegrityError when its id is taken."""
        tx.execute(
            "INSERT INTO comms_policy_rules (rule_id, position, rule_json, origin, created_at)"
            " VALUES (?, (SELECT coalesce(max(position), 0) + 1 FROM comms_policy_rules), ?, ?, ?)",
            (rule.id, json.dumps(rule.to_doc()), rule.source, now),
        )

    def remove_rule(self, tx: sqlite3.Connection, rule_id: str, source: str | None = None) -> bool:
        """Removes a rule, only one of `source` if given; False when there is none."""
        return (
            tx.execute(
                "DELETE FROM comms_policy_rules WHERE rule_id = ? AND (? IS NULL OR origin = ?)",
                (rule_id, source, source),
            ).rowcount
            == 1
        )

    def clear_rules(self, tx: sqlite3.Connection, source: str) -> int:
        """Removes all rules of a source; how many."""
        return tx.execute("DELETE FROM comms_policy_rules WHERE origin = ?", (source,)).rowcount

    def override_state(self, tx: sqlite3.Connection, override_id: str) -> str | None:
        """active, expired, cleared or replaced; None for one that never was."""
        row = tx.execute(
            "SELECT state FROM comms_policy_overrides WHERE override_id = ?", (override_id,)
        ).fetchone()
        return None if row is None else str(row["state"])

    def begin_override(self, tx: sqlite3.Connection, override: Override, now: int) -> None:
        """Makes this the one active override, also one that ended before."""
        self.end_override(tx, "replaced", now)
        tx.execute(
            "INSERT INTO comms_policy_overrides (override_id, values_json, state, created_at, expires_at)"
            " VALUES (?, ?, 'active', ?, ?) ON CONFLICT (override_id) DO UPDATE SET"
            " values_json = excluded.values_json, state = 'active', created_at = excluded.created_at,"
            " expires_at = excluded.expires_at, ended_at = NULL",
            (override.id, json.dumps(dict(override.values)), override.starts_at, override.expires_at),
        )

    def end_override(self, tx: sqlite3.Connection, state: str, now: int) -> bool:
        """Ends the active override as expired, cleared or replaced; False when there is none."""
        return (
            tx.execute(
                "UPDATE comms_policy_overrides SET state = ?, ended_at = ? WHERE state = 'active'",
                (state, now),
            ).rowcount
            == 1
        )


def _override(row: sqlite3.Row) -> Override:
    return Override(row["override_id"], json.loads(row["values_json"]), row["created_at"], row["expires_at"])
