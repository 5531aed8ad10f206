"""Fault switches of one node: hold or lose the answers of a named command, before or after it acts."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from hive_devnet.embedded.errors import LIGHTNINGD, RpcError
from hive_devnet.embedded.rpc_server import LostAnswer

KINDS = ("delay_before", "delay_after", "lose_before", "lose_after", "fail_before", "fail_after")


@dataclass
class Fault:
    """One switch: `kind` of KINDS, `seconds` for delays, `times` it still strikes (0: until cleared)."""

    command: str
    kind: str
    seconds: float = 0.0
    times: int = 1
    struck: int = 0


class FaultBoard:
    """The switches that are on."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._released = asyncio.Event()

    def add(self, command: str, kind: str, seconds: float = 0.0, times: int = 1) -> None:
        """Turns a switch on. Raises ValueError on an unknown kind."""
        if kind not in KINDS:
            raise ValueError(f"fault kind {kind!r} is not one of {', '.join(KINDS)}")
        self._faults.append(Fault(command, kind, seconds, times))

    def clear(self) -> int:
        """Turns every switch off; returns how often faults struck."""
        struck = sum(fault.struck for fault in self._faults)
        self._faults.clear()
        return struck

    def release(self) -> None:
        """Lets go on every call that a delay holds."""
        self._released.set()
        self._released = asyncio.Event()

    def struck(self, command: str) -> int:
        """How often the switches of `command` have struck."""
        return sum(fault.struck for fault in self._faults if fault.command == command)

    async def before(self, command: str) -> None:
        """Applies what is to happen before `command` acts."""
        await self._apply(command, "before")

    async def after(self, command: str) -> None:
        """Applies what is to happen after `command` acted, before its answer goes out."""
        await self._apply(command, "after")

    async def _apply(self, command: str, moment: str) -> None:
        for fault in tuple(self._faults):
            live = fault.times == 0 or fault.struck < fault.times
            if fault.command != command or not live or not fault.kind.endswith(moment):
                continue
            fault.struck += 1
            if fault.kind.startswith("delay"):
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._released.wait(), fault.seconds)
            elif fault.kind.startswith("lose"):
                raise LostAnswer
            else:
                raise RpcError(LIGHTNINGD, f"fault switch: {command} failed {moment} it acted")
