"""Every key of the policy is read where it is said to bear, or says that nothing runs it yet (08 §5.4)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import pytest
from cl_hive_comms.domain.policy import ActionRequest, ChannelFact, PolicySnapshot, decide
from cl_hive_comms.domain.policy_document import KEYS, PolicyDocument, preset_document
from cl_hive_comms.domain.policy_limits import COUNTERS, SPENT_SATS
from cl_hive_comms.domain.policy_reach import (
    ALL,
    BESIDES,
    REACH,
    WRITES,
    idle_keys,
    reach_of,
    served_actions,
)
from cl_hive_comms.domain.policy_settings import RateLimits, RequiredConfirmation, Settings
from hive_shared.registry import actions, find
from msgspec.structs import fields

NOON = 1_770_033_600
_READ: set[str] = set()


class _Noted:
    """Notes every field that is read."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__"):
            _READ.add(f"{type(self).prefix}{name}")
        return object.__getattribute__(self, name)


class _Rates(_Noted, RateLimits):
    prefix = "rate_limits."


class _Confirmation(_Noted, RequiredConfirmation):
    prefix = "required_confirmation."


class _Watched(_Noted, Settings):
    prefix = ""


def watched() -> PolicySnapshot:
    """The moderate policy with something in every list, so that each is looked into."""
    base = preset_document("moderate").settings
    values = {each.name: getattr(base, each.name) for each in fields(Settings)}
    values |= {
        "rate_limits": _Rates(),
        "required_confirmation": _Confirmation(danger_gte=9),
        "protected_channels": frozenset({"9x9x9"}),
        "quiet_hours": preset_document("conservative").settings.quiet_hours,
        "daily_budget_sats": 10**9,
        "approval_overrides": MappingProxyType({"nothing_*": "always_confirm"}),
    }
    return PolicySnapshot(1, "moderate", PolicyDocument("moderate", MappingProxyType({}), _Watched(**values)))


def requests(schema: str, name: str) -> Iterator[ActionRequest]:
    fact = ChannelFact("1x1x0", "11" * 32, "02" + "11" * 32, 1_000, 100, 1, 10**9, "CHANNELD_NORMAL")
    for danger in (3, 9):
        yield ActionRequest(
            schema=schema,
            action=name,
            # Whether pushing is allowed is looked at only when something is pushed.
            params={"push_msat": 1_000},
            danger=danger,
            read_only=find(schema, name).read_only,
            advisor_id="alice",
            trust=Fraction(1),
            channels=(fact,),
            new_fees={"1x1x0": (None, 110)},
            now=NOON,
            counts={**dict.fromkeys(COUNTERS, 0), SPENT_SATS: 0},
        )


def names() -> list[str]:
    """Every key as the reference lists it."""
    found: list[str] = []
    for key, kind in KEYS.items():
        rule: Any = kind.describe()
        inner = rule.get("properties") if rule.get("type") == "object" else None
        found += [f"{key}.{name}" for name in inner] if inner else [key]
    return found


def test_every_key_says_what_it_bears_on_and_every_glob_is_of_actions_there_are() -> None:
    assert sorted(REACH) == sorted(names())
    every = [f"{spec.schema}#{spec.name}" for spec in actions()]
    from fnmatch import fnmatchcase

    for key, globs in REACH.items():
        for glob in globs:
            known = glob in (WRITES, ALL) or any(fnmatchcase(name, glob) for name in every)
            assert known, (key, glob)


@pytest.mark.parametrize("key", sorted(REACH))
def test_a_key_is_read_when_an_action_it_bears_on_is_decided_or_it_says_that_none_is_served(key: str) -> None:
    reach = reach_of(key)
    assert {*reach.served, *reach.later} == set(REACH[key])
    bears_on = [found for glob in reach.served for found in served_actions(glob)]
    if not bears_on:
        assert reach.later and key in [*idle_keys({key: 1}), *BESIDES]
        return
    read = set()
    for schema, name in bears_on:
        _READ.clear()
        for request in requests(schema, name):
            decision = decide(watched(), request)
            assert not any("could not be evaluated" in text for text in decision.reasons), decision
        read |= _READ
    assert key.removeprefix("time_restrictions.") in read


def test_keys_of_actions_that_are_not_served_are_named_and_others_are_not() -> None:
    later = [key for key in REACH if not reach_of(key).served]
    for key in later:
        outer, _, inner = key.partition(".")
        given = {outer: {inner: 5}} if inner else {outer: 5}
        assert idle_keys(given) == ([] if key in BESIDES else [key])
    assert (
        idle_keys(
            {"max_danger": 5, "rate_limits": {"fee_changes_per_hour": 1}, "approval_overrides": {"x": 1}}
        )
        == []
    )
    assert idle_keys({"no_such_key": 1}) == []
