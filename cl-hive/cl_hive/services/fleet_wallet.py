"""The wallet of cl-hive's tickets: that of cl-hive-comms, asked by `hive-comms-cashu-*`
(docs/protocol/03-escrow-and-payments.md §1).

A lock is written down before comms is asked for it, and what became of it is what comms says of it then,
never what an error seems to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final
from weakref import WeakValueDictionary

from hive_shared.cashu.escrow_disputes import OPEN_S
from hive_shared.cashu.escrow_ports import Database
from hive_shared.cashu.escrow_rows import TicketRow
from hive_shared.cashu.lock_machine import LockState, lock_id_of
from hive_shared.cashu.terms import share_locktime, terms_json
from hive_shared.errors import HiveError, NotFound, SiblingUnavailable
from hive_shared.store import Tx

from cl_hive.domain.fleet_escrow import OVER, FleetLock
from cl_hive.services.fleet_ports import Comms, LockRows

MOST_ASKED: Final = 512
"""Locks that one question names."""
ASK_EVERY_S: Final = 60
GIVEN_UP_S: Final = 900
"""A lock that comms does not know so long after it was asked for it (300 s at most) was never begun."""
WATCHED_S: Final = 93_600
"""How long one that failed is asked about: a mint may carry out late what was given up."""
ENDED_EVERY_S: Final = 3_600
"""Between two questions about one that ended, as long as its ticket can be disputed: what an agent says of it
is signalled, but a signal may be lost."""
_DAY_S: Final = 86_400
_NEVER: Final = 9_999_999_999
_SLACK_S: Final = 15.0

OnLock = Callable[[Tx, FleetLock], None]
"""`on_lock(tx, lock)`: told of every lock that is new or has moved, inside the transaction."""


class FleetLocks:
    """Locks of tickets that cl-hive pays. `follow` is told of them."""

    def __init__(self, db: Database, rows: LockRows, comms: Comms, now: Callable[[], int]) -> None:
        self._db, self._rows, self._comms, self._now = db, rows, comms, now
        self._followers: list[OnLock] = []
        self._turns = WeakValueDictionary[str, asyncio.Lock]()

    def follow(self, follower: OnLock) -> None:
        """Tell `follower` of every lock that is new or has moved."""
        self._followers.append(follower)

    # -- what the engine asks for ----------------------------------------------------------------------

    async def lock(self, ticket: TicketRow, timeout: float) -> None:
        """Have every share of a ticket locked out of the budget `fleet`; the same ticket again is the same.

        Raises comms' refusal with nothing locked; SiblingUnavailable where what became of it is not known
        yet: it shows when comms is there again.
        """
        turn = self._turns.setdefault(ticket.ticket_id, asyncio.Lock())
        async with turn:
            planned = await self._db.write(lambda tx: self._planned(tx, ticket))
            order = {
                "kind": "ticket",
                "terms": terms_json(ticket.terms),
                "budget": "fleet",
                "idempotency_key": f"ticket:{ticket.ticket_id}",
                "timeout": max(1, min(int(timeout), 300)),
            }
            try:
                answer = await self._comms.call("hive-comms-cashu-lock", order, timeout + _SLACK_S)
            except SiblingUnavailable:
                raise
            except HiveError as refused:
                # Its call has ended: what it does not know of now was never begun.
                await self._ask([row.lock_id for row in planned], gone=f"{refused.symbol}: {refused.detail}")
                raise
            await self._heard(answer.get("locks", ()))

    async def refund(self, lock_ids: Sequence[str], timeout: float) -> None:
        """Take back what is due. Raises PaymentFailed(`too_early`), SiblingUnavailable."""
        for part in _parts(lock_ids):
            params = {"lock_ids": part, "timeout": max(1, min(int(timeout), 300))}
            answer = await self._comms.call("hive-comms-cashu-refund", params, timeout + _SLACK_S)
            await self._heard(answer.get("locks", ()))

    def refund_due(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """These are about to be asked back: from here on they pay no new task."""
        now = self._now()
        for lock_id in lock_ids:
            row = self._rows.note(tx, lock_id, LockState.REFUNDABLE, now, now + ASK_EVERY_S)
            if row is not None and row.state is LockState.REFUNDABLE:
                self._tell(tx, row)

    async def look(self, lock_ids: Sequence[str]) -> None:
        """Have comms ask the mints about these now."""
        for part in _parts(lock_ids):
            answer = await self._comms.call("hive-comms-cashu-state", {"lock_ids": part}, 60.0)
            await self._heard(answer.get("locks", ()))

    async def tokens(self, lock_ids: Sequence[str]) -> dict[str, str]:
        """The tokens of locks of one ticket, by lock: they are with comms and go into a message at once."""
        found: dict[str, str] = {}
        for part in _parts(lock_ids):
            params = {"lock_ids": part, "ask": False, "tokens": True}
            answer = await self._comms.call("hive-comms-cashu-state", params)
            for row in answer.get("locks", ()):
                if isinstance(row.get("token"), str):
                    found[str(row["lock_id"])] = row["token"]
        return found

    # -- what the engine reads -------------------------------------------------------------------------

    def of_terms(self, tx: Tx, terms_hash: str) -> Sequence[FleetLock]:
        """All locks of a ticket that we pay."""
        return [row for row in self._rows.of_terms(tx, terms_hash) if row.role == "payer"]

    def states(self, tx: Tx, lock_ids: Sequence[str]) -> Sequence[LockState]:
        """Where these stand."""
        return [row.state for lock_id in lock_ids if (row := self._rows.get(tx, lock_id)) is not None]

    def delivered(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """Nothing is to be noted: comms asks the mint about all that are locked."""

    def held(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """Nothing is to be noted: comms takes back for us only what we ask back."""

    def unheld(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """Nothing is to be noted, as for `held`."""

    def released(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """Nothing is to be noted: the item says when it was released."""

    def tell_again(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """Tell once more where these stand."""
        for lock_id in lock_ids:
            if (row := self._rows.get(tx, lock_id)) is not None:
                self._tell(tx, row)

    # -- what comms says -------------------------------------------------------------------------------

    async def refresh(self) -> list[Mapping[str, Any]]:
        """Ask comms about everything that is due; what agents answered about these tickets.

        Raises SiblingUnavailable.
        """
        now = self._now()
        due = await self._db.read(lambda tx: self._rows.due(tx, now, MOST_ASKED))
        found: list[Mapping[str, Any]] = []
        by_ticket: dict[str, list[FleetLock]] = {}
        for row in due:
            by_ticket.setdefault(row.ticket_id, []).append(row)
        for rows in by_ticket.values():
            gone = ""
            if all(row.created_at + GIVEN_UP_S <= now for row in rows):
                gone = "mint_unavailable: the call ended before anything was locked"
            found += await self._ask([row.lock_id for row in rows], gone=gone)
        return found

    async def hinted(self, lock_ids: Sequence[str]) -> None:
        """Ask about these the next time."""
        await self._db.write(lambda tx: self._rows.look_now(tx, lock_ids))

    async def _ask(self, lock_ids: Sequence[str], *, gone: str) -> list[Mapping[str, Any]]:
        """Read comms' books. `gone`: why locks that it does not know were never made; "" where a call for
        them may still be on its way."""
        answers: list[Mapping[str, Any]] = []
        for part in _parts(lock_ids):
            try:
                told = await self._comms.call("hive-comms-cashu-state", {"lock_ids": part, "ask": False})
            except NotFound:
                await self._db.write(partial(self._unknown, lock_ids=part, gone=gone))
                continue
            rows = told.get("locks", ())
            await self._heard(rows)
            answers += [each for row in rows for each in row.get("answers", ())]
        return answers

    def _unknown(self, tx: Tx, *, lock_ids: Iterable[str], gone: str) -> None:
        now = self._now()
        for lock_id in lock_ids:
            row = self._rows.get(tx, lock_id)
            if row is None:
                continue
            if row.state in OVER:
                self._rows.put_off(tx, lock_id, _NEVER)
                continue
            if row.state is not LockState.PLANNED or not gone:
                self._rows.note(tx, lock_id, row.state, now, now + ASK_EVERY_S, row.error)
                continue
            after = self._rows.note(tx, lock_id, LockState.FAILED, now, _NEVER, gone[:500])
            if after is not None:
                self._tell(tx, after)

    async def _heard(self, rows: Iterable[Mapping[str, Any]]) -> None:
        said = [
            (str(row["lock_id"]), LockState(str(row["state"])), str(row.get("error", ""))) for row in rows
        ]

        def body(tx: Tx) -> None:
            for lock_id, state, error in said:
                self._note(tx, lock_id, state, error)

        if said:
            await self._db.write(body)

    def _note(self, tx: Tx, lock_id: str, state: LockState, error: str) -> None:
        now, before = self._now(), self._rows.get(tx, lock_id)
        if before is None:
            return
        if before.state in OVER:
            heard = before.locktime + OPEN_S + _DAY_S < now
            self._rows.put_off(tx, lock_id, _NEVER if heard else now + ENDED_EVERY_S)
            return
        next_at = now + ASK_EVERY_S
        if state is LockState.FAILED and before.created_at + WATCHED_S <= now:
            next_at = _NEVER
        after = self._rows.note(tx, lock_id, state, now, next_at, error)
        if after is None or before.state is state:
            return
        self._tell(tx, after)
        if before.state is LockState.PLANNED and state is not LockState.LOCKED:
            # The item took the first step of several: now the rest.
            self._tell(tx, after)

    def _planned(self, tx: Tx, ticket: TicketRow) -> list[FleetLock]:
        known = self.of_terms(tx, ticket.terms_hash)
        if known:
            return list(known)
        now, terms, found = self._now(), ticket.terms, []
        for item in range(len(terms.items)):
            for share in range(len(terms.mints)):
                row = FleetLock(
                    lock_id_of(ticket.terms_hash, item, share, "payer"),
                    ticket.ticket_id,
                    ticket.terms_hash,
                    item,
                    share,
                    "payer",
                    share_locktime(terms, item, share),
                    LockState.PLANNED,
                    now + ASK_EVERY_S,
                    now,
                    now,
                )
                self._rows.add(tx, row)
                self._tell(tx, row)
                found.append(row)
        return found

    def _tell(self, tx: Tx, row: FleetLock) -> None:
        for follower in self._followers:
            follower(tx, row)


def _parts(lock_ids: Sequence[str]) -> Iterable[list[str]]:
    return (list(lock_ids[at : at + MOST_ASKED]) for at in range(0, len(lock_ids), MOST_ASKED))
