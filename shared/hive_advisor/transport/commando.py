"""Commands over the Lightning network itself: the advisor's own node hands them to the client's
(docs/protocol/11-advisor-kit.md §4, docs/protocol/02-fleet-management.md §6.3).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hive_shared.cln import ClnClient, ClnError
from hive_shared.errors import TransportUnavailable

from hive_advisor.domain.route import CommandoRoute
from hive_advisor.transport.local import demands_rune
from hive_advisor.transport.pace import RunePace

_METHOD: Final = "hive-comms-rpc"
_CALL_S: Final = 30.0
_PEER_S: Final = 10.0


class CommandoLink:
    """Calls hive-comms-rpc through ``commando`` of a carrier, a node whose RPC socket is here."""

    def __init__(self) -> None:
        self._pace = RunePace()
        self._demanding: set[str] = set()

    async def call(self, route: CommandoRoute, rune: str, node_id: str, envelope: str, sender: str) -> str:
        """The answer's text. The carrier connects to the node first if it has to.

        Raises TransportUnavailable with why there is no answer.
        """
        cln = ClnClient(Path(route.socket_path), id_prefix="hive-advisor")
        params = {"request": envelope, "sender": sender}
        if node_id in self._demanding:
            params["rune"] = rune
        try:
            try:
                answer = await self._ask(cln, route, rune, node_id, params)
            except ClnError as error:
                if "rune" in params or not demands_rune(error):
                    raise
                self._demanding.add(node_id)
                answer = await self._ask(cln, route, rune, node_id, {**params, "rune": rune})
        except ClnError as error:
            said = "".join(char for char in error.message[:200] if char.isprintable())
            raise TransportUnavailable(f"commando to {node_id[:16]}…: {said}") from error
        finally:
            await cln.close()
        return json.dumps(answer)

    async def _ask(
        self, cln: ClnClient, route: CommandoRoute, rune: str, node_id: str, params: Mapping[str, object]
    ) -> dict[str, Any]:
        call = {"peer_id": node_id, "method": _METHOD, "params": params, "rune": rune}
        async with self._pace.turn(node_id):
            try:
                return await cln.call("commando", call, timeout=_CALL_S)
            except ClnError as error:
                if error.outcome_unknown or await self._connected(cln, node_id):
                    raise
            # The message never left: sendcustommsg wants a connected peer.
            where = {} if route.host is None else {"host": route.host, "port": route.port}
            await cln.call("connect", {"id": node_id, **where}, timeout=_CALL_S)
            return await cln.call("commando", call, timeout=_CALL_S)

    @staticmethod
    async def _connected(cln: ClnClient, node_id: str) -> bool:
        peers = (await cln.call("listpeers", {"id": node_id}, timeout=_PEER_S)).get("peers", [])
        return any(peer.get("connected") for peer in peers)
