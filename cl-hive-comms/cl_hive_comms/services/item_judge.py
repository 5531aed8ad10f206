"""Judges of items: `cond.verify_rpc` names a method of this node that says whether the work was done
(docs/protocol/03-escrow-and-payments.md §6.1).

The item is committed as being judged before the method is called, the verdict with its receipt after it. What
is not a clear verdict leaves the item to the operator; nothing is released by it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Annotated, Any, Final, Protocol

import msgspec
from hive_shared.canonical import JsonValue, encode
from hive_shared.cashu.escrow_rows import ItemRow, TicketRow
from hive_shared.cashu.ticket_machine import PayerItem
from hive_shared.cln import ClnError
from hive_shared.crypto import sha256
from hive_shared.errors import ConfirmationRequired, Conflict, InvalidParams, NotFound
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Tx

from .item_ends import ItemPorts, Verdict
from .ports_identity import Log

COND: Final = "verify_rpc"
_MARK: Final = "judge:"
_MOST_EVIDENCE: Final = 65_536
_PAGE: Final = 5_000
_HASH: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")


class JudgingNode(Protocol):
    """The node that serves the judges' methods."""

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, timeout: float = 30.0
    ) -> dict[str, Any]:
        """Raises ClnError."""
        ...


class _Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a judge answers, read strictly."""

    success: bool
    evidence_hash: Annotated[str, msgspec.Meta(pattern=_HASH.pattern)]


def judge_of(cond: Mapping[str, Any]) -> str | None:
    """The method that judges an item of this condition; None for an item without."""
    named = cond.get(COND)
    return named if isinstance(named, str) else None


def check_judges(conds: Iterable[Mapping[str, Any]], allowed: Collection[str], *, own_command: bool) -> None:
    """What a new ticket's items name as judges. Raises InvalidParams for a method that the operator did not
    allow, for a bonus, which is measured, and for a command of this node, whose result judges it."""
    for i, cond in enumerate(conds):
        if COND not in cond:
            continue
        named, problem = judge_of(cond), ""
        if named is None or named not in allowed:
            problem = (
                f"cond.{COND} {str(cond[COND])[:64]!a} is none of hive-comms-escrow-verify-methods"
                f" ({', '.join(sorted(allowed)) or 'which is empty'})"
            )
        elif "metric" in cond:
            problem = f"a bonus is measured: leave out either cond.metric or cond.{COND}"
        elif own_command:
            problem = f"the result of this node's own command judges it: leave out cond.{COND}"
        if problem:
            raise InvalidParams(f"item {i}: {problem}", data={"param": "items", "item": i})


class ItemJudge:
    """Asks the judges. `allowed` are the operator's methods."""

    def __init__(
        self, items: ItemPorts, node: JudgingNode, allowed: Callable[[], Collection[str]], log: Log
    ) -> None:
        self._db, self._rows, self._work, self._ends = items.db, items.rows, items.work, items.ends
        self._mail, self._notices = items.mail, items.notices
        self._node, self.allowed, self._alone = node, allowed, RowByRow(log)
        self._asking: set[tuple[str, int]] = set()

    async def ask(
        self, ticket: TicketRow, i: int, evidence: Mapping[str, JsonValue], timeout: float
    ) -> ItemRow:
        """Have an item judged: released, or failed.

        Raises ConfirmationRequired where there is no clear verdict within `timeout` seconds: the item is
        `unknown` then and waits for the operator. PaymentFailed, Conflict for one that cannot be judged now,
        InvalidParams.
        """
        given = encode(dict(evidence))
        if len(given) > _MOST_EVIDENCE:
            raise InvalidParams(
                f"the evidence in result is {len(given)} bytes, a judge is given at most {_MOST_EVIDENCE}",
                data={"param": "result"},
            )
        place = (ticket.ticket_id, i)
        if place in self._asking:
            raise Conflict(f"item {i} of ticket {ticket.ticket_id} is being judged", reason="stale_state")
        self._asking.add(place)
        try:
            item, method = await self._db.write(lambda tx: self._begin(tx, ticket, i))
            answer = await self._heard(method, ticket, i, evidence, timeout)
            sent = "sha256:" + sha256(given).hex()
            done = await self._db.write(lambda tx: self._end(tx, ticket, item, method, sent, answer))
        finally:
            self._asking.discard(place)
        self._mail.kick()
        if isinstance(answer, str):
            raise ConfirmationRequired(
                f"{method} gave no verdict on item {i}: {answer}; judge it yourself with success= and"
                " confirm=true, or ask again",
                data={"judge": method, "item": i},
            )
        return done

    async def settle(self) -> None:
        """Items that a stop left without their verdict become `unknown`; the operator is told."""

        def left(tx: Tx) -> list[ItemRow]:
            return [
                item
                for item in self._rows.items_in(tx, [PayerItem.EXECUTING], _PAGE)
                if item.command_id == _command(item.ticket_id, item.i)
                and (item.ticket_id, item.i) not in self._asking
            ]

        def body(tx: Tx, item: ItemRow) -> None:
            ticket = self._rows.ticket(tx, item.ticket_id)
            current = self._rows.item(tx, item.ticket_id, item.i)
            if ticket is None or current != item or (item.ticket_id, item.i) in self._asking:
                return
            self._leave(tx, ticket, item, "the plugin stopped before its judge had answered")

        with self._alone.round("items being judged") as alone:
            for item in await self._db.read(left):
                with alone(f"{item.ticket_id}:{item.i}"):
                    await self._db.write(partial(body, item=item))

    # -- inside ----------------------------------------------------------------------------------------

    def _begin(self, tx: Tx, ticket: TicketRow, i: int) -> tuple[ItemRow, str]:
        item = self._rows.item(tx, ticket.ticket_id, i)
        if item is None:
            raise NotFound(f"ticket {ticket.ticket_id} has no item {i}", data={"item": i})
        method = judge_of(item.cond)
        if method is None or method not in self.allowed():
            raise ConfirmationRequired(
                f"{method} is not among hive-comms-escrow-verify-methods any more: judge item {i} yourself"
                " with success= and confirm=true, or name the method there again",
                data={"judge": method, "item": i},
            )
        if item.state is not PayerItem.UNKNOWN:
            free = self._work.check_free(tx, ticket, i)
            item = self._work.start(tx, free, _command(ticket.ticket_id, i))
        return item, method

    async def _heard(
        self, method: str, ticket: TicketRow, i: int, evidence: Mapping[str, JsonValue], timeout: float
    ) -> _Answer | str:
        """The verdict, or why there is none."""
        asked: dict[str, object] = {"ticket_id": ticket.ticket_id, "item": i, "evidence": dict(evidence)}
        try:
            answer = await self._node.call(method, asked, timeout=timeout)
        except ClnError as error:
            return f"{error.message[:200]} (code {error.code})"
        try:
            return msgspec.convert(answer, _Answer)
        except msgspec.ValidationError as error:
            return f"its answer is not {{success, evidence_hash}}: {str(error)[:160]}"

    def _end(
        self, tx: Tx, ticket: TicketRow, asked: ItemRow, method: str, sent: str, answer: _Answer | str
    ) -> ItemRow:
        item = self._rows.item(tx, asked.ticket_id, asked.i)
        if item is None or (item.state, item.command_id) != (asked.state, asked.command_id):
            raise Conflict(
                f"item {asked.i} was decided while {method} judged it: its verdict changed nothing",
                reason="stale_state",
            )
        if isinstance(answer, str):
            return self._leave(tx, ticket, item, f"{method} gave no verdict: {answer}")
        result: dict[str, JsonValue] = {
            "judge": method,
            "evidence_sent": sent,
            "evidence_hash": answer.evidence_hash,
        }
        return self._ends.end(tx, ticket, item, Verdict(answer.success, result, "refused_by_judge"))

    def _leave(self, tx: Tx, ticket: TicketRow, item: ItemRow, why: str) -> ItemRow:
        if item.state is PayerItem.EXECUTING:
            item = self._work.unknown(tx, item, None)
        self._notices.tell(tx, ticket, "unjudged", f"item {item.i} waits for your word: {why}")
        return item


def _command(ticket_id: str, i: int) -> str:
    return f"{_MARK}{ticket_id}:{i}"
