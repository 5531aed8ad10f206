"""Every number of the relay engine in one place (Protocol 04 §5.2, §7.2), so that tests can shrink time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

Rng = Callable[[int], bytes]
Sleep = Callable[[float], Awaitable[None]]


class Log(Protocol):
    """Structured logging as PluginApp.log has it."""

    def __call__(self, level: str, event: str, /, **fields: object) -> None:
        """Write one line."""


class RelayLimits(msgspec.Struct, frozen=True):
    """Bounds and delays; seconds, bytes and counts. The defaults are the protocol's."""

    connections: int = 8
    temporary: int = 2
    subscriptions: int = 10
    frame_bytes: int = 131_072
    socket_bytes: int = 1_048_576
    socket_frames: int = 8
    future_seconds: int = 900
    page: int = 500
    pages: int = 200

    inbox_events: int = 200
    inbox_bytes: int = 1_048_576
    lane_events: int = 2_000
    lane_bytes: int = 8_388_608
    outbound: int = 2_000
    verified_ids: int = 50_000
    batch: int = 64
    events_per_second: int = 4_000

    open_seconds: float = 10
    ping_seconds: float = 30
    pong_seconds: float = 20
    close_seconds: float = 2
    stop_seconds: float = 5
    eose_seconds: float = 30
    rate_limited_seconds: float = 60
    behind_bytes: int = 32_768
    catch_up_seconds: float = 1
    catch_up_every_seconds: float = 60

    backoff_first: float = 1
    backoff_cap: float = 300
    stable_seconds: float = 60
    dead_after: int = 10
    dead_seconds: float = 1_800

    info_open_seconds: float = 5
    info_bytes: int = 65_536
    info_seconds: float = 86_400
    info_retry_seconds: float = 3_600

    forged_limit: int = 5
    forged_window_seconds: float = 600
    pause_seconds: float = 600


def backoff_delay(failures: int, limits: RelayLimits, rng: Rng) -> float:
    """Return the seconds to wait after this many failures in a row.

    Full jitter under a doubling ceiling, so that a relay coming back is not stormed by all its clients at
    once; from `dead_after` failures on the relay counts as dead and is tried every half hour.
    """
    fraction = int.from_bytes(rng(4), "big") / 2**32
    if failures >= limits.dead_after:
        return limits.dead_seconds * (0.9 + 0.2 * fraction)
    ceiling = min(limits.backoff_cap, limits.backoff_first * 2.0 ** min(failures - 1, 30))
    return max(limits.backoff_first * 0.1, ceiling * fraction)
