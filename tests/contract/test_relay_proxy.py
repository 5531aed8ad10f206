"""Every socket goes through the SOCKS proxy, with the name resolved there (Protocol 04 §7.2)."""

from __future__ import annotations

import asyncio

import pytest
from contract.hostile_relay import HostileRelay
from hive_shared.crypto import Secret
from hive_shared.nostr.event import Event, build
from hive_shared.nostr.relay import RelayPool
from hive_shared.nostr.socks import connect_through
from socks_proxy import SocksServer

EVENT = build(Secret(b"\x01" * 32), 1, [], "x", 1_700_000_000)


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
                result = await pool.publish(EVENT, ["ws://nowhere.onion:7777"], timeout=60)
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
                assert await pool.wait_for(lambda: bool(pool.status()[0]["limits"]), 60), pool.status()
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
