"""Event kinds that siblings may have published, and what each demands
(docs/protocol/04-marketplace-and-nostr.md §4.1, §4.2; docs/protocol/08-client-and-plugins.md §3.4).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from hive_shared.errors import InvalidParams, Unauthorized

PROFILE_KINDS: Final = frozenset({38380, 38900})
"""These go to the profile relays too."""
KIND_OFFER: Final = 38381
NEVER: Final = frozenset({0, 3, 4, 5, 13, 1059, 10002, 10050, 22242, 27235})
"""Signed for nobody: they speak for the key itself, or delete what it said."""
_MARKETPLACE: Final = frozenset({*range(38380, 38386), 30402, 30017, 30018})
_LIQUIDITY: Final = frozenset(range(38900, 38906))
_WITH_EXPIRATION: Final = frozenset({38381, 38382, 38901, 38902})
_RELAYS: Final = {0: 3, 1: 3, 2: 2, 3: 2, 4: 1, 5: 2}
_HOURLY: Final = {0: 1, 1: 10, 2: 5, 3: 10, 4: 6, 5: 1}
MAX_EVENT_BYTES: Final = 60_000
MAX_TAGS: Final = 100
MAX_TAG_BYTES: Final = 1_024
MAX_D_BYTES: Final = 256
OTHERS_HOURLY: Final = 60


def family_of(kind: int) -> str | None:
    """The market whose publish option rules a kind: `marketplace`, `liquidity` or None."""
    return "marketplace" if kind in _MARKETPLACE else "liquidity" if kind in _LIQUIDITY else None


def relays_needed(kind: int) -> int:
    """How many relays have to take an event of this kind."""
    member = _member(kind)
    return _RELAYS[member] if member is not None else 2 if kind in _MARKETPLACE else 1


def hourly(kind: int, tags: Sequence[Sequence[str]]) -> tuple[str, int]:
    """What is counted and how often an hour it may be published; heartbeats and reputation per `d`."""
    member = _member(kind)
    if member is None:
        return str(kind), 10 if kind in _MARKETPLACE else OTHERS_HOURLY
    d = next((tag[1] for tag in tags if tag[0] == "d"), "")
    return f"{kind}:{d}" if member in (4, 5) else str(kind), _HOURLY[member]


def _member(kind: int) -> int | None:
    """Which of the six of its family a kind is: profile, offer, RFP, contract, heartbeat, reputation."""
    for base in PROFILE_KINDS:
        if base <= kind < base + 6:
            return kind - base
    return None


def check_kind(kind: int, extra: Collection[int]) -> None:
    """Raises Unauthorized unless a sibling may have this kind published; `extra` are the operator's."""
    if kind in NEVER:
        raise Unauthorized(f"kind {kind} is never signed for a sibling")
    if family_of(kind) is None and kind not in extra:
        raise Unauthorized(
            f"kind {kind} is not among those siblings may publish; the operator adds kinds with"
            " hive-comms-publish-kinds"
        )


def check_tags(kind: int, tags: Sequence[Sequence[str]]) -> None:
    """The limits on what we write. Raises InvalidParams."""
    if len(tags) > MAX_TAGS:
        raise InvalidParams(f"{len(tags)} tags; {MAX_TAGS} is the most that is written", reason="too_large")
    for tag in tags:
        if any(len(value.encode("utf-8", "surrogatepass")) > MAX_TAG_BYTES for value in tag):
            raise InvalidParams(
                f"a value of tag {tag[0][:20]!a} has more than {MAX_TAG_BYTES} bytes", reason="too_large"
            )
    names = [tag[0] for tag in tags if len(tag) > 1]
    if 30_000 <= kind < 40_000:
        d = [tag[1] for tag in tags if tag[0] == "d" and len(tag) > 1]
        if len(d) != 1 or not 1 <= len(d[0].encode("utf-8", "surrogatepass")) <= MAX_D_BYTES:
            raise InvalidParams(f"an event of kind {kind} has exactly one d tag of 1 to {MAX_D_BYTES} bytes")
    if kind in _WITH_EXPIRATION and "expiration" not in names:
        raise InvalidParams(f"an event of kind {kind} needs an expiration tag")
