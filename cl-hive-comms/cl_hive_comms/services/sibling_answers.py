"""What agents answer about tickets of cl-hive: noted on the lock, signalled, decided by cl-hive
(docs/protocol/03-escrow-and-payments.md §6.6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from hive_shared.cashu.escrow_inbox import MESSAGES_AN_HOUR
from hive_shared.cashu.ticket_messages import body_of, decode_message
from hive_shared.errors import RateLimited
from hive_shared.signed_message import Draft
from hive_shared.store import Tx

from ..domain.cashu_lock import LockRow, Role
from .ports_commands import Database
from .sibling_locks import OWNER

MOST_ANSWERS: Final = 16
"""Answers that are kept of one lock, the newest ones."""


class AnswerRows(Protocol):
    """Locks and what is noted on them (storage.lock_store.LockStore)."""

    def of_ref(self, tx: Tx, owner: str, ref: str) -> tuple[LockRow, ...]: ...
    def answers(self, tx: Tx, lock_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]: ...
    def put_answers(self, tx: Tx, lock_id: str, answers: Sequence[Mapping[str, Any]]) -> None: ...


class Windows(Protocol):
    """Counts events of a peer within an hour."""

    def allow(self, kind: str, peer: str, most: int) -> bool: ...


class SiblingAnswers:
    """Keeps the answers. `tell` signals the lock that one concerns."""

    def __init__(
        self, db: Database, rows: AnswerRows, windows: Windows, *, tell: Callable[[LockRow], None]
    ) -> None:
        self._db, self._rows, self._windows, self._tell = db, rows, windows, tell

    async def take(self, message: Draft, sender: str) -> bool:
        """Note a message about a ticket that a sibling locked for; False where no sibling did.

        Raises InvalidParams for what is no such message, RateLimited beyond 120 an hour of one sender.
        """
        body = decode_message(message.schema, message.body)
        ref, item = getattr(body, "ticket_id", None), getattr(body, "item", 0)
        if not isinstance(ref, str):
            return False
        locks = await self._db.read(lambda tx: self._rows.of_ref(tx, OWNER, ref))
        ours = [row for row in locks if row.role is Role.PAYER]
        if not ours:
            return False
        if not self._windows.allow("sibling-escrow", sender, MESSAGES_AN_HOUR):
            raise RateLimited(f"more than {MESSAGES_AN_HOUR} messages about tickets in an hour")
        about = next((row for row in ours if row.item == item), ours[0])
        said = {
            "schema": message.schema,
            "body": body_of(body),
            "sender": sender,
            "msg_id": message.msg_id,
            "at": message.sent_at,
        }

        def note(tx: Tx) -> None:
            known = self._rows.answers(tx, [about.lock_id])[about.lock_id]
            if all(each["msg_id"] != message.msg_id for each in known):
                self._rows.put_answers(tx, about.lock_id, [*known, said][-MOST_ANSWERS:])

        await self._db.write(note)
        self._tell(about)
        return True
