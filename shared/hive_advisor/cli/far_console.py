"""The terminal of a process that sent its command to the engine (docs/protocol/11-advisor-kit.md §3)."""

from __future__ import annotations

import asyncio
from typing import Final, Literal

from hive_shared.errors import InvalidParams

from hive_advisor.domain.engine_frames import MAX_TEXT, Answer, Ask, Output
from hive_advisor.local_socket import Channel

_BACKLOG: Final = 8_388_608
"""Bytes of output that wait for a client; one that takes none is let go."""


class FarConsole:
    """Questions go over the channel and wait for their answers; what is shown does not wait."""

    def __init__(self, channel: Channel, interactive: bool) -> None:
        self._channel, self._interactive = channel, interactive
        self._answer: asyncio.Future[str] | None = None

    @property
    def interactive(self) -> bool:
        return self._interactive

    def out(self, text: str) -> None:
        self._show("out", text)

    def err(self, text: str) -> None:
        self._show("err", text)

    def _show(self, stream: Literal["out", "err"], text: str) -> None:
        whole = f"{text}\n"
        for start in range(0, len(whole), MAX_TEXT):
            # Half characters are nobody's to see, and no frame takes them.
            piece = whole[start : start + MAX_TEXT].encode("utf-8", "replace").decode()
            self._channel.post(Output(stream, piece))
        if self._channel.backlog > _BACKLOG:
            self._channel.abort()

    async def typed(self, question: str, *, hidden: bool = False) -> str:
        return await self._asked(Ask("hidden" if hidden else "text", question))

    async def agrees(self, question: str) -> bool:
        return await self._asked(Ask("yes", question)) == "y"

    async def text_of(self, source: str) -> str:
        return await self._asked(Ask("file", source))

    async def _asked(self, question: Ask) -> str:
        self._answer = asyncio.get_running_loop().create_future()
        try:
            await self._channel.send(question)
            return await self._answer
        finally:
            self._answer = None

    def answered(self, answer: Answer) -> None:
        """What the other end says to the question that is open. Raises InvalidParams when none is."""
        if self._answer is None or self._answer.done():
            raise InvalidParams("an answer to nothing that was asked")
        self._answer.set_result(answer.text)
