"""A machine that holds money, killed at every point where it can die: nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum, auto
from pathlib import Path
from typing import TypeVar

import pytest
from hive_shared.errors import Conflict, NotFound
from hive_shared.machine import (
    EventRejected,
    Intent,
    Machine,
    NeverSeen,
    Outcome,
    PortUnavailable,
    Step,
    Subject,
    Table,
    problems,
)
from hive_shared.store import Db, Tx
from hypothesis import given, settings
from hypothesis import strategies as st

AMOUNT_SAT = 1_000
T = TypeVar("T")


class S(StrEnum):
    DRAFT = auto()
    FUNDING = auto()
    ACTIVE = auto()
    SETTLING = auto()
    REFUNDING = auto()
    PAID = auto()
    REFUNDED = auto()
    DEAD = auto()


class E(StrEnum):
    ACCEPT = auto()
    LOCK_OK = auto()
    LOCK_FAILED = auto()
    PROVEN = auto()
    EXPIRED = auto()
    PAY_OK = auto()
    PAY_FAILED = auto()
    REFUND_OK = auto()


class Fx(StrEnum):
    LOCK = auto()
    PAY = auto()
    REFUND = auto()


ESCROW: Table[S, E, Fx] = {
    (S.DRAFT, E.ACCEPT): Step(S.FUNDING, Fx.LOCK),
    (S.FUNDING, E.LOCK_OK): Step(S.ACTIVE),
    (S.FUNDING, E.LOCK_FAILED): Step(S.DEAD),
    (S.ACTIVE, E.PROVEN): Step(S.SETTLING, Fx.PAY),
    (S.ACTIVE, E.EXPIRED): Step(S.REFUNDING, Fx.REFUND),
    (S.SETTLING, E.PAY_OK): Step(S.PAID),
    (S.SETTLING, E.PAY_FAILED): Step(S.REFUNDING, Fx.REFUND),
    (S.REFUNDING, E.REFUND_OK): Step(S.REFUNDED),
}
FINAL = {S.PAID, S.REFUNDED, S.DEAD}
OUTCOMES = {
    Fx.LOCK: (E.LOCK_OK, E.LOCK_FAILED),
    Fx.PAY: (E.PAY_OK, E.PAY_FAILED),
    Fx.REFUND: (E.REFUND_OK,),
}
SCHEMA = """
CREATE TABLE contract (id TEXT PRIMARY KEY, state TEXT NOT NULL, seq INTEGER NOT NULL) STRICT;
CREATE TABLE history (contract TEXT NOT NULL, seq INTEGER NOT NULL, event TEXT NOT NULL, state TEXT NOT NULL,
                      PRIMARY KEY (contract, seq)) STRICT;
CREATE TABLE intent (key TEXT PRIMARY KEY, contract TEXT NOT NULL, effect TEXT NOT NULL,
                     open INTEGER NOT NULL) STRICT;
"""


class ContractRows:
    def load(self, tx: Tx, subject: str) -> Subject[S]:
        row = tx.execute("SELECT state, seq FROM contract WHERE id = ?", (subject,)).fetchone()
        if row is None:
            raise NotFound(f"no contract {subject}")
        return Subject(subject, S(row["state"]), row["seq"])

    def move(self, tx: Tx, subject: Subject[S], to: S, event: E) -> None:
        moved = tx.execute(
            "UPDATE contract SET state = ?, seq = seq + 1 WHERE id = ? AND state = ? AND seq = ?",
            (to, subject.id, subject.state, subject.seq),
        ).rowcount
        assert moved == 1
        tx.execute("INSERT INTO history VALUES (?, ?, ?, ?)", (subject.id, subject.seq + 1, event, to))

    def open_intent(self, tx: Tx, intent: Intent[Fx]) -> None:
        tx.execute("INSERT INTO intent VALUES (?, ?, ?, 1)", (intent.key, intent.subject, intent.effect))

    def close_intent(self, tx: Tx, subject: str) -> None:
        tx.execute("UPDATE intent SET open = 0 WHERE contract = ?", (subject,))

    def is_open(self, tx: Tx, key: str) -> bool:
        return tx.execute("SELECT 1 FROM intent WHERE key = ? AND open = 1", (key,)).fetchone() is not None

    def open_intents(self, tx: Tx, limit: int) -> Sequence[Intent[Fx]]:
        rows = tx.execute("SELECT * FROM intent WHERE open = 1 ORDER BY rowid LIMIT ?", (limit,))
        return [Intent(row["key"], row["contract"], Fx(row["effect"])) for row in rows]


class Killed(BaseException):
    """The process dies here. Not an Exception, so that no handler can survive it."""


@dataclass
class World:
    """What is outside the process: money, memory of what was asked, and the fate of every call."""

    fates: Iterator[str] = field(default_factory=lambda: iter(()))
    purse: dict[str, int] = field(default_factory=lambda: {"payer": AMOUNT_SAT, "escrow": 0, "payee": 0})
    done: dict[str, E] = field(default_factory=dict)
    moves: list[str] = field(default_factory=list)

    def fate(self) -> str:
        return next(self.fates, "ok")

    def die_if(self, fate: str) -> None:
        if fate == "killed":
            raise Killed

    def carry_out(self, intent: Intent[Fx], refuse: bool) -> E:
        """Move the money, every time it is called: who runs an effect twice is caught by the books."""
        ok, *failed = OUTCOMES[intent.effect]
        if refuse and failed:
            self.done[intent.key] = failed[0]
        else:
            source, target = {
                Fx.LOCK: ("payer", "escrow"),
                Fx.PAY: ("escrow", "payee"),
                Fx.REFUND: ("escrow", "payer"),
            }[intent.effect]
            self.purse[source] -= AMOUNT_SAT
            self.purse[target] += AMOUNT_SAT
            self.moves.append(intent.key)
            self.done[intent.key] = ok
        return self.done[intent.key]


class WorldPort:
    def __init__(self, world: World) -> None:
        self.world = world

    async def run(self, intent: Intent[Fx]) -> Outcome[E] | None:
        fate = self.world.fate()
        self.world.die_if(fate)
        if fate == "unreachable":
            raise PortUnavailable("the mint does not answer")
        event = self.world.carry_out(intent, refuse=fate == "refused")
        self.world.die_if(self.world.fate())
        return None if fate == "answer lost" else Outcome(event)

    async def probe(self, intent: Intent[Fx]) -> Outcome[E] | None:
        fate = self.world.fate()
        self.world.die_if(fate)
        if fate == "unreachable":
            raise PortUnavailable("the mint does not answer")
        if fate == "answer lost":
            return None
        if intent.key not in self.world.done:
            raise NeverSeen
        return Outcome(self.world.done[intent.key])


class MortalDb(Db):
    """A database whose process may die in, or right after, a transaction."""

    world: World | None = None

    async def write(self, body: Callable[[Tx], T]) -> T:
        if self.world is None:
            return await super().write(body)

        def dying(tx: Tx) -> T:
            result = body(tx)
            assert self.world is not None
            self.world.die_if(self.world.fate())
            return result

        result = await super().write(dying)
        self.world.die_if(self.world.fate())
        return result


def silent(level: str, event: str, **fields: object) -> None:
    pass


def start(db: MortalDb, world: World) -> Machine[S, E, Fx]:
    """A fresh process: no memory of what was busy."""
    db.world = world
    port = WorldPort(world)
    return Machine(ESCROW, db, ContractRows(), dict.fromkeys(Fx, port), log=silent)


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[MortalDb]:
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        (base / "0001_start.sql").write_text(SCHEMA)
        db = MortalDb.open(base / "plugin.db", base, readers=1)
        await db.write(lambda tx: tx.execute("INSERT INTO contract VALUES ('c', 'draft', 0)").rowcount)
        try:
            yield db
        finally:
            db.close()


async def state(db: Db) -> S:
    return await db.read(lambda tx: ContractRows().load(tx, "c").state)


async def open_keys(db: Db) -> list[str]:
    return [it.key for it in await db.read(lambda tx: ContractRows().open_intents(tx, 9))]


async def assert_books_balance(db: Db, world: World) -> None:
    assert sum(world.purse.values()) == AMOUNT_SAT
    assert all(amount >= 0 for amount in world.purse.values())
    assert len(world.moves) == len(set(world.moves))
    now = await state(db)
    where = {S.PAID: "payee", S.ACTIVE: "escrow"}.get(now, "payer")
    if now in FINAL or now in (S.ACTIVE, S.DRAFT):
        assert world.purse[where] == AMOUNT_SAT
        assert await open_keys(db) == []


async def live(db: MortalDb, world: World, event: E) -> None:
    """One life of the process: it starts, recovers, is told one event, and may die anywhere in between."""
    try:
        machine = start(db, world)
        await machine.recover()
        await machine.fire("c", event)
    except (Killed, EventRejected, PortUnavailable):
        pass


FATES = st.sampled_from(["ok", "ok", "killed", "refused", "answer lost", "unreachable"])


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.sampled_from([E.ACCEPT, E.PROVEN, E.EXPIRED]), min_size=1, max_size=6),
    st.lists(FATES, max_size=24),
)
def test_any_order_of_events_and_deaths_conserves_money_and_repeats_no_effect(
    events: list[E], fates: list[str]
) -> None:
    async def story() -> None:
        async with opened() as db:
            world = World(iter(fates))
            for event in events:
                await live(db, world, event)
                assert sum(world.purse.values()) == AMOUNT_SAT
            world.fates = iter(())
            await start(db, world).recover()
            assert await open_keys(db) == []
            await assert_books_balance(db, world)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("last", "ends"), [(E.PROVEN, S.PAID), (E.EXPIRED, S.REFUNDED)], ids=["proven", "expired"]
)
async def test_killed_at_every_single_point_the_story_ends_the_same(last: E, ends: S) -> None:
    for point in range(100):
        async with opened() as db:
            world = World(iter(["ok"] * point + ["killed"]))
            for event in (E.ACCEPT, E.ACCEPT, last, last):  # told again, because the first may be lost
                await live(db, world, event)
            spared = next(world.fates, None) is not None
            world.fates = iter(())
            await start(db, world).recover()
            assert await state(db) is ends
            assert len(world.moves) == 2
            await assert_books_balance(db, world)
        if spared:
            assert point > 10
            return
    pytest.fail("the story never ran to its end")


async def test_a_story_without_faults_leaves_its_whole_history() -> None:
    async with opened() as db:
        machine = start(db, World())
        await machine.fire("c", E.ACCEPT)
        await machine.fire("c", E.PROVEN)
        rows = await db.read(lambda tx: tx.execute("SELECT event, state FROM history").fetchall())
        assert [tuple(row) for row in rows] == [
            ("accept", "funding"),
            ("lock_ok", "active"),
            ("proven", "settling"),
            ("pay_ok", "paid"),
        ]


async def test_a_failed_payment_leads_to_the_refund() -> None:
    async with opened() as db:
        world = World()
        machine = start(db, world)
        await machine.fire("c", E.ACCEPT)
        world.fates = iter(["ok", "ok", "refused"])
        await machine.fire("c", E.PROVEN)
        assert await state(db) is S.REFUNDED
        await assert_books_balance(db, world)


async def test_an_unknown_outcome_frees_nothing_until_the_world_answers() -> None:
    async with opened() as db:
        world = World()
        machine = start(db, world)
        await machine.fire("c", E.ACCEPT)
        world.fates = iter(["ok", "ok", "answer lost", "ok", "answer lost", "unreachable"])
        await machine.fire("c", E.PROVEN)
        for _ in range(2):
            await machine.recover()
            assert (await state(db), await open_keys(db)) == (S.SETTLING, ["c:3"])
            with pytest.raises(EventRejected):
                await machine.fire("c", E.EXPIRED)
        world.fates = iter(())
        await machine.recover()
        assert await state(db) is S.PAID


async def test_an_event_the_state_does_not_take_changes_nothing_and_says_so() -> None:
    async with opened() as db:
        machine = start(db, World())
        with pytest.raises(EventRejected, match="c is draft, which does not take proven") as caught:
            await machine.fire("c", E.PROVEN)
        assert isinstance(caught.value, Conflict)
        assert caught.value.data == {"state": "draft", "event": "proven", "reason": "stale_state"}
        assert (await state(db), db.stats.writes) == (S.DRAFT, 1)


async def test_an_unknown_subject_is_not_found() -> None:
    async with opened() as db:
        with pytest.raises(NotFound, match="no contract x"):
            await start(db, World()).fire("x", E.ACCEPT)


class SlowPort(WorldPort):
    """Waits for contract c until released, and remembers who was asked about."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.entered, self.release = asyncio.Event(), asyncio.Event()
        self.asked: list[str] = []

    async def wait(self, intent: Intent[Fx]) -> None:
        self.asked.append(intent.subject)
        if intent.subject == "c":
            self.entered.set()
            await self.release.wait()

    async def run(self, intent: Intent[Fx]) -> Outcome[E] | None:
        await self.wait(intent)
        return await super().run(intent)

    async def probe(self, intent: Intent[Fx]) -> Outcome[E] | None:
        await self.wait(intent)
        return await super().probe(intent)


def slow_machine(db: Db, table: Table[S, E, Fx] = ESCROW) -> tuple[SlowPort, Machine[S, E, Fx]]:
    port = SlowPort(World())
    return port, Machine(table, db, ContractRows(), dict.fromkeys(Fx, port), log=silent)


async def test_recover_leaves_an_effect_alone_that_a_live_call_is_carrying_out() -> None:
    async with opened() as db, asyncio.timeout(60):
        port, machine = slow_machine(db)
        call = asyncio.create_task(machine.fire("c", E.ACCEPT))
        await port.entered.wait()
        await machine.recover()
        assert port.asked == ["c"]
        port.release.set()
        await call
        assert (await state(db), port.world.moves) == (S.ACTIVE, ["c:1"])


async def test_recover_does_not_ask_about_what_was_settled_while_it_worked() -> None:
    async with opened() as db, asyncio.timeout(60):
        await db.write(lambda tx: tx.execute("INSERT INTO contract VALUES ('d', 'draft', 0)").rowcount)
        port, machine = slow_machine(db)
        for contract in ("c", "d"):  # decided, but the process died before it acted
            await db.write(lambda tx, contract=contract: machine.step(tx, contract, E.ACCEPT))  # type: ignore[misc]
        slow_round = asyncio.create_task(machine.recover())
        await port.entered.wait()
        await machine.recover()
        assert port.world.moves == ["d:1"]
        port.world.done.clear()  # as if d had been refused before anything began: it looks never seen
        port.release.set()
        await slow_round
        assert sorted(port.world.moves) == ["c:1", "d:1"]


async def test_an_outcome_that_comes_after_the_subject_moved_on_is_dropped() -> None:
    hasty = {**ESCROW, (S.FUNDING, E.EXPIRED): Step[S, Fx](S.DEAD)}
    async with opened() as db, asyncio.timeout(60):
        port, machine = slow_machine(db, hasty)
        call = asyncio.create_task(machine.fire("c", E.ACCEPT))
        await port.entered.wait()
        await machine.fire("c", E.EXPIRED)
        port.release.set()
        await call
        assert (await state(db), await open_keys(db)) == (S.DEAD, [])


class BrokenPort(WorldPort):
    async def run(self, intent: Intent[Fx]) -> Outcome[E] | None:
        raise RuntimeError("a bug")

    probe = run


async def test_a_broken_port_is_logged_and_does_not_stop_the_recovery_of_others() -> None:
    async with opened() as db:
        await db.write(lambda tx: tx.execute("INSERT INTO contract VALUES ('d', 'active', 1)").rowcount)
        lines: list[tuple[str, str, object]] = []

        def log(level: str, event: str, **fields: object) -> None:
            lines.append((level, event, fields["key"]))

        ports = {Fx.LOCK: BrokenPort(World()), Fx.PAY: WorldPort(World()), Fx.REFUND: WorldPort(World())}
        ports[Fx.PAY].world.purse["escrow"] = AMOUNT_SAT
        machine = Machine(ESCROW, db, ContractRows(), ports, log=log)
        with pytest.raises(RuntimeError, match="a bug"):
            await machine.fire("c", E.ACCEPT)
        await db.write(lambda tx: machine.step(tx, "d", E.PROVEN))
        await machine.recover()
        assert lines == [("error", "intent_failed", "c:1")]
        assert await db.read(lambda tx: ContractRows().load(tx, "d").state) is S.PAID


async def test_rows_of_record_and_announce_share_the_fate_of_their_step() -> None:
    async with opened() as db:
        announced: list[tuple[S, E, S]] = []

        def announce(tx: Tx, before: Subject[S], event: E, step: Step[S, Fx]) -> None:
            announced.append((before.state, event, step.to))
            if event is E.PROVEN:
                raise LookupError("the outbox is full")

        def record(tx: Tx) -> None:
            tx.execute("INSERT INTO history VALUES ('note', 0, 'x', 'y')")

        port = WorldPort(World())
        machine = Machine(ESCROW, db, ContractRows(), dict.fromkeys(Fx, port), log=silent, announce=announce)
        await machine.fire("c", E.ACCEPT, record)
        with pytest.raises(LookupError):
            await machine.fire("c", E.PROVEN)
        assert announced[:2] == [(S.DRAFT, E.ACCEPT, S.FUNDING), (S.FUNDING, E.LOCK_OK, S.ACTIVE)]
        assert await state(db) is S.ACTIVE
        notes = await db.read(lambda tx: tx.execute("SELECT count(*) FROM history").fetchone()[0])
        assert notes == 3


async def test_a_machine_without_a_port_for_an_effect_is_refused_at_once() -> None:
    async with opened() as db:
        with pytest.raises(ValueError, match="no port for lock, refund"):
            Machine(ESCROW, db, ContractRows(), {Fx.PAY: WorldPort(World())}, log=silent)


def test_the_table_of_this_test_is_sound() -> None:
    assert problems(ESCROW, initial={S.DRAFT}, final=FINAL, outcomes=OUTCOMES) == []
