"""The carrier of commands by commando: what it is asked, and what its refusals mean (11 §4)."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hive_advisor.domain.route import CommandoRoute
from hive_advisor.transport.commando import CommandoLink
from hive_shared.errors import TransportUnavailable

NODE, SENDER, RUNE = "02" + "ab" * 32, "bb" * 32, "r" * 44
ANSWER = {"result": {"status": 0}}
GONE = {"error": {"code": -32600, "message": "Peer is not connected"}}
CONNECTED = {"result": {"peers": [{"id": NODE, "connected": True}]}}
AWAY: dict[str, Any] = {"result": {"peers": []}}
DEMANDS = {
    "error": {"code": 4003, "message": "unauthorized: rune_rejected", "data": {"reason": "rune_rejected"}}
}


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hive_advisor.transport.pace._RUNE_REST_S", 0)


@pytest.fixture
def socket() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hive-") as directory:
        yield Path(directory) / "rpc"


@asynccontextmanager
async def carrier(socket: Path, *answers: dict[str, Any]) -> AsyncIterator[list[tuple[str, dict[str, Any]]]]:
    """A lightningd that gives these answers, one after the other; yields the calls it got."""
    calls: list[tuple[str, dict[str, Any]]] = []
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                request = json.loads(await reader.readuntil(b"\n\n"))
            except asyncio.IncompleteReadError:
                break
            calls.append((request["method"], request["params"]))
            writer.write(
                json.dumps({"jsonrpc": "2.0", "id": request["id"], **left.pop(0)}).encode() + b"\n\n"
            )
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, str(socket))
    yield calls
    server.close()


async def test_a_command_goes_to_the_node_with_the_rune_and_the_sender(socket: Path) -> None:
    async with carrier(socket, ANSWER) as calls:
        said = await CommandoLink().call(CommandoRoute(str(socket)), RUNE, NODE, "{}", SENDER)
    params = {"request": "{}", "sender": SENDER}
    assert calls == [
        ("commando", {"peer_id": NODE, "method": "hive-comms-rpc", "params": params, "rune": RUNE})
    ]
    assert json.loads(said) == {"status": 0}


async def test_a_carrier_that_is_not_connected_connects_once(socket: Path) -> None:
    route = CommandoRoute(str(socket), host="node.example.com", port=9735)
    async with carrier(socket, GONE, AWAY, {"result": {}}, ANSWER) as calls:
        await CommandoLink().call(route, RUNE, NODE, "{}", SENDER)
    assert [method for method, _ in calls] == ["commando", "listpeers", "connect", "commando"]
    assert calls[2][1] == {"id": NODE, "host": "node.example.com", "port": 9735}
    refused = {"error": {"code": 401, "message": "All addresses failed\u202e\n"}}
    async with carrier(socket, GONE, AWAY, refused) as calls:
        with pytest.raises(TransportUnavailable, match=r"All addresses failed$"):
            await CommandoLink().call(CommandoRoute(str(socket)), RUNE, NODE, "{}", SENDER)
    assert calls[2] == ("connect", {"id": NODE})


async def test_what_the_node_refuses_is_not_sent_twice(socket: Path) -> None:
    refused = {"error": {"code": 0x4C51, "message": "Invalid rune: Not derived from master"}}
    async with carrier(socket, refused, CONNECTED) as calls:
        with pytest.raises(TransportUnavailable, match="Not derived from master"):
            await CommandoLink().call(CommandoRoute(str(socket)), RUNE, NODE, "{}", SENDER)
    assert [method for method, _ in calls] == ["commando", "listpeers"]


async def test_a_node_that_demands_the_rune_as_a_parameter_gets_it_from_then_on(socket: Path) -> None:
    link, route = CommandoLink(), CommandoRoute(str(socket))
    async with carrier(socket, DEMANDS, CONNECTED, ANSWER, ANSWER) as calls:
        for _ in range(2):
            await link.call(route, RUNE, NODE, "{}", SENDER)
    assert ["rune" in params.get("params", {}) for _, params in calls] == [False, False, True, True]


async def test_a_carrier_that_is_not_there_is_a_way_that_is_closed(socket: Path) -> None:
    with pytest.raises(TransportUnavailable, match="commando to 02abab"):
        await CommandoLink().call(CommandoRoute(str(socket)), RUNE, NODE, "{}", SENDER)
