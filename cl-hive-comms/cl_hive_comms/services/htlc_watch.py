"""Notes since when HTLCs are in flight (docs/protocol/02-fleet-management.md §4 item 15)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from hive_shared.store import Tx

from ..domain.htlc_seen import HtlcKey, keys_of
from .ports_commands import Database, FeeNode

EVERY_S: Final = 300
"""How often the channels are looked at: a full listing, so not at every tick."""


class HtlcRows(Protocol):
    """The store (storage.htlc_seen_store.HtlcSeenStore)."""

    def all(self, tx: Tx) -> Mapping[HtlcKey, int]: ...
    def note(self, tx: Tx, new: Iterable[HtlcKey], gone: Iterable[HtlcKey], now: int) -> None: ...


class HtlcWatch:
    """Looks at the channels' HTLCs. `note` is for the clock, and looks only when it is time again."""

    def __init__(self, node: FeeNode, db: Database, rows: HtlcRows, now: Callable[[], int]) -> None:
        self._node, self._db, self._rows, self._now = node, db, rows, now
        self._last: int | None = None

    async def seen(self) -> Mapping[HtlcKey, int]:
        """When each HTLC in flight was first seen, unix seconds."""
        return await self._db.read(self._rows.all)

    async def note(self) -> None:
        """Keep the first sight of new HTLCs, forget ended ones. Raises ClnError, StoreError; then it is due
        again at once."""
        now = self._now()
        # The clock may have been set back.
        if self._last is not None and 0 <= now - self._last < EVERY_S:
            return
        live = set(keys_of(await self._node.listpeerchannels()))
        known = set(await self.seen())
        new, gone = live - known, known - live
        if new or gone:
            # Lost with the power, the next look notes it again: no command rests on it.
            await self._db.write(lambda tx: self._rows.note(tx, new, gone, now), durable=False)
        self._last = now
