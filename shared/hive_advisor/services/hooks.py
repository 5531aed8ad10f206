"""The operator's program that is told of every event (docs/protocol/11-advisor-kit.md §13, decision 0474).

At least once and in order: the cursor moves when the program ended well. One that fails, hangs or is not
there is tried again later; it holds up nothing but itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec
from hive_shared.store import Db, Tx
from msgspec.structs import asdict, replace

from hive_advisor.domain.cleaning import clean_value
from hive_advisor.domain.rows import Event, event_row
from hive_advisor.services.events import EventService
from hive_advisor.services.ports import ClientRows, RecordRows

FAILING: Final = "hook_failing"
WORKING: Final = "hook_working"
_STATE: Final = "hook"
_PAUSES_S: Final = (10, 30, 60, 300, 900)
_LOOK_S: Final = 0.5


class Program(Protocol):
    """Runs the program once; None when it ended well, else what went wrong. Raises nothing."""

    async def run(self, body: bytes) -> str | None: ...


class HookState(msgspec.Struct, frozen=True):
    """``cursor`` is the last event it took. While it fails: how often in a row, since when, why, when next.
    ``failures`` counts all there ever were."""

    cursor: int
    failures: int = 0
    in_a_row: int = 0
    since: int = 0
    why: str = ""
    next_at: int = 0


class HookService:
    """Tells the program. Without one, it does nothing and keeps its place."""

    def __init__(
        self,
        db: Db,
        rows: ClientRows,
        records: RecordRows,
        events: EventService,
        program: Program | None,
        *,
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._records, self._events = db, rows, records, events
        self._program, self._now = program, now

    async def work(self) -> None:
        """Tell of events as they come, until cancelled."""
        while self._program is not None:
            await self.deliver()
            await asyncio.sleep(_LOOK_S)

    async def deliver(self) -> int:
        """Tell of every event that waits, up to the first that the program does not take; how many it took.

        The first call of all begins with what happens from then on.
        """
        program = self._program
        if program is None:
            return 0
        state = await self._db.write(self._begun)
        if state.in_a_row and self._now() < state.next_at:
            return 0
        taken = 0
        async for event in self._events.stream(state.cursor, once=True):
            why = await program.run(_body(event))
            if why is not None:
                await self._failed(state, why)
                return taken
            state = await self._took(state, event.cursor)
            taken += 1
        return taken

    async def standing(self) -> dict[str, Any] | None:
        """How it does, for people; None without a program."""
        if self._program is None:
            return None
        state = await self._db.read(self._state)
        newest = await self._events.newest()
        if state is None:
            return {"waiting": 0, "failures": 0}
        shown: dict[str, Any] = {"waiting": max(0, newest - state.cursor), "failures": state.failures}
        if state.in_a_row:
            shown |= {"failing_since": state.since, "why": state.why, "next_at": state.next_at}
        return shown

    async def _took(self, state: HookState, cursor: int) -> HookState:
        after = replace(state, cursor=cursor, in_a_row=0, since=0, why="", next_at=0)

        def body(tx: Tx) -> None:
            self._keep(tx, after)
            if state.in_a_row:
                text = f"took event {cursor} after {state.in_a_row} failures"
                self._records.add_event(tx, WORKING, "", text, self._now())

        await self._db.write(body)
        return after

    async def _failed(self, state: HookState, why: str) -> None:
        now = self._now()
        pause = _PAUSES_S[min(state.in_a_row, len(_PAUSES_S) - 1)]
        after = replace(
            state,
            failures=state.failures + 1,
            in_a_row=state.in_a_row + 1,
            since=state.since or now,
            why=why,
            next_at=now + pause,
        )

        def body(tx: Tx) -> None:
            self._keep(tx, after)
            if not state.in_a_row:
                self._records.add_event(tx, FAILING, "", why, now)

        await self._db.write(body)

    def _begun(self, tx: Tx) -> HookState:
        """The state there is. In an older copy of the profile the cursor may be ahead of it."""
        newest = self._records.event_span(tx)[1]
        state = self._state(tx)
        if state is None or state.cursor > newest:
            state = HookState(newest) if state is None else replace(state, cursor=newest)
            self._keep(tx, state)
        return state

    def _state(self, tx: Tx) -> HookState | None:
        text = self._rows.meta(tx, _STATE)
        return None if text is None else HookState(**json.loads(text))

    def _keep(self, tx: Tx, state: HookState) -> None:
        self._rows.set_meta(tx, _STATE, json.dumps(asdict(state)))


def _body(event: Event) -> bytes:
    return json.dumps(clean_value(event_row(event)), ensure_ascii=False).encode() + b"\n"
