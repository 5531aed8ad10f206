"""A relay that says whatever a test wants: the frames no real relay sends."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import websockets

Script = Callable[["HostileRelay", Any, list[Any]], Awaitable[None]]


async def ignore(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
    """Answer nothing."""


class HostileRelay:
    """A WebSocket server on loopback that hands each client frame to a script."""

    def __init__(
        self, script: Script = ignore, greeting: list[Any] | None = None, info: str | None = None
    ) -> None:
        self.script = script
        self.info = info
        """The information document, for requests that ask for one; None: answers 404."""
        self.asked_for_info = 0
        self.greeting = greeting
        self.frames: list[list[Any]] = []
        self.connects = 0
        self.url = ""
        self._server: Any = None

    async def __aenter__(self) -> HostileRelay:
        self._server = await websockets.serve(
            self._serve, "127.0.0.1", 0, max_size=None, compression=None, process_request=self._plain
        )
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    def said(self, kind: str) -> list[list[Any]]:
        """The frames of one kind that clients have sent."""
        return [frame for frame in self.frames if frame[0] == kind]

    def _plain(self, connection: Any, request: Any) -> Any:
        if request.headers.get("Accept") != "application/nostr+json":
            return None
        self.asked_for_info += 1
        if self.info is None:
            return connection.respond(404, "nothing here")
        return connection.respond(200, self.info)

    async def _serve(self, socket: Any) -> None:
        self.connects += 1
        try:
            if self.greeting is not None:
                await socket.send(json.dumps(self.greeting))
            async for message in socket:
                frame = json.loads(message)
                self.frames.append(frame)
                await self.script(self, socket, frame)
        except websockets.ConnectionClosed:
            return
