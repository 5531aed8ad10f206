"""Our profile, offers and their events as the kit keeps them (docs/protocol/04-marketplace-and-nostr.md §5).
Times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from hive_shared.market import words
from hive_shared.nostr.publishing import PublishResult

ProfileStatus = Literal["draft", "active", "paused", "withdrawn"]
OfferStatus = Literal["active", "filled", "withdrawn"]
Purpose = Literal["publish", "delete", "withdraw"]
EventState = Literal["sending", "sent", "partial", "superseded", "given_up"]
RETRY_FOR_S: Final = 86_400
_FIRST_S, _LONGEST_S = 2, 300
_FINAL: Final = ("restricted", "blocked", "invalid", "pow", "auth-required", "mute")
_TAKEN: Final = ("ok", "duplicate")


class OwnProfile(msgspec.Struct, frozen=True):
    """`draft` are the subject's fields as its owner wrote them; `version` and `load` (contracts that
    ran) are those of what was published last."""

    draft: dict[str, Any]
    status: ProfileStatus
    updated: int
    load: int = 0
    version: str = ""
    signed_at: int = 0
    valid_until: int = 0


class OwnOffer(msgspec.Struct, frozen=True):
    """An offer as its owner wrote it."""

    offer_id: str
    draft: dict[str, Any]
    status: OfferStatus
    expires_at: int
    created: int
    updated: int


class OwnEvent(msgspec.Struct, frozen=True):
    """One event of ours. `relays` is what each said last; it is sent to those that have not answered yet
    until `minimum` have it, or `until`."""

    event_id: str
    kind: int
    d: str
    created_at: int
    document: dict[str, Any]
    purpose: Purpose
    state: EventState
    relays: Mapping[str, str]
    minimum: int
    next_at: int
    until: int
    created: int
    tries: int = 0

    @property
    def taken(self) -> int:
        """How many relays have it."""
        return sum(said in _TAKEN for said in self.relays.values())

    @property
    def open_relays(self) -> tuple[str, ...]:
        """Relays that neither have it nor refused it for good."""
        return tuple(
            url for url, said in self.relays.items() if said not in _TAKEN and not said.startswith("refused")
        )


def said(result: PublishResult) -> str:
    """A relay's answer in a word or two."""
    if result.accepted:
        return result.state
    if result.state == "rejected":
        word = "refused" if result.prefix in _FINAL else "later"
        return f"{word}: {result.prefix} {result.message}".strip()[:120]
    return result.state


def pause_s(tries: int) -> int:
    """Seconds until an event goes again to relays that did not take it: 2, 4 … 300."""
    return min(_LONGEST_S, _FIRST_S << min(tries, 8))


def raised(version: str) -> str:
    """The next version after one like 1.2.3."""
    key = words.version_key(version)
    if key is None:
        return "1.0.0"
    major, minor, patch = version.split("-", maxsplit=1)[0].split("+", maxsplit=1)[0].split(".")
    return f"{major}.{minor}.{int(patch) + 1}"
