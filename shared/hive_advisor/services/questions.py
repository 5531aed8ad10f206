"""What waits for a human here: listed, found, asked (docs/protocol/11-advisor-kit.md §6, §11.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hive_shared.crypto import sha256
from hive_shared.errors import Ambiguous, Conflict, InvalidParams, NotFound
from hive_shared.store import Db, Tx

from hive_advisor.domain.question import PLAN, WAIT_S, Question
from hive_advisor.services.ports import QuestionRows, RecordRows

MAX_WAITING: Final = 100
"""How many questions may wait at a time: more than a human answers in a day."""


class QuestionService:
    """Questions of programs and held plans. Deciding about a plan is PlanService's."""

    def __init__(
        self,
        db: Db,
        rows: QuestionRows,
        records: RecordRows,
        now: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._db, self._rows, self._records, self._now, self._new_id = db, rows, records, now, new_id

    async def ask(self, kind: str, subject: str, reason: str, origin: str) -> Question:
        """Keep a program's question for a day. Raises InvalidParams, Conflict when too many wait."""
        if kind == PLAN or not 1 <= len(kind) <= 40:
            raise InvalidParams("a question's kind has 1 to 40 characters, and is not 'plan'")
        now = self._now()
        question = Question(
            approval_id=sha256(f"question:{self._new_id()}".encode()).hex()[:16],
            kind=kind,
            origin=origin,
            state="waiting",
            expires=now + WAIT_S,
            created=now,
            object=subject[:200],
            reason=reason[:2_000],
        )

        def body(tx: Tx) -> Question:
            if self._rows.waiting(tx, now) >= MAX_WAITING:
                raise Conflict(f"{MAX_WAITING} questions wait for the human already")
            self._rows.add(tx, question)
            self._records.add_event(tx, "question", question.approval_id, kind, now)
            return question

        return await self._db.write(body)

    async def answer(self, question: Question, *, approved: bool) -> Question:
        """A human's yes or no to a program's question. Raises Conflict when it is decided or over."""

        def body(tx: Tx) -> Question:
            state = "approved" if approved else "rejected"
            if self._now() >= question.expires or not self._rows.end(
                tx, question.approval_id, "approved" if approved else "rejected", self._now()
            ):
                raise Conflict(f"question {question.approval_id} does not wait any more")
            self._records.add_event(tx, f"question_{state}", question.approval_id, question.kind, self._now())
            (current,) = self._rows.find(tx, question.approval_id)
            return current

        return await self._db.write(body)

    async def find(self, approval_id: str) -> Question | None:
        """By id or a unique prefix of at least 4 hex digits; None when there is none of that name.

        Raises InvalidParams, Ambiguous.
        """
        if not 4 <= len(approval_id) <= 16 or not set(approval_id) <= set("0123456789abcdef"):
            raise InvalidParams(f"{approval_id!r} is not an approval id or a prefix of at least 4 hex digits")
        found = await self._db.read(lambda tx: self._rows.find(tx, approval_id))
        if len(found) > 1:
            raise Ambiguous(
                f"{approval_id!r} fits several questions",
                data={"candidates": [each.approval_id for each in found]},
            )
        return found[0] if found else None

    async def of_command(self, command_id: str) -> Question:
        """The newest question about a held command. Raises NotFound."""
        found = await self._db.read(lambda tx: self._rows.of_command(tx, command_id))
        if found is None:
            raise NotFound(f"nobody was asked about command {command_id}")
        return found

    async def listed(self, *, expired: bool, limit: int) -> list[Question]:
        """What waits, the most urgent first; `expired` adds everything else that is kept."""
        since = 0 if expired else self._now()
        return await self._db.read(lambda tx: self._rows.listed(tx, since, limit))
