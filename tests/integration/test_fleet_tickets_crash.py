"""cl-hive killed at every disk and sibling call, and comms killed under it: one ticket, one lock, and no sat
too few (docs/protocol/03-escrow-and-payments.md §1, §14.22)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from crash_points import Countdown
from fleet_world import FleetWorld
from hive_shared.errors import HiveError, PaymentFailed, SiblingUnavailable
from pipeline_world import Crash

pytestmark = pytest.mark.asyncio
MOST_POINTS = 60
WINDOW_S = 32_400 + 3_600
AGO_S = WINDOW_S + 7_200
Step = Callable[[FleetWorld], Awaitable[Any]]


async def killed_everywhere(
    directory: Path,
    mint_url: str,
    before: Step,
    act: Step,
    look: Callable[[FleetWorld], Awaitable[Any]],
) -> None:
    """For each point of `act`: a cl-hive that died there and is up again, its loops run, looked at."""
    world = await FleetWorld.funded(directory, mint_url, ago_s=AGO_S, sats=2_000)
    # Behind one call is before the next.
    for at in (0, *range(1, MOST_POINTS, 2)):
        await world.anew()
        await before(world)
        countdown, call = Countdown(at), world.comms.call
        countdown.watch(world.db, "write")
        countdown.watch(world.comms, "call")
        died = True
        try:
            await act(world)
            died = False
        except Crash:
            pass
        world.comms.call = call
        world.restart()
        await look(world)
        await world.balanced()
        if not died:
            break
    else:
        pytest.fail(f"disk and comms are touched at more than {MOST_POINTS} points")
    await world.close()


async def nothing(world: FleetWorld) -> None:
    """Nothing comes before."""


async def accepted(world: FleetWorld) -> None:
    """A ticket that its payee took."""
    await world.create(40)
    await world.carry()


async def only(world: FleetWorld) -> Mapping[str, Any]:
    """The one ticket that there is."""
    (row,) = (await world.call("list"))["items"]
    return dict(row)


async def test_create_makes_one_ticket_or_none(mint_url: str, tmp_path: Path) -> None:
    ends: set[str] = set()

    async def look(world: FleetWorld) -> None:
        await world.round()
        rows = (await world.call("list"))["items"]
        ends.add(rows[0]["status"] if rows else "none")
        assert len(rows) <= 1 and len(await world.locks()) <= 1
        # The caller asks again, as it must.
        try:
            made = await world.create(40)
        except PaymentFailed:
            assert rows[0]["status"] == "cancelled" and await world.locks() == []
            return
        assert not rows or made["ticket_id"] == rows[0]["ticket_id"]
        await world.carry()
        assert await world.status(made["ticket_id"]) == ("active", ["accepted"])
        tokens = [row for row in world.comms.letters.values() if "tokens" in row["message"]]
        assert len(tokens) == 1 and len(await world.locks()) == 1

    await killed_everywhere(tmp_path, mint_url, nothing, lambda world: world.create(40), look)
    assert {"none", "active"} <= ends, ends


async def test_what_nobody_asks_for_again_is_handed_over_or_given_up(mint_url: str, tmp_path: Path) -> None:
    ends: set[str] = set()

    async def look(world: FleetWorld) -> None:
        for _ in range(3):
            await world.round()
        rows, locks = (await world.call("list"))["items"], await world.locks()
        end = rows[0]["status"] if rows else "none"
        ends.add(end)
        if end in ("none", "cancelled"):
            assert locks == [] and world.comms.letters == {}
        else:
            assert end == "active" and len(locks) == 1 and len(world.comms.letters) == 1

    await killed_everywhere(tmp_path, mint_url, nothing, lambda world: world.create(40), look)
    assert ends == {"none", "cancelled", "active"}, ends


async def test_complete_reveals_once_or_not_at_all(mint_url: str, tmp_path: Path) -> None:
    ends: set[str] = set()

    async def complete(world: FleetWorld) -> None:
        id_ = (await only(world))["ticket_id"]
        await world.call("complete", ticket_id=id_, success=True, confirm=True)
        await world.parts.rounds.tick()

    async def look(world: FleetWorld) -> None:
        id_ = (await only(world))["ticket_id"]
        (state,) = (await world.status(id_))[1]
        ends.add(state)
        receipts = (await world.call("receipt", ticket_id=id_))["items"]
        assert [row["success"] for row in receipts] == ([True] if state == "released" else [])
        await world.round()
        told = [row for row in world.comms.letters.values() if "preimage" in row["message"]]
        assert len(told) == (state == "released")
        await world.call("complete", ticket_id=id_, success=True, confirm=True)
        await world.carry()
        await world.redeemed()
        await world.carry()
        assert await world.status(id_) == ("redeemed", ["redeemed"])

    await killed_everywhere(tmp_path, mint_url, accepted, complete, look)
    assert ends == {"accepted", "released"}, ends


async def test_refund_brings_the_money_back_once(mint_url: str, tmp_path: Path) -> None:
    async def late(world: FleetWorld) -> None:
        await accepted(world)
        world.comms.now += AGO_S

    async def refund(world: FleetWorld) -> None:
        await world.call("refund", ticket_id=(await only(world))["ticket_id"])

    async def look(world: FleetWorld) -> None:
        id_ = (await only(world))["ticket_id"]
        with pytest.raises(HiveError):
            await world.call("complete", ticket_id=id_, success=True, confirm=True)
        for _ in range(2):
            await world.round()
        assert await world.status(id_) == ("refunded", ["refunded"])
        (lock,) = await world.locks()
        refunds = [op for op in await world.comms.ops() if op.kind.value == "refund"]
        assert len([op for op in refunds if lock.lock_id in op.lock_ids]) == 1

    await killed_everywhere(tmp_path, mint_url, late, refund, look)


@pytest.mark.parametrize("method", ["hive-comms-cashu-lock", "hive-comms-cashu-refund", "hive-comms-send-dm"])
@pytest.mark.parametrize("acted", [False, True], ids=["before", "after"])
async def test_comms_killed_in_the_middle(mint_url: str, tmp_path: Path, method: str, acted: bool) -> None:
    """comms goes, before or after it acted: 4010 where it is asked for money, and all goes on afterwards."""
    world = await FleetWorld.funded(tmp_path, mint_url, ago_s=AGO_S)
    call = world.comms.call

    async def dying(who: str, name: str, params: Mapping[str, Any], *, timeout: float = 30.0) -> Any:
        if name != method or not world.comms.there:
            return await call(who, name, params, timeout=timeout)
        if acted:
            await call(who, name, params, timeout=timeout)
        world.comms.there = False
        raise SiblingUnavailable(f"{name}: no answer")

    world.comms.call = dying
    if method == "hive-comms-cashu-lock":
        with pytest.raises(SiblingUnavailable) as gone:
            await world.create(40)
        assert gone.value.code == 4010
        row = await only(world)
        assert row["status"] == "pending"
    elif method == "hive-comms-send-dm":
        await world.create(40)
        await world.parts.rounds.tick()
        assert not world.comms.there and (await only(world))["status"] == "active"
    else:
        await accepted(world)
        world.comms.now += AGO_S
        with pytest.raises(SiblingUnavailable):
            await world.call("refund", ticket_id=(await only(world))["ticket_id"])
    with pytest.raises(SiblingUnavailable):
        await world.create(20, key="other")
    assert (await world.call("list"))["count"] == 1
    await world.parts.rounds.tick()
    world.comms.call = call
    await world.comms_again()
    if method == "hive-comms-cashu-refund":
        for _ in range(2):
            await world.round()
        assert (await only(world))["status"] == "refunded"
    else:
        made = await world.create(40)
        await world.carry()
        assert await world.status(made["ticket_id"]) == ("active", ["accepted"])
    assert len(await world.locks()) == 1
    tokens = [row for row in world.comms.letters.values() if "tokens" in row["message"]]
    assert len(tokens) == 1
    await world.balanced()
    await world.close()
