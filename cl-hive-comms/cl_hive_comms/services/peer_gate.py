"""Keeps peers away that the operator forbade: hooks `peer_connected`, `openchannel`, `openchannel2`
(docs/protocol/08-client-and-plugins.md §5.4 "forbidden peer"; 02-fleet-management.md §4 `ban`).

A forbidden peer with channels stays connected: cut off, its channels could not settle or close in agreement
and the node would pay for a force-close. It gets no new channel.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from hive_shared.cln import ClnError

from cl_hive_comms.services.ports_emergency import PeerNode
from cl_hive_comms.services.ports_identity import Log

_CONTINUE: Final[Mapping[str, Any]] = {"result": "continue"}
_TEXT: Final = "this node does not take you as a peer"


class PeerGate:
    """Answers the node's hooks. `forbidden()` gives the node ids that the policy in force forbids,
    `largest()` the sats of the largest channel that others may open (None: no limit)."""

    def __init__(
        self,
        node: PeerNode,
        forbidden: Callable[[], frozenset[str]],
        *,
        largest: Callable[[], int | None] = lambda: None,
        log: Log,
    ) -> None:
        self._node, self._forbidden, self._largest, self._log = node, forbidden, largest, log

    async def peer_connected(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Hook: disconnect a forbidden peer that has no channel with us."""
        peer_id = _id_in(payload, "peer")
        if peer_id not in self._forbidden() or not await self._without_channels(peer_id):
            return dict(_CONTINUE)
        self._log("info", "forbidden_peer_disconnected", peer=peer_id)
        return {"result": "disconnect", "error_message": _TEXT}

    async def openchannel(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Hook: reject a single-funded channel of a forbidden peer, or one that is too large."""
        return self._opening(payload, "openchannel", "funding_msat")

    async def openchannel2(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Hook: reject a dual-funded channel of a forbidden peer, or one into which it puts too much."""
        return self._opening(payload, "openchannel2", "their_funding_msat")

    def _opening(self, payload: Mapping[str, Any], part: str, funding: str) -> dict[str, Any]:
        peer_id = _id_in(payload, part)
        if peer_id in self._forbidden():
            self._log("info", "forbidden_peer_channel_rejected", peer=peer_id)
            return {"result": "reject", "error_message": _TEXT}
        largest = self._largest()
        if largest is None:
            return dict(_CONTINUE)
        msat = _msat_in(payload, part, funding)
        if msat is None:
            # The limit is a wish about liquidity, not about safety: nobody is kept out for a node that
            # tells the size in another way.
            self._log("warning", "channel_size_not_told", hook=part)
        elif msat > largest * 1_000:
            self._log("info", "too_large_channel_rejected", peer=peer_id, sats=msat // 1_000, limit=largest)
            return {"result": "reject", "error_message": f"channels of more than {largest} sat are not taken"}
        return dict(_CONTINUE)

    async def enforce(self) -> None:
        """Disconnect forbidden peers that are connected already; run when the policy changed."""
        forbidden = self._forbidden()
        if not forbidden:
            return
        try:
            peers = (await self._node.call("listpeers"))["peers"]
        except ClnError as error:
            self._log("warning", "forbidden_peers_not_checked", code=error.code)
            return
        for peer in peers:
            peer_id = str(peer["id"])
            if peer_id in forbidden and peer["connected"] and await self._without_channels(peer_id):
                await self._disconnect(peer_id)

    async def _disconnect(self, peer_id: str) -> None:
        try:
            # Not forced: should a channel have begun meanwhile, the node refuses, and that is right.
            await self._node.call("disconnect", {"id": peer_id})
        except ClnError as error:
            self._log("info", "forbidden_peer_not_disconnected", peer=peer_id, code=error.code)
        else:
            self._log("info", "forbidden_peer_disconnected", peer=peer_id)

    async def _without_channels(self, peer_id: str) -> bool:
        try:
            return not await self._node.listpeerchannels(peer_id)
        except ClnError as error:
            self._log("warning", "forbidden_peer_not_checked", peer=peer_id, code=error.code)
            return False


def _id_in(payload: Mapping[str, Any], part: str) -> str:
    inner = payload.get(part)
    return str(inner.get("id", "")) if isinstance(inner, Mapping) else ""


def _msat_in(payload: Mapping[str, Any], part: str, name: str) -> int | None:
    inner = payload.get(part)
    value = inner.get(name) if isinstance(inner, Mapping) else None
    # Core Lightning before v23.05 wrote amounts as "123msat".
    text = str(value).removesuffix("msat")
    return int(text) if text.isascii() and text.isdigit() else None
