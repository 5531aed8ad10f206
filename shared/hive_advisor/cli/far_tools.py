"""The tools of an engine, for the MCP server that a program starts (docs/protocol/11-advisor-kit.md §3): key,
guard and list are the engine's, this process only passes calls on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, cast

from hive_shared.errors import HiveError, TransportUnavailable

from hive_advisor.cli.forwarding import Link, as_error, knock
from hive_advisor.domain.cleaning import clean_text
from hive_advisor.domain.engine_frames import Call, Called, Open, Refused, Tools
from hive_advisor.domain.tool_prompts import Prompt
from hive_advisor.domain.tool_schema import Tool
from hive_advisor.services.tool_calls import ToolAnswer, refusal

_PATIENCE_S: Final = 10


class FarTools:
    """Calls to the engine behind ``socket``; one that was started again is found again by the next call."""

    def __init__(self, socket: Path, database: Path | None, wanted: Open) -> None:
        self._socket, self._database, self._wanted = socket, database, wanted
        self._link: Link | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[ToolAnswer]] = {}
        self._number = 0
        self._connecting = asyncio.Lock()
        self.tools: Mapping[str, Tool] = {}
        self.prompts: Mapping[str, Prompt] = {}
        self.warnings: tuple[str, ...] = ()
        self.role: str = ""

    async def open(self) -> bool:
        """Connect and learn what is open; False when no engine is there. Raises Unauthorized,
        VersionIncompatible, TransportUnavailable, InvalidParams."""
        link = await knock(self._socket, self._database)
        if link is None:
            return False
        await link.channel.send(self._wanted)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                said = await link.channel.receive()
        except TimeoutError as error:
            link.channel.abort()
            raise TransportUnavailable(f"the engine behind {self._socket} does not answer") from error
        if not isinstance(said, Tools):
            link.channel.abort()
            if isinstance(said, Refused):
                raise as_error(said)
            raise TransportUnavailable(f"the engine behind {self._socket} ended")
        if not self.role:
            # A program keeps the list that it was given first.
            self.tools = {
                name: Tool(row.description, row.acts, row.schema) for name, row in said.tools.items()
            }
            self.prompts = {
                name: Prompt(name, row.description, row.text, tuple(row.arguments))
                for name, row in said.prompts.items()
            }
            self.warnings, self.role = tuple(said.warnings), said.role
        self._link = link
        self._reading = asyncio.create_task(self._read(link))
        return True

    async def call(self, name: str, arguments: Mapping[str, Any], client: str) -> ToolAnswer:
        """As ``ToolCallService.call``: every refusal is an answer."""
        try:
            link = await self._there()
            self._number += 1
            number = self._number
            answer = self._waiting[number] = asyncio.get_running_loop().create_future()
            try:
                await link.channel.send(Call(number, name, dict(arguments), clean_text(client, 64)))
                said: ToolAnswer = await answer
                return said
            finally:
                self._waiting.pop(number, None)
        except HiveError as error:
            return refusal(error)

    async def _there(self) -> Link:
        async with self._connecting:
            if self._link is None and not await self.open():
                raise TransportUnavailable(
                    f"no engine listens on {self._socket}; a human starts it with 'hive-advisor run'"
                )
            return cast(Link, self._link)

    async def _read(self, link: Link) -> None:
        why: HiveError = TransportUnavailable(
            f"'hive-advisor {link.welcome.holder}' ended before it answered; whether the call was carried out"
            " is not known",
            reason="engine_ended",
        )
        try:
            while (frame := await link.channel.receive()) is not None:
                if isinstance(frame, Refused):
                    why = as_error(frame)
                    break
                waiting = self._waiting.get(frame.number) if isinstance(frame, Called) else None
                if waiting is not None and not waiting.done() and isinstance(frame, Called):
                    waiting.set_result(ToolAnswer(frame.body, frame.failed))
        except HiveError as error:
            why = error
        finally:
            link.channel.abort()
            self._link = None
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_result(refusal(why))

    async def close(self) -> None:
        """Leave the engine."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


def wanted(role: str | None, toolsets: str | None) -> Open:
    """What the options of ``mcp serve`` ask the engine for."""
    names = None if toolsets is None else [name.strip() for name in toolsets.split(",") if name.strip()]
    return Open(cast(Literal["operator", "advisor"] | None, role), names)
