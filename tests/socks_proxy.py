"""A SOCKS5 proxy for tests: it notes what it was asked for and sends it where the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

GENERAL_FAILURE = 1


class SocksServer:
    """Sends every name to one loopback port, or each to its own; what has no port is refused.

    `asked` are the CONNECTs: the name (an address as hex digits) and the port.
    """

    def __init__(self, target: int | Mapping[str, int], reply: int = 0) -> None:
        self.asked: list[tuple[str, int]] = []
        self.port = 0
        self._target = target
        self._reply = reply
        self._open: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[SocksServer]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in list(self._open):
                writer.transport.abort()

    def names(self) -> set[str]:
        """Every name or address that was asked for."""
        return {name for name, _ in self.asked}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            with suppress(asyncio.IncompleteReadError, OSError):
                await self._relayed(reader, writer)
        finally:
            self._open.discard(writer)
            writer.close()

    async def _relayed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(3) == b"\x05\x01\x00"
        writer.write(b"\x05\x00")
        assert (await reader.readexactly(3)) == b"\x05\x01\x00"
        kind = (await reader.readexactly(1))[0]
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            host = (await reader.readexactly(4 if kind == 1 else 16)).hex()
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.asked.append((host, port))
        target = self._target if isinstance(self._target, int) else self._target.get(host)
        reply = self._reply or (GENERAL_FAILURE if target is None else 0)
        writer.write(bytes((5, reply, 0, 1)) + bytes(6))
        if reply == 0:
            onward = await asyncio.open_connection("127.0.0.1", target)
            await asyncio.gather(self._pump(reader, onward[1]), self._pump(onward[0], writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()
