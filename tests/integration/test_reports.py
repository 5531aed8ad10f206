"""Reports by the day and the week over a real database, by the clock of the test (docs/protocol/02 §10)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from cl_hive_comms.domain.report import baseline_digest
from cl_hive_comms.domain.telemetry import Subscription
from cl_hive_comms.services.advisor_requests import Hire, Hired
from cl_hive_comms.services.executors.monitor import ReadNode
from cl_hive_comms.services.report_service import ReportService
from cl_hive_comms.services.trial_measure import TrialMeasure
from cl_hive_comms.storage.advisor_record_store import AdvisorRecordStore
from cl_hive_comms.storage.command_store import CommandStore
from cl_hive_comms.storage.presence_store import PresenceStore
from cl_hive_comms.storage.report_store import ReportStore
from cl_hive_comms.storage.telemetry_store import TelemetryStore
from crash_points import Countdown, killed
from hiring_world import NOW, HiringWorld
from hive_shared import crypto, envelope
from hive_shared.crypto import Secret, xonly_pubkey
from msgspec.structs import replace
from pipeline_world import AGENT_KEY, NODE_ID, Crash, Keys, World, issue

DAY = 86_400
MIDNIGHT = NOW // DAY * DAY + DAY
KEY = xonly_pubkey(Secret(bytes([1]) * 32))
CONTROL = "hive:control/v1"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[HiringWorld]:
    made = await HiringWorld(tmp_path).start()
    yield made
    made.db.close()


def service(world: HiringWorld, told: list[int] | None = None) -> ReportService:
    """The service over the world as it is now."""
    return ReportService(
        db=world.db,
        rows=ReportStore(),
        work=AdvisorRecordStore(),
        presence=PresenceStore(),
        measure=TrialMeasure(cast(ReadNode, world.books)),
        credentials=world.credentials,
        identity=world.identity,
        kill_switch=world.kill_switch,
        node_id=NODE_ID,
        told=lambda: None if told is None else told.append(1),
        now=lambda: world.now,
        log=world._note,
    )


async def hire(world: HiringWorld, days: int = 0) -> Hired:
    world.books.forwards = [(NOW - 6 * DAY, 4_000), (NOW - 1, 3_000)]
    return await world.service.authorize(Hire(KEY, "fees", trial_days=days))


async def reports(world: HiringWorld, hired: Hired, kind: str = "daily") -> list[dict[str, Any]]:
    store = ReportStore()
    found = await world.db.read(lambda tx: store.newest(tx, hired.row.credential_id, kind, 100))
    return found[::-1]


async def work(world: HiringWorld, hired: Hired, at: int, number: int) -> None:
    """A change that was made, and a ping an hour that was answered in seven seconds."""

    def body(tx: Any) -> None:
        tx.execute(
            "INSERT INTO comms_commands (command_id, sender_key, nonce, body_hash, payload_hash,"
            " credential_id, advisor_id, transport, envelope, schema_id, action, danger, read_only, state,"
            " received_at, updated_at) VALUES (?, ?, ?, '', '', ?, 'a', 'rest', '', 's', 'a', 3, 0,"
            " 'success', ?, ?)",
            (str(number), KEY, number, hired.row.credential_id, at, at),
        )

    await world.db.write(body)


async def pinged(world: HiringWorld, hired: Hired, since: int, hours: int, silent: int = 0) -> None:
    store, name = PresenceStore(), hired.row.credential_id

    def body(tx: Any) -> None:
        for hour in range(hours):
            at = since + hour * 3_600
            store.add(tx, f"p{at}", name, at)
            if hour >= silent:
                assert store.answer(tx, f"p{at}", name, at + 7, at)

    await world.db.write(body)


async def test_a_baseline_is_taken_once_and_signed(world: HiringWorld) -> None:
    hired = await hire(world)
    made = service(world)
    assert await made.baseline(hired.row) is None
    await made.tick()
    found = await made.baseline(hired.row)
    assert found is not None
    signature = str(found.pop("signature"))
    assert crypto.schnorr_verify(world.identity.pubkey, baseline_digest(found), signature)
    income = found["income"]
    assert isinstance(income, dict)
    assert (income["fees_msat"], income["from"], income["to"]) == (7_000, NOW - 7 * DAY, NOW)
    world.books.forwards = []
    world.now += 60
    await made.tick()
    assert await made.baseline(hired.row) == {**found, "signature": signature}


async def test_a_trials_reports_are_compared_with_the_baseline_its_start_signed(world: HiringWorld) -> None:
    hired = await hire(world, days=14)
    world.books.forwards = []
    made = service(world)
    await made.tick()
    (trial,) = await world.contracts.trials()
    found = await made.baseline(hired.row)
    assert found is not None and found["income"] == trial.baseline.income.to_doc()


async def test_at_midnight_a_report_says_what_was_measured_and_why_the_rest_was_not(
    world: HiringWorld,
) -> None:
    hired = await hire(world)
    told: list[int] = []
    made = service(world, told)
    world.now = MIDNIGHT - 1
    await made.tick()
    assert await reports(world, hired) == [] and told == []
    await work(world, hired, NOW + 10, 1)
    world.now = MIDNIGHT + 30
    await made.tick()
    (first,) = await reports(world, hired)
    hours = -(-(MIDNIGHT - NOW) // 3_600)
    assert (first["from"], first["to"], first["hours"], first["actions_taken"]) == (NOW, MIDNIGHT, hours, 1)
    assert (first["uptime_pct"], first["response_time_s"]) == (None, None)
    assert set(first["not_measured"]) == {"uptime_pct", "response_time_s", "revenue_delta_pct"}
    assert first["not_measured"]["revenue_delta_pct"] == "it has run for less than a day"
    # The next day there were pings, one hour of them unanswered, and the node earned twice as much.
    await pinged(world, hired, MIDNIGHT, 24, silent=1)
    world.books.forwards = [(MIDNIGHT + 100, 2_000), (MIDNIGHT + DAY, 99_000)]
    world.now = MIDNIGHT + DAY
    await made.tick()
    await made.tick()
    _, second = await reports(world, hired)
    assert (second["from"], second["to"]) == (MIDNIGHT, MIDNIGHT + DAY)
    assert (second["pings"], second["pings_answered"], second["uptime_pct"]) == (24, 23, 95)
    assert second["response_time_s"] == {"p50": 7, "p95": 7} and second["not_measured"] == {}
    # 7,000 msat in seven days before; 2,000 msat from the hire to this midnight.
    per_day = 2_000 * DAY // (MIDNIGHT + DAY - NOW)
    assert second["revenue"]["now_msat_per_day"] == per_day
    assert second["revenue_delta_pct"] == (2_000 * DAY * 100 // (MIDNIGHT + DAY - NOW) - 100_000) // 1_000
    assert len(told) == 2
    shown = await made.of(hired.row, "daily", 1)
    assert shown == [second] and second["credential_id"] == hired.row.credential_id
    world.now += 3_600
    assert (await made.so_far(hired.row, "daily"))["hours"] == 2


async def test_weeks_begin_on_monday_and_a_standstill_is_made_up_for_in_bounds(world: HiringWorld) -> None:
    hired = await hire(world)
    await service(world).tick()
    await world.restart(seconds=29 * DAY)
    await service(world).tick()
    days, weeks = await reports(world, hired), await reports(world, hired, "weekly")
    assert len(days) == 7 and [each["to"] for each in days] == [
        world.now // DAY * DAY - each * DAY for each in range(6, -1, -1)
    ]
    assert len(weeks) == 4
    for each in weeks:
        assert (each["to"] - 4 * DAY) % (7 * DAY) == 0 and each["to"] <= world.now
    assert all(late["from"] == early["to"] for early, late in pairwise(weeks))
    await service(world).tick()
    assert len(await reports(world, hired)) == 7


async def test_who_is_gone_gets_none_and_the_stop_holds_all_back(
    world: HiringWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    hired = await hire(world)
    world.now = MIDNIGHT
    with monkeypatch.context() as stopped:
        stopped.setattr(world.kill_switch, "engaged", lambda: True)
        await service(world).tick()
        assert await reports(world, hired) == []
    await world.service.revoke_all("enough")
    await service(world).tick()
    assert await reports(world, hired) == []


async def test_a_node_that_cannot_tell_is_waited_for_and_then_it_is_said(world: HiringWorld) -> None:
    hired = await hire(world)
    made = service(world)
    await made.tick()
    world.now = MIDNIGHT + 1
    world.books.down = True
    await made.tick()
    assert await reports(world, hired) == []
    assert ("warning", "report_postponed") in world.log
    world.now += 3_600
    await made.tick()
    found = await reports(world, hired)
    assert "could not be read" in found[-1]["not_measured"]["revenue_delta_pct"]


async def test_reports_killed_anywhere_are_made_once(tmp_path: Path) -> None:
    points = 0
    for at in range(60):
        (tmp_path / str(at)).mkdir()
        world = await HiringWorld(tmp_path / str(at)).start()
        hired = await hire(world)
        world.now = MIDNIGHT + DAY
        killer, died = Countdown(at), False
        killer.watch(world.db, "write", "read")
        killer.watch(world.books, "call")
        try:
            await service(world).tick()
        except Crash:
            died = True
        del world.books.call
        await world.restart()
        await service(world).tick()
        found = await reports(world, hired)
        assert [each["to"] for each in found] == [MIDNIGHT, MIDNIGHT + DAY], at
        assert all(each["revenue"]["baseline_msat_per_day"] == 1_000 for each in found), at
        world.db.close()
        points += died
        if not died:
            break
    assert 6 <= points < 60


# -- as telemetry -----------------------------------------------------------------------------------------


def sent(world: World) -> list[dict[str, Any]]:
    found = []
    for message in world.out.sent:
        doc = json.loads(message["content"])
        if message["kind"] == "push" and doc["schema_payload"]["action"] == "telemetry":
            assert envelope.verify_push(doc, Keys.pubkey)
            found.append(doc["schema_payload"]["params"])
    return found


async def made_report(world: World, until: int) -> None:
    store, doc = ReportStore(), {"kind": "daily", "to": until, "uptime_pct": 99}
    name = issue().credential_id
    assert await world.db.write(lambda tx: store.add(tx, name, "daily", until, doc, world.now))


_ASK = {"metrics": ["report_daily"], "until": NOW + 20 * DAY}


async def asked(world: World) -> None:
    assert (await world.ask(CONTROL, "telemetry_subscribe", _ASK))["status"] == 0


async def test_a_subscription_asks_for_pings_and_brings_each_new_report_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    await made_report(world, NOW - 10)
    await world.pipeline.presence.tick()
    await asked(world)
    await world.pipeline.presence.tick()
    actions = [
        json.loads(each["content"])["schema_payload"]["action"]
        for each in world.out.sent
        if each["kind"] == "push"
    ]
    assert actions == ["ping"]
    await world.pipeline.telemetry.tick()
    assert sent(world) == [], "what was made before is not sent, and nothing is told of nothing"
    await made_report(world, NOW + 10)
    await made_report(world, NOW + 20)
    assert await world.pipeline.telemetry.tick() == 1
    await world.pipeline.telemetry.tick()
    await world.pipeline.telemetry.tick()
    assert [(each["seq"], each["metrics"]["report_daily"]["to"]) for each in sent(world)] == [
        (1, NOW + 10),
        (2, NOW + 20),
    ]
    (row,) = await world.db.read(TelemetryStore().all)
    assert row.stream == "report_daily" and isinstance(row, Subscription)
    view = world.credentials.views[issue().credential_id]
    narrow = issue(number=1, schemas=("hive:fee-policy/v1",))
    world.credentials.views[issue().credential_id] = replace(view, credential=narrow)
    await made_report(world, NOW + 30)
    await world.pipeline.telemetry.tick()
    assert len(sent(world)) == 2, "who may not read any more is told nothing"
    world.close()


async def test_a_report_killed_on_its_way_is_sent_once(tmp_path: Path) -> None:
    agent = xonly_pubkey(AGENT_KEY)

    async def ready(world: World) -> None:
        await asked(world)
        await made_report(world, NOW + 10)

    async def turn(world: World) -> None:
        await world.pipeline.telemetry.tick()

    points = 0
    for at in range(40):
        world, died = await killed(tmp_path / str(at), at, turn, before=ready)
        await turn(world)
        kept = await world.db.read(lambda tx: CommandStore().pushes(tx, agent, 0, 100))
        assert len(kept) == 1, at
        world.close()
        points += died
        if not died:
            break
    assert 2 <= points < 40
