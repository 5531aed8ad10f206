"""Calls to the operator's own nodes, through their socket or clnrest (docs/protocol/11-advisor-kit.md
§11.3)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final

from hive_shared.cln import ClnClient, ClnError
from hive_shared.errors import Internal, TransportUnavailable, Unauthorized

from hive_advisor.nodes import OwnNode, read_rune
from hive_advisor.services.ports import NodeRefused
from hive_advisor.transport.clnrest import TOTAL_S, ClnRest, why

MAX_ANSWER: Final = 16_777_216
"""Bytes that a node may answer: a listing of some thousand channels."""
_AT_ONCE: Final = 5
_RUNE_STATUS: Final = (401, 403)
# CLN's codes for "the plugin ended" and "the node is stopping" while the call was under way.
_ENDED: Final = (-4, -5)


class OwnNodes:
    """Calls methods on the nodes of ``nodes.toml``; five calls at a time and node, 30 s each."""

    def __init__(self, nodes: Mapping[str, OwnNode]) -> None:
        self._nodes = nodes
        self._slots = {name: asyncio.Semaphore(_AT_ONCE) for name in nodes}
        self._clnrest = ClnRest(max_answer=MAX_ANSWER)

    async def call(self, name: str, method: str, params: Mapping[str, object]) -> dict[str, Any]:
        """The result. Raises NodeRefused (the node's own no), Unauthorized (its rune), TransportUnavailable
        (no answer; an acting call may have been done), Internal (an answer that is none)."""
        node = self._nodes[name]
        try:
            # With the wait for a turn: a rune is good for one call a second.
            async with asyncio.timeout(TOTAL_S), self._slots[name]:
                if node.socket is not None:
                    return await self._by_socket(node, method, params)
                return await self._by_rest(node, method, params)
        except TimeoutError as error:
            raise TransportUnavailable(f"node {name} did not answer in {TOTAL_S:g} s") from error
        except NodeRefused as refused:
            if refused.code not in _ENDED:
                raise
            raise TransportUnavailable(f"node {name}: its plugin ended before it answered") from refused

    async def _by_socket(self, node: OwnNode, method: str, params: Mapping[str, object]) -> dict[str, Any]:
        assert node.socket is not None
        cln = ClnClient(node.socket, id_prefix="hive-advisor")
        try:
            return await cln.call(method, params, timeout=TOTAL_S)
        except ClnError as error:
            if error.outcome_unknown:
                raise TransportUnavailable(f"node {node.name}: {error.message[:200]}") from error
            raise NodeRefused(error.code, error.message, error.data) from error
        finally:
            await cln.close()

    async def _by_rest(self, node: OwnNode, method: str, params: Mapping[str, object]) -> dict[str, Any]:
        assert node.rest is not None
        status, text = await self._clnrest.call(node.rest, read_rune(node), method, params)
        try:
            said: Any = json.loads(text)
        except ValueError:
            said = None
        if status == 201 and isinstance(said, dict):
            return said
        if status in _RUNE_STATUS:
            raise Unauthorized(
                f"the rune of node {node.name} does not allow {method} with these values",
                reason="rune_rejected",
            )
        if isinstance(said, dict) and isinstance(said.get("code"), int):
            raise NodeRefused(said["code"], str(said.get("message", "")), said.get("data"))
        if status == 201:
            raise Internal(f"node {node.name} answered something that is no JSON object")
        raise TransportUnavailable(f"node {node.name}: {why(status, text)}", data={"status": status})
