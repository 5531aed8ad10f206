"""Answers to our commands, whichever way they came: the receipt first, then the command
(docs/protocol/11-advisor-kit.md §5.3, §5.4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hive_shared.errors import InvalidParams
from hive_shared.store import Db, Tx

from hive_advisor.domain import evidence
from hive_advisor.domain.answer import Answer, read_answer
from hive_advisor.domain.command_machine import FINAL
from hive_advisor.domain.evidence import Fork
from hive_advisor.domain.receipt_agreement import changes_something, difference
from hive_advisor.domain.rows import Client, StoredCommand
from hive_advisor.services.clients import ClientService
from hive_advisor.services.commands import CommandService
from hive_advisor.services.forks import ForkService
from hive_advisor.services.ports import ClientRows, RecordRows, SyncRows
from hive_advisor.services.receipts import ReceiptService

# The node could not tell just now, which says nothing about the credential.
_PASSING = {"credential_unverifiable"}


class AnswerService:
    """Takes in responses whose signature was checked."""

    def __init__(
        self,
        db: Db,
        rows: ClientRows,
        sync: SyncRows,
        clients: ClientService,
        commands: CommandService,
        receipts: ReceiptService,
        forks: ForkService,
        records: RecordRows,
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._sync, self._records, self._now = db, rows, sync, records, now
        self._clients, self._commands, self._receipts, self._forks = clients, commands, receipts, forks

    async def take(self, client: Client, document: dict[str, Any]) -> StoredCommand:
        """Keep the receipt, move the command. Raises InvalidParams for an answer to no command of ours, Fork
        when the node contradicts itself (the client is suspect then)."""
        answer = read_answer(document)
        asked = await self._commands.asked(client, answer)
        receipt_id = None
        try:
            if answer.receipt is not None:
                receipt_id = await self._receipt(client, answer, asked)
            command = await self._commands.apply_answer(client, answer, receipt_id)
            if command is None or asked is None:
                raise InvalidParams("the answer is to no command of ours")
            if answer.receipt is not None:
                self._compare(answer, asked)
        except Fork as fork:
            await self._forks.found(client, fork)
            raise
        if command.state in FINAL and changes_something(command.schema, command.action):
            await self._db.write(lambda tx: self._sync.bring_forward(tx, client.client_id, self._now()))
        used = await self._db.read(lambda tx: self._rows.credential(tx, command.credential_id))
        # One that was replaced here first may well be refused there.
        live = used is not None and used.state == "active"
        if answer.slug is not None and answer.status != 0 and live:
            await self._refused(client, answer.slug)
        return command

    async def _receipt(self, client: Client, answer: Answer, asked: StoredCommand | None) -> int:
        assert answer.receipt is not None
        try:
            checked = self._receipts.check(client, answer.receipt)
        except InvalidParams as error:
            if asked is None:
                raise
            raise Fork(error.detail, [evidence.answer_claim(asked.envelope, answer.document)]) from error
        await self._receipts.take(client, checked)
        return checked.receipt_id

    @staticmethod
    def _compare(answer: Answer, asked: StoredCommand) -> None:
        assert answer.receipt is not None
        problem = difference(answer.receipt, asked.envelope, answer)
        if problem is not None:
            raise Fork(
                f"receipt {answer.receipt.get('receipt_id')}: {problem}",
                [evidence.answer_claim(asked.envelope, answer.document)],
            )

    async def note_seq(self, client: Client, sequence: int) -> None:
        """The node numbers what it sends us: what is missing before this one is asked for (`push_poll`)."""

        def body(tx: Tx) -> None:
            missing = self._rows.note_seq(tx, client.client_id, sequence)
            if missing:
                self._sync.want_poll(tx, client.client_id, sequence - missing - 1)
                text = f"{missing} before seq {sequence}"
                self._records.add_event(tx, "answers_missing", client.alias, text, self._now())

        await self._db.write(body)

    async def _refused(self, client: Client, slug: str) -> None:
        """What a refusal says about the client beyond the one command (11 §4, §5.2)."""
        if slug == "issuer_untrusted" or (slug.startswith("credential_") and slug not in _PASSING):
            await self._clients.suspect(client, f"the node answered {slug}")
        elif slug == "emergency_stop":
            await self._clients.stopped(client)
        elif slug.startswith("unsupported_"):
            await self._db.write(lambda tx: self._rows.forget_capabilities(tx, client.client_id))
