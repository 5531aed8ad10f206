"""Receipts held against our commands: acknowledged when they agree, missed when they do not come
(docs/protocol/11-advisor-kit.md §5.4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hive_shared import envelope
from hive_shared.crypto import schnorr_sign
from hive_shared.errors import Conflict, HiveError, NotFound
from hive_shared.store import Db, Tx

from hive_advisor.domain import evidence
from hive_advisor.domain.answer import read_answer
from hive_advisor.domain.command_machine import FINAL, CommandState
from hive_advisor.domain.evidence import Fork
from hive_advisor.domain.keyring import Keyring
from hive_advisor.domain.receipt_agreement import changes_something, difference, edited
from hive_advisor.domain.rows import Client, Standing, StoredCommand, StoredReceipt
from hive_advisor.services.alerts import AlertService
from hive_advisor.services.forks import ForkService
from hive_advisor.services.ports import ClientRows, Control, ReceiptedRows, RecordRows

MISSING_S = 600
"""How long after a final answer its receipt may take."""
_RETRY_S = 3_600
_PER_ROUND = 10
_COMPARED = 200
_LOOKED_AT = 1_000
_CHECKED_TO = "receipts_checked_to"
_MISSING = "receipt_missing"
# What ran, or waited for people and ended: each has a receipt (02 §9.1). Early refusals have none.
_RECEIPTED = {
    *(CommandState.DONE, CommandState.PARTIAL, CommandState.INDETERMINATE),
    *(CommandState.CANCELLED, CommandState.EXPIRED),
}
_RAN_AND_FAILED = {"node_error", "timeout"}


class StandingService:
    """Whether receipts say what was answered, and what follows from it."""

    def __init__(
        self,
        db: Db,
        records: RecordRows,
        commands: ReceiptedRows,
        clients: ClientRows,
        forks: ForkService,
        alerts: AlertService,
        keyring: Keyring,
        ask: Control,
        now: Callable[[], int],
    ) -> None:
        self._db, self._records, self._commands, self._clients = db, records, commands, clients
        self._forks, self._alerts, self._keyring = forks, alerts, keyring
        self._ask, self._now = ask, now

    async def compare(self, client: Client) -> int:
        """Hold receipts that were not yet held against our commands; how many were. Those that agree are
        acknowledged later, one that does not makes the client suspect."""

        def body(tx: Tx) -> tuple[int, Fork | None]:
            compared = 0
            for receipt in self._records.uncompared(tx, client.client_id, _COMPARED):
                command = self._commands.get(tx, str(receipt.document.get("command_id")))
                if command is None or command.client_id != client.client_id:
                    self._set(tx, receipt, "unknown")
                    continue
                if command.state not in FINAL or command.response is None:
                    continue
                compared += 1
                problem = difference(receipt.document, command.envelope, read_answer(command.response))
                self._set(tx, receipt, "agrees" if problem is None else "differs")
                if problem is not None:
                    claims = [*self._forks.answered(command), evidence.receipt_claim(receipt.document)]
                    return compared, Fork(f"receipt {receipt.receipt_id}: {problem}", claims)
                self._commands.set_receipt(tx, command.command_id, receipt.receipt_id)
                self._alerts.resolve_in(tx, client.client_id, _MISSING, command.command_id)
            return compared, None

        compared, fork = await self._db.write(body)
        if fork is not None:
            await self._forks.found(client, fork)
        return compared

    def _set(self, tx: Tx, receipt: StoredReceipt, standing: Standing) -> None:
        due = self._now() if standing == "agrees" else None
        self._records.set_standing(tx, receipt.client_id, receipt.receipt_id, standing, due)

    async def acknowledge_due(self, client: Client, wait_s: int) -> int:
        """Tell the node that receipts agree with what it answered; how many it took. A node that does not
        answer is told again in an hour."""
        now, told = self._now(), 0
        for receipt in await self._db.read(
            lambda tx: self._records.ack_due(tx, client.client_id, now, _PER_ROUND)
        ):
            try:
                answer = await self._tell(client, receipt, wait_s)
            except HiveError:
                # Its credential ended, or it is paused: nothing is said to it now.
                return told
            if answer is None:
                return told
            told += answer
        return told

    async def acknowledge(self, client: Client, receipt_id: int, wait_s: int) -> bool:
        """Acknowledge one receipt now; False without an answer. Raises NotFound, Conflict."""
        receipt = await self._db.read(lambda tx: self._records.receipt(tx, client.client_id, receipt_id))
        if receipt is None or not receipt.mine:
            raise NotFound(
                f"receipt {receipt_id} of {client.alias!r} is none of your commands'; see 'receipt list'"
            )
        if receipt.acked:
            return True
        if receipt.standing == "differs":
            raise Conflict(
                f"receipt {receipt_id} does not say what {client.alias!r} answered; it is not acknowledged."
                " See 'hive-advisor receipt evidence'"
            )
        return bool(await self._tell(client, receipt, wait_s))

    async def _tell(self, client: Client, receipt: StoredReceipt, wait_s: int) -> bool | None:
        """True when the node took it, False when it refuses for good, None without an answer."""

        def later(tx: Tx) -> StoredCommand | None:
            # Noted first: a node that does not answer is told once an hour.
            again = self._now() + _RETRY_S
            self._records.note_ack(tx, client.client_id, receipt.receipt_id, acked=False, ack_next=again)
            return self._commands.get(tx, str(receipt.document.get("command_id")))

        about = await self._db.write(later)
        signer = self._keyring.current if about is None else about.sender
        digest = envelope.ack_digest(receipt.hash)
        params = {
            "receipt_id": receipt.receipt_id,
            "receipt_hash": receipt.hash,
            "sig": schnorr_sign(self._keyring.secret(signer), digest),
        }
        answer = await self._ask(client.client_id, "receipt_ack", params, wait_s, about=about)
        taken = isinstance(answer["result"], dict)
        if not taken and answer["slug"] not in ("invalid_params", "bad_signature"):
            return None

        def done(tx: Tx) -> None:
            self._records.note_ack(tx, client.client_id, receipt.receipt_id, acked=taken, ack_next=None)
            if not taken:
                text = f"receipt {receipt.receipt_id}: {answer['message']}"
                self._records.add_event(tx, "ack_refused", client.alias, text, self._now())

        await self._db.write(done)
        return taken

    async def edits(self, client: Client, receipt_id: int) -> dict[str, dict[str, Any]]:
        """What an operator changed of our command before it ran, by parameter; empty when nothing."""

        def body(tx: Tx) -> dict[str, dict[str, Any]]:
            receipt = self._records.receipt(tx, client.client_id, receipt_id)
            if receipt is None or not receipt.mine:
                return {}
            command = self._commands.get(tx, str(receipt.document.get("command_id")))
            return {} if command is None else edited(receipt.document, command.params)

        return await self._db.read(body)

    async def missing(self) -> int:
        """Alert for commands that ended ten minutes ago and whose receipt has not come; how many."""

        def body(tx: Tx) -> int:
            end = self._now() - MISSING_S
            start = int(self._clients.meta(tx, _CHECKED_TO) or 0)
            ended = self._commands.ended_between(tx, start, end, _LOOKED_AT)
            raised = sum(self._miss(tx, command) for command in ended if _leaves_receipt(command))
            whole = len(ended) < _LOOKED_AT
            self._clients.set_meta(tx, _CHECKED_TO, str(end if whole else ended[-1].updated - 1))
            return raised

        return await self._db.write(body)

    def _miss(self, tx: Tx, command: StoredCommand) -> bool:
        client = self._clients.by_id(tx, command.client_id)
        if client is None:
            return False
        text = f"{command.action} ended as {command.state}, and no receipt of it has come"
        return self._alerts.raise_in(tx, client, "warning", _MISSING, text, command.command_id)


def _leaves_receipt(command: StoredCommand) -> bool:
    failed = command.state == CommandState.ERROR and command.slug in _RAN_AND_FAILED
    return (command.state in _RECEIPTED or failed) and changes_something(command.schema, command.action)
