"""What the book of mints needs of the outside (docs/protocol/03-escrow-and-payments.md §4.2)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

import msgspec

from ..store import Tx
from .keysets import Keyset
from .mints import MintRow
from .ports import Mint


class Traffic(Protocol):
    """How the way to a mint stands."""

    @property
    def breaker(self) -> str: ...
    @property
    def held_for_s(self) -> float: ...
    @property
    def money_in_s(self) -> float: ...
    @property
    def leisure_in_s(self) -> float: ...


class WatchedMint(Mint, Protocol):
    """A mint, and what is known of the way to it."""

    @property
    def traffic(self) -> Traffic: ...


class MintConnections(Protocol):
    """Every mint of this process; asking for one makes no connection."""

    def at(self, url: str) -> WatchedMint: ...


class MintRows(Protocol):
    """comms_cashu_mints and comms_cashu_keysets."""

    def mints(self, tx: Tx) -> dict[str, MintRow]: ...
    def put_mint(self, tx: Tx, row: MintRow) -> None: ...
    def keysets(self, tx: Tx, url: str) -> dict[str, Keyset]: ...
    def put_keyset(self, tx: Tx, url: str, known: Keyset, now: int) -> None: ...
    def unlist_keysets(self, tx: Tx, url: str, listed: Collection[str], now: int) -> None: ...
    def other_keys(self, tx: Tx, url: str, known: Keyset) -> list[str]: ...


class MintSettings(msgspec.Struct, frozen=True):
    """The operator's options: addresses in normal form, the interval in seconds."""

    primary: str
    backups: tuple[str, ...]
    health_interval_s: int

    @property
    def named(self) -> tuple[str, ...]:
        """All of them, the primary first, each once."""
        return tuple(dict.fromkeys(url for url in (self.primary, *self.backups) if url))


Settings = Callable[[], MintSettings]
Clock = Callable[[], int]
"""Unix seconds."""
Log = Callable[..., None]
"""Level, event, fields."""
