"""What the emergency stop and the peer gate need from the outside."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from hive_shared.store import Tx

from cl_hive_comms.domain.emergency import SavedChannel
from cl_hive_comms.domain.forwarding import Hold

Fault = Callable[[str], Awaitable[None]]
"""A place where a crash test may stop the plugin."""


class SavedChannels(Protocol):
    """Bounds from before a freeze (storage.saved_channel_store)."""

    def save(self, tx: Tx, reason: str, channel: SavedChannel, now: int) -> None: ...
    def mark_frozen(self, tx: Tx, reason: str, channel_id: str, now: int) -> None: ...
    def drop(self, tx: Tx, reason: str, channel_id: str) -> None: ...
    def all(self, tx: Tx, reason: str) -> tuple[SavedChannel, ...]: ...
    def hold(self, tx: Tx, hold: Hold, now: int) -> None: ...
    def holds(self, tx: Tx) -> tuple[Hold, ...]: ...


class ChannelNode(Protocol):
    """The node's channels (hive_shared.cln.ClnClient)."""

    async def listpeerchannels(
        self, peer_id: str | None = None, short_channel_id: str | None = None
    ) -> list[dict[str, Any]]: ...

    async def setchannel(
        self,
        id: str,
        feebase: int | None = None,
        feeppm: int | None = None,
        htlcmin: int | None = None,
        htlcmax: int | None = None,
        enforcedelay: int | None = None,
    ) -> list[dict[str, Any]]: ...


class PeerNode(Protocol):
    """The node's peers (hive_shared.cln.ClnClient)."""

    async def listpeerchannels(
        self, peer_id: str | None = None, short_channel_id: str | None = None
    ) -> list[dict[str, Any]]: ...

    async def call(
        self, method: str, params: dict[str, object] | None = None, *, timeout: float = ...
    ) -> dict[str, Any]: ...


class WaitingCommands(Protocol):
    """The operator's queue (services.approval_service)."""

    async def cancel_all(self, symbol: str, reason: str) -> int: ...
