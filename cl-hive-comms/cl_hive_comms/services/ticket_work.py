"""Commands that are paid by an item of an escrow ticket: checked at step 15, the item's with the `executing`
row, its preimage given out with the receipt of success (docs/protocol/02-fleet-management.md §7.1, §8;
03 §6.6 steps 5 to 9, §6.7).

What is judged here is whether the command is the task of the item; what becomes of the item and its locks is
`hive_shared.cashu.escrow_work`, in the pipeline's own transactions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cashu.escrow_rows import EscrowRows, ItemRow, Side, TicketRow
from hive_shared.cashu.escrow_work import EscrowWork
from hive_shared.cashu.terms import Mode, TicketType, task_params_hash
from hive_shared.cashu.ticket_machine import PayerItem
from hive_shared.cashu.windows import MOST_UNJUDGED
from hive_shared.errors import HiveError, PaymentFailed, from_symbol
from hive_shared.store import Tx

from ..domain.command_machine import State
from ..domain.compensation import FAILED, RELEASED, RESERVED, Reward, earned, invalid
from ..domain.payment_choice import ESCROW
from .access_fees import Priced
from .command_case import WAITING, Case
from .credential_lineage import lineage
from .executors.action import Outcome
from .item_judge import judge_of
from .ports_commands import CommandRows, Credentials, Database

_TICKET: Final = re.compile(r"[0-9a-f]{32}")
_HOLDING: Final = (*WAITING, State.EXECUTING, State.PENDING_EXTERNAL)
_LOCK_STATE: Final = {RELEASED: "released", FAILED: "failed"}


class TicketWork:
    """Judges claims by tickets and moves their items. `node_id` is this node's."""

    def __init__(
        self,
        *,
        db: Database,
        rows: EscrowRows,
        work: EscrowWork,
        commands: CommandRows,
        credentials: Credentials,
        node_id: str,
    ) -> None:
        self._db, self._rows, self._work = db, rows, work
        self._commands, self._credentials, self._node_id = commands, credentials, node_id

    # -- step 15 ------------------------------------------------------------------------------------------

    async def check(self, case: Case, asked: Priced) -> Reward:
        """The item that a command claims, which is free for it. Takes nothing yet.

        Raises PaymentFailed: payment_invalid for a ticket that is not this agent's or not for this command,
        or an item that pays nothing now; payment_replayed for one that another command has.
        """
        ticket_id, number = _claimed(case.command.payment_proof)
        ticket = self._db.peek(lambda tx: self._rows.ticket(tx, ticket_id))
        # Of another agent's ticket nobody learns that there is one.
        if ticket is None or ticket.role is not Side.PAYER or not self._is_payee(case, ticket):
            raise invalid(f"this node holds no ticket {ticket_id} for you")
        terms = ticket.terms
        if self._node_id not in (terms.node_id, terms.verifier.node_id):
            raise invalid(f"ticket {ticket_id} is for work at another node")
        await self._check_credential(case, ticket)
        item = self._db.peek(lambda tx: self._free(tx, case, ticket, number))
        self._check_task(case, asked, ticket, item)
        if terms.danger < asked.danger.total:
            raise invalid(
                f"ticket {ticket_id} is for work of danger {terms.danger}, this command has"
                f" {asked.danger.total}; ask for another ticket",
                danger=asked.danger.total,
            )
        if terms.mode is not Mode.TASK and asked.danger.total > MOST_UNJUDGED:
            raise invalid(
                f"ticket {ticket_id} is of mode {terms.mode.value}, which is paid whatever comes of the work:"
                f" that is no escrow from danger {MOST_UNJUDGED + 1} on, this command has"
                f" {asked.danger.total}; ask for a ticket of mode task",
                danger=asked.danger.total,
            )
        return Reward(ESCROW, item.amount_sats, f"{ticket_id}:{number}")

    def _is_payee(self, case: Case, ticket: TicketRow) -> bool:
        return ticket.terms.payee.id in (case.sender, case.agent_id)

    async def _check_credential(self, case: Case, ticket: TicketRow) -> None:
        named = ticket.terms.credential_ref
        if not isinstance(named, str):
            return
        if named not in await lineage(self._credentials, case, named):
            raise invalid(f"ticket {ticket.ticket_id} is for work under credential {named}")

    def _free(self, tx: Tx, case: Case, ticket: TicketRow, number: int) -> ItemRow:
        item = self._rows.item(tx, ticket.ticket_id, number)
        if item is not None and item.command_id not in (None, case.command_id):
            raise _taken(ticket.ticket_id, number, str(item.command_id))
        if ticket.terms.type is TicketType.PERFORMANCE and number > 0:
            raise invalid(
                f"item {number} of ticket {ticket.ticket_id} is a bonus: it is measured, not worked for"
            )
        if item is not None and judge_of(item.cond) is not None:
            raise invalid(
                f"item {number} of ticket {ticket.ticket_id} is judged by a method of the operator, not by a"
                " command's result"
            )
        try:
            found = self._work.check_free(tx, ticket, number)
        except PaymentFailed as error:
            raise invalid(error.detail, check=error.symbol) from None
        # What waits for people has its item already, and so has what the node has not ended.
        for row in self._commands.open_of_advisor(tx, case.advisor_id, _HOLDING):
            held = json.loads(row.hold_json or "{}").get("judged", {}).get("reward") or {}
            if row.command_id != case.command_id and held.get("ref") == f"{ticket.ticket_id}:{number}":
                raise _taken(ticket.ticket_id, number, row.command_id)
        return found

    def _check_task(self, case: Case, asked: Priced, ticket: TicketRow, item: ItemRow) -> None:
        """The command is what the terms name: schema, action and parameters as the agent sent them, or as
        this node reads them (a reduction by people does not make it another task)."""
        command = case.command
        wanted = item.cond.get("task_params_hash", ticket.terms.task_params_hash)
        given = command.params if isinstance(command.params, dict) else {}
        names = ((command.schema_type, command.action), (asked.spec.schema, asked.spec.name))
        readings = (given, dict(asked.params))
        found = {task_params_hash(*name, params) for name in names for params in readings}
        if wanted not in found:
            raise invalid(
                f"item {item.i} of ticket {ticket.ticket_id} is for another task: its terms name"
                f" {str(wanted)[:80]}, this command is {task_params_hash(*names[0], given)}"
            )
        if ticket.terms.schema not in (command.schema_type, asked.spec.schema):
            raise invalid(f"ticket {ticket.ticket_id} is for {ticket.terms.schema}, not {asked.spec.schema}")

    # -- steps 17 and 20, inside the caller's transaction -------------------------------------------------

    def start(self, tx: Tx, case: Case, reward: Reward) -> None:
        """The command starts: the item is its own from now on. Raises PaymentFailed, Conflict."""
        ticket_id, number = _place(reward)
        ticket = self._rows.ticket(tx, ticket_id)
        if ticket is None:
            raise invalid(f"this node holds no ticket {ticket_id} for you")
        self._work.start(tx, self._free(tx, case, ticket, number), case.command_id)

    def state(self, outcome: Outcome) -> str:
        """What a receipt says of the item's money after this outcome."""
        if outcome.state in ("pending_external", "indeterminate"):
            return RESERVED
        return RELEASED if earned(outcome.state, acted=outcome.acted) else FAILED

    def doc(self, tx: Tx, reward: Reward, outcome: Outcome) -> dict[str, JsonValue] | None:
        """The `escrow` of the receipt (02 §9.1)."""
        ticket_id, number = _place(reward)
        ticket, item = self._rows.ticket(tx, ticket_id), self._rows.item(tx, ticket_id, number)
        if ticket is None or item is None:
            return None
        state = self.state(outcome)
        open_ = "unknown" if outcome.state == "indeterminate" else "executing"
        doc: dict[str, JsonValue] = {
            "ticket_id": ticket_id,
            "item": number,
            "terms_hash": ticket.terms_hash,
            "preimage_released": state == RELEASED and item.hash is not None and _ours(ticket),
            "lock_state": _LOCK_STATE.get(state, open_),
        }
        return doc if item.hash is None else {**doc, "hash": item.hash}

    def finish(
        self, tx: Tx, command_id: str, reward: Reward, outcome: Outcome, receipt_id: int
    ) -> str | None:
        """The outcome is receipted in this transaction: the item's step, and the preimage (hex) that its
        payee has earned."""
        ticket_id, number = _place(reward)
        item = self._rows.item(tx, ticket_id, number)
        if item is None or item.command_id != command_id or item.state is not PayerItem.EXECUTING:
            # Without a hash the payee may have spent it meanwhile; then nothing is left to give or to take.
            return None
        state = self.state(outcome)
        if state == RELEASED:
            secret = self._work.succeed(tx, item, str(receipt_id))
            return None if secret is None else secret.reveal().hex()
        if state == FAILED:
            self._work.fail(tx, item, str(receipt_id))
        elif outcome.state == "indeterminate":
            self._work.unknown(tx, item, str(receipt_id))
        return None

    def again(self, tx: Tx, command_id: str, case: Case) -> str | None:
        """The preimage (hex) that a command has earned, until 90 days after the locktime; None for any
        other, and for who asks and is not the ticket's payee."""
        item = self._rows.of_command(tx, command_id)
        if item is None or item.hash is None or item.released_at is None:
            return None
        ticket = self._rows.ticket(tx, item.ticket_id)
        if ticket is None or not self._is_payee(case, ticket):
            return None
        try:
            return self._work.preimage(tx, item).reveal().hex()
        except PaymentFailed:
            return None


def _claimed(proof: Mapping[str, Any]) -> tuple[str, int]:
    """The ticket and the number of the item that a proof names. Raises PaymentFailed."""
    ticket_id, item = proof.get("ticket_id"), proof.get("item")
    if not isinstance(ticket_id, str) or not _TICKET.fullmatch(ticket_id):
        raise invalid("payment_proof.ticket_id must be 32 lower-case hex characters")
    if not isinstance(item, int) or isinstance(item, bool) or item < 0:
        raise invalid("payment_proof.item must be the number of an item of the ticket, from 0")
    for name in proof:
        if name not in ("method", "ticket_id", "item"):
            raise invalid(f"payment_proof of {ESCROW} has an unknown field {name[:32]!a}")
    return ticket_id, item


def _place(reward: Reward) -> tuple[str, int]:
    ticket_id, _, number = reward.ref.partition(":")
    return ticket_id, int(number)


def _ours(ticket: TicketRow) -> bool:
    return ticket.terms.mode is Mode.TASK


def _taken(ticket_id: str, number: int, command_id: str) -> HiveError:
    return from_symbol(
        "payment_replayed", f"item {number} of ticket {ticket_id} pays for command {command_id} already"
    )
