"""Commands that are paid by ecash, locked to the agent's key at a real mint
(docs/protocol/03 §6.4, §7.1; 02 §8; docs/decisions/0600)."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from bearer_world import Bearing
from cl_hive_comms.domain.payment_machine import State
from cl_hive_comms.services.bearer_pay import TAKE_S
from cl_hive_comms.services.debts import AGAIN_S
from crash_points import Countdown
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_shared.canonical import JsonValue
from hive_shared.cashu.journal import OpState
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.ports import MintUnavailable
from hive_shared.errors import Conflict
from msgspec.structs import replace
from pipeline_world import Crash, slug

pytestmark = pytest.mark.asyncio(loop_scope="module")
START = 2_048
QUOTED: JsonValue = {
    "schema": "hive:fee-policy/v1",
    "action": "set_single",
    "params": {"channel_id": "101x1x0", "base_msat": 1_100},
}


@pytest_asyncio.fixture(loop_scope="module")
async def world(mint_url: str, tmp_path: Path) -> AsyncIterator[Bearing]:
    made = Bearing(tmp_path / "node", mint_url)
    await made.purse.service.fund(START, None, None, 30)
    await made.announce()
    yield made
    await made.end()


async def test_a_success_is_paid_by_ecash_that_its_agent_alone_can_take(world: Bearing) -> None:
    response = await world.work()
    assert response["status"] == 0, response.get("error")
    told = response["receipt"]["payment"]
    assert told == {
        **{"direction": "compensation", "method": "cashu", "amount_sats": 25, "ref": "", "state": "owed"}
    }
    await world.minute()
    (notice,) = world.notices()
    row = world.row(response["command_id"])
    assert row is not None and row.state is State.UNKNOWN and world.counted() == 30
    assert notice == {
        **{"payment_id": row.payment_id, "purpose": "action", "command_id": response["command_id"]},
        **{"method": "cashu", "amount_sats": 25, "state": "sending", "token": notice["token"]},
    }
    # Nobody is paid twice by waiting, and not by a wallet that is not the agent's.
    await world.minute()
    assert len(world.tokens()) == 1
    taken = await world.take(notice["token"])
    assert taken.amount_sats >= 25 and await world.agent.sats() == taken.amount_sats
    world.pass_time(AGAIN_S)
    await world.minute()
    row = world.row(response["command_id"])
    (lock,) = await world.purse.every()
    assert row is not None and row.state is State.SETTLED and lock.state is LockState.REDEEMED
    assert world.counted() == lock.face_sats and row.fee_msat == (lock.face_sats - 25) * 1_000


async def test_ecash_that_nobody_takes_comes_back_and_an_invoice_is_asked_for(world: Bearing) -> None:
    response = await world.work()
    await world.minute()
    before = await world.purse.sats()
    world.pass_time(2 * TAKE_S + 3_600)
    await world.minute()
    row = world.row(response["command_id"])
    assert row is not None and (row.state, row.kind) == (State.OWED, "bolt11"), row
    assert row.error is not None and row.error.startswith("not_taken") and world.counted() == 30
    (lock,) = await world.purse.every()
    assert lock.state is LockState.REFUNDED and await world.purse.sats() > before
    assert [code for _, code, _ in world.out.alerts].count("debt_unclaimed") == 1
    # What is owed is what the agent's invoice pays, once; ecash is not sent a second time.
    world.pass_time(60)
    await world.minute()
    await world.answer(f"{row.payment_id}:0", "late", created_at=world.now)
    row = world.row(response["command_id"])
    assert row is not None and row.state is State.SETTLED and len(world.node.paid()) == 1
    assert len(world.tokens()) == 1


async def test_a_lock_of_an_attempt_that_was_given_up_says_nothing_of_the_one_under_way(
    world: Bearing,
) -> None:
    response = await world.work()
    await world.minute()
    row, (lock,) = world.row(response["command_id"]), await world.purse.every()
    assert row is not None and row.state is State.UNKNOWN and row.sent_index == lock.item
    for state in (LockState.REFUNDED, LockState.REDEEMED, LockState.LOST):
        earlier = replace(lock, item=lock.item + 1, state=state)
        await world.db.write(lambda tx, earlier=earlier: world.bearer.on_lock(tx, earlier))
        assert world.row(response["command_id"]) == row and world.counted() == 30
    await world.db.write(lambda tx: world.bearer.on_lock(tx, replace(lock, state=LockState.REDEEMED)))
    row = world.row(response["command_id"])
    assert row is not None and row.state is State.SETTLED


async def test_ecash_that_nobody_takes_stays_owed_where_there_is_no_other_way(world: Bearing) -> None:
    world.hire(accepted_methods=["cashu"])
    response = await world.work()
    await world.minute()
    world.pass_time(2 * TAKE_S + 3_600)
    for _ in range(3):
        await world.minute()
        world.pass_time(AGAIN_S)
    row = world.row(response["command_id"])
    assert row is not None and (row.state, row.kind) == (State.OWED, "cashu")
    assert len(world.tokens()) == 1 and world.letters.sent == {}
    (told,) = [text for _, code, text in world.out.alerts if code == "debt_unclaimed"]
    assert "hive-client-pay" in told


async def test_claims_that_are_refused_before_anything_ran(world: Bearing) -> None:
    bearer: dict[str, JsonValue] = {"method": "cashu"}
    for agreed, claim, says in (
        ({}, {**bearer, "mint": "x"}, "unknown field 'mint'"),
        ({"accepted_methods": ["bolt11"]}, bearer, "by bolt11, not by cashu"),
        ({"rate_sats": 0}, bearer, "agrees no pay per action"),
    ):
        world.hire(**agreed)
        response = await world.work(payment_proof=claim)
        assert slug(response) == "payment_invalid" and says in response["error"]["message"], response
    assert world.setchannels == 0 and world.owed_rows() == []
    # Limits count ecash as they count everything.
    world.hire()
    world.limits_now = replace(world.limits_now, daily=29)
    assert slug(await world.work()) == "budget_exhausted" and world.setchannels == 0


async def test_ecash_is_claimed_up_to_danger_2_by_who_announced_a_key_and_a_mint_of_ours(
    world: Bearing,
) -> None:
    refused = await world.set_fee(102, payment_proof={"method": "cashu"})
    assert refused["error"]["data"] == {"check": "no_common_method", "methods": ["bolt11"]}
    assert "up to danger 2, this is 3" in refused["error"]["message"]
    quoted = await world.ask("hive:control/v1", "quote", QUOTED)
    assert quoted["result"]["methods"] == ["bolt11", "cashu"] and quoted["result"]["price_sats"] == 25
    world.pass_time(1)
    await world.announce(["https://mint.example"])
    refused = await world.work()
    assert slug(refused) == "payment_invalid" and "no mint that this node takes" in str(refused["error"])
    assert world.owed_rows() == [] and world.setchannels == 0


async def test_a_command_that_failed_earns_no_ecash_and_frees_what_was_reserved(world: Bearing) -> None:
    world.node.fail["setchannel"] = 313
    response = await world.work()
    assert response["status"] == 2 and response["receipt"]["payment"]["state"] == "not_due"
    await world.minute()
    assert world.counted() == 0 and world.tokens() == [] and await world.purse.every() == []


async def test_a_mint_that_is_away_delays_what_is_owed(world: Bearing) -> None:
    async def away(*_: object, **__: object) -> None:
        raise MintUnavailable(world.purse.mint_url, "no answer", sent=False)

    there = world.purse.mints.client.restore
    world.purse.mints.client.restore = away
    response = await world.work()
    await world.minute()
    row = world.row(response["command_id"])
    assert row is not None and row.state is State.OWED and "mint_unavailable" in str(row.error)
    # An invoice that its agent was not asked for takes nothing away from it.
    with pytest.raises(Conflict, match="paid by ecash"):
        await world.answer(f"{row.payment_id}:0", "unasked", created_at=world.now)
    assert world.row(response["command_id"]) == row
    world.purse.mints.client.restore = there
    world.pass_time(AGAIN_S)
    await world.minute()
    (token,) = world.tokens()
    assert (await world.take(token)).amount_sats >= 25 and world.counted() == 30


@pytest.mark.parametrize(
    ("fails", "tries", "days"),
    [("restore", 1, 0), ("free_sats", 10, 0), ("swap", 10, 0), ("restore", 1, 60)],
    ids=["once", "an empty wallet", "a mint that fails often", "two months later"],
)
async def test_a_copy_of_the_database_does_not_pay_what_the_lost_one_paid(
    world: Bearing, fails: str, tries: int, days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = await world.work()
    copy = world.purse.path.with_name("copy.db")
    with sqlite3.connect(world.purse.path) as now, sqlite3.connect(copy) as kept:
        now.backup(kept)

    async def away(*_: object, **__: object) -> int:
        if fails == "free_sats":
            return 0
        raise MintUnavailable(world.purse.mint_url, "no answer", sent=False)

    where = world.purse.service if fails == "free_sats" else world.purse.mints.client
    with monkeypatch.context() as patch:
        patch.setattr(where, fails, away)
        for _ in range(tries):
            await world.minute()
            world.pass_time(AGAIN_S)
        world.pass_time(days * 86_400)
    # The lost one paid by a later try, of which the copy knows as little as of the first.
    await world.minute()
    (token,) = world.tokens()
    world.db.close()
    for name in ("-wal", "-shm"):
        world.purse.path.with_name(world.purse.path.name + name).unlink(missing_ok=True)
    copy.replace(world.purse.path)
    world.restored = True
    world.restart()
    world.pass_time(AGAIN_S)
    await world.minute()
    row = world.row(response["command_id"])
    assert row is not None and row.state is State.OWED and "lock_exists" in str(row.error)
    (told,) = [text for _, code, text in world.out.alerts if code == "debt_unclaimed"]
    assert world.tokens() == [token] and "before this copy" in told
    assert (await world.take(token)).amount_sats >= 25


async def settled(world: Bearing) -> None:
    """The next loops; what the agent was sent it takes, once."""
    for _ in range(2):
        await world.minute()
        world.pass_time(AGAIN_S)
    for token in world.tokens()[len(world.taken) :]:
        world.taken.append((await world.take(token)).amount_sats)
    for _ in range(2):
        world.pass_time(2 * AGAIN_S)
        await world.minute()


async def balanced(world: Bearing, commands: int) -> None:
    """Every command was paid once, and each sat is with one side, or the mint's fee."""
    assert [row.state for row in world.owed_rows()] == [State.SETTLED] * commands
    assert len(world.taken) == len(world.tokens()) == commands and min(world.taken) >= 25
    locks = await world.purse.every()
    spent = sum(row.face_sats for row in locks if row.state is LockState.REDEEMED)
    assert len([row for row in locks if row.state is LockState.REDEEMED]) == commands
    fees = sum(op.fee_sats for op in await world.purse.ops() if op.state is OpState.DONE)
    assert {row.state for row in locks} <= {LockState.REDEEMED, LockState.FAILED}
    assert await world.purse.sats() == START - spent - fees and await world.purse.held() == 0
    assert world.counted() == spent and await world.agent.sats() == sum(world.taken)


MINT_CALLS = ("restore", "swap", "checkstate")


async def test_killed_at_every_disk_and_mint_call_each_command_is_paid_once_and_no_sat_is_lost(
    world: Bearing,
) -> None:
    for at in (0, *range(1, 60, 2)):
        assert (await world.work(1_100 + at))["status"] == 0
        countdown = Countdown(at)
        countdown.watch(world.db, "write")
        countdown.watch(world.purse.mints.client, *MINT_CALLS)
        died = True
        try:
            await world.minute()
            died = False
        except Crash:
            pass
        countdown.left = -1
        await world.restarted()
        await settled(world)
        world.pass_time(3_600)
        if not died:
            break
    assert not died and at > 8
    await balanced(world, 1 + (at + 1) // 2)


async def test_an_answer_of_the_mint_that_is_lost_costs_neither_side_a_sat(
    mint_url: str, tmp_path: Path
) -> None:
    commands = 0
    async with MintFaultFront.before(mint_url) as front:
        world = Bearing(tmp_path / "node", front.url)
        await world.purse.service.fund(START, None, None, 30)
        await world.announce()
        for at in range(20):
            struck = 0
            for fault in (MintFaultKind.LOSE_BEFORE, MintFaultKind.LOSE_AFTER):
                commands += 1
                assert (await world.work(1_100 + commands))["status"] == 0
                front.set(MintFault(fault, skip=at, times=1))
                await world.minute()
                struck += front.clear()
                await settled(world)
                world.pass_time(3_600)
            if not struck:
                break
        assert not struck and at > 1
        await balanced(world, commands)
        await world.end()
