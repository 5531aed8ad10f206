"""The node's list of payment parts: what became of a payment (docs/decisions/0380)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..ports_commands import Node


class SentParts:
    """Looks parts up. Every method raises ClnError."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def by_hash(self, payment_hash: str) -> list[dict[str, Any]]:
        """All parts of a payment, oldest first."""
        return await self._listed({"payment_hash": payment_hash})

    async def since(self, index: int) -> list[dict[str, Any]]:
        """The parts made after that many were."""
        return await self._listed({"index": "created", "start": index + 1})

    async def count(self) -> int:
        """How many payment parts the node has ever made."""
        params = {"subsystem": "sendpays", "indexname": "created", "nextvalue": 0}
        return int((await self._node.call("wait", params)).get("created", 0))

    async def none_missing(self, since: int) -> bool:
        """Whether every part made after that many were is still on the list."""
        # Counted first: what is made meanwhile is on the list at least.
        made = await self.count() - since
        return len(await self.since(since)) >= made

    async def _listed(self, params: Mapping[str, object]) -> list[dict[str, Any]]:
        return list((await self._node.call("listsendpays", params))["payments"])
