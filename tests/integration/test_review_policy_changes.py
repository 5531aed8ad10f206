"""Changes of the policy that meet each other (docs/protocol/08-client-and-plugins.md §5.4)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
from pipeline_world import NOW
from policy_world import Operator


@pytest.fixture
async def operator(tmp_path: Path) -> AsyncIterator[Operator]:
    made = Operator(tmp_path)
    await made.policy.load("moderate", "")
    yield made
    made.db.close()


async def test_two_protections_at_once_both_hold(operator: Operator) -> None:
    channels = [f"{n}x1x0" for n in range(1, 6)]
    await asyncio.gather(
        *(operator.policy.extend_list("protected_channels", [name], add=True) for name in channels)
    )
    assert operator.protected == frozenset(channels)
    await operator.policy.load("moderate", "")
    assert operator.protected == frozenset(channels)


async def test_acceptance_08_07_an_override_expires_while_the_plugin_is_down(
    operator: Operator, tmp_path: Path
) -> None:
    await operator.policy.override({"max_danger": 7}, "1h")
    assert operator.policy.snapshot().settings(operator.now).max_danger == 7
    operator.db.close()
    early = Operator(tmp_path)
    early.now = NOW + 3_599
    await early.policy.load("moderate", "")
    assert early.policy.snapshot().settings(early.now).max_danger == 7, "it is kept over a restart"
    early.db.close()
    late = Operator(tmp_path)
    late.now = NOW + 3_600
    await late.policy.load("moderate", "")
    # Before any loop has run: the clock alone ends it.
    assert late.policy.snapshot().settings(late.now).max_danger == 6
    await late.policy.expire_overrides()
    assert cast("object", late.policy.snapshot().override) is None
    late.db.close()


async def test_an_override_that_runs_out_does_not_undo_a_protection(operator: Operator) -> None:
    await operator.policy.override({"max_danger": 5}, "1h")
    operator.now += 3_600
    await asyncio.gather(
        operator.policy.expire_overrides(),
        operator.policy.extend_list("protected_channels", ["7x1x0"], add=True),
        operator.policy.add_rule({"id": "r", "match": {"days": ["sun"]}, "effect": "deny"}),
    )
    await operator.policy.load("moderate", "")
    assert operator.protected == frozenset({"7x1x0"})
    assert [rule.id for rule in operator.policy.snapshot().rules] == ["r"]
    assert cast("object", operator.policy.snapshot().override) is None


async def test_another_time_zone_says_which_rules_it_moves(operator: Operator) -> None:
    async def told() -> list[str]:
        return [alert.text for alert in await operator.alerts.recent()]

    hours = {"start": "23:00", "end": "07:00"}
    await operator.policy.add_rule({"id": "sunday", "match": {"days": ["sun"]}, "effect": "deny"})
    await operator.policy.add_rule({"id": "always", "match": {"danger_gte": 4}, "effect": "confirm"})
    await operator.policy.set({"time_restrictions": {"quiet_hours": {**hours, "timezone": "UTC"}}})
    assert await told() == []
    await operator.policy.set({"time_restrictions": {"quiet_hours": {**hours, "timezone": "Asia/Tokyo"}}})
    (text,) = await told()
    assert "rule sunday, now in Asia/Tokyo" in text and "always" not in text
