"""SQL of hive_meta. docs/protocol/05-coordination.md section 22."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hive_shared.store import Tx

from cl_hive.domain.run_record import RunRecord

MIGRATIONS: Final = Path(__file__).parent / "migrations"


class MetaStore:
    """Facts about the database and the plugin's runs, one per row."""

    def schema_version(self, tx: Tx) -> int:
        """Number of the newest migration applied."""
        return int(self._values(tx)["schema_version"])

    def run_record(self, tx: Tx) -> RunRecord | None:
        """When the plugin ran before; None in a new database."""
        values = self._values(tx)
        if "starts" not in values:
            return None
        return RunRecord(
            int(values["first_started"]),
            int(values["last_started"]),
            int(values["starts"]),
            values["version"],
        )

    def save_run_record(self, tx: Tx, record: RunRecord) -> None:
        """Replace the record inside the caller's transaction."""
        values = {
            "first_started": str(record.first_started),
            "last_started": str(record.last_started),
            "starts": str(record.starts),
            "version": record.version,
        }
        tx.executemany(
            "INSERT INTO hive_meta (name, value) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            list(values.items()),
        )

    def _values(self, tx: Tx) -> dict[str, str]:
        return {row["name"]: row["value"] for row in tx.execute("SELECT name, value FROM hive_meta")}
