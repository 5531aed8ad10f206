"""An alert that goes on is told every ten minutes, with what was only counted meanwhile
(docs/protocol/08-client-and-plugins.md §6 "Alerts")."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cl_hive_comms.domain.alert import MAX_PER_HOUR
from hive_shared.alerts import Level
from pipeline_world import NOW
from policy_world import Operator


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Operator]:
    made = Operator(tmp_path)
    yield made
    made.db.close()


async def raised(node: Operator, at: int, text: str = "a channel hangs", key: str = "") -> None:
    node.now = NOW + at
    await node.alerts.alert(Level.WARNING, "stuck", text, key)


async def told(node: Operator) -> list[tuple[int, int, str]]:
    """When (seconds after NOW), how often, what; oldest first."""
    rows = await node.alerts.recent(100)
    return [(row.first_at - NOW, row.count, row.text) for row in reversed(rows)]


async def test_one_that_comes_every_minute_is_told_every_ten(node: Operator) -> None:
    for at in range(0, 1_500, 60):
        await raised(node, at)
    first, second, third = await told(node)
    assert first == (0, 10, "a channel hangs")
    assert second[:2] == (600, 10) and second[2].startswith("a channel hangs (9 more since 2026-")
    assert third[:2] == (1_200, 5) and "(9 more since" in third[2]


async def test_ten_minutes_count_from_the_telling_also_over_a_restart(node: Operator, tmp_path: Path) -> None:
    await raised(node, 0)
    await raised(node, 599)
    node.db.close()
    again = Operator(tmp_path)
    await raised(again, 599)
    assert [row[:2] for row in await told(again)] == [(0, 3)]
    await raised(again, 600)
    assert [row[:2] for row in await told(again)] == [(0, 3), (600, 1)]
    assert "(2 more since" in (await told(again))[1][2]
    # What was told once is not told again; a quiet day in between changes nothing.
    await raised(again, 90_000)
    assert (await told(again))[2] == (90_000, 1, "a channel hangs")
    again.db.close()


async def test_each_kind_has_its_own_ten_minutes(node: Operator) -> None:
    await raised(node, 0)
    await raised(node, 300, "another hangs")
    await raised(node, 610, "now with other words", key="stuck:a channel hangs")
    rows = await told(node)
    assert [row[0] for row in rows] == [0, 300, 610]
    assert not any("more since" in row[2] for row in rows)


async def test_a_clock_that_was_put_back_silences_nothing(node: Operator) -> None:
    await raised(node, 100_000)
    await raised(node, 0)
    await raised(node, 60)
    assert sorted(row[:2] for row in await told(node)) == [(0, 2), (100_000, 1)]


async def test_a_flood_is_told_every_hour_while_it_lasts(node: Operator) -> None:
    for at in range(0, 7_200, 60):
        await raised(node, at, f"channel {at} hangs")
    rows = await told(node)
    floods = [row for row in rows if row[2].startswith(f"more than {MAX_PER_HOUR} warning alerts")]
    assert len(floods) == 2 and "more since" in floods[1][2]
    assert floods[1][0] - floods[0][0] >= 3_600
