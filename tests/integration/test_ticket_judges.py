"""Items that a method of the node judges: nothing is released but by its clear verdict
(docs/protocol/03-escrow-and-payments.md §6.1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cl_hive_comms.domain.advisor import Advisor
from cl_hive_comms.services.escrow_service import ItemAsked, Judged, PayeeTold, TicketAsked
from cl_hive_comms.services.item_judge import COND, check_judges
from crash_points import Countdown
from escrow_world import AGENT, EscrowWorld
from hive_shared.cashu.escrow_rows import ItemRow, TicketRow
from hive_shared.cashu.escrow_terms import ItemPlan
from hive_shared.cashu.terms import Mode, TicketType
from hive_shared.cashu.ticket_messages import Failure, Release
from hive_shared.cln import ClnError, ClnTimeout
from hive_shared.errors import (
    ConfirmationRequired,
    Conflict,
    EmergencyStop,
    InvalidParams,
    PaymentFailed,
    Unauthorized,
)
from lock_world import ADA
from payee_world import PayeeWorld
from pipeline_world import Crash

pytestmark = pytest.mark.asyncio(loop_scope="module")
GOOD = {"success": True, "evidence_hash": "sha256:" + "cd" * 32}
_MOST_POINTS = 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def payee(mint_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PayeeWorld]:
    world = PayeeWorld(tmp_path_factory.mktemp("payee"), mint_url)
    yield world
    await world.close()


@pytest_asyncio.fixture(loop_scope="module")
async def world(mint_url: str, tmp_path: Path) -> AsyncIterator[EscrowWorld]:
    made = EscrowWorld(tmp_path / "payer", mint_url)
    await made.service.fund(128, None, None, 30)
    yield made
    await made.close()


async def ticket_of(
    world: EscrowWorld, payee: PayeeWorld, items: int, danger: int = 5, judge: str = "judge"
) -> TicketRow:
    plans = [ItemPlan(1, cond={COND: judge}) for _ in range(items)]
    kind = TicketType.SINGLE if items == 1 else TicketType.BATCH
    return await world.create(
        world.plan(payee, [1] * items, type=kind, items=plans, schema="ci:review/v1", danger=danger),
        f"k{danger}{judge}",
    )


async def judged(world: EscrowWorld, ticket: TicketRow, i: int = 0) -> ItemRow:
    return await world.operator().complete(ticket.ticket_id, i, Judged(None, {"pull": 7}, confirm=False))


async def told(world: EscrowWorld, ticket: TicketRow, *, confirm: bool) -> ItemRow:
    return await world.operator().complete(ticket.ticket_id, 0, Judged(True, {}, confirm=confirm))


def releases(world: EscrowWorld, i: int) -> int:
    return len([each for each in world.letters.values() if isinstance(each, Release) and each.item == i])


async def test_a_judge_is_told_the_item_and_its_verdict_ends_it(
    world: EscrowWorld, payee: PayeeWorld
) -> None:
    ticket = await ticket_of(world, payee, 2)
    done = await judged(world, ticket)
    assert done.state.value == "released" and releases(world, 0) == 1
    asked = {"ticket_id": ticket.ticket_id, "item": 0, "evidence": {"pull": 7}}
    assert world.node.asked == [asked]
    (receipt,) = world.chain.rows
    assert receipt.status == "success" and done.receipt_id == str(receipt.receipt_id)
    # What is over is not judged again.
    with pytest.raises(PaymentFailed, match="pays no new task"):
        await judged(world, ticket)
    world.node.verdict = {**GOOD, "success": False}
    failed = await judged(world, ticket, 1)
    assert failed.state.value == "failed" and releases(world, 1) == 0
    (said,) = [each for each in world.letters.values() if isinstance(each, Failure)]
    assert (said.item, said.reason) == (1, "refused_by_judge")
    assert [row.status for row in world.chain.rows] == ["success", "failed"] and len(world.node.asked) == 2


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (ClnTimeout("judge", 30), "no answer within 30 s"),
        (ClnError("judge", -32601, "Unknown command"), "Unknown command"),
        ({"success": True}, "evidence_hash"),
        ({**GOOD, "success": 1}, "success"),
        ({**GOOD, "success": "true"}, "success"),
        ({**GOOD, "evidence_hash": "cd" * 32}, "evidence_hash"),
        ({**GOOD, "more": 1}, "more"),
    ],
)
async def test_what_is_no_clear_verdict_waits_for_the_operator(
    world: EscrowWorld, payee: PayeeWorld, answer: object, why: str
) -> None:
    ticket = await ticket_of(world, payee, 1)
    world.node.verdict = answer
    for _ in range(2):
        with pytest.raises(ConfirmationRequired, match="gave no verdict on item 0") as refused:
            await judged(world, ticket)
        assert why in refused.value.detail
        assert await world.item_states(ticket.ticket_id) == ["unknown"]
    assert world.notices == ["unjudged", "unjudged"] and world.chain.rows == [] and releases(world, 0) == 0
    with pytest.raises(ConfirmationRequired, match="confirm=true"):
        await told(world, ticket, confirm=False)
    if why == "no answer within 30 s":
        done = await told(world, ticket, confirm=True)
    else:
        world.node.verdict = GOOD
        done = await judged(world, ticket)
    assert done.state.value == "released" and releases(world, 0) == 1 and len(world.chain.rows) == 1


async def test_who_may_judge_and_what(world: EscrowWorld, payee: PayeeWorld) -> None:
    allowed = frozenset({"judge"})
    for cond, own, word in (
        ({COND: "other"}, False, r"'other' is none of hive-comms-escrow-verify-methods \(judge\)"),
        ({COND: 7}, False, "'7' is none of"),
        ({COND: "judge", "metric": "m", "threshold": 1}, False, "a bonus is measured"),
        ({COND: "judge"}, True, "own command"),
    ):
        with pytest.raises(InvalidParams, match=word):
            check_judges([{}, cond], allowed, own_command=own)
    check_judges([{COND: "judge"}, {}], allowed, own_command=False)
    with pytest.raises(InvalidParams, match="which is empty"):
        check_judges([{COND: "judge"}], frozenset(), own_command=False)

    ticket = await ticket_of(world, payee, 1)
    # What was allowed when the ticket was made may not be any more.
    world.judges = frozenset()
    with pytest.raises(ConfirmationRequired, match="not among hive-comms-escrow-verify-methods any more"):
        await judged(world, ticket)
    assert await world.item_states(ticket.ticket_id) == ["delivered"] and world.node.asked == []
    world.judges, world.stopped = allowed, True
    with pytest.raises(EmergencyStop):
        await judged(world, ticket)
    world.stopped = False
    with pytest.raises(InvalidParams, match="at most 65536"):
        await world.operator().complete(
            ticket.ticket_id, 0, Judged(None, {"log": "x" * 70_000}, confirm=False)
        )
    grave = await ticket_of(world, payee, 1, danger=9)
    with pytest.raises(Unauthorized, match="danger 9"):
        await judged(world, grave)
    assert world.node.asked == []


async def test_the_operator_refuses_a_ticket_whose_judge_it_did_not_allow(
    world: EscrowWorld, payee: PayeeWorld
) -> None:
    ada = Advisor(ADA, 1, AGENT, None, "Ada", "active", "fees", world.now, world.now)
    items, service = [ItemAsked(5, cond={COND: "pay"})], world.operator()
    asked = TicketAsked(ada, TicketType.SINGLE, Mode.TASK, items, 5, "ci:review/v1", "review", {})
    with pytest.raises(InvalidParams, match="'pay' is none of"):
        service._plan(asked, PayeeTold(payee.lock_pubkey))


async def test_what_was_decided_meanwhile_stays(world: EscrowWorld, payee: PayeeWorld) -> None:
    ticket = await ticket_of(world, payee, 1)
    world.node.verdict = ClnTimeout("judge", 1)
    with pytest.raises(ConfirmationRequired):
        await judged(world, ticket)
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def asking() -> None:
        reached.set()
        await go_on.wait()

    world.node.verdict, world.node.asking = {**GOOD, "success": False}, asking
    service = world.operator()
    first = asyncio.create_task(service.complete(ticket.ticket_id, 0, Judged(None, {}, confirm=False)))
    await reached.wait()
    with pytest.raises(Conflict, match="is being judged"):
        await judged(world, ticket)
    await world.judge.settle()
    assert (await told(world, ticket, confirm=True)).state.value == "released"
    go_on.set()
    with pytest.raises(Conflict, match="its verdict changed nothing"):
        await first
    assert await world.item_states(ticket.ticket_id) == ["released"] and len(world.chain.rows) == 1


async def test_killed_at_every_disk_call_and_at_the_judge_an_item_is_released_once_or_waits(
    world: EscrowWorld, payee: PayeeWorld
) -> None:
    ticket = await ticket_of(world, payee, _MOST_POINTS)
    ends: list[str] = []
    for i in range(_MOST_POINTS):
        countdown = Countdown(i)
        countdown.watch(world.db, "write", "read")
        countdown.watch(world.node, "call")
        died = True
        try:
            await judged(world, ticket, i)
            died = False
        except Crash:
            pass
        countdown.left = -1
        del world.node.__dict__["call"]
        before = len(world.chain.rows)
        await world.restart()
        await world.judge.settle()
        state = (await world.item_states(ticket.ticket_id))[i]
        ends.append(state)
        # Released and receipted together, or neither.
        assert releases(world, i) == (state == "released") == (before == i + 1), i
        if state != "released":
            assert state in ("delivered", "unknown") and len(world.chain.rows) == before == i
            assert (await judged(world, ticket, i)).state.value == "released"
        assert releases(world, i) == 1 and len(world.chain.rows) == i + 1
        if not died:
            break
    else:
        pytest.fail(f"more than {_MOST_POINTS} points")
    assert set(ends) == {"delivered", "unknown", "released"}, ends
