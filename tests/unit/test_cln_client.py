"""The RPC client against a socket that answers, lags, lies and dies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hive_shared.cln import IN_FLIGHT_MAX, ClnClient, ClnError, ClnTimeout

Answer = Callable[[dict[str, Any], asyncio.StreamWriter], Awaitable[None]]


class Node:
    """A unix socket that frames like CLN and lets a test decide each answer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections = 0
        self.requests: list[dict[str, Any]] = []
        self.answer: Answer = self.echo
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                request = json.loads(await reader.readuntil(b"\n\n"))
                self.requests.append(request)
                await self.answer(request, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def echo(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self.reply(writer, id=request["id"], result={"params": request["params"]})

    @staticmethod
    def reply(writer: asyncio.StreamWriter, **fields: Any) -> None:
        writer.write(json.dumps({"jsonrpc": "2.0", **fields}, indent=3).encode() + b"\n\n")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path / "rpc")
    await node.start()
    yield node
    await node.stop()


@pytest.fixture
async def client(node: Node) -> AsyncIterator[ClnClient]:
    client = ClnClient(node.path, id_prefix="test")
    yield client
    await client.close()


async def test_call_returns_the_result_and_leaves_out_none(node: Node, client: ClnClient) -> None:
    assert await client.call("m", {"a": 1, "b": None}) == {"params": {"a": 1}}
    assert node.requests[0]["id"] == "test:m#1"


async def test_connections_are_kept_and_reused(node: Node, client: ClnClient) -> None:
    for _ in range(5):
        await client.call("m")
    assert node.connections == 1


async def test_refusal_carries_code_message_and_data(node: Node, client: ClnClient) -> None:
    async def refuse(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        node.reply(
            writer, id=request["id"], error={"code": -32601, "message": "Unknown command", "data": {"x": 1}}
        )

    node.answer = refuse
    with pytest.raises(ClnError) as caught:
        await client.call("nope")
    error = caught.value
    assert (error.code, error.message, error.data, error.method) == (
        -32601,
        "Unknown command",
        {"x": 1},
        "nope",
    )
    assert error.is_unknown_command and not error.outcome_unknown


async def test_a_late_answer_is_never_read_as_the_next_one(node: Node, client: ClnClient) -> None:
    release = asyncio.Event()

    async def late(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if request["method"] == "slow":
            await release.wait()
        await node.echo(request, writer)

    node.answer = late
    with pytest.raises(ClnTimeout) as caught:
        await client.call("slow", {"n": 1}, timeout=0.5)
    assert caught.value.outcome_unknown
    release.set()
    assert await client.call("fast", {"n": 2}) == {"params": {"n": 2}}
    assert node.connections == 2


async def test_a_hung_call_delays_no_other(node: Node, client: ClnClient) -> None:
    release = asyncio.Event()

    async def hang(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if request["method"] == "hang":
            await release.wait()
        await node.echo(request, writer)

    node.answer = hang
    hung = asyncio.create_task(client.call("hang", timeout=30))
    assert await client.call("quick", timeout=5) == {"params": {}}
    release.set()
    await hung


async def test_closing_before_the_answer_leaves_the_outcome_unknown(node: Node, client: ClnClient) -> None:
    async def close(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"half')
        writer.close()

    node.answer = close
    with pytest.raises(ClnError) as caught:
        await client.call("m")
    assert caught.value.outcome_unknown


async def test_an_idle_connection_that_the_node_closed_is_replaced(node: Node, client: ClnClient) -> None:
    async def once(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        await node.echo(request, writer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    node.answer = once
    await client.call("m")
    deadline = asyncio.get_running_loop().time() + 5
    while client._idle[0].usable:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0)
    node.answer = node.echo
    assert await client.call("m", {"again": True}) == {"params": {"again": True}}


async def test_no_socket_is_an_error_not_a_crash(tmp_path: Path) -> None:
    with pytest.raises(ClnError) as caught:
        await ClnClient(tmp_path / "absent").call("m")
    assert caught.value.outcome_unknown and str(tmp_path) not in caught.value.message


@pytest.mark.parametrize(
    "text", [b"[]", b"null", b"{}", b'{"id":"x"}', b"garbage", b'{"id":"test:m#1","result":[1]}']
)
async def test_what_is_not_json_rpc_is_refused(node: Node, client: ClnClient, text: bytes) -> None:
    async def lie(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(text + b"\n\n")

    node.answer = lie
    with pytest.raises(ClnError) as caught:
        await client.call("m")
    assert caught.value.code == -1


async def test_calls_in_flight_are_bounded_and_waiting_counts_against_the_deadline(
    node: Node, client: ClnClient
) -> None:
    release = asyncio.Event()

    async def hang(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await node.echo(request, writer)

    node.answer = hang
    waiting = [asyncio.create_task(client.call("m")) for _ in range(IN_FLIGHT_MAX)]
    while len(node.requests) < IN_FLIGHT_MAX:
        await asyncio.sleep(0)
    with pytest.raises(ClnTimeout):
        await client.call("one-more", timeout=0.1)
    release.set()
    await asyncio.gather(*waiting)
    assert all(r["method"] == "m" for r in node.requests)


async def test_large_answers_arrive_whole(node: Node, client: ClnClient) -> None:
    async def big(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        node.reply(writer, id=request["id"], result={"text": "x" * 3_000_000})

    node.answer = big
    assert len((await client.call("m"))["text"]) == 3_000_000


async def test_typed_calls_use_clns_names(node: Node, client: ClnClient) -> None:
    async def answer(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        results = {
            "makesecret": {"secret": "ab" * 32},
            "setchannel": {"channels": [{"short_channel_id": "1x1x1"}]},
            "help": {"help": [{"command": "getinfo"}, {"command": "pay bolt11 [x]"}]},
        }
        node.reply(writer, id=request["id"], result=results[request["method"]])

    node.answer = answer
    assert await client.makesecret("label") == b"\xab" * 32
    assert (await client.setchannel("1x1x1", feeppm=7))[0]["short_channel_id"] == "1x1x1"
    assert await client.help_names() == {"getinfo", "pay"}
    assert [r["params"] for r in node.requests[:2]] == [{"string": "label"}, {"id": "1x1x1", "feeppm": 7}]
