"""Commands through a node's clnrest (docs/protocol/11-advisor-kit.md §4, docs/protocol/02-fleet-management.md
§6.3).
"""

from __future__ import annotations

import json
from typing import Any, Final

from hive_shared.errors import TransportUnavailable

from hive_advisor.domain.route import OfferedRest, RestRoute, check_rest_url
from hive_advisor.transport.clnrest import ClnRest, why

_METHOD: Final = "hive-comms-rpc"


class RestLink:
    """Calls hive-comms-rpc. `proxy` is the SOCKS proxy (host, port) all connections have to take."""

    def __init__(self, *, proxy: tuple[str, int] | None = None) -> None:
        self._clnrest = ClnRest(proxy=proxy)
        self._demanding: set[str] = set()

    async def call(self, route: RestRoute, offered: OfferedRest, envelope: str, sender: str) -> str:
        """The answer's text; `sender` is the key that signed.

        Raises TransportUnavailable with why there is none.
        """
        url = check_rest_url(route.url, allow_private=route.allow_private)
        params = {"request": envelope, "sender": sender}
        if url in self._demanding:
            params["rune"] = offered.rune
        status, text = await self._clnrest.call(route, offered.rune, _METHOD, params)
        if "rune" not in params and _demands_rune(status, text):
            # clnrest writes parameters into the node's log, so the rune is one only where it has to be.
            self._demanding.add(url)
            status, text = await self._clnrest.call(
                route, offered.rune, _METHOD, {**params, "rune": offered.rune}
            )
        if status == 201:
            return text
        raise TransportUnavailable(f"{url}: {why(status, text)}", data={"status": status})


def _demands_rune(status: int, text: str) -> bool:
    """Whether the node refused for want of the parameter rune (its option rest-rune-required)."""
    if status != 500:
        return False
    try:
        said: Any = json.loads(text)
    except ValueError:
        return False
    data = said.get("data") if isinstance(said, dict) else None
    return isinstance(data, dict) and data.get("reason") == "rune_rejected"
