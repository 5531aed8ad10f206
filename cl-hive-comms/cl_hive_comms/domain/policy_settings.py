"""The operator's policy as values: what each key means, the three presets, what counts as looser.

docs/protocol/08-client-and-plugins.md §5.4. `Settings` is a preset with the operator's changes applied;
everything that decides reads it and nothing else. Amounts are sat, rates ppm, times minutes of the day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Literal

import msgspec
from hive_shared.canonical import JsonValue
from msgspec.structs import fields, replace


@dataclass(frozen=True, slots=True)
class QuietHours:
    """Hours of the operator's wall clock, from `start` (included) to `end` (not), over midnight if need be.

    `zone` follows daylight saving: 23:00 means what the clock on the wall shows.
    """

    start: int
    end: int
    timezone: str
    zone: tzinfo = field(compare=False, repr=False)

    def active(self, now: int) -> bool:
        """Whether the Unix time `now` lies in the hours; equal start and end mean the whole day."""
        minute = minute_of_day(now, self.zone)
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end

    def to_doc(self) -> dict[str, JsonValue]:
        """The form of the policy document."""
        return {"start": clock(self.start), "end": clock(self.end), "timezone": self.timezone}


# Cached, since two hundred rules ask for the same moment.
@lru_cache(maxsize=16)
def minute_of_day(now: int, zone: tzinfo) -> int:
    """Minutes since local midnight."""
    local = datetime.fromtimestamp(now, zone)
    return local.hour * 60 + local.minute


@lru_cache(maxsize=16)
def weekday(now: int, zone: tzinfo) -> str:
    """`mon` … `sun` in that zone."""
    return DAYS[datetime.fromtimestamp(now, zone).weekday()]


def clock(minute: int) -> str:
    """`HH:MM` of a minute of the day."""
    return f"{minute // 60:02}:{minute % 60:02}"


DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class RequiredConfirmation(msgspec.Struct, frozen=True):
    """When the operator wants to be asked, whatever else would allow it."""

    danger_gte: int | None = None
    channel_close: Literal["always", "danger"] = "danger"
    onchain_send_gte_sats: int | None = None


class RateLimits(msgspec.Struct, frozen=True):
    """Managed writes per sliding window, over all advisors."""

    fee_changes_per_hour: int = 10
    rebalances_per_day: int = 20
    total_actions_per_day: int = 100


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every key of the policy document with its value; None means no limit.

    `forbidden_actions` are globs over `<category with _>_<action>` that come with the preset.
    """

    preset: str
    max_danger: int
    require_confirmation_above: int
    max_fee_change_per_24h_pct: int
    max_rebalance_sats: int
    forbidden_actions: tuple[str, ...]
    min_fee_ppm: int = 0
    max_fee_ppm: int | None = None
    max_rebalance_fee_ppm: int = 500
    max_channel_open_sats: int | None = None
    forbidden_peers: frozenset[str] = frozenset()
    protected_channels: frozenset[str] = frozenset()
    blocked_schemas: tuple[str, ...] = ()
    allowed_config: frozenset[str] = frozenset()
    approved_plugins: Mapping[str, str] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    approvers: frozenset[str] = frozenset()
    allow_push: bool = False
    allow_private_hosts: bool = False
    max_feerate_perkw: int | None = None
    protected_plugins: frozenset[str] = frozenset()
    daily_budget_sats: int | None = None
    required_confirmation: RequiredConfirmation = RequiredConfirmation()
    rate_limits: RateLimits = RateLimits()
    quiet_hours: QuietHours | None = None
    quiet_hour_max_danger: int = 2
    approval_overrides: Mapping[str, str] = msgspec.field(default_factory=lambda: MappingProxyType({}))

    @property
    def zone(self) -> tzinfo:
        """The operator's time zone: that of the quiet hours, else UTC."""
        return UTC if self.quiet_hours is None else self.quiet_hours.zone


_FORCE_CLOSE: Final = (
    "channel_close_unilateral",
    "channel_close_punitive",
    "channel_close_all",
    "emergency_force_close",
    "emergency_force_close_all",
    "htlc_mgmt_force_resolve_expired",
)

PRESETS: Final[Mapping[str, Settings]] = MappingProxyType(
    {
        "conservative": Settings(
            preset="conservative",
            max_danger=4,
            require_confirmation_above=3,
            max_fee_change_per_24h_pct=15,
            max_rebalance_sats=100_000,
            forbidden_actions=(
                "channel_close_cooperative",
                *_FORCE_CLOSE,
                "wallet_send_onchain",
                "wallet_sweep",
                "plugin_start_approved",
                "plugin_start_arbitrary",
            ),
            quiet_hours=QuietHours(23 * 60, 7 * 60, "UTC", UTC),
        ),
        "moderate": Settings(
            preset="moderate",
            max_danger=6,
            require_confirmation_above=5,
            max_fee_change_per_24h_pct=30,
            max_rebalance_sats=500_000,
            forbidden_actions=(*_FORCE_CLOSE, "wallet_sweep", "plugin_start_arbitrary"),
        ),
        "aggressive": Settings(
            preset="aggressive",
            max_danger=8,
            require_confirmation_above=7,
            max_fee_change_per_24h_pct=50,
            max_rebalance_sats=2_000_000,
            forbidden_actions=("wallet_sweep", "channel_close_all", "emergency_force_close_all"),
        ),
    }
)
"""The preset table of 08 §5.4."""


def apply(settings: Settings, values: Mapping[str, object]) -> Settings:
    """`settings` with parsed values (policy_document.parse_values) replacing its own."""
    return replace(settings, **values)  # keys and types are parse_values' promise


def _more(before: int | None, after: int | None) -> bool:
    return before is not None and (after is None or after > before)


def _lost(before: frozenset[str], after: frozenset[str]) -> bool:
    return not before <= after


def _quiet(before: QuietHours | None, after: QuietHours | None) -> bool:
    # Which of two different spans is the longer one changes with the day; a change counts as looser.
    return before is not None and before != after


_STRICTNESS: Final = {"auto_execute": 0, "always_confirm": 2}


def _override_rank(word: str | None) -> int:
    # No override leaves the level to danger and trust: stricter than auto, looser than always.
    return 1 if word is None else _STRICTNESS.get(word, 3)


def _overrides(before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    for pattern in {*before, *after}:
        old, new = before.get(pattern), after.get(pattern)
        if _override_rank(new) < _override_rank(old):
            return True
        if old != new and _override_rank(old) == _override_rank(new) == 3:
            return True
    return False


def _confirmation(before: RequiredConfirmation, after: RequiredConfirmation) -> bool:
    return (
        _more(before.danger_gte, after.danger_gte)
        or _more(before.onchain_send_gte_sats, after.onchain_send_gte_sats)
        or (before.channel_close == "always" and after.channel_close != "always")
    )


def _rates(before: RateLimits, after: RateLimits) -> bool:
    return any(getattr(after, each.name) > getattr(before, each.name) for each in fields(RateLimits))


_LOOSER: Final[Mapping[str, Callable[..., bool]]] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "max_danger",
                "require_confirmation_above",
                "max_fee_change_per_24h_pct",
                "max_rebalance_sats",
                "max_fee_ppm",
                "max_rebalance_fee_ppm",
                "max_channel_open_sats",
                "max_feerate_perkw",
                "daily_budget_sats",
                "quiet_hour_max_danger",
                "allow_push",
                "allow_private_hosts",
            ),
            _more,
        ),
        "min_fee_ppm": lambda before, after: after < before,
        "forbidden_actions": lambda before, after: not set(before) <= set(after),
        "blocked_schemas": lambda before, after: not set(before) <= set(after),
        "forbidden_peers": _lost,
        "protected_channels": _lost,
        "protected_plugins": _lost,
        "allowed_config": lambda before, after: not after <= before,
        "approvers": lambda before, after: not after <= before,
        "approved_plugins": lambda before, after: not after.items() <= before.items(),
        "required_confirmation": _confirmation,
        "rate_limits": _rates,
        "quiet_hours": _quiet,
        "approval_overrides": _overrides,
    }
)


def loosened(before: Settings, after: Settings) -> tuple[str, ...]:
    """The keys in which `after` allows something that `before` did not, for the operator's alert."""
    names = (each.name for each in fields(Settings) if each.name != "preset")
    return tuple(name for name in names if _LOOSER[name](getattr(before, name), getattr(after, name)))
