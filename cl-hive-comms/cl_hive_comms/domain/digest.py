"""The daily digest: what happened since the last one, in one message
(docs/protocol/08-client-and-plugins.md §6 "Alerts"; docs/decisions/0252-the-daily-digest.md)."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from hive_shared.alerts import Level

from .alert import TEST, Alert, Channel

DIGEST: Final = "daily_digest"
MAX_LINES: Final = 60
"""Alerts shown; the rest is counted."""
_DAY_S: Final = 86_400
_BY_LOUDNESS: Final = (Level.CRITICAL, Level.WARNING, Level.NOTICE, Level.INFO)
_QUIETEST_FIRST: Final = (Channel.EMAIL, Channel.DM, Channel.WEBHOOK)


def due(now: int, hour: int, last: int) -> bool:
    """Whether `hour` o'clock UTC has passed since the last digest. One in the future is of a wrong clock."""
    at = datetime.fromtimestamp(now, UTC).replace(hour=hour, minute=0, second=0, microsecond=0)
    if at.timestamp() > now:
        at -= timedelta(days=1)
    return last < at.timestamp() or last > now + _DAY_S


def way_of(channels: Iterable[Channel]) -> Channel | None:
    """The one way a digest takes: mail, else message, else webhook."""
    found = frozenset(channels)
    return next((way for way in _QUIETEST_FIRST if way in found), None)


def digest_text(alerts: Iterable[Alert], since: int) -> str | None:
    """The digest of these alerts; None when there is nothing to tell."""
    told = [alert for alert in alerts if alert.code not in (DIGEST, TEST)]
    if not told:
        return None
    told.sort(key=lambda alert: (_BY_LOUDNESS.index(alert.level), alert.alert_id))
    counts = ", ".join(
        f"{sum(alert.count for alert in told if alert.level is level)} {level}" for level in _BY_LOUDNESS
    )
    lines = [f"Since {_shown(since)}: {counts}."]
    for alert in told[:MAX_LINES]:
        times = f" ({alert.count} times)" if alert.count > 1 else ""
        lines.append(f"[{alert.level}] {_shown(alert.first_at)} {alert.text}{times}")
    if len(told) > MAX_LINES:
        lines.append(f"and {len(told) - MAX_LINES} more: hive-client-alerts lists them")
    return "\n".join(lines)


def _shown(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
