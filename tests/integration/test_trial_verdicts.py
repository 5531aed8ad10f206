"""The end of a trial: suggestion, the operator's word, the signed summary (docs/protocol/02 §10, 04 §10)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from cl_hive_comms.domain.trial import Outcome, Trial
from cl_hive_comms.domain.trial_verdict import event_tags, suggested
from cl_hive_comms.services.advisor_requests import Hire
from cl_hive_comms.services.event_publisher import EventPublisher, Published
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.trial_verdicts import TrialVerdicts
from cl_hive_comms.storage.marketplace_store import MarketplaceStore
from cl_hive_comms.storage.receipt_store import ReceiptStore
from crash_points import Countdown
from hiring_world import NOW, HiringWorld
from hive_shared.canonical import JsonValue
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import Conflict, EmergencyStop, FeatureDisabled, NotFound
from hive_shared.receipts import merkle_root
from msgspec.structs import replace
from pipeline_world import Crash

DAY = 86_400
KEY = xonly_pubkey(Secret(bytes([1]) * 32))
DID = f"did:nostr:{KEY}"


class Relays:
    """Takes events as the publisher does: the same one again is the same one."""

    def __init__(self) -> None:
        self.events: dict[str, Mapping[str, Any]] = {}
        self.refuses: Exception | None = None

    async def publish(self, event: Mapping[str, JsonValue]) -> Published:
        if self.refuses is not None:
            raise self.refuses
        text = json.dumps(event, sort_keys=True)
        self.events[text] = event
        return Published(f"id-{len(text)}", "npub", "queued")


class Ending:
    """A world with a trial that is over, and the services over it."""

    def __init__(self, path: Path) -> None:
        self.world, self.relays, self.private = HiringWorld(path), Relays(), False

    async def start(self, *, over: bool = True) -> Ending:
        await self.world.start()
        self.hired = await self.world.service.authorize(Hire(KEY, "fees", trial_days=7))
        if over:
            self.world.now = NOW + 7 * DAY
            await self.world.contracts.settle()
        return self

    def verdicts(self, publish: Any = None) -> TrialVerdicts:
        world = self.world
        return TrialVerdicts(
            db=world.db,
            rows=MarketplaceStore(),
            receipt_rows=ReceiptStore(),
            receipts=world.receipts,
            credentials=world.credentials,
            identity=world.identity,
            publish=publish or self.relays.publish,
            private=lambda: self.private,
            now=lambda: world.now,
            log=world._note,
        )

    async def decide(self, verdict: str = "renew", reason: str = "good work") -> Any:
        return await self.verdicts().decide(DID, "doc", verdict, reason)

    async def receipts(self) -> list[dict[str, Any]]:
        rows = await self.world.db.read(lambda tx: ReceiptStore().after(tx, 0, 1_000))
        return [json.loads(row.document) for row in rows]


@pytest.fixture
async def ending(tmp_path: Path) -> AsyncIterator[Ending]:
    made = await Ending(tmp_path).start()
    yield made
    made.world.db.close()


async def test_the_operators_word_is_a_receipt_and_a_signed_summary_of_what_was_measured(
    ending: Ending,
) -> None:
    row = await ending.decide()
    assert (row.verdict, row.by, row.published, row.reason) == ("renew", "operator", "queued", "good work")
    (event,) = ending.relays.events.values()
    assert (event["kind"], event["created_at"], event["tags"][0]) == (38385, ending.world.now, ["d", DID])
    assert json.loads(event["content"]) == row.summary
    *before, last = await ending.receipts()
    assert (last["action"], last["params"]) == ("trial_decided", {"outcome": "renew", "reason": "good work"})
    assert last["result"]["summary"] == row.summary and last["agent_id"] == DID
    summary = row.summary
    mine = [each for each in before if each.get("credential_id") == ending.hired.row.credential_id]
    ids = {each["receipt_id"] for each in mine}
    rows = await ending.world.db.read(lambda tx: ReceiptStore().after(tx, 0, 1_000))
    hashes = [each.receipt_hash for each in rows if each.receipt_id in ids]
    assert summary["evidence"]["merkle_root"] == merkle_root(hashes) and len(hashes) >= 2
    # Nothing of the trial was measured but the actions, and the summary says so.
    assert summary["metrics"] == {"actions_taken": 0, "channels_managed": 1}
    assert summary["not_measured"] == ["revenue_delta_pct", "uptime_pct"]
    assert summary["issuer"] == f"did:nostr:{ending.world.identity.pubkey}"
    assert (await ending.world.receipts.verify()).ok
    with pytest.raises(Conflict) as again:
        await ending.decide("revoke")
    assert again.value.reason == "already_decided" and len(ending.relays.events) == 1


async def test_private_relationships_publish_nothing(ending: Ending) -> None:
    ending.private = True
    row = await ending.decide()
    ending.private = False
    await ending.verdicts().settle()
    assert row.published == "private" and ending.relays.events == {}
    assert (await ending.receipts())[-1]["action"] == "trial_decided"


async def test_what_cannot_be_published_now_waits_and_what_may_not_is_told(ending: Ending) -> None:
    ending.relays.refuses = EmergencyStop("not now")
    assert (await ending.decide()).published == "due"
    ending.relays.refuses = None
    await ending.verdicts().settle()
    trial_id = ending.hired.trial_id or ""
    found = await ending.verdicts().of(trial_id)
    assert found is not None and found.published == "queued" and found.event_id


async def test_with_publishing_off_it_is_said(ending: Ending) -> None:
    ending.relays.refuses = FeatureDisabled("off")
    assert (await ending.decide("neutral")).published == "marketplace-publish is false"
    ending.relays.refuses = None
    await ending.verdicts().settle()
    assert ending.relays.events == {}


async def test_nobody_decides_before_the_end_nor_without_a_trial(tmp_path: Path) -> None:
    ending = await Ending(tmp_path).start(over=False)
    with pytest.raises(Conflict) as running:
        await ending.decide()
    assert running.value.reason == "trial_running"
    with pytest.raises(NotFound):
        await ending.verdicts().decide("did:nostr:" + "ab" * 32, "x", "renew", "")
    await ending.verdicts().settle()
    assert [each["action"] for each in await ending.receipts()][-1] != "trial_decided"
    ending.world.db.close()


async def test_who_says_nothing_for_seven_days_has_said_neutral_and_nothing_is_published(
    ending: Ending,
) -> None:
    ending.world.now += 7 * DAY - 1
    await ending.verdicts().settle()
    assert await ending.verdicts().of(ending.hired.trial_id or "") is None
    ending.world.now += 1
    await ending.verdicts().settle()
    await ending.verdicts().settle()
    row = await ending.verdicts().of(ending.hired.trial_id or "")
    assert row is not None and (row.verdict, row.by, row.published) == ("neutral", "time", "not asked for")
    assert ending.relays.events == {}
    assert [each["action"] for each in await ending.receipts()].count("trial_decided") == 1


async def test_a_decision_killed_anywhere_is_one_receipt_and_one_event(tmp_path: Path) -> None:
    points = 0
    for at in range(40):
        (tmp_path / str(at)).mkdir()
        ending = await Ending(tmp_path / str(at)).start()
        killer, died = Countdown(at), False
        killer.watch(ending.world.db, "write", "read")
        try:
            await ending.verdicts(killer.watched(ending.relays.publish)).decide(DID, "doc", "renew", "")
        except Crash:
            died = True
        await ending.world.restart()
        try:
            await ending.decide("renew", "")
        except Conflict:
            await ending.verdicts().settle()
        assert [each["action"] for each in await ending.receipts()].count("trial_decided") == 1, at
        assert len(ending.relays.events) == 1, at
        ending.world.db.close()
        points += died
        if not died:
            break
    assert 6 <= points < 40


async def test_the_event_is_one_that_may_be_published(ending: Ending) -> None:
    class Out:
        def __init__(self) -> None:
            self.sent: list[str] = []

        def find(self, tx: Any, key: str) -> None:
            return None

        def enqueue(self, tx: Any, **given: Any) -> None:
            self.sent.append(given["content"])

        def kick(self) -> None:
            return None

    out = Out()
    publisher = EventPublisher(
        ending.world.db,
        ending.world.identity,
        cast(Messenger, out),
        ending.world.kill_switch,
        extra_kinds=tuple,
        enabled=lambda name: True,
        low_redundancy=lambda kind: False,
        now=lambda: ending.world.now,
    )
    row = await ending.verdicts(lambda event: publisher.publish(dict(event))).decide(
        DID, "doc", "neutral", ""
    )
    (text,) = out.sent
    assert json.loads(text)["id"] == row.event_id
    assert json.loads(text)["pubkey"] == ending.world.identity.pubkey


def criteria(*results: str) -> list[dict[str, str]]:
    return [{"metric": f"m{number}", "result": each} for number, each in enumerate(results)]


@pytest.mark.parametrize(
    ("results", "facts", "word"),
    [
        (("pass", "pass", "pass", "pass"), {}, "renew"),
        (("pass", "pass", "unknown", "unknown"), {}, "renew"),
        (("pass", "unknown", "unknown", "unknown"), {}, "neutral"),
        (("pass", "fail", "pass", "pass"), {}, "neutral"),
        (("fail", "fail", "unknown", "unknown"), {}, "revoke"),
        (("fail", "pass", "unknown", "unknown"), {"actions_taken": 0, "hours_heard": 0}, "revoke"),
        (("fail", "pass", "unknown", "unknown"), {"actions_taken": 0, "hours_heard": 3}, "neutral"),
    ],
)
async def test_what_the_figures_speak_for(
    ending: Ending, results: tuple[str, ...], facts: dict[str, int], word: str
) -> None:
    (trial,) = await ending.world.contracts.trials()
    said = {"criteria": criteria(*results), "actions_taken": 5, "hours_heard": 5, **facts}
    assert suggested(trial, said)[0] == word
    stopped: Trial = replace(trial, outcome=Outcome.STOPPED)
    assert suggested(stopped, said)[0] == "neutral"


def test_tags_carry_measured_figures_only() -> None:
    summary = {"subject": DID, "outcome": "renew", "metrics": {"uptime_pct": 99, "revenue_delta_pct": -3}}
    assert event_tags(summary)[2:] == [
        ["outcome", "renew"],
        ["uptime", "99"],
        ["avg-revenue-delta-pct", "-3"],
    ]
    assert len(event_tags({**summary, "metrics": {}})) == 3
