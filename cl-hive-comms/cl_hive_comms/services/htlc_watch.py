"""Notes since when HTLCs are in flight (docs/protocol/02-fleet-management.md §4 item 15), and under which
short ids channels were seen (docs/decisions/0417)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from hive_shared.store import Tx

from ..domain.htlc_seen import HtlcKey, keys_of
from .ports_commands import Database, FeeNode, NameRows

EVERY_S: Final = 300
"""How often the channels are looked at: a full listing, so not at every tick."""


class HtlcRows(Protocol):
    """The store (storage.htlc_seen_store.HtlcSeenStore)."""

    def all(self, tx: Tx) -> Mapping[HtlcKey, int]: ...
    def note(self, tx: Tx, new: Iterable[HtlcKey], gone: Iterable[HtlcKey], now: int) -> None: ...


class HtlcWatch:
    """Looks at the channels' HTLCs and names. `note` is for the clock, and looks only when it is time
    again."""

    def __init__(
        self, node: FeeNode, db: Database, rows: HtlcRows, names: NameRows, now: Callable[[], int]
    ) -> None:
        self._node, self._db, self._rows, self._names, self._now = node, db, rows, names, now
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
        channels = await self._node.listpeerchannels()
        live = set(keys_of(channels))
        known = set(await self.seen())
        new, gone = live - known, known - live
        if new or gone:
            # Lost with the power, the next look notes it again: no command rests on it.
            await self._db.write(lambda tx: self._rows.note(tx, new, gone, now), durable=False)
        await self._note_names(channels)
        self._last = now

    async def look_at_names(self) -> None:
        """Note the short ids that the channels have now. Raises ClnError, StoreError."""
        await self._note_names(await self._node.listpeerchannels())

    async def _note_names(self, channels: Iterable[Mapping[str, Any]]) -> None:
        shown = {str(row["short_channel_id"]): str(row["channel_id"]) for row in channels if _named(row)}
        known = await self._db.read(self._names.all)
        new = [(scid, channel_id) for scid, channel_id in shown.items() if scid not in known]
        if new:
            await self._db.write(lambda tx: self._names.note(tx, new, self._now()))


def _named(row: Mapping[str, Any]) -> bool:
    return "short_channel_id" in row and "channel_id" in row
