"""A relay that loses messages it said it took: a real one, behind a door that lets some of them fall."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

PART_BYTES = 15_000
"""Only parts of long messages make wraps of this length; the shortest part of the tests' messages does."""


class LossyRelay:
    """`loses(number)` decides about the n-th long wrap, counted from 0 and from `forget` on; `seen` has the
    ids of all long wraps, `lost` of those that fell. `short` counts the wraps that are no parts."""

    def __init__(self, behind: str) -> None:
        self.behind, self.url = behind, ""
        self.loses: Callable[[int], bool] = lambda number: False
        self.seen: list[str] = []
        self.lost: list[str] = []
        self.short = 0

    def forget(self) -> None:
        """Count anew."""
        self.seen, self.lost, self.short = [], [], 0

    async def serve_one(self, client: ServerConnection) -> None:
        """Stand between one client and the relay."""
        async with connect(self.behind, max_size=None) as relay:

            async def back() -> None:
                async for frame in relay:
                    await client.send(frame)

            returning = asyncio.create_task(back())
            try:
                async for frame in client:
                    if not await self._falls(client, json.loads(frame), len(frame)):
                        await relay.send(frame)
            finally:
                returning.cancel()
                await asyncio.gather(returning, return_exceptions=True)

    async def _falls(self, client: ServerConnection, frame: list[Any], size: int) -> bool:
        if frame[0] != "EVENT" or frame[1]["kind"] != 1059:
            return False
        if size < PART_BYTES:
            self.short += 1
            return False
        number = len(self.seen)
        self.seen.append(frame[1]["id"])
        if not self.loses(number):
            return False
        self.lost.append(frame[1]["id"])
        await client.send(json.dumps(["OK", frame[1]["id"], True, ""]))
        return True


@asynccontextmanager
async def lossy(behind: str) -> AsyncIterator[LossyRelay]:
    """Such a relay before the one at `behind`."""
    relay = LossyRelay(behind)

    async def handler(client: ServerConnection) -> None:
        try:
            await relay.serve_one(client)
        except ConnectionClosed:
            return

    async with serve(handler, "127.0.0.1", 0, max_size=None) as server:
        (socket,) = server.sockets
        relay.url = f"ws://127.0.0.1:{socket.getsockname()[1]}"
        yield relay
