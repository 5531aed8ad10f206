"""Trials from start to review over a real database, with a clock that can be moved (Protocol 04 §10)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.domain.trial import Outcome, Trial
from cl_hive_comms.services.advisor_requests import Hire, Hired, Issue
from cl_hive_comms.storage.marketplace_store import MarketplaceStore
from hiring_world import NOW, HiringWorld
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import Conflict, EmergencyStop, Internal, InvalidParams, NotFound
from hive_shared.store import Tx

DAY = 86_400
KEYS = [xonly_pubkey(Secret(bytes([n]) * 32)) for n in range(1, 9)]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[HiringWorld]:
    made = await HiringWorld(tmp_path).start()
    yield made
    made.db.close()


async def begin(world: HiringWorld, key: int = 0, days: int = 14, access: str = "fees") -> Hired:
    return await world.service.authorize(Hire(KEYS[key], access, trial_days=days))


async def refused(world: HiringWorld, key: int, access: str = "fees") -> str:
    before = await everything(world)
    with pytest.raises(Conflict) as caught:
        await begin(world, key, access=access)
    assert await everything(world) == before
    assert world.runes.made == len(world.credentials.rows()), "a refused trial makes no rune"
    return str(caught.value.reason)


async def everything(world: HiringWorld) -> list[list[tuple[Any, ...]]]:
    tables = (
        "marketplace_trials",
        "comms_advisors",
        "comms_credentials",
        "management_receipts",
        "comms_outbox",
    )

    def body(tx: Tx) -> list[list[tuple[Any, ...]]]:
        return [[tuple(row) for row in tx.execute(f"SELECT * FROM {name}")] for name in tables]

    return await world.db.read(body)


async def only(world: HiringWorld) -> Trial:
    (found,) = await world.contracts.trials()
    return found


async def receipts(world: HiringWorld, action: str) -> list[dict[str, Any]]:
    def body(tx: Tx) -> list[dict[str, Any]]:
        rows = tx.execute("SELECT document FROM management_receipts ORDER BY receipt_id")
        return [json.loads(row["document"]) for row in rows]

    return [doc for doc in await world.db.read(body) if doc["action"] == action]


async def alerts(world: HiringWorld) -> list[tuple[str, str]]:
    return [(alert.code, alert.text) for alert in await world.alerts.recent()]


async def test_a_trial_is_a_credential_with_its_own_window_and_a_signed_baseline(world: HiringWorld) -> None:
    world.books.forwards = [(NOW - 8 * DAY, 9_000), (NOW - 6 * DAY, 4_000), (NOW - 1, 3_000)]
    world.books.rebalances = [(NOW - DAY, 500)]
    hired = await begin(world, days=21)
    document = hired.row.credential
    assert (document.valid_from, document.valid_until) == (NOW, NOW + 21 * DAY)
    assert document.tier.word == "standard"
    assert document.allowed_schemas == ("hive:monitor/*", "hive:fee-policy/*")
    assert hired.template == "trial"
    made = await only(world)
    assert made.trial_id == hired.trial_id and made.credential_id == hired.row.credential_id
    assert (made.start_at, made.end_at, made.sequence_number) == (NOW, NOW + 21 * DAY, 1)
    assert (made.baseline.income.fees_msat, made.baseline.income.rebalance_cost_msat) == (7_000, 500)
    assert (made.baseline.channels, made.baseline.own_msat) == (1, 400_000_000)
    (signed,) = await receipts(world, "trial_start")
    assert signed["result"]["baseline"] == made.baseline.to_doc()
    assert signed["credential_id"] == hired.row.credential_id
    assert (await world.receipts.verify()).ok


async def test_the_offer_names_the_trial(world: HiringWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    push = world.offers._push
    original = push.push

    def listening(tx: Tx, key: str, action: str, payload: dict[str, Any], **more: Any) -> None:
        told.append(payload)
        original(tx, key, action, payload, **more)

    monkeypatch.setattr(push, "push", listening)
    hired = await begin(world)
    await world.offers.resend_credential(hired.row.credential_id)
    plain = await world.service.authorize(Hire(KEYS[1], "fees"))
    assert [offer.get("trial_id") for offer in told] == [hired.trial_id, hired.trial_id, None]
    assert plain.trial_id is None


async def test_acceptance_04_11_guards_refuse_and_change_nothing(world: HiringWorld) -> None:
    await begin(world, 0)
    assert await refused(world, 0) == "trial_running"
    assert await refused(world, 1) == "trial_cooldown"
    await begin(world, 1, access="monitoring")
    assert await refused(world, 2) == "max_active_trials"
    assert await refused(world, 2, access="monitoring") == "max_active_trials"
    # A hire without trial is free of all this.
    assert (await world.service.authorize(Hire(KEYS[2], "fees"))).trial_id is None


async def test_acceptance_04_11_cooldown_runs_from_the_end_and_across_restarts(world: HiringWorld) -> None:
    await begin(world, 0, days=7)
    await world.restart(seconds=7 * DAY + 13 * DAY)
    await world.contracts.settle()
    assert await refused(world, 1) == "trial_cooldown"
    await world.restart(seconds=2 * DAY)
    hired = await begin(world, 1)
    (made,) = await world.contracts.trials(hired.row.credential.agent_id)
    assert made.sequence_number == 2


async def test_two_starts_at_the_same_moment_are_one_trial(world: HiringWorld) -> None:
    results = await asyncio.gather(*(begin(world, n) for n in range(5)), return_exceptions=True)
    assert sum(isinstance(each, Hired) for each in results) == 1
    assert all(isinstance(each, Hired | Conflict) for each in results), results
    assert len(await world.contracts.trials()) == 1


async def test_the_guards_hold_in_the_transaction_itself(
    world: HiringWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's trial begins between the check and the commit: nothing is stored, the rune ends."""
    original = world.contracts.prepare

    async def overtaken(*given: Any) -> Any:
        opening = await original(*given)
        monkeypatch.setattr(world.contracts, "prepare", original)
        world.service.changing.release()
        await begin(world, 1)
        await world.service.changing.acquire()
        return opening

    monkeypatch.setattr(world.contracts, "prepare", overtaken)
    with pytest.raises(Conflict) as caught:
        await begin(world, 0)
    assert caught.value.reason == "trial_cooldown"
    assert [row.agent_key for row in world.credentials.rows()] == [KEYS[1]]
    assert world.runes.blacklisted == ["2"]


async def test_who_works_here_already_gets_no_trial(world: HiringWorld) -> None:
    await world.service.authorize(Hire(KEYS[0], "routing", days=30))
    assert await refused(world, 0) == "already_hired"
    await world.restart(seconds=31 * DAY)
    assert (await begin(world, 0)).trial_id


async def test_a_trial_ends_by_itself_without_upgrade(world: HiringWorld) -> None:
    world.books.forwards = [(NOW - DAY, 7_000), (NOW + 10 * DAY, 14_000)]
    hired = await begin(world, 0)
    world.now = NOW + 14 * DAY - 1
    assert hired.row.live(world.now)
    await world.contracts.settle()
    assert (await only(world)).running(world.now)
    world.now += 1
    await world.contracts.settle()
    ended = await only(world)
    assert (ended.outcome, ended.ended_at) == (Outcome.REVIEW, NOW + 14 * DAY)
    assert ended.evaluation is not None and ended.evaluation["revenue_delta_pct"] == 100
    assert not hired.row.live(world.now)
    assert [row.status for row in world.credentials.rows()] == ["active"], "expired, and nothing in its place"
    code, text = (await alerts(world))[0]
    assert code == "trial_ended" and "authorize again" in text
    await world.keeper.blacklist_pending()
    assert world.runes.blacklisted == ["1"]
    # Once: no second receipt, no second alert.
    await world.contracts.settle()
    assert len(await receipts(world, "trial_end")) == 1


async def test_a_trial_that_ended_while_the_plugin_was_down_is_judged_by_its_own_time(
    world: HiringWorld,
) -> None:
    await begin(world, 0)
    # What was earned after the end does not count.
    world.books.forwards = [(NOW - DAY, 7_000), (NOW + 13 * DAY, 7_000), (NOW + 20 * DAY, 1_000_000)]
    await world.restart(seconds=40 * DAY)
    await world.contracts.settle()
    ended = await only(world)
    assert ended.ended_at == NOW + 14 * DAY and ended.evaluation is not None
    assert ended.evaluation["to"] == NOW + 14 * DAY
    assert ended.evaluation["revenue"]["trial_msat_per_day"] == 1_000


async def test_stopping_revokes_at_once_and_the_review_is_stored(world: HiringWorld) -> None:
    hired = await begin(world, 0)
    world.now += 3 * DAY
    done = await world.service.revoke_credential(hired.row.credential_id, "trial stopped")
    assert done.names == ("advisor-1",)
    stopped = await only(world)
    assert (stopped.outcome, stopped.ended_at, stopped.evaluation) == (Outcome.STOPPED, world.now, None)
    # The process may die here: the next start reviews it.
    await world.restart(seconds=60)
    await world.contracts.settle()
    reviewed = await only(world)
    assert reviewed.evaluation is not None and reviewed.evaluation["to"] == NOW + 3 * DAY
    assert reviewed.outcome is Outcome.STOPPED
    assert "trial_ended" not in [code for code, _ in await alerts(world)]


@pytest.mark.parametrize(
    "hire",
    [
        Hire(KEYS[0], "routing"),
        Issue("", npub=KEYS[0], schemas=("hive:monitor/*",)),
        Issue("", npub=KEYS[0], agent_id="02" + KEYS[0], schemas=("hive:monitor/*",)),
    ],
)
async def test_hiring_for_good_ends_the_trial_with_the_new_credential(world: HiringWorld, hire: Hire) -> None:
    first = await begin(world, 0)
    world.now += 5 * DAY
    second = await world.service.authorize(hire)
    assert (await only(world)).outcome is Outcome.STOPPED
    began, ended = [receipt["params"] for receipt in await receipts(world, "authorize")]
    assert (began["trial"], began["days"], ended["trial"], ended["days"]) == (True, 14, False, 30)
    assert {row.credential_id: row.status for row in world.credentials.rows()} == {
        first.row.credential_id: "superseded",
        second.row.credential_id: "active",
    }


async def test_a_review_waits_for_a_node_that_does_not_answer_but_not_for_ever(world: HiringWorld) -> None:
    await begin(world, 0)
    world.now += 14 * DAY
    world.books.down = True
    await world.contracts.settle()
    assert (await only(world)).outcome is None
    assert ("warning", "trial_review_postponed") in world.log
    world.now += 3_600
    await world.contracts.settle()
    ended = await only(world)
    assert ended.outcome is Outcome.REVIEW and ended.evaluation is not None
    assert "could not be read" in ended.evaluation["not_measured"]["revenue_delta_pct"]


async def test_without_a_baseline_there_is_no_trial(world: HiringWorld) -> None:
    world.books.down = True
    before = await everything(world)
    with pytest.raises(Internal) as caught:
        await begin(world, 0)
    assert "try again" in str(caught.value) and await everything(world) == before


async def test_without_a_bookkeeper_revenue_is_compared_without_costs(world: HiringWorld) -> None:
    world.books.without_bookkeeper = True
    world.books.forwards = [(NOW - DAY, 7_000), (NOW + 13 * DAY, 7_000)]
    await begin(world, 0)
    world.now += 14 * DAY
    await world.contracts.settle()
    ended = await only(world)
    assert ended.evaluation is not None
    assert ended.evaluation["revenue"]["net_of_rebalancing"] is False
    assert ended.evaluation["revenue_delta_pct"] == 0


async def test_during_an_emergency_no_trial_starts(world: HiringWorld) -> None:
    (world.path / "hive").mkdir(exist_ok=True)
    (world.path / "hive" / "EMERGENCY_STOP").touch()
    with pytest.raises(EmergencyStop):
        await begin(world, 0)


async def test_a_review_of_nothing_says_so(world: HiringWorld) -> None:
    with pytest.raises(NotFound):
        await world.contracts.review(f"did:nostr:{KEYS[0]}")
    with pytest.raises(InvalidParams):
        await begin(world, 0, access="custom")


class Died(BaseException):
    """The process ends here."""


async def test_a_crash_inside_a_start_leaves_nothing(
    world: HiringWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await everything(world)
    with monkeypatch.context() as patched:
        dying(patched, "add_trial")
        with pytest.raises(Died):
            await begin(world, 0)
    await world.restart()
    assert await everything(world) == before
    assert (await begin(world, 0)).trial_id


async def test_a_crash_inside_an_end_leaves_nothing_and_the_next_start_ends_it(
    world: HiringWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(world, 0)
    world.now += 14 * DAY
    before = await everything(world)
    with monkeypatch.context() as patched:
        dying(patched, "store_review")
        with pytest.raises(Died):
            await world.contracts.settle()
    await world.restart()
    assert await everything(world) == before
    await world.contracts.settle()
    assert (await only(world)).outcome is Outcome.REVIEW
    assert len(await receipts(world, "trial_end")) == 1


async def test_a_crash_inside_a_stop_leaves_the_trial_and_its_credential_running(
    world: HiringWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    hired = await begin(world, 0)
    before = await everything(world)
    with monkeypatch.context() as patched:
        dying(patched, "stop_trial")
        with pytest.raises(Died):
            await world.service.revoke_credential(hired.row.credential_id, "trial stopped")
    await world.restart()
    assert await everything(world) == before
    assert (await only(world)).running(world.now)


def dying(patched: pytest.MonkeyPatch, name: str) -> None:
    """The process dies right after this statement of the trials' store, before the commit."""
    original = getattr(MarketplaceStore, name)

    def wrapped(*given: Any) -> None:
        original(*given)
        raise Died

    patched.setattr(MarketplaceStore, name, wrapped)
