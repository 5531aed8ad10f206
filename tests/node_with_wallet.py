"""A node in memory with peers, for tests of actions that are not about channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hive_shared.cln import ClnError, ClnTimeout
from pipeline_world import NodeFake

STRANGER = "03" + "cd" * 32


class NodeWithWallet(NodeFake):
    """`peers` are those connected. A call named in `lose` acts and its answer is lost."""

    def __init__(self, channels: int = 0) -> None:
        super().__init__(channels)
        self.peers: dict[str, bool] = {row["peer_id"]: True for row in self.rows} | {STRANGER: True}

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, timeout: float = 30.0
    ) -> dict[str, Any]:
        answer = getattr(self, f"_{method}", None)
        if answer is None:
            return await super().call(method, params, timeout=timeout)
        self._note(method)
        result: dict[str, Any] = answer(dict(params or {}))
        if method in self.lose:
            raise ClnTimeout(method, timeout)
        return result

    def _listpeers(self, params: dict[str, Any]) -> dict[str, Any]:
        rows = [{"id": key, "connected": there} for key, there in self.peers.items()]
        return {"peers": [row for row in rows if params.get("id") in (None, row["id"])]}

    def _connect(self, params: dict[str, Any]) -> dict[str, Any]:
        self.peers[params["id"]] = True
        return {"id": params["id"], "direction": "out", "address": {"type": "ipv4", "address": "8.8.8.8"}}

    def _disconnect(self, params: dict[str, Any]) -> dict[str, Any]:
        if not self.peers.get(params["id"]):
            raise ClnError("disconnect", -1, "Peer not connected")
        self.peers[params["id"]] = False
        return {}
