"""Daily and weekly reports on a real plugin whose clock passes midnight: while it runs, while it is down, and
killed with kill -9 between two reports (docs/protocol/02-fleet-management.md §10)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent import Agent
from channel_world import exists, plugin_again
from clock_world import DAY, ROUND_S, world_at
from hive_devnet.clock import PluginClock
from hive_devnet.world import until
from hive_shared import envelope

CONTROL = "hive:control/v1"
KINDS = {"report_daily": "daily", "report_weekly": "weekly"}


def next_saturday_noon(now: int) -> int:
    """Noon UTC of the next Saturday; the first day of the epoch was a Thursday."""
    return (now - 2 * DAY) // (7 * DAY) * (7 * DAY) + 9 * DAY + DAY // 2


async def came(agent: Agent, clock: PluginClock, *wanted: int) -> list[tuple[str, int, int, int]]:
    """What reports came, (stream, number, from, to) in order, once there are as many as wanted of daily and
    weekly ones; every one of them signed by the node."""

    async def found() -> list[tuple[str, int, int, int]] | None:
        # The plugin notices that time went by when somebody speaks to it.
        await agent.node.call("hive-client-report", {"advisor": agent.npub})
        rows = reports(agent)
        counts = tuple(len([row for row in rows if row[0] == stream]) for stream in KINDS)
        return rows if counts == wanted else None

    clock.wait(ROUND_S)
    rows: list[tuple[str, int, int, int]] = await until(found, f"{wanted} reports")
    return rows


def reports(agent: Agent) -> list[tuple[str, int, int, int]]:
    """(stream, number, from, to) of every report that came, however often it came."""
    rows = []
    for document in agent.inbox:
        payload: dict[str, Any] = document.get("schema_payload", {})
        if payload.get("action") != "telemetry":
            continue
        assert envelope.verify_push(document, agent.node_key)
        for stream, report in payload["params"]["metrics"].items():
            assert report["kind"] == KINDS[stream] and report["credential_id"] == agent.credential_id
            rows.append((stream, payload["params"]["seq"], report["from"], report["to"]))
    return rows


async def test_reports_of_day_and_week_come_once_each_over_midnight_standstill_and_kill(
    tmp_path: Path,
) -> None:
    async with (
        world_at(tmp_path, next_saturday_noon) as (world, clock),
        Agent(world.alice, world.relay.url, now=clock.now) as agent,
    ):
        await agent.hired("fees")
        hired_at = clock.now()
        sunday = hired_at // DAY * DAY + DAY
        for stream in KINDS:
            wanted = {"metrics": [stream], "until": sunday + 20 * DAY}
            asked = agent.signed("telemetry_subscribe", wanted, CONTROL)
            answer = await agent.rest(asked)
            assert answer["status"] == 0, answer
        clock.wait(ROUND_S)
        clock.pass_to(sunday + 30)
        first = await came(agent, clock, 1, 0)
        ((_, _, since, _),) = first
        assert hired_at - 60 <= since <= hired_at
        assert first == [("report_daily", 1, since, sunday)]

        # Down over the next midnight, which ends the week too, and killed after the first of two reports.
        reached: list[Path] = []

        def meanwhile(_: Path) -> None:
            clock.pass_to(sunday + DAY + 30)
            reached.append(world.arm_fault("report_made"))

        await plugin_again(world, meanwhile)
        clock.wait(ROUND_S)
        await world.alice.call("hive-client-status")
        await until(lambda: exists(reached[0]), "the first report to be made")
        assert reports(agent) == first
        await plugin_again(world)
        both = await came(agent, clock, 2, 1)
        assert sorted(both) == [
            *first,
            ("report_daily", 2, sunday, sunday + DAY),
            ("report_weekly", 1, since, sunday + DAY),
        ]
        # Nothing of it comes again: not in a later round, and not with the next start.
        await plugin_again(world)
        clock.pass_to(sunday + 2 * DAY + 30)
        rows = await came(agent, clock, 3, 1)
        assert sorted(rows) == sorted([*both, ("report_daily", 3, sunday + DAY, sunday + 2 * DAY)])
        shown = await world.alice.call("hive-client-report", {"advisor": agent.npub})
        assert [row["to"] for row in shown["items"]] == [sunday + n * DAY for n in (2, 1, 0)]
