"""Rows that are looked after one by one (docs/decisions/0668)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hive_shared.cashu.ports import MintUnavailable
from hive_shared.errors import Busy, Conflict, HiveError, SiblingUnavailable
from hive_shared.row_by_row import RowByRow
from hive_shared.store import StoreError


class Told:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.rows = RowByRow(self)

    def __call__(self, level: str, event: str, /, **fields: Any) -> None:
        assert (level, event) == ("error", "row_failed")
        self.lines.append(fields)

    def look(self, bad: dict[str, Exception], *passing: type[Exception], names: str = "abc") -> str:
        """The names that had their turn and came through."""
        done = ""
        with self.rows.round("things", *passing) as alone:
            for name in names:
                with alone(name):
                    if name in bad:
                        raise bad[name]
                    done += name
        return done


def test_neighbours_have_their_turn_and_what_failed_is_told() -> None:
    told = Told()
    assert told.look({"a": ValueError("secret"), "b": Conflict("b is late")}) == "c"
    first, second = told.lines
    assert (first["what"], first["row"], first["error"], first["why"]) == ("things", "a", "ValueError", "")
    assert (second["row"], second["error"], second["why"]) == ("b", "conflict", "b is late")
    assert first["where"].startswith("test_row_by_row.py:") and first["failing"] == second["failing"] == 2


def test_a_row_that_fails_all_night_writes_a_dozen_lines_and_one_that_recovered_is_new_again() -> None:
    told = Told()
    for _ in range(100):
        told.look({"a": ValueError()})
    assert [line["rounds"] for line in told.lines] == [1, 2, 4, 8, 16, 32, 64]
    assert told.look({}) == "abc"
    told.look({"a": ValueError(), "b": ValueError()})
    assert [(line["row"], line["rounds"]) for line in told.lines[-2:]] == [("a", 1), ("b", 1)]


def test_many_rows_are_ten_lines_and_a_count() -> None:
    told = Told()
    names = "abcdefghijklmnopqrst"
    assert told.look({name: ValueError() for name in names}, names=names) == ""
    assert [line["failing"] for line in told.lines] == [20] * 10


@pytest.mark.parametrize("error", [StoreError("disk full"), Busy("queue"), SiblingUnavailable("gone")])
def test_what_is_every_rows_ends_the_round_and_what_failed_before_is_told(error: Exception) -> None:
    told = Told()
    with pytest.raises(type(error)):
        told.look({"a": ValueError(), "b": error})
    assert [line["row"] for line in told.lines] == ["a"]


def test_a_caller_says_what_else_is_every_rows() -> None:
    told = Told()
    assert told.look({"a": MintUnavailable("https://m", "away", sent=False)}) == "bc"
    with pytest.raises(MintUnavailable):
        told.look({"a": MintUnavailable("https://m", "away", sent=False)}, HiveError)


async def test_an_end_of_the_process_is_no_rows_fault() -> None:
    told = Told()
    with pytest.raises(asyncio.CancelledError), told.rows.round("things") as alone, alone("a"):
        raise asyncio.CancelledError
    assert told.lines == []
