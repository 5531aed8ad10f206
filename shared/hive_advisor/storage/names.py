"""Names for the shell to complete, read beside whoever has the profile open. Writes nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_MOST: Final = 200
_PATIENCE_S: Final = 0.05


class StoredNames:
    """Names in the database of a profile; nothing at all when it is not there or cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def clients(self) -> list[tuple[str, str]]:
        """Alias and state."""
        return self._rows("SELECT alias, state FROM adv_clients ORDER BY alias LIMIT ?", ())

    def commands(self, prefix: str) -> list[tuple[str, str]]:
        """Id and what it is, newest first."""
        return self._rows(
            "SELECT command_id, state || ' ' || action FROM adv_commands"
            " WHERE command_id >= ? AND command_id < ? ORDER BY created DESC LIMIT ?",
            (prefix, prefix + "~"),
        )

    def tickets(self, prefix: str) -> list[tuple[str, str]]:
        """Id and how far it is, newest first."""
        return self._rows(
            "SELECT ticket_id, intake FROM adv_tickets WHERE ticket_id >= ? AND ticket_id < ?"
            " ORDER BY created_at DESC LIMIT ?",
            (prefix, prefix + "~"),
        )

    def offers(self) -> list[tuple[str, str]]:
        """Id and status."""
        return self._rows("SELECT offer_id, status FROM adv_offers ORDER BY created DESC LIMIT ?", ())

    def threads(self, prefix: str) -> list[tuple[str, str]]:
        """Contract id and state of negotiations, the one changed last first."""
        return self._rows(
            "SELECT contract_id, state FROM adv_threads WHERE contract_id >= ? AND contract_id < ?"
            " ORDER BY updated DESC LIMIT ?",
            (prefix, prefix + "~"),
        )

    def contracts(self, prefix: str) -> list[tuple[str, str]]:
        """Id and state, newest first."""
        return self._rows(
            "SELECT contract_id, state FROM adv_contracts WHERE contract_id >= ? AND contract_id < ?"
            " ORDER BY created DESC LIMIT ?",
            (prefix, prefix + "~"),
        )

    def approvals(self, prefix: str) -> list[tuple[str, str]]:
        """Id and state."""
        return self._rows(
            "SELECT approval_id, state FROM adv_approvals WHERE approval_id >= ? AND approval_id < ?"
            " ORDER BY expires LIMIT ?",
            (prefix, prefix + "~"),
        )

    def mints(self) -> list[tuple[str, str]]:
        """Address and role of the mints that are trusted."""
        return self._rows(
            "SELECT mint_url, role FROM adv_cashu_mints WHERE role <> 'former' ORDER BY mint_url LIMIT ?", ()
        )

    def _rows(self, sql: str, arguments: tuple[str, ...]) -> list[tuple[str, str]]:
        try:
            with self._open() as connection:
                return [(str(row[0]), str(row[1])) for row in connection.execute(sql, (*arguments, _MOST))]
        except sqlite3.Error:
            # No database yet, or one of another version: there is nothing to complete.
            return []

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        uri = f"{self._path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, timeout=_PATIENCE_S)
        try:
            yield connection
        finally:
            connection.close()
