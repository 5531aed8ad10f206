"""Alerts: what the operator should notice (docs/protocol/08-client-and-plugins.md §6 "Alerts")."""

from datetime import UTC, datetime
from enum import StrEnum

import msgspec
from hive_shared.alerts import Level

DEDUP_S = 600
"""Within ten minutes of its telling the same alert is counted, not told again."""
MAX_PER_HOUR = 30
"""Alerts per level and hour; more are counted on the newest row of that level."""
RETRY_S = (10, 40, 150, 600)
"""Seconds to wait after the first, second .. failed try; after the fifth there is no other."""
TEST = "alert_test"
"""Code of the alert that hive-client-alerts action=test raises."""
PROPOSAL = "option_proposed"
"""Code of the alert about a static option of the node that an advisor would set otherwise."""
_TO_ALL = frozenset({"command_waiting", PROPOSAL, TEST})


class Channel(StrEnum):
    """How an alert reaches the operator."""

    WEBHOOK = "webhook"
    DM = "dm"
    EMAIL = "email"


class Delivery(msgspec.Struct, frozen=True):
    """How far an alert is on a way with tries of its own: none, waiting, sent or failed."""

    state: str = "none"
    attempts: int = 0
    error: str | None = None


class Alert(msgspec.Struct, frozen=True):
    """One row of comms_alerts. Times are Unix seconds.

    `dm` is none, waiting, queued (in the outbox) or failed.
    """

    alert_id: int
    level: Level
    code: str
    text: str
    count: int
    first_at: int
    last_at: int
    acked_at: int | None
    webhook: Delivery = Delivery()
    email: Delivery = Delivery()
    dm: str = "none"

    def delivery(self, way: Channel) -> Delivery:
        """How far it is by webhook or mail."""
        return self.email if way is Channel.EMAIL else self.webhook


_BY_LEVEL = {
    Level.INFO: frozenset[Channel](),
    Level.NOTICE: frozenset({Channel.WEBHOOK}),
    Level.WARNING: frozenset({Channel.WEBHOOK, Channel.DM}),
    Level.CRITICAL: frozenset(Channel),
}


def channels_of(level: Level, code: str) -> frozenset[Channel]:
    """Where an alert of this level goes; what waits for the operator's word goes everywhere."""
    if code in _TO_ALL:
        return frozenset(Channel)
    return _BY_LEVEL[level]


def retry_after(attempts: int) -> int | None:
    """Seconds until the next try after that many failed ones (from 1), None when it was the last."""
    return RETRY_S[attempts - 1] if attempts <= len(RETRY_S) else None


def with_repeats(text: str, untold: int, since: int) -> str:
    """The text of an alert that came `untold` times more since it was last told (Unix s)."""
    if not untold:
        return text
    return f"{text} ({untold} more since {datetime.fromtimestamp(since, UTC):%Y-%m-%d %H:%M} UTC)"


def nears(used: int, limit: int) -> bool:
    """Whether this use is the one that brings a limit to 80 %."""
    return used * 5 >= limit * 4 and (used - 1) * 5 < limit * 4


def level_of_danger(danger: int) -> Level:
    """The level that belongs to an action of this danger (1..10)."""
    if danger <= 2:
        return Level.INFO
    if danger <= 4:
        return Level.NOTICE
    return Level.WARNING if danger <= 6 else Level.CRITICAL
