"""The development relay is a real one: it serves, dies, freezes and comes back empty."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
import websockets
from hive_devnet import relay as relay_module
from hive_devnet.ports import free_port
from hive_devnet.relay import RelayError, RelayProcess
from hive_shared.crypto import Secret
from hive_shared.nostr.event import build

EVENT = build(Secret(b"\x01" * 32), 1, [], "hello", 1_700_000_000)


async def _say(url: str, frame: list[Any]) -> list[Any]:
    async with websockets.connect(url, compression=None, proxy=None, open_timeout=60) as socket:
        await socket.send(json.dumps(frame))
        answer: list[Any] = json.loads(await socket.recv())
        return answer


async def test_it_stores_and_serves_until_restarted() -> None:
    relay = await RelayProcess.start()
    try:
        assert await _say(relay.url, ["EVENT", EVENT.to_json()]) == ["OK", EVENT.id, True, ""]
        assert (await _say(relay.url, ["REQ", "s", {"ids": [EVENT.id]}]))[:2] == ["EVENT", "s"]
        before = relay.url
        await relay.restart()
        assert relay.url == before
        assert await _say(relay.url, ["REQ", "s", {"ids": [EVENT.id]}]) == ["EOSE", "s"]
    finally:
        await relay.stop()


async def test_a_killed_relay_is_gone_and_can_come_back() -> None:
    relay = await RelayProcess.start()
    await relay.kill()
    assert relay.pid is None
    with pytest.raises(ConnectionError):
        await _say(relay.url, ["REQ", "s", {"limit": 1}])
    await relay.restart()
    assert await _say(relay.url, ["REQ", "s", {"limit": 1}]) == ["EOSE", "s"]
    await relay.stop()
    await relay.stop()


async def test_with_nip42_it_asks_who_is_there() -> None:
    relay = await RelayProcess.start(nip42=True)
    try:
        assert (await _say(relay.url, ["EVENT", EVENT.to_json()]))[0] == "AUTH"
    finally:
        await relay.stop()


async def test_a_taken_port_is_reported() -> None:
    relay = await RelayProcess.start()
    try:
        with pytest.raises(RelayError, match=str(relay.port)):
            await RelayProcess.start(relay.port)
    finally:
        await relay.stop()


async def test_a_port_that_others_were_quicker_to_take_is_not_insisted_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = await RelayProcess.start()
    look, found = relay_module.free_port, [first.port, first.port]
    monkeypatch.setattr(relay_module, "free_port", lambda: found.pop() if found else look())
    second = await RelayProcess.start()
    try:
        assert not found and second.port != first.port and second.pid is not None
    finally:
        await second.stop()
        await first.stop()


async def test_a_free_port_is_kept_for_the_server_it_was_asked_for() -> None:
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    for _ in range(2):
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port)
        async with server:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
        # Down, as before its start: refused, and still nobody else's.
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
