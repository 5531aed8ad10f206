"""Several advisors on one node: cooldowns and conflicts (docs/protocol/02-fleet-management.md §7.5)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction
from typing import Final

import msgspec
from hive_shared.canonical import JsonValue

CHANNEL_COOLDOWN_S: Final = 300
"""After a write other agents wait so long on that channel, unless their credential says otherwise …"""
FIELD_COOLDOWN_S: Final = 3_600
"""… and at least so long for the same field of it."""
MAX_COOLDOWN_S: Final = 86_400
"""Longest wait that a credential can ask for."""
OWN_FEE_COOLDOWN_S: Final = 3_600
"""Between two fee writes of one credential on one channel (02 §5.3)."""
HOLD_AT: Final = Fraction(6, 10)
ESCALATE_AFTER_S: Final = 3_600
"""A held conflict goes to the operator after this."""

_RELATED: Final = frozenset({"hive:fee-policy/v1", "hive:rebalance/v1", "hive:forwarding/v1"})


class PastWrite(msgspec.Struct, frozen=True):
    """A write that was done or is pending: whose, on what, when (Unix s)."""

    advisor_id: str
    schema: str
    channels: frozenset[str]
    fields: frozenset[str]
    at: int


def channel_wait(coordination: Mapping[str, JsonValue]) -> int:
    """Seconds the holder of a credential waits on a channel after another agent's write: the
    `action_cooldown_s` of its section `coordination` (02 §2.1, docs/decisions/0314)."""
    said = coordination.get("action_cooldown_s")
    return min(said, MAX_COOLDOWN_S) if isinstance(said, int) else CHANNEL_COOLDOWN_S


def cooldown_left(
    past: Iterable[PastWrite],
    advisor_id: str,
    channels: Collection[str],
    fields: Collection[str],
    now: int,
    *,
    channel_s: int = CHANNEL_COOLDOWN_S,
) -> int:
    """Seconds an agent still has to wait because of other agents' writes; 0 when it need not. `channel_s` is
    its own `channel_wait`."""
    left = 0
    wanted, names = frozenset(channels), frozenset(fields)
    for write in past:
        if write.advisor_id == advisor_id or wanted.isdisjoint(write.channels):
            continue
        wait = channel_s if names.isdisjoint(write.fields) else max(channel_s, FIELD_COOLDOWN_S)
        left = max(left, write.at + wait - now)
    return left


def own_fee_cooldown_left(last_write: int | None, now: int) -> int:
    """Seconds until a credential may set the fee of a channel again; gossip tolerates few changes a day."""
    return 0 if last_write is None else max(0, last_write + OWN_FEE_COOLDOWN_S - now)


def score(
    first: PastWrite | None,
    *,
    schema: str,
    channels: Collection[str],
    now: int,
) -> Fraction:
    """0.5 · channel overlap (Jaccard) + 0.3 · max(0, 1 - Δt/3600) + 0.2 · interaction; 0 without a past."""
    if first is None:
        return Fraction(0)
    wanted = frozenset(channels)
    union = wanted | first.channels
    overlap = Fraction(len(wanted & first.channels), len(union)) if union else Fraction(0)
    nearness = max(Fraction(0), 1 - Fraction(abs(now - first.at), 3_600))
    return overlap / 2 + nearness * Fraction(3, 10) + _interaction(schema, first.schema) * Fraction(2, 10)


def held(value: Fraction) -> bool:
    """Whether a score is high enough to hold the command and tell both agents."""
    return value >= HOLD_AT


def _interaction(first: str, second: str) -> Fraction:
    if first == second:
        return Fraction(1)
    return Fraction(8, 10) if {first, second} <= _RELATED else Fraction(2, 10)
