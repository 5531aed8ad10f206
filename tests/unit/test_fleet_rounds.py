"""A round of fleet tickets: what is wrong with one part holds up no other and is told (decision 0668)."""

from __future__ import annotations

from typing import Any

import pytest
from cl_hive.services.fleet_rounds import FleetRounds
from hive_shared.errors import Capacity


class Parts:
    """Everything a round touches; the part named in `wrong` raises."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.lines: list[tuple[str, str, Any]] = []
        self.wrong: dict[str, Exception] = {}

    def part(self, name: str) -> Any:
        async def did(*_: object) -> list[Any]:
            if name in self.wrong:
                raise self.wrong[name]
            self.done.append(name)
            return []

        names = ("refresh", "sweep", "tick", "flush", "write", "hinted")
        return type("Part", (), {**{each: staticmethod(did) for each in names}, "present": lambda _: True})()

    def log(self, level: str, event: str, **fields: Any) -> None:
        self.lines.append((level, event, fields.get("row")))


@pytest.mark.parametrize("name", ["wallet", "service", "engine", "disputes", "mail"])
async def test_a_part_that_fails_holds_up_no_other_and_is_told_ever_less_often(name: str) -> None:
    parts = Parts()
    every = ("db", "locks", "outbox", "engine", "disputes", "inbox", "wallet", "mail", "service", "comms")
    rounds = FleetRounds(*(parts.part(each) for each in every), now=lambda: 0, log=parts.log)
    parts.wrong[name] = ValueError("nobody thought of this")
    order = ["wallet", "service", "engine", "disputes", "mail", "db"]
    for _ in range(4):
        parts.done.clear()
        await rounds.tick()
        assert parts.done == [each for each in order if each != name]
    assert [line[:2] for line in parts.lines] == [("error", "row_failed")] * 3, "rounds 1, 2 and 4"
    # What comms says while it is full is every part's: the round ends, and begins anew later.
    parts.wrong, parts.done, parts.lines = {name: Capacity("full")}, [], []
    await rounds.tick()
    assert parts.done == [*order[: order.index(name)], "db"]
    assert parts.lines == [("debug", "escrow_round_put_off", None)]
