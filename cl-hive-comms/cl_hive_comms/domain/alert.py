"""Alerts: what the operator should notice (docs/protocol/08-client-and-plugins.md §6 "Alerts")."""

from dataclasses import dataclass
from enum import StrEnum

DEDUP_S = 600
"""The same alert within ten minutes is counted, not repeated."""
MAX_PER_HOUR = 30
"""Alerts per level and hour; more are counted on the newest row of that level."""


class Level(StrEnum):
    """How loud an alert is."""

    INFO = "info"
    NOTICE = "notice"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True)
class Alert:
    """One row of comms_alerts."""

    alert_id: int
    level: Level
    code: str
    text: str
    count: int
    first_at: int
    last_at: int
    acked_at: int | None


def level_of_danger(danger: int) -> Level:
    """The level that belongs to an action of this danger (1..10)."""
    if danger <= 2:
        return Level.INFO
    if danger <= 4:
        return Level.NOTICE
    return Level.WARNING if danger <= 6 else Level.CRITICAL
