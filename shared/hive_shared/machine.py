"""The one way state machines are written: a table, one transaction per step, effects after commit.

A table maps `(state, event)` to a `Step`: the new state and at most one effect, the one that decides
what comes next. `Machine.fire` stores state, history and the intended effect in one transaction and
only then acts; the effect's outcome comes back as an event. After a crash `recover` asks the outside
world what became of every open intent, so nothing is repeated blindly and nothing is forgotten.

What happens when the process dies:

| dies                                | found at the next start            | what recover does             |
|-------------------------------------|------------------------------------|-------------------------------|
| before the step commits             | old state, no intent               | nothing: the event was lost   |
| after the commit, before the effect | new state, open intent             | probe says NeverSeen, so run  |
| during or after the effect          | new state, open intent             | probe gives the outcome       |
| the outcome is not known yet        | new state, open intent             | waits: None is not "failed"   |
| after the outcome commits           | next state, intent closed          | nothing                       |
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import Final, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec

from .errors import Conflict
from .store import Db, Tx

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)
F = TypeVar("F", bound=StrEnum)
E_contra = TypeVar("E_contra", bound=StrEnum, contravariant=True)

MAX_RECOVERED: Final = 1_000
"""Open intents one `recover` round looks at; it runs every minute, so a larger backlog takes rounds."""


class Step(NamedTuple, Generic[S, F]):
    """Where an event leads, and the effect that is intended from then on."""

    to: S
    do: F | None = None


Table: TypeAlias = Mapping[tuple[S, E], Step[S, F]]


class Subject(msgspec.Struct, Generic[S], frozen=True):
    """A row that has a state. `seq` counts its transitions and makes every intent's key unique."""

    id: str
    state: S
    seq: int


class Intent(msgspec.Struct, Generic[F], frozen=True):
    """An effect that was decided but whose outcome is not settled. `key` is its idempotency key."""

    key: str
    subject: str
    effect: F


class Outcome(msgspec.Struct, Generic[E], frozen=True):
    """What an effect led to: the event, and rows that join the transaction in which it is applied."""

    event: E
    record: Callable[[Tx], None] | None = None


class EventRejected(Conflict):
    """The subject's state has no row for this event; nothing was changed."""

    def __init__(self, subject: str, state: StrEnum, event: StrEnum) -> None:
        super().__init__(
            f"{subject} is {state.value.lower()}, which does not take {event.value.lower()}",
            reason="stale_state",
            data={"state": state.value, "event": event.value},
        )


class NeverSeen(Exception):
    """Raised by `Port.probe`: the effect certainly never began, so it may be run."""


class PortUnavailable(Exception):
    """Raised by a port: the outside world cannot be asked now; the intent stays open."""


class Port(Protocol[E, F]):
    """How one effect is carried out. None means "cannot tell yet", never "failed".

    A port stores the external id of what it does (payment hash, event id) under the intent's key before
    it acts, so that `probe` can ask by it. Both calls carry their own deadlines.
    """

    async def run(self, intent: Intent[F]) -> Outcome[E] | None:
        """Carry the effect out; running it again under the same key must not repeat it."""

    async def probe(self, intent: Intent[F]) -> Outcome[E] | None:
        """Ask what became of it. May raise NeverSeen."""


class Rows(Protocol[S, E_contra, F]):
    """The storage a machine needs; every method runs inside the caller's transaction."""

    def load(self, tx: Tx, subject: str) -> Subject[S]:
        """The subject's current state. Raises errors.NotFound."""

    def move(self, tx: Tx, subject: Subject[S], to: S, event: E_contra) -> None:
        """Set the new state and `seq + 1` WHERE id, state and seq are still these; append history."""

    def open_intent(self, tx: Tx, intent: Intent[F]) -> None:
        """Insert the intent; its key is unique."""

    def close_intent(self, tx: Tx, subject: str) -> None:
        """Close the subject's open intent, if it has one."""

    def is_open(self, tx: Tx, key: str) -> bool:
        """Whether the intent of this key is still unsettled."""

    def open_intents(self, tx: Tx, limit: int) -> Sequence[Intent[F]]:
        """The oldest unsettled intents."""


class Log(Protocol):
    """One structured log line; the plugin's own `log`."""

    def __call__(self, level: str, event: str, /, **fields: object) -> None:
        """Write the line."""


Announce: TypeAlias = Callable[[Tx, Subject[S], E, Step[S, F]], None]
"""Adds what a transition announces (outbox rows, receipts, alerts) to the transition's transaction."""


class Machine(Generic[S, E, F]):
    """Applies events of one table to the subjects of one store, and carries out the effects."""

    def __init__(
        self,
        table: Table[S, E, F],
        db: Db,
        rows: Rows[S, E, F],
        ports: Mapping[F, Port[E, F]],
        *,
        log: Log,
        announce: Announce[S, E, F] | None = None,
    ) -> None:
        missing = {step.do for step in table.values() if step.do is not None} - set(ports)
        if missing:
            raise ValueError(f"no port for {', '.join(sorted(missing))}")
        self._table = table
        self._db = db
        self._rows = rows
        self._ports = ports
        self._log = log
        self._announce = announce
        self._busy: set[str] = set()

    async def fire(self, subject: str, event: E, record: Callable[[Tx], None] | None = None) -> None:
        """Apply `event`, then carry out the effect it intends and whatever follows from its outcome.

        `record` writes further rows in the same transaction. Raises EventRejected when the state does
        not take the event, errors.NotFound for an unknown subject; then nothing was written.
        """
        intent = await self._db.write(lambda tx: self.step(tx, subject, event, record))
        if intent is not None:
            await self.act(intent)

    def step(
        self,
        tx: Tx,
        subject: str,
        event: E,
        record: Callable[[Tx], None] | None = None,
    ) -> Intent[F] | None:
        """Apply `event` inside the caller's transaction; returns the intent to `act` on after commit."""
        before = self._rows.load(tx, subject)
        step = self._table.get((before.state, event))
        if step is None:
            raise EventRejected(subject, before.state, event)
        self._rows.close_intent(tx, subject)
        self._rows.move(tx, before, step.to, event)
        if record is not None:
            record(tx)
        if self._announce is not None:
            self._announce(tx, before, event, step)
        if step.do is None:
            return None
        intent = Intent(f"{subject}:{before.seq + 1}", subject, step.do)
        self._rows.open_intent(tx, intent)
        return intent

    async def act(self, intent: Intent[F]) -> None:
        """Carry out a committed intent. Errors of the port come out; the intent stays open for recover."""
        await self._settle(intent, probe=False)

    async def recover(self) -> None:
        """Settle what is open: at start, before new work is taken, and every minute after.

        A port that fails is logged and does not keep the others from being asked.
        """
        for intent in await self._db.read(lambda tx: self._rows.open_intents(tx, MAX_RECOVERED)):
            try:
                await self._settle(intent, probe=True)
            except Exception as err:
                self._log("error", "intent_failed", key=intent.key, effect=intent.effect, error=repr(err))

    async def _settle(self, intent: Intent[F], *, probe: bool) -> None:
        if intent.key in self._busy:
            return  # somebody is asking already; a second one could pay twice
        self._busy.add(intent.key)
        try:
            # The list that recover works through ages while it asks: what was settled since must not
            # be probed, because an effect that was refused before it began looks "never seen".
            if probe and not await self._db.read(lambda tx: self._rows.is_open(tx, intent.key)):
                return
            outcome = await self._ask(intent, probe)
            following = None if outcome is None else await self._apply(intent, outcome)
        except PortUnavailable as err:
            self._log("warning", "intent_left_open", key=intent.key, effect=intent.effect, error=str(err))
            return
        finally:
            self._busy.discard(intent.key)
        if following is not None:
            await self.act(following)

    async def _ask(self, intent: Intent[F], probe: bool) -> Outcome[E] | None:
        port = self._ports[intent.effect]
        if probe:
            try:
                return await port.probe(intent)
            except NeverSeen:
                pass  # it never began, so running it now is the first time
        return await port.run(intent)

    async def _apply(self, intent: Intent[F], outcome: Outcome[E]) -> Intent[F] | None:
        def body(tx: Tx) -> Intent[F] | None:
            if not self._rows.is_open(tx, intent.key):
                return None  # another event has moved the subject on; this outcome is no longer asked for
            return self.step(tx, intent.subject, outcome.event, outcome.record)

        return await self._db.write(body)


def mermaid(table: Table[S, E, F]) -> str:
    """The table as a Mermaid state diagram, in the table's own order; edges are `event / effect`."""
    sources = {state for state, _ in table}
    targets = {step.to for step in table.values()}
    lines = ["stateDiagram-v2"]
    for first in dict.fromkeys(state for state, _ in table):
        if first not in targets:
            lines.append(f"    [*] --> {first.name}")
    for (state, event), step in table.items():
        effect = f" / {step.do.name}" if step.do is not None else ""
        lines.append(f"    {state.name} --> {step.to.name}: {event.name}{effect}")
    for last in dict.fromkeys(step.to for step in table.values()):
        if last not in sources:
            lines.append(f"    {last.name} --> [*]")
    return "\n".join(lines) + "\n"


def problems(
    table: Table[S, E, F],
    *,
    initial: Collection[S],
    final: Collection[S],
    outcomes: Mapping[F, Collection[E]],
) -> list[str]:
    """What is wrong with a table, as sentences; empty when it is sound. For the tables' unit tests.

    Sound: every state of the enumeration is reachable, final states have no exit and all others have
    one, and a state with an effect is left only by that effect's outcomes, each of which it takes.
    """
    states = type(next(iter(initial)))
    found = [f"{state.name} is never reached" for state in states if state not in _reached(table, initial)]
    sources = {state for state, _ in table}
    for state in states:
        if state in final and state in sources:
            found.append(f"{state.name} is final and has an exit")
        if state not in final and state not in sources:
            found.append(f"{state.name} is not final and has no exit")
    entered_by: dict[S, set[F | None]] = {state: {None} for state in initial}
    for step in table.values():
        entered_by.setdefault(step.to, set()).add(step.do)
    for state, effects in entered_by.items():
        found += _effect_problems(table, state, effects, outcomes)
    return found


def _reached(table: Table[S, E, F], initial: Collection[S]) -> set[S]:
    reached: set[S] = set()
    frontier = list(initial)
    while frontier:
        state = frontier.pop()
        if state not in reached:
            reached.add(state)
            frontier += [step.to for (source, _), step in table.items() if source is state]
    return reached


def _effect_problems(
    table: Table[S, E, F], state: S, effects: set[F | None], outcomes: Mapping[F, Collection[E]]
) -> list[str]:
    if effects == {None}:
        return []
    if None in effects:
        return [f"{state.name} is entered with an effect and without one"]
    exits = {event for source, event in table if source is state}
    found = []
    expected: set[E] = set()
    for effect in sorted(effect for effect in effects if effect is not None):
        expected |= set(outcomes.get(effect, ()))
        missing = [event.name for event in outcomes.get(effect, ()) if event not in exits]
        if missing:
            found.append(f"{state.name} does not take {', '.join(missing)} of {effect.name}")
    foreign = sorted(event.name for event in exits - expected)
    if foreign:
        found.append(f"{state.name} has an effect under way and is left by {', '.join(foreign)}")
    return found
