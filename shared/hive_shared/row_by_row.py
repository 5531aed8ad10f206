"""Rows that are looked after one by one: what is wrong with one holds up none of its neighbours, and is told
(docs/decisions/0668).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from hive_shared.errors import Busy, HiveError, SiblingUnavailable
from hive_shared.runtime_loops import Log, where_raised
from hive_shared.store import StoreError

__all__ = ["Alone", "RowByRow"]

_EVERYONES: Final[tuple[type[Exception], ...]] = (StoreError, Busy, SiblingUnavailable)
"""The disk, the queue of writes, the plugin that keeps the money: no row's own fault, and every row's."""
_LINES: Final = 10

Alone = Callable[[str], AbstractContextManager[None]]
"""`with alone(name):` around the work on the row of that name."""


class RowByRow:
    """The rows of one service. What is raised over a row is logged as `row_failed` when it is new and after
    2, 4, 8 ... rounds of it, so that a row that fails all night writes a dozen lines."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._failing: dict[str, dict[str, int]] = {}

    @contextmanager
    def round(self, what: str, *passing: type[Exception]) -> Iterator[Alone]:
        """One look at all rows of a kind (`what`, for the log): the work on each goes inside `with
        alone(name)`, which gives the next its turn whatever this one raised. What is every row's ends the
        round, and so does what is `passing`."""
        failed: dict[str, Exception] = {}
        through = _EVERYONES + passing

        @contextmanager
        def alone(name: str) -> Iterator[None]:
            try:
                yield
            except through:
                raise
            except Exception as error:
                failed[name] = error

        try:
            yield alone
        finally:
            self._tell(what, failed)

    async def steps(self, what: str, *steps: tuple[str, Callable[[], Awaitable[object]]]) -> None:
        """A round of named steps, one after the other, each as if it were a row."""
        with self.round(what) as alone:
            for name, step in steps:
                with alone(name):
                    await step()

    def _tell(self, what: str, failed: dict[str, Exception]) -> None:
        before = self._failing.pop(what, {})
        rounds = {name: before.get(name, 0) + 1 for name in failed}
        if rounds:
            self._failing[what] = rounds
        due = [name for name, count in rounds.items() if count & (count - 1) == 0]
        for name in due[:_LINES]:
            error = failed[name]
            self._log(
                "error",
                "row_failed",
                what=what,
                row=name,
                error=error.symbol if isinstance(error, HiveError) else type(error).__name__,
                why=error.detail[:200] if isinstance(error, HiveError) else "",
                where=where_raised(error),
                rounds=rounds[name],
                failing=len(failed),
            )
