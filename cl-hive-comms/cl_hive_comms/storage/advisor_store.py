"""SQL of comms_advisors, comms_credentials and comms_aliases."""

import sqlite3
from collections.abc import Mapping

from hive_shared import credential as credentials
from hive_shared.canonical import decode, encode

from cl_hive_comms.domain.advisor import Advisor, Alias, CredentialRow


class AdvisorStore:
    """Reads and writes advisors, their credentials and local names."""

    def add(self, tx: sqlite3.Connection, advisor: Advisor) -> None:
        """Inserts an advisor. Raises sqlite3.IntegrityError when its key is there already."""
        tx.execute(
            "INSERT INTO comms_advisors (advisor_id, number, npub, did, display_name, status,"
            " access_template, daily_limit_sats, note, source, created_at, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                advisor.advisor_id,
                advisor.number,
                advisor.pubkey,
                advisor.did,
                advisor.display_name,
                advisor.status,
                advisor.access_template,
                advisor.daily_limit_sats,
                advisor.note,
                advisor.source,
                advisor.created_at,
                advisor.updated_at,
            ),
        )

    def update(self, tx: sqlite3.Connection, advisor: Advisor) -> None:
        """Stores the changeable fields of an advisor."""
        tx.execute(
            "UPDATE comms_advisors SET display_name = ?, status = ?, access_template = ?,"
            " daily_limit_sats = ?, note = ?, updated_at = ?, revoked_at = ?, reason = ?"
            " WHERE advisor_id = ?",
            (
                advisor.display_name,
                advisor.status,
                advisor.access_template,
                advisor.daily_limit_sats,
                advisor.note,
                advisor.updated_at,
                advisor.revoked_at,
                advisor.reason,
                advisor.advisor_id,
            ),
        )

    def next_number(self, tx: sqlite3.Connection) -> int:
        """The number of the next new advisor; numbers are never used twice."""
        (number,) = tx.execute("SELECT coalesce(max(number), 0) + 1 FROM comms_advisors").fetchone()
        return int(number)

    def advisors(self, tx: sqlite3.Connection) -> list[Advisor]:
        """All advisors, oldest first."""
        return [_advisor(row) for row in tx.execute("SELECT * FROM comms_advisors ORDER BY number")]

    def add_credential(self, tx: sqlite3.Connection, row: CredentialRow) -> None:
        """Inserts a signed credential."""
        document = credentials.to_doc(row.credential)
        tx.execute(
            "INSERT INTO comms_credentials (credential_id, advisor_id, format, issuer_id, agent_key, tier,"
            " schemas_json, constraints_json, permissions_json, trust, document_json, source, rune_id,"
            " valid_from, valid_until, status, created_at, trust_pinned, vc_json)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.credential_id,
                row.advisor_id,
                row.format,
                row.credential.issuer_id,
                row.agent_key,
                document["tier"],
                encode(document["allowed_schemas"]).decode(),
                encode(document["constraints"]).decode(),
                encode(document["permissions"]).decode(),
                str(row.trust),
                encode(document).decode(),
                row.source,
                row.rune_id,
                row.credential.valid_from,
                row.credential.valid_until,
                row.status,
                row.created_at,
                int(row.trust_pinned),
                row.vc,
            ),
        )

    def supersede(
        self, tx: sqlite3.Connection, advisor_id: str, successor: str, now: int
    ) -> list[CredentialRow]:
        """Ends the active credentials of an advisor in favour of a new one; those that were ended."""
        rows = tx.execute(
            "SELECT * FROM comms_credentials WHERE advisor_id = ? AND status = 'active'"
            " AND credential_id <> ?",
            (advisor_id, successor),
        ).fetchall()
        tx.execute(
            "UPDATE comms_credentials SET status = 'superseded', superseded_by = ?, last_check_at = ?"
            " WHERE advisor_id = ? AND status = 'active' AND credential_id <> ?",
            (successor, now, advisor_id, successor),
        )
        return [_credential(row) for row in rows]

    def revoke(self, tx: sqlite3.Connection, credential_id: str, reason: str, now: int) -> bool:
        """Revokes a credential; False when it was not active."""
        return (
            tx.execute(
                "UPDATE comms_credentials SET status = 'revoked', revoked_at = ?, revocation_reason = ?"
                " WHERE credential_id = ? AND status = 'active'",
                (now, reason, credential_id),
            ).rowcount
            == 1
        )

    def note_check(self, tx: sqlite3.Connection, credential_id: str, at: int, status: str) -> None:
        """Stores what was said last of a credential: by cl-hive-archon, or by its issuer over gossip."""
        tx.execute(
            "UPDATE comms_credentials SET last_check_at = ?, last_check_status = ? WHERE credential_id = ?",
            (at, status, credential_id),
        )

    def set_rune(self, tx: sqlite3.Connection, credential_id: str, rune_id: str | None) -> bool:
        """Notes the rune of an active credential that was made after it; False when it ended meanwhile."""
        return (
            tx.execute(
                "UPDATE comms_credentials SET rune_id = ? WHERE credential_id = ? AND status = 'active'",
                (rune_id, credential_id),
            ).rowcount
            == 1
        )

    def rune_of(self, tx: sqlite3.Connection, credential_id: str) -> str | None:
        """The number of a credential's rune, None when it has none of its own."""
        row = tx.execute(
            "SELECT rune_id FROM comms_credentials WHERE credential_id = ?", (credential_id,)
        ).fetchone()
        return None if row is None or row["rune_id"] is None else str(row["rune_id"])

    def status_of(self, tx: sqlite3.Connection, credential_id: str) -> str | None:
        """Status of a credential, None when there is none of that id."""
        row = tx.execute(
            "SELECT status FROM comms_credentials WHERE credential_id = ?", (credential_id,)
        ).fetchone()
        return None if row is None else str(row["status"])

    def acknowledge(self, tx: sqlite3.Connection, credential_id: str, now: int) -> bool:
        """Notes that the agent received a credential; False when that was known."""
        return (
            tx.execute(
                "UPDATE comms_credentials SET acked_at = ? WHERE credential_id = ? AND acked_at IS NULL",
                (now, credential_id),
            ).rowcount
            == 1
        )

    def credentials(self, tx: sqlite3.Connection) -> list[CredentialRow]:
        """All credentials, oldest first."""
        rows = tx.execute("SELECT * FROM comms_credentials ORDER BY created_at, credential_id")
        return [_credential(row) for row in rows]

    def live_count(self, tx: sqlite3.Connection, now: int) -> int:
        """Active credentials that have not expired."""
        (count,) = tx.execute(
            "SELECT count(*) FROM comms_credentials WHERE status = 'active' AND valid_until > ?", (now,)
        ).fetchone()
        return int(count)

    def aliases(self, tx: sqlite3.Connection) -> list[Alias]:
        """All local names, oldest first."""
        rows = tx.execute("SELECT * FROM comms_aliases WHERE origin = 'local' ORDER BY rowid")
        return [Alias(row["alias_key"], row["alias"], row["target"], row["created_at"]) for row in rows]

    def put_alias(self, tx: sqlite3.Connection, alias: Alias) -> None:
        """Stores a local name; one that exists points to the new target."""
        tx.execute(
            "INSERT INTO comms_aliases (alias_key, alias, target, origin, created_at)"
            " VALUES (?, ?, ?, 'local', ?)"
            " ON CONFLICT (alias_key) DO UPDATE SET alias = excluded.alias, target = excluded.target",
            (alias.key, alias.alias, alias.target, alias.created_at),
        )

    def remove_alias(self, tx: sqlite3.Connection, key: str) -> bool:
        """Removes a local name; False when there was none."""
        return tx.execute("DELETE FROM comms_aliases WHERE alias_key = ?", (key,)).rowcount == 1

    # -- whole rows, for backups ---------------------------------------------------------------------

    def raw_advisors(self, tx: sqlite3.Connection) -> list[dict[str, object]]:
        """Every column of every advisor, oldest first."""
        return [dict(row) for row in tx.execute("SELECT * FROM comms_advisors ORDER BY number")]

    def raw_credentials(self, tx: sqlite3.Connection) -> list[dict[str, object]]:
        """Every column of every credential, oldest first."""
        return [
            dict(row)
            for row in tx.execute("SELECT * FROM comms_credentials ORDER BY created_at, credential_id")
        ]

    def put_raw_advisor(self, tx: sqlite3.Connection, row: Mapping[str, object]) -> None:
        """Insert or overwrite an advisor. Raises KeyError for a missing column, sqlite3.IntegrityError."""
        tx.execute(
            f"INSERT INTO comms_advisors ({', '.join(_ADVISOR)}) VALUES ({_marks(_ADVISOR)})"
            f" ON CONFLICT (advisor_id) DO UPDATE SET {_taken_over(_ADVISOR)}",
            [row[name] for name in _ADVISOR],
        )

    def put_raw_credential(self, tx: sqlite3.Connection, row: Mapping[str, object]) -> None:
        """Insert or overwrite a credential. Raises KeyError for a missing column, sqlite3.IntegrityError."""
        row = {"trust_pinned": 0, "vc_json": None, **row}  # backups made before the columns existed
        tx.execute(
            f"INSERT INTO comms_credentials ({', '.join(_CREDENTIAL)}) VALUES ({_marks(_CREDENTIAL)})"
            f" ON CONFLICT (credential_id) DO UPDATE SET {_taken_over(_CREDENTIAL)}",
            [row[name] for name in _CREDENTIAL],
        )


_ADVISOR = (
    *("advisor_id", "number", "npub", "did", "display_name", "status", "access_template", "daily_limit_sats"),
    *("note", "source", "created_at", "updated_at", "revoked_at", "reason"),
)
_CREDENTIAL = (
    *("credential_id", "advisor_id", "format", "issuer_id", "agent_key", "tier", "schemas_json"),
    *("constraints_json", "permissions_json", "trust", "document_json", "source", "rune_id", "valid_from"),
    *("valid_until", "status", "superseded_by", "acked_at", "revoked_at", "revocation_reason"),
    *("last_check_at", "last_check_status", "created_at", "trust_pinned", "vc_json"),
)


def _marks(columns: tuple[str, ...]) -> str:
    return ", ".join("?" * len(columns))


def _taken_over(columns: tuple[str, ...]) -> str:
    return ", ".join(f"{name} = excluded.{name}" for name in columns[1:])


def _advisor(row: sqlite3.Row) -> Advisor:
    return Advisor(
        advisor_id=row["advisor_id"],
        number=row["number"],
        pubkey=row["npub"],
        did=row["did"],
        display_name=row["display_name"],
        status=row["status"],
        access_template=row["access_template"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        daily_limit_sats=row["daily_limit_sats"],
        note=row["note"],
        source=row["source"],
        revoked_at=row["revoked_at"],
        reason=row["reason"],
    )


def _credential(row: sqlite3.Row) -> CredentialRow:
    return CredentialRow(
        credential=credentials.parse(decode(row["document_json"], floats=True)),
        advisor_id=row["advisor_id"],
        format=row["format"],
        status=row["status"],
        source=row["source"],
        created_at=row["created_at"],
        superseded_by=row["superseded_by"],
        rune_id=row["rune_id"],
        trust_pinned=bool(row["trust_pinned"]),
        acked_at=row["acked_at"],
        revoked_at=row["revoked_at"],
        revocation_reason=row["revocation_reason"],
        vc=row["vc_json"],
        check_at=row["last_check_at"],
        check_status=row["last_check_status"],
    )
