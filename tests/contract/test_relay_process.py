"""The development relay is a real one: it serves, dies, freezes and comes back empty."""

from __future__ import annotations

import json
from typing import Any

import pytest
import websockets
from hive_devnet import relay as relay_module
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
    look, found = relay_module._free_port, [first.port, first.port]
    monkeypatch.setattr(relay_module, "_free_port", lambda: found.pop() if found else look())
    second = await RelayProcess.start()
    try:
        assert not found and second.port != first.port and second.pid is not None
    finally:
        await second.stop()
        await first.stop()
