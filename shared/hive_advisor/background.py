"""What runs beside a round of the kit: nobody waits for it, so its failure is said instead of raised."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hive_shared.errors import HiveError
from hive_shared.runtime_loops import Log


def say_failure(say: Callable[[str], None], task: asyncio.Task[Any]) -> None:
    """Say what ended a task, in one line for each failure of it; nothing of one that was cancelled."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        for each in error.exceptions if isinstance(error, BaseExceptionGroup) else (error,):
            say(f"failed beside the round: {each.detail if isinstance(each, HiveError) else repr(each)}")


def log_by(say: Callable[[str], None]) -> Log:
    """What shared modules log, as a line for a human where it is a warning or an error."""

    def log(level: str, event: str, /, **fields: object) -> None:
        if level in ("warning", "error"):
            said = ", ".join(f"{name} {value}" for name, value in fields.items() if value != "")
            say(f"{event.replace('_', ' ')}: {said}")

    return log
