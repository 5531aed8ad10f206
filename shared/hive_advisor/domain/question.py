"""What waits for a human here: a plan that the guard held, or what a program asks
(docs/protocol/11-advisor-kit.md §6, §11.1)."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

QuestionState = Literal["waiting", "approved", "rejected", "expired"]

PLAN: Final = "plan"
WAIT_S: Final = 86_400
"""How long a question waits."""


class Question(msgspec.Struct, frozen=True):
    """One row. Of `kind` "plan" it names the held command and is bound to its `plan_hash`; of any other kind
    it is a program's own, about `object` and for `reason`. Times are unix seconds."""

    approval_id: str
    kind: str
    origin: str
    state: QuestionState
    expires: int
    created: int
    command_id: str | None = None
    plan_hash: str = ""
    object: str = ""
    reason: str = ""
    decided: int | None = None
