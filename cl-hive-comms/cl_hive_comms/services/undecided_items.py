"""Items of which nobody knows whether their task succeeded: settled by a receipt where there is one, else by
the operator, who is told what to do (docs/protocol/03-escrow-and-payments.md §6.7; docs/decisions/0635).

Such an item waits also while, and after, its money comes back: what it earned is then a debt.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Final, Protocol

from hive_shared.cashu.escrow_rows import ItemRow, TicketRow
from hive_shared.cashu.ticket_machine import PayerItem
from hive_shared.errors import PaymentFailed
from hive_shared.row_by_row import Alone, RowByRow
from hive_shared.store import Tx

from ..domain.receipt_record import ReceiptRow
from .item_ends import ItemPorts
from .item_judge import judge_of
from .ports_identity import Log

_PAGE: Final = 5_000


class CommandReceipts(Protocol):
    """The chain of receipts (storage.receipt_store.ReceiptStore)."""

    def of_command(self, tx: Tx, command_id: str) -> tuple[ReceiptRow, ...]: ...


class Engine(Protocol):
    """Who follows the locks (hive_shared.cashu.escrow.EscrowEngine)."""

    def is_back(self, tx: Tx, item: ItemRow) -> bool: ...


class UndecidedItems:
    """Looks after items in state `unknown`."""

    def __init__(self, items: ItemPorts, receipts: CommandReceipts, engine: Engine, log: Log) -> None:
        self._db, self._rows, self._work, self._ends = items.db, items.rows, items.work, items.ends
        self._mail, self._notices = items.mail, items.notices
        self._receipts, self._engine, self._alone = receipts, engine, RowByRow(log)
        self._told: set[tuple[str, int, bool]] = set()

    async def tick(self) -> None:
        """Settle what a receipt decides; tell the operator of the others, once while this process runs and
        again when their money is back."""

        def new(tx: Tx, alone: Alone) -> list[ItemRow]:
            found = []
            for item in self._rows.items_in(tx, [PayerItem.UNKNOWN], _PAGE):
                with alone(_name(item)):
                    place = (item.ticket_id, item.i, self._engine.is_back(tx, item))
                    if place not in self._told or self._said(tx, item) is not None:
                        found.append(item)
            return found

        def body(tx: Tx, item: ItemRow) -> tuple[str, int, bool] | None:
            current = self._rows.item(tx, item.ticket_id, item.i)
            ticket = self._rows.ticket(tx, item.ticket_id)
            if ticket is None or current is None or current.state is not PayerItem.UNKNOWN:
                return None
            return None if self._settled(tx, ticket, current) else self._tell(tx, ticket, current)

        with self._alone.round("undecided items") as alone:
            due = await self._db.read(partial(new, alone=alone))
            for item in due:
                with alone(_name(item)):
                    told = await self._db.write(partial(body, item=item))
                    self._told |= set() if told is None else {told}
        if due:
            self._mail.kick()

    def _said(self, tx: Tx, item: ItemRow) -> tuple[str, bool] | None:
        """What the newest receipt of its command says of the item: the receipt, whether it was earned. A copy
        of the database that was restored beside a longer chain of receipts has one."""
        if item.command_id is None:
            return None
        for row in reversed(self._receipts.of_command(tx, item.command_id)):
            escrow = json.loads(row.document).get("escrow")
            if not isinstance(escrow, dict):
                continue
            if (escrow.get("ticket_id"), escrow.get("item")) != (item.ticket_id, item.i):
                continue
            if escrow.get("lock_state") in ("released", "failed"):
                return str(row.receipt_id), escrow["lock_state"] == "released"
        return None

    def _settled(self, tx: Tx, ticket: TicketRow, item: ItemRow) -> bool:
        said = self._said(tx, item)
        if said is None:
            return False
        receipt_id, earned = said
        if not earned:
            self._work.fail(tx, item, receipt_id)
            return True
        try:
            self._work.check_order(tx, ticket, item.i)
        except PaymentFailed:
            return False  # a milestone whose predecessor is not decided yet
        self._work.succeed(tx, item, receipt_id)
        after = self._rows.item(tx, item.ticket_id, item.i)
        if after is not None:
            self._ends.tell_earned(tx, ticket, after)
        return True

    def _tell(self, tx: Tx, ticket: TicketRow, item: ItemRow) -> tuple[str, int, bool]:
        back = self._engine.is_back(tx, item)
        if back or judge_of(item.cond) is None:
            earned = (
                f"its money came back, with true {item.amount_sats} sat are noted as owed"
                if back
                else "with true its payee gets the preimage; until you say, its money comes back at the"
                f" locktime {item.locktime} and a day, and what was earned stays open"
            )
            self._notices.tell(
                tx,
                ticket,
                "undecided",
                f"item {item.i}, {'money back' if back else 'money locked'}: whether its task"
                f" ({item.command_id}) succeeded is not known. Look what it did, then say hive-client-escrow"
                f" action=complete ticket_id={item.ticket_id} item={item.i} success=true or false"
                f" confirm=true: {earned}",
            )
        return item.ticket_id, item.i, back


def _name(item: ItemRow) -> str:
    return f"{item.ticket_id}:{item.i}"
