"""What the status says was spent, and which payments the self-check tells (08 §5.2, §8.6)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio
from cl_hive_comms.services.selfcheck_hive import Hive, HiveChecks
from cl_hive_comms.services.spend_report import PENDING_LONG_S, UNKNOWN_TOLD_S, SpendReport, spent_by
from cl_hive_comms.storage.command_store import CommandStore
from cl_hive_comms.storage.spend_store import SpendStore
from hive_shared.canonical import JsonValue
from hive_shared.registry import PAYMENT
from payment_world import BILL, FRIEND, OVER_S, Paying, trusted
from pipeline_world import Crash


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[Paying]:
    made = trusted(tmp_path)
    yield made
    made.close()


def report(world: Paying) -> SpendReport:
    return SpendReport(
        db=world.db,
        rows=SpendStore(),
        commands=CommandStore(),
        budget_sat=lambda: 70_000,
        now=lambda: world.now,
    )


async def check(world: Paying) -> dict[str, str]:
    """The self-check's row."""
    hive = SimpleNamespace(unresolved=report(world).unresolved)
    return (await HiveChecks(cast(Hive, hive)).all()["payments"]()).to_doc()


async def pay(world: Paying, action: str, params: dict[str, JsonValue]) -> Any:
    world.pass_time(1)
    return await world.ask(PAYMENT, action, params)


async def test_what_was_spent_and_what_is_on_its_way_is_shown(world: Paying) -> None:
    assert await report(world).of_node() == {
        "spent_24h_sats": 0,
        "fees_24h_sats": 0,
        "reserved_sats": 0,
        "by_class": {},
        "daily_budget_sats": 70_000,
        "unresolved": 0,
    }
    assert (await pay(world, "pay_invoice", {"bolt11": BILL}))["status"] == 0
    world.node.ends = "pending"
    second = await pay(world, "keysend", {"destination": FRIEND, "amount_msat": 10_000_000})
    assert second["status"] == 3
    shown = await report(world).of_node()
    # Settled with what it cost, reserved with the most it may cost.
    assert shown["reserved_sats"] == 10_050 and shown["fees_24h_sats"] == 1 + 50
    assert shown["spent_24h_sats"] == 50_001 + 10_050 == shown["by_class"]["payment"]
    (credential,) = world.credentials.views
    rows = await report(world).spent()
    assert spent_by(rows, {credential}) == 60_051 and spent_by(rows, {"another"}) == 0
    world.pass_time(86_400)
    assert (await report(world).of_node())["spent_24h_sats"] == 0


async def test_a_payment_without_an_end_is_told_after_an_hour_and_no_longer_when_it_has_one(
    world: Paying,
) -> None:
    world.node.ends = "pending"
    asked = await pay(world, "pay_invoice", {"bolt11": BILL})
    assert (await check(world))["status"] == "ok"
    world.pass_time(PENDING_LONG_S)
    await world.pipeline.timers.tick()
    found = await check(world)
    assert found["status"] == "warn" and found["fix"]
    assert found["detail"] == f"1 without a known end: pay_invoice {asked['command_id']} pending_external"
    assert (await report(world).of_node())["unresolved"] == 1
    world.node.end("complete")
    await world.pipeline.timers.tick()
    assert (await check(world))["detail"] == "none without a known end"


@pytest.mark.parametrize("passed_s", [0, UNKNOWN_TOLD_S])
async def test_a_payment_whose_end_cannot_be_proved_is_told_for_a_week(world: Paying, passed_s: int) -> None:
    world.crash_at = "payment_noted"
    with pytest.raises(Crash):
        await pay(world, "pay_invoice", {"bolt11": BILL})
    # Something was paid meanwhile and deleted from the list.
    world.node.made += 1
    world.restart()
    world.pass_time(OVER_S)
    for _ in range(2):
        await world.pipeline.timers.tick()
    world.pass_time(passed_s)
    assert (await check(world))["status"] == ("ok" if passed_s else "warn")
    if not passed_s:
        (told,) = await report(world).unresolved()
        assert (told.action, told.state) == ("pay_invoice", "indeterminate")


async def test_a_channel_change_without_a_known_end_is_no_payment(world: Paying) -> None:
    """What cannot spend is left to its alert and receipt."""
    sql = "UPDATE comms_commands SET state = 'indeterminate', schema_id = ?, action = ?"
    assert (await pay(world, "pay_invoice", {"bolt11": BILL}))["status"] == 0
    for schema, action, count in (
        (PAYMENT, "pay_invoice", 1),
        (PAYMENT, "create_invoice", 0),
        ("hive:fee-policy/v1", "set_single", 0),
        ("hive:channel/v1", "open", 1),
        ("hive:none/v1", "nothing", 0),
    ):
        await world.db.write(lambda tx, s=schema, a=action: tx.execute(sql, (s, a)))  # type: ignore[misc]
        assert len(await report(world).unresolved()) == count, action
