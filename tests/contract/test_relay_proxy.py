"""Every socket goes through the SOCKS proxy, with the name resolved there (Protocol 04 §7.2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from contract.hostile_relay import HostileRelay
from hive_shared.crypto import Secret
from hive_shared.nostr.event import Event, build
from hive_shared.nostr.relay import RelayPool
from hive_shared.nostr.socks import connect_through

EVENT = build(Secret(b"\x01" * 32), 1, [], "x", 1_700_000_000)


class SocksServer:
    """A SOCKS5 proxy that sends every name to one loopback port and remembers what it was asked."""

    def __init__(self, target_port: int, reply: int = 0) -> None:
        self.asked: list[tuple[str, int]] = []
        self.port = 0
        self._target = target_port
        self._reply = reply

    @asynccontextmanager
    async def running(self) -> AsyncIterator[SocksServer]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
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
            writer.write(bytes((5, self._reply, 0, 1)) + bytes(6))
            if self._reply == 0:
                onward = await asyncio.open_connection("127.0.0.1", self._target)
                await asyncio.gather(self._pump(reader, onward[1]), self._pump(onward[0], writer))
        writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()


async def _nobody(url: str, name: str, event: Event) -> None:
    """Take nothing."""


async def test_a_pool_with_a_proxy_never_resolves_names_itself() -> None:
    async def script(relay: HostileRelay, socket: object, frame: list[object]) -> None:
        await socket.send(f'["OK","{EVENT.id}",true,""]')  # type: ignore[attr-defined]

    async with HostileRelay(script) as relay:
        port = int(relay.url.rsplit(":", 1)[1])
        async with SocksServer(port).running() as socks:
            pool = RelayPool(on_event=_nobody, proxy=f"127.0.0.1:{socks.port}", private_relays=True)
            await pool.set_relays([], ["ws://nowhere.onion:7777"], [])
            await pool.start()
            try:
                result = await pool.publish(EVENT, ["ws://nowhere.onion:7777"], timeout=10)
                assert result["ws://nowhere.onion:7777"].state == "ok"
                assert socks.asked == [("nowhere.onion", 7777)]
            finally:
                await pool.stop()


async def test_the_information_document_comes_through_the_proxy_too() -> None:
    async with HostileRelay(info='{"limitation":{"max_limit":9}}') as relay:
        port = int(relay.url.rsplit(":", 1)[1])
        async with SocksServer(port).running() as socks:
            pool = RelayPool(on_event=_nobody, proxy=f"127.0.0.1:{socks.port}", private_relays=True)
            await pool.set_relays(["ws://nowhere.onion:7777"], [], [])
            await pool.start()
            try:
                assert await pool.wait_for(lambda: bool(pool.status()[0]["limits"]), 30), pool.status()
                assert relay.asked_for_info == 1
                assert set(socks.asked) == {("nowhere.onion", 7777)} and len(socks.asked) == 2
            finally:
                await pool.stop()


@pytest.mark.parametrize("reply", [1, 2, 5, 77])
async def test_a_refusal_of_the_proxy_is_named(reply: int) -> None:
    async with SocksServer(9, reply).running() as socks:
        with pytest.raises(OSError, match="SOCKS proxy could not reach"):
            await connect_through(("127.0.0.1", socks.port), "host.example", 443)


async def test_a_proxy_that_hangs_up_is_named() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    try:
        with pytest.raises(OSError, match=r"SOCKS|reset"):
            await connect_through(("127.0.0.1", server.sockets[0].getsockname()[1]), "10.0.0.1", 443)
    finally:
        server.close()
