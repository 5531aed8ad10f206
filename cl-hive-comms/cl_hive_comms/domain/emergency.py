"""The emergency stop as it is remembered, and what freezing a channel means
(docs/protocol/08-client-and-plugins.md §6 "Kill switch", §11.9; 02-fleet-management.md §4 `disable_all`)."""

from __future__ import annotations

import json
from enum import Enum, auto
from typing import Final, Literal, NamedTuple

import msgspec
from msgspec.structs import asdict

TOKEN_S: Final = 600
"""How long a token from the stop's status may be used to release it, seconds."""
MAX_REASON: Final = 280
"""Characters of a reason that are kept."""
ENGAGED: Final = (
    "the emergency stop is engaged, so nothing new is done or paid: hive-client-emergency-stop action=status"
    " shows since when, and the token that releases it"
)
"""What is said to whoever asks for something meanwhile."""


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """One engaged stop. `cancel_due` and `revoke_due` are effects that were ordered and are not done yet;
    they are stored with the stop so that a restart goes on with them."""

    since: int
    by: Literal["operator", "file"]
    reason: str = ""
    freeze: bool = False
    cancel_due: bool = True
    revoke_due: bool = False
    cancelled: int = 0
    revoked: int = 0

    def to_text(self) -> str:
        """The stored form."""
        return json.dumps(asdict(self))


def stop_from_text(text: str) -> Stop:
    """Inverse of `Stop.to_text`. A text that cannot be read is a stop all the same: it was engaged."""
    try:
        return Stop(**json.loads(text))
    except (ValueError, TypeError):
        since = int(text) if text.isdecimal() else 0
        return Stop(since=since, by="operator", reason="the stored stop could not be read")


class Limits(NamedTuple):
    """HTLC bounds of our side of a channel, msat."""

    htlc_min_msat: int
    htlc_max_msat: int


class SavedChannel(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds a channel had before it was frozen; `frozen_at` is None until a receipt says it is."""

    channel_id: str
    scid: str
    limits: Limits
    frozen_at: int | None = None


class Step(Enum):
    """What to do with a saved channel next."""

    SET = auto()
    """Call `setchannel`."""
    DONE = auto()
    """The node shows what is wanted."""
    LEAVE = auto()
    """Somebody set other bounds meanwhile, or the channel is gone: nothing of ours is left to do."""


def frozen_max(limits: Limits) -> int:
    """The `htlcmax` that lets nothing be forwarded out; not 0, which other implementations discard."""
    return max(1, limits.htlc_min_msat)


def frozen(limits: Limits) -> Limits:
    """The bounds of a channel that is frozen."""
    return Limits(limits.htlc_min_msat, frozen_max(limits))


def to_freeze(saved: Limits, now: Limits | None) -> Step:
    """The next step towards a frozen channel; `now` is what the node shows, None without the channel."""
    if now is None:
        return Step.LEAVE
    if now.htlc_max_msat == frozen_max(saved):
        return Step.DONE
    return Step.SET if now == saved else Step.LEAVE


def to_restore(saved: Limits, now: Limits | None) -> Step:
    """The next step towards the saved bounds. Bounds that are neither the saved nor the frozen ones were set
    by the operator's own hand during the stop and stay."""
    if now is None:
        return Step.LEAVE
    if now == saved:
        return Step.DONE
    return Step.SET if now == frozen(saved) else Step.LEAVE
