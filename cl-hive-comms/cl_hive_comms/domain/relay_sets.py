"""Which relay is used for what (docs/protocol/04-marketplace-and-nostr.md §7.1, §7.4)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from .published_kinds import PROFILE_KINDS, family_of, relays_needed

MAX_CONNECTIONS: Final = 8
MAX_ISOLATED: Final = 2
"""Sockets beyond those eight, for adverts alone."""
LOW_REDUNDANCY: Final = "low_redundancy"
_KIND_DELETION: Final = 5


class Standing(msgspec.Struct, frozen=True):
    """The connections that are kept: what is subscribed where, who may learn our key by a login.

    `reads` carry our messages, `adverts` the subscriptions to adverts, `all` is every one of them.
    """

    reads: tuple[str, ...]
    adverts: tuple[str, ...]
    all: tuple[str, ...]


class RelaySets(msgspec.Struct, frozen=True):
    """The operator's lists of relays and how much relays may learn."""

    primary: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    profile: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    privacy: str = "standard"

    @property
    def isolated(self) -> bool:
        """Adverts are read over sockets of their own."""
        return self.privacy != "standard"

    @property
    def strict(self) -> bool:
        """No socket without the proxy, and no search relay."""
        return self.privacy == "strict"

    @property
    def inbox(self) -> tuple[str, ...]:
        """Where we read our messages. The private ones are known to the fleet alone."""
        return tuple(dict.fromkeys((*self.primary, *self.private)))

    @property
    def fleet_only(self) -> tuple[str, ...]:
        """Private relays that are not listed as primary too."""
        return tuple(url for url in self.private if url not in self.primary)

    @property
    def lists(self) -> tuple[str, ...]:
        """Where our relay lists go, beside the primary ones."""
        return self._public(self.profile)

    @property
    def searched(self) -> tuple[str, ...]:
        """Search relays in use."""
        return () if self.strict else self._public(self.search)

    @property
    def own(self) -> tuple[str, ...]:
        """Every address the operator listed."""
        return tuple(dict.fromkeys((*self.inbox, *self.search, *self.profile)))

    def event_relays(self, kind: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Where an event for everybody goes: relays that count, and relays whose failure is no error."""
        advert = family_of(kind) is not None
        counted = (*self.primary, *(self.lists if kind in PROFILE_KINDS else ()))
        extra = self.searched if advert else ()
        return tuple(dict.fromkeys(counted)), tuple(url for url in extra if url not in counted)

    def low_redundancy(self, kind: int) -> bool:
        """Whether a profile or offer has fewer than the three distinct relays it should have."""
        counted, extra = self.event_relays(kind)
        return relays_needed(kind) >= 3 and len(counted) + len(extra) < 3

    def standing(self, *, browsing: bool) -> Standing:
        """The connections to keep, eight at most; `browsing`: adverts are subscribed to."""
        adverts = (*self.searched, *self.primary) if browsing and not self.isolated else ()
        found = tuple(dict.fromkeys((*self.inbox, *adverts, *self.lists)))[:MAX_CONNECTIONS]
        return Standing(
            tuple(url for url in self.inbox if url in found),
            tuple(dict.fromkeys(url for url in adverts if url in found)),
            found,
        )

    def browsed(self) -> tuple[str, ...]:
        """Relays whose adverts are read over isolated sockets."""
        if not self.isolated:
            return ()
        return tuple(dict.fromkeys((*self.searched, *self.primary)))[:MAX_ISOLATED]

    def too_many(self) -> str | None:
        """Why not all relays can be used, or None."""
        if len(self.inbox) <= MAX_CONNECTIONS:
            return None
        return (
            f"hive-comms-nostr-relays and hive-comms-nostr-private-relays name {len(self.inbox)} relays"
            f" together; {MAX_CONNECTIONS} are used"
        )

    def _public(self, relays: Sequence[str]) -> tuple[str, ...]:
        return tuple(url for url in relays if url not in self.fleet_only)


def is_advert_filter(one: Mapping[str, Any], own_keys: Collection[str]) -> bool:
    """Whether a filter asks for adverts alone, and for nothing that names a key of ours."""
    kinds = one.get("kinds")
    if not isinstance(kinds, list | tuple) or not kinds:
        return False
    if {*one.get("#p", ()), *one.get("authors", ())} & set(own_keys):
        return False
    if set(kinds) == {_KIND_DELETION}:
        asked = one.get("#k") or ["0"]
        return all(text.isdigit() and family_of(int(text)) is not None for text in asked)
    return all(family_of(kind) is not None for kind in kinds)
