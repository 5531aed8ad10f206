"""adv_routes, adv_runes: sealed, because a rune opens a door."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from hive_shared.crypto import Sealer
from hive_shared.store import Tx
from msgspec.structs import asdict

from hive_advisor.domain.route import CommandoRoute, OfferedRest, RestRoute, Routes


class RouteStore:
    """REST addresses, sockets and runes. Methods join the caller's transaction."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def routes(self, tx: Tx, client_id: str) -> Routes:
        """What the user set; empty when nothing is."""
        row = tx.execute("SELECT * FROM adv_routes WHERE client_id = ?", (client_id,)).fetchone()
        if row is None:
            return Routes()
        rest, commando = self._open(row, "rest_enc"), self._open(row, "commando_enc")
        return Routes(
            None if rest is None else RestRoute(**rest),
            row["socket_path"],
            None if commando is None else CommandoRoute(**commando),
        )

    def _open(self, row: sqlite3.Row, column: str) -> Any:
        if row[column] is None:
            return None
        return json.loads(self._sealer.open("adv_routes", row["client_id"], column, row[column]))

    def _seal(self, client_id: str, column: str, route: RestRoute | CommandoRoute | None) -> bytes | None:
        if route is None:
            return None
        return self._sealer.seal("adv_routes", client_id, column, json.dumps(asdict(route)).encode())

    def set_routes(self, tx: Tx, client_id: str, routes: Routes) -> None:
        """Replace what is set."""
        tx.execute(
            "INSERT INTO adv_routes (client_id, rest_enc, socket_path, commando_enc) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (client_id) DO UPDATE SET rest_enc = excluded.rest_enc,"
            " socket_path = excluded.socket_path, commando_enc = excluded.commando_enc",
            (
                client_id,
                self._seal(client_id, "rest_enc", routes.rest),
                routes.socket_path,
                self._seal(client_id, "commando_enc", routes.commando),
            ),
        )

    def offered(self, tx: Tx, credential_id: str) -> OfferedRest | None:
        """What came with a credential."""
        row = tx.execute(
            "SELECT rune_enc FROM adv_runes WHERE credential_id = ?", (credential_id,)
        ).fetchone()
        if row is None:
            return None
        opened = self._sealer.open("adv_runes", credential_id, "rune_enc", row["rune_enc"])
        return OfferedRest(**json.loads(opened))

    def keep_offered(self, tx: Tx, credential_id: str, rest: OfferedRest) -> None:
        """Store what came with a credential; the first stays, the node does not repeat a rune."""
        sealed = self._sealer.seal("adv_runes", credential_id, "rune_enc", json.dumps(asdict(rest)).encode())
        tx.execute(
            "INSERT OR IGNORE INTO adv_runes (credential_id, rune_enc) VALUES (?, ?)", (credential_id, sealed)
        )

    def forget(self, tx: Tx, client_id: str) -> int:
        """Erase what is kept of a client; how many rows."""
        gone = tx.execute(
            "DELETE FROM adv_runes WHERE credential_id IN"
            " (SELECT credential_id FROM adv_credentials WHERE client_id = ?)",
            (client_id,),
        ).rowcount
        return int(gone + tx.execute("DELETE FROM adv_routes WHERE client_id = ?", (client_id,)).rowcount)
