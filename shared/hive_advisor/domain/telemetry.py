"""Telemetry as the kit keeps it (docs/protocol/11-advisor-kit.md §7, §12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One metric of one push. ``ts`` is the node's time of measuring, Unix seconds."""

    client_id: str
    metric: str
    ts: int
    value: Any
    sub_id: str
    seq: int


@dataclass(frozen=True)
class Followed:
    """A subscription of ours. ``span_s`` is how long it was asked for; from ``renew_at`` on it is renewed."""

    sub_id: str
    client_id: str
    metrics: tuple[str, ...]
    interval_s: int
    span_s: int
    until: int
    renew_at: int


def renewal(now: int, until: int) -> int:
    """When what runs from now on is renewed: after 80 % of its time."""
    return now + (until - now) * 4 // 5
