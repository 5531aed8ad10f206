"""adv_routes, adv_runes: sealed, because a rune opens a door."""

from __future__ import annotations

import json
from dataclasses import asdict

from hive_shared.crypto import Sealer
from hive_shared.store import Tx

from hive_advisor.domain.route import OfferedRest, RestRoute, Routes


class RouteStore:
    """REST addresses, sockets and runes. Methods join the caller's transaction."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def routes(self, tx: Tx, client_id: str) -> Routes:
        """What the user set; empty when nothing is."""
        row = tx.execute("SELECT * FROM adv_routes WHERE client_id = ?", (client_id,)).fetchone()
        if row is None:
            return Routes()
        sealed = row["rest_enc"]
        opened = None if sealed is None else self._sealer.open("adv_routes", client_id, "rest_enc", sealed)
        return Routes(None if opened is None else RestRoute(**json.loads(opened)), row["socket_path"])

    def set_routes(self, tx: Tx, client_id: str, routes: Routes) -> None:
        """Replace what is set."""
        rest = None
        if routes.rest is not None:
            text = json.dumps(asdict(routes.rest)).encode()
            rest = self._sealer.seal("adv_routes", client_id, "rest_enc", text)
        tx.execute(
            "INSERT INTO adv_routes (client_id, rest_enc, socket_path) VALUES (?, ?, ?)"
            " ON CONFLICT (client_id) DO UPDATE SET rest_enc = excluded.rest_enc,"
            " socket_path = excluded.socket_path",
            (client_id, rest, routes.socket_path),
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
