"""Bonuses that the node measures itself, from its own forwards (docs/protocol/03-escrow-and-payments.md §6.3,
§6.7 "Performance")."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cl_hive_comms.domain.advisor import Advisor, CredentialRow
from cl_hive_comms.domain.bonus import FORWARDS, GROSS, METRICS, NET, value_of
from cl_hive_comms.domain.report import baseline_digest, baseline_doc
from cl_hive_comms.domain.trial import Income
from cl_hive_comms.services.escrow_service import ItemAsked, Judged, PayeeTold, TicketAsked
from cl_hive_comms.services.trial_measure import TrialMeasure
from crash_points import Countdown
from escrow_world import AGENT, NODE_ID, EscrowWorld
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.escrow_rows import TicketRow
from hive_shared.cashu.escrow_terms import ItemPlan
from hive_shared.cashu.terms import Mode, TicketType
from hive_shared.cashu.ticket_messages import Failure, Metric, Release
from hive_shared.crypto import Secret, schnorr_verify
from hive_shared.errors import InvalidParams
from lock_world import ADA
from msgspec.structs import replace
from payee_world import PayeeWorld
from pipeline_world import Crash, issue

pytestmark = pytest.mark.asyncio(loop_scope="module")
DAY = 86_400
LOCK_PUBKEY = public_key(Secret(b"\x21" * 32))
WINDOW_S = 2 * DAY
BASE_S = 21_600
_MOST_POINTS = 30


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def payee(mint_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PayeeWorld]:
    world = PayeeWorld(tmp_path_factory.mktemp("payee"), mint_url)
    yield world
    await world.close()


@pytest_asyncio.fixture(loop_scope="module")
async def world(mint_url: str, tmp_path: Path) -> AsyncIterator[EscrowWorld]:
    made = EscrowWorld(tmp_path / "payer", mint_url)
    await made.service.fund(256, None, None, 30)
    made.hired.given = [hired(made.now - DAY)]
    # 7,000 msat in the seven days before the hire: a thousand a day.
    made.node.forwards = [(made.now - 2 * DAY, 4_000), (made.now - 5 * DAY, 3_000)]
    yield made
    await made.close()


def hired(since: int, until: int | None = None, number: int = 1) -> CredentialRow:
    document = issue(valid=(since, since + 30 * DAY if until is None else until), number=number)
    return CredentialRow(document, ADA, "native", "active", "operator", since)


def advisor(world: EscrowWorld) -> Advisor:
    return Advisor(ADA, 1, AGENT, None, "Ada", "active", "fees", world.now, world.now)


def asked(world: EscrowWorld, *thresholds: int, metric: str = GROSS, **changes: object) -> TicketAsked:
    bonuses = [ItemAsked(2, window_s=WINDOW_S, cond={"metric": metric, "threshold": t}) for t in thresholds]
    wanted = TicketAsked(
        *(advisor(world), TicketType.PERFORMANCE, Mode.TASK, [ItemAsked(5), *bonuses], 8),
        *("ci:review/v1", "review", {}),
    )
    return replace(wanted, **changes)


async def engaged(world: EscrowWorld, payee: PayeeWorld, *thresholds: int, key: str = "k") -> TicketRow:
    """A performance ticket whose base is earned; its bonuses are measured for two days."""
    given = await world.operator()._with_baseline(asked(world, *thresholds), None)
    items = [
        ItemPlan(item.amount_sats or 0, window_s=item.window_s or BASE_S, cond=item.cond)
        for item in given.items
    ]
    plan = world.plan(
        *(payee, [0]),
        type=TicketType.PERFORMANCE,
        items=items,
        danger=8,
        baseline=given.baseline,
        valid_from=world.now - DAY,
    )
    ticket = await world.create(plan, key)
    await world.begin(ticket)
    await world.succeed(ticket)
    return ticket


def letters(world: EscrowWorld, kind: type) -> list[int]:
    return sorted(each.item for each in world.letters.values() if isinstance(each, kind))


async def test_the_base_is_no_less_than_what_an_action_is_agreed_at(world: EscrowWorld) -> None:
    (row,) = world.hired.given
    pay = replace(row.credential, compensation={"model": "per_action", "rate_sats": 25})
    world.hired.given = [replace(row, credential=pay)]
    told, service = PayeeTold(LOCK_PUBKEY), world.operator()
    given = await service._with_baseline(asked(world, 1_001), None)
    below, enough = (replace(given, items=[ItemAsked(sats), *given.items[1:]]) for sats in (24, 25))
    with pytest.raises(InvalidParams, match="24 sat are less than the 25 sat an action that"):
        service._plan(below, told)
    assert service._plan(enough, told).amount_sats == 27
    # A ticket that was made before is the same ticket, whatever is agreed since.
    assert service._plan(below, told, new=False).amount_sats == 26
    # Without a bonus there is nothing that could make up for it: the operator's price is the price.
    single = replace(below, type=TicketType.SINGLE, items=[ItemAsked(24)], baseline=None)
    assert service._plan(single, told).amount_sats == 24


async def test_acceptance_03_09_the_node_measures_bonuses_from_its_own_records(
    world: EscrowWorld, payee: PayeeWorld
) -> None:
    ticket = await engaged(world, payee, 1_400, 1_500, 1_501)
    baseline = ticket.terms.baseline
    assert isinstance(baseline, dict)
    since = world.now - DAY
    named = {"metric": GROSS, "value": 1_000, "period": [since - 7 * DAY, since]}
    assert {name: baseline[name] for name in named} == named
    # What the node signed of it is its own document, to the byte.
    measured = await TrialMeasure(world.node).baseline(since)
    document = baseline_doc(measured, NODE_ID, AGENT, world.hired.given[0].credential_id)
    assert baseline["digest"] == baseline_digest(document).hex()
    assert schnorr_verify(ticket.terms.payer.id, baseline_digest(document), baseline["signature"])

    begun = ticket.terms.items[0].deadline
    world.node.forwards += [
        (begun - 1, 9_000),
        (begun, 1_500),
        (begun + WINDOW_S - 1, 1_500),
        (begun + WINDOW_S, 9_000),
    ]
    world.now = begun + WINDOW_S - 1
    await world.bonuses.tick()
    assert letters(world, Metric) == [], "the window is not over"
    world.now += 1
    world.stopped = True
    await world.bonuses.tick()
    world.stopped, world.node.down = False, True
    await world.bonuses.tick()
    assert letters(world, Metric) == [], "nothing is measured while the stop is on or the node tells nothing"
    world.node.down = False
    for _ in range(2):
        await world.bonuses.tick()
    assert await world.item_states(ticket.ticket_id) == ["released", "released", "released", "failed"]
    said = [each for each in world.letters.values() if isinstance(each, Metric)]
    assert [(each.item, each.value, each.baseline, each.threshold, each.met) for each in said] == [
        (1, 1_500, 1_000, 1_400, True),
        (2, 1_500, 1_000, 1_500, True),
        (3, 1_500, 1_000, 1_501, False),
    ]
    assert letters(world, Release) == [1, 2] and letters(world, Failure) == [3]
    assert [row.status for row in world.chain.rows] == ["success", "success", "failed"]
    kept = (await world.items(ticket.ticket_id))[1].metric
    assert kept == {"metric": GROSS, "value": 1_500, "threshold": 1_400, "measured_at": world.now}


async def test_a_bonus_waits_for_its_base_and_for_its_deadline_at_most(
    world: EscrowWorld, payee: PayeeWorld
) -> None:
    given = await world.operator()._with_baseline(asked(world, 0), None)
    plans = [ItemPlan(5, window_s=BASE_S), ItemPlan(2, window_s=WINDOW_S, cond=given.items[1].cond)]
    shape = {"type": TicketType.PERFORMANCE, "items": plans, "danger": 8, "baseline": given.baseline}
    unearned = await world.create(world.plan(payee, [0], **shape), "unearned")
    late = await engaged(world, payee, 0, key="late")
    world.node.down = True
    world.now = late.terms.items[0].deadline + WINDOW_S + DAY
    await world.bonuses.tick()
    assert world.notices == []
    world.now += 1
    for _ in range(2):
        await world.bonuses.tick()
    assert set(world.notices) == {"not_measured"}
    world.node.down = False
    await world.bonuses.tick()
    assert letters(world, Metric) == [] and letters(world, Release) == []
    assert await world.item_states(late.ticket_id) == ["released", "delivered"]
    assert await world.item_states(unearned.ticket_id) == ["delivered", "delivered"]


async def test_where_a_baseline_comes_from(world: EscrowWorld) -> None:
    service = world.operator()
    start = world.now - DAY
    for changes, word in (
        ({"baseline": {"metric": GROSS, "value": 1, "period": [start - 8 * DAY, start]}}, "leave baseline="),
        ({"items": [ItemAsked(5), *(_bonus(m) for m in (GROSS, NET))]}, "have one metric"),
    ):
        with pytest.raises(InvalidParams, match=word):
            await service._with_baseline(asked(world, 0, **changes), None)
    # What is no metric of ours is named, and judged, by the operator.
    theirs = asked(world, 0, items=[ItemAsked(5), _bonus("stars")])
    assert (await service._with_baseline(theirs, None)).baseline is None
    world.hired.trial = True
    with pytest.raises(InvalidParams, match="no bonus"):
        await service._with_baseline(asked(world, 0), None)
    world.hired.trial = False
    # Without the bookkeeper nobody knows what rebalancing cost.
    world.node.without_bookkeeper = True
    with pytest.raises(InvalidParams, match=f"no baseline of {NET}"):
        await service._with_baseline(asked(world, 0, metric=NET), None)
    assert (await service._with_baseline(asked(world, 0, metric=FORWARDS), None)).baseline
    # Hired again while it had access the week before: what counts is the week before its first access.
    first = replace(hired(start - 3 * DAY, start - DAY), advisor_id=ADA)
    world.hired.given = [first, hired(start, number=2)]
    found = (await service._with_baseline(asked(world, 0), None)).baseline
    assert found is not None and found["period"] == [start - 10 * DAY, start - 3 * DAY]
    # An earlier engagement lies in that week too.
    world.hired.given = [hired(start - 8 * DAY, start - 6 * DAY), *world.hired.given[1:]]
    found = (await service._with_baseline(asked(world, 0), None)).baseline
    assert found is not None and found["period"] == [start - 15 * DAY, start - 8 * DAY]
    # A week without access in between is a new beginning.
    world.hired.given = [hired(start - 20 * DAY, start - 7 * DAY), hired(start, number=2)]
    found = (await service._with_baseline(asked(world, 0), None)).baseline
    assert found is not None and found["period"] == [start - 7 * DAY, start]
    world.hired.given = []
    with pytest.raises(InvalidParams, match="no baseline of"):
        await service._with_baseline(asked(world, 0), None)


def _bonus(metric: str) -> ItemAsked:
    return ItemAsked(2, cond={"metric": metric, "threshold": 0})


async def test_what_a_metric_is_of_a_span() -> None:
    income = Income(0, 2 * DAY, 3_001, 4_004, 7, complete=True)
    assert {name: value_of(name, income) for name in METRICS} == {GROSS: 1_500, NET: -502, FORWARDS: 3}
    assert {value_of(name, replace(income, complete=False)) for name in METRICS} == {None}
    unknown = replace(income, rebalance_cost_msat=None)
    assert (value_of(NET, unknown), value_of(GROSS, unknown)) == (None, 1_500)


async def test_killed_at_every_disk_and_node_call_a_bonus_is_measured_and_released_once(
    world: EscrowWorld, payee: PayeeWorld
) -> None:
    # Behind one call is before the next.
    for at in (0, *range(1, _MOST_POINTS, 2)):
        world.letters.clear()
        before = len(world.chain.rows)
        ticket = await engaged(world, payee, 0, 1, key=f"k{at}")
        began = world.now
        world.now = ticket.terms.items[0].deadline + WINDOW_S
        countdown = Countdown(at)
        countdown.watch(world.db, "write", "read")
        countdown.watch(world.node, "call")
        died = True
        try:
            await world.bonuses.tick()
            died = False
        except Crash:
            pass
        countdown.left = -1
        del world.node.__dict__["call"]
        await world.restart()
        ended = [state in ("released", "failed") for state in (await world.item_states(ticket.ticket_id))[1:]]
        # Told, receipted and moved together, or not at all.
        assert len(world.chain.rows) - before == len(letters(world, Metric)) == sum(ended), at
        await world.bonuses.tick()
        assert await world.item_states(ticket.ticket_id) == ["released", "released", "failed"], at
        assert (letters(world, Metric), letters(world, Release), letters(world, Failure)) == (
            [1, 2],
            [1],
            [2],
        )
        assert [row.status for row in world.chain.rows[before:]] == ["success", "failed"]
        world.now = began
        if not died:
            break
    else:
        pytest.fail(f"more than {_MOST_POINTS} points")


async def test_the_operators_word_on_a_bonus_is_not_taken_before_its_window_is_over(
    world: EscrowWorld, payee: PayeeWorld
) -> None:
    ticket = await engaged(world, payee, 10)
    judged = Judged(None, {"value": 10}, confirm=True)
    world.now = ticket.terms.items[0].deadline + WINDOW_S
    # The node could not measure it, the operator did.
    assert (await world.operator().complete(ticket.ticket_id, 1, judged)).state.value == "released"
    await world.bonuses.tick()
    assert letters(world, Metric) == [1] and letters(world, Release) == [1]
