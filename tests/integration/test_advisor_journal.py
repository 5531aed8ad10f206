"""The kit's journal on its own database: measured once an hour, judged by what was measured, kept so long
(docs/protocol/11-advisor-kit.md §9, §12)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hive_advisor.advisor import MIGRATIONS
from hive_advisor.domain.journal import DAY_S, HOUR_S
from hive_advisor.domain.keyring import Keyring
from hive_advisor.domain.rows import Client
from hive_advisor.services.clients import ClientService
from hive_advisor.services.journal import JournalService
from hive_advisor.storage.client_store import ClientStore
from hive_advisor.storage.command_store import CommandStore
from hive_advisor.storage.journal_store import JournalStore
from hive_advisor.storage.record_store import RecordStore
from hive_shared.crypto import Sealer, Secret
from hive_shared.errors import HiveError, InvalidParams, NotFound, TransportUnavailable
from hive_shared.store import Db

T0 = 1_770_000_000
SAT = 1_000


def row(key: str, local_sat: int, **other: Any) -> dict[str, Any]:
    return {
        "channel": f"{key}x1x0",
        "channel_id": key * 64,
        "state": "CHANNELD_NORMAL",
        "to_us_msat": local_sat * SAT,
        "total_msat": 1_000_000 * SAT,
        "out_payments_fulfilled": 7,
        **other,
    }


class Node:
    """What a client answers to reads; counts them."""

    def __init__(self) -> None:
        self.rows = [row("a", 500_000), row("b", 500_000)]
        self.fees: dict[str, int] | None = {"a": 100, "b": 100}
        self.asked: list[str] = []
        self.away = False
        self.page = 1

    async def __call__(
        self, client: Client, action: str, params: Mapping[str, Any], wait_s: int
    ) -> Mapping[str, Any] | None:
        self.asked.append(action)
        if self.away:
            raise TransportUnavailable("no way to it")
        if action == "channel_list":
            start = int(params.get("cursor", 0))
            page: dict[str, Any] = {"items": self.rows[start : start + self.page]}
            if start + self.page < len(self.rows):
                page["next_cursor"] = str(start + self.page)
            return page
        if self.fees is None:
            return None
        books = [{"account": key * 64, "fees_out_msat": fee} for key, fee in self.fees.items()]
        return {"items": [*books, {"account": "net", "fees_out_msat": 10**9}]}


class World:
    """A journal of one client, its clock and its node."""

    def __init__(self, directory: Path) -> None:
        self.now, self.node = T0, Node()
        self.db = Db.open(directory / "advisor.db", MIGRATIONS)
        self.start()

    def start(self) -> None:
        keyring = Keyring((Secret(b"\x07" * 32),))
        self.clients = ClientService(self.db, ClientStore(), RecordStore(), keyring, self.clock)
        self.journal = JournalService(
            self.db,
            JournalStore(),
            CommandStore(Sealer({1: Secret(b"k" * 32)}, 1)),
            self.clients,
            self.node,
            now=self.clock,
        )

    def clock(self) -> int:
        return self.now

    async def client(self) -> Client:
        client = Client("c1", "alice", "ab" * 32, "02" * 33, "regtest", (), 300, "active", T0, T0)
        await self.db.write(lambda tx: ClientStore().add(tx, client, "alice"))
        return client

    async def hours(self, count: int) -> None:
        for _ in range(count):
            self.now += HOUR_S
            await self.journal.measure_due()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.db.close()


async def test_nodes_are_measured_once_an_hour_and_their_fees_once_a_day(world: World) -> None:
    client = await world.client()
    assert await world.journal.measure_due() == 1
    assert world.node.asked == ["channel_list", "channel_list", "earnings"]
    assert await world.journal.measure_due() == 0
    world.now += HOUR_S - 1
    assert await world.journal.measure_due() == 0
    world.start()
    await world.hours(24)
    assert world.node.asked.count("earnings") == 2
    velocities = await world.journal.velocities(client)
    assert [(each.channel, each.towards) for each in velocities] == [("ax1x0", "rest"), ("bx1x0", "rest")]
    week, month = await world.journal.trends(client)
    assert week["fees_msat"] == month["fees_msat"] == 400 and week["channels"] == [2, 2]


async def test_a_node_that_does_not_answer_is_asked_again_in_an_hour(world: World) -> None:
    client = await world.client()
    world.node.away = True
    assert await world.journal.measure_due() == await world.journal.measure_due() == 0
    assert len(world.node.asked) == 1
    with pytest.raises(HiveError):
        await world.journal.measure(client, 1)
    world.node.away = False
    await world.hours(1)
    assert (await world.journal.trends(client))[0] == {"days": 7, "known": False}
    await world.db.write(lambda tx: ClientStore().set_state(tx, "c1", "paused", world.now))
    asked = len(world.node.asked)
    await world.hours(3)
    assert len(world.node.asked) == asked


async def test_rows_that_make_no_sense_are_left_out(world: World) -> None:
    client = await world.client()
    world.node.rows += [
        row("d", 5, state="ONCHAIN"),
        row("e", 2_000_000),
        row("f", 5, to_us_msat=True),
        row("g", 5, channel_id="short"),
        row("h", 5, total_msat=-1),
        row("i", 5, channel=None),
    ]
    world.node.page = 100
    assert await world.journal.measure(client, 1) == 2
    (total,) = await world.db.read(lambda tx: JournalStore().totals(tx, "c1", 0))
    assert (total.channels, total.local_msat, total.fees_day_msat, total.sent_out) == (2, 10**9, 200, 14)


async def test_a_decision_is_merged_for_a_day_and_judged_when_its_days_are_over(world: World) -> None:
    client = await world.client()
    await world.hours(25)
    first = await world.journal.decide(client, "fee", "ax1x0", "it drains", confidence=70)
    again = await world.journal.decide(client, "fee", "ax1x0", "it drains still", confidence=60)
    assert (again.decision_id, again.said, again.reasoning) == (first.decision_id, 2, "it drains still")
    other = await world.journal.decide(client, "fee", "bx1x0", "as well")
    assert other.decision_id != first.decision_id
    world.node.fees = {"a": 190, "b": 110}
    world.node.rows = [
        row("a", 500_000, out_payments_fulfilled=30),
        row("b", 500_000, out_payments_fulfilled=8),
    ]
    await world.hours(20)
    assert (await world.journal.outcome(first.decision_id)).outcome is None
    world.start()
    await world.hours(30)
    judged = await world.journal.outcome(first.decision_id)
    assert judged.outcome == "better" and judged.measured is not None
    # The other channel was decided about too: nothing is left to compare with.
    assert judged.measured["untouched_channels"] == 0 and judged.measured["effect_msat_per_day"] == 90
    world.node.fees = {"a": 0, "b": 0}
    await world.hours(80)
    assert (await world.journal.outcome(first.decision_id)) == judged
    little = await world.journal.outcome(other.decision_id)
    assert little.outcome == "unknown" and little.measured is not None and little.measured["sent_out"] == 1
    later = await world.journal.decide(client, "fee", "ax1x0", "again")
    assert later.decision_id not in (first.decision_id, other.decision_id)
    assert [each.decision_id for each in await world.journal.decisions(client, True, 10)] == [
        later.decision_id
    ]


async def test_a_node_without_books_leaves_outcomes_unknown(world: World) -> None:
    client = await world.client()
    world.node.fees = None
    await world.hours(2)
    made = await world.journal.decide(client, "fee", "ax1x0", "why")
    await world.hours(100)
    found = await world.journal.outcome(made.decision_id)
    assert found.outcome == "unknown" and found.measured == {"why": "no revenue before or after"}


async def test_goals_keep_a_checkpoint_of_every_day(world: World) -> None:
    client = await world.client()
    number = await world.journal.aim(client, "local_sat", 1_500_000, 30, "more to send")
    await world.hours(1)
    world.node.rows = [row("a", 900_000), row("b", 500_000)]
    await world.hours(24)
    ((goal, points),) = await world.journal.goals(client, True)
    assert goal.first_value == 1_000_000 and [value for _, value in points] == [1_400_000, 1_400_000]
    brief = await world.journal.brief()
    assert brief["goals"][0]["now"] == 1_400_000
    await world.journal.close_goal(number)
    assert (
        await world.journal.goals(client, True) == [] and len(await world.journal.goals(client, False)) == 1
    )
    with pytest.raises(NotFound, match="no open goal 1"):
        await world.journal.close_goal(number)


async def test_what_is_old_goes(world: World) -> None:
    await world.client()
    await world.hours(2)
    world.now += 46 * DAY_S
    await world.hours(1)
    store = JournalStore()
    channels = await world.db.read(lambda tx: store.channels(tx, "c1", 0))
    assert {len(rows) for rows in channels.values()} == {1}
    assert len(await world.db.read(lambda tx: store.totals(tx, "c1", 0))) == 3
    world.now += 366 * DAY_S
    await world.hours(1)
    assert len(await world.db.read(lambda tx: store.totals(tx, "c1", 0))) == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "guess"}, "kind must be one of"),
        ({"target": " "}, "target must have 1 to 2000"),
        ({"reasoning": "x" * 2_001}, "reasoning must have 1 to 2000"),
        ({"confidence": 101}, "percentage from 0 to 100"),
    ],
)
async def test_a_decision_that_says_nothing_is_refused(
    world: World, changes: dict[str, Any], says: str
) -> None:
    client = await world.client()
    given = {"kind": "fee", "target": "ax1x0", "reasoning": "why", "confidence": None, **changes}
    with pytest.raises(InvalidParams, match=says):
        await world.journal.decide(client, **given)
    assert await world.journal.decisions(None, False, 10) == []
    with pytest.raises(NotFound, match="no decision 5"):
        await world.journal.outcome(5)
    for metric, target, span in (("luck", 1, 1), ("channels", -1, 1), ("channels", 1, 366)):
        with pytest.raises(InvalidParams):
            await world.journal.aim(client, metric, target, span)
