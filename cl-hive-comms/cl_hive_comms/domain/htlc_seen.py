"""Since when HTLCs are in flight (docs/protocol/02-fleet-management.md §4 item 15 `list_stuck`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple


class HtlcKey(NamedTuple):
    """One HTLC: `scid` the short channel id (the channel id where there is none), `direction` in or out."""

    scid: str
    direction: str
    number: int

    @property
    def text(self) -> str:
        """`scid:id:direction`, as commands name it."""
        return f"{self.scid}:{self.number}:{self.direction}"


def keys_of(channels: Iterable[Mapping[str, Any]]) -> Iterator[HtlcKey]:
    """The HTLCs in flight of channel rows (CLN `listpeerchannels`), in their order."""
    for row in channels:
        scid = str(row.get("short_channel_id") or row.get("channel_id"))
        for htlc in row.get("htlcs", ()):
            yield HtlcKey(scid, str(htlc["direction"]), int(htlc["id"]))
