"""commando of the embedded node: pieces, limits, refusals, replies of others (CLN plugins/commando.c)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hive_devnet.embedded.commando import CMD_CONTINUES, CMD_TERM, REPLY_TERM, Commando
from hive_devnet.embedded.errors import RpcError
from hive_devnet.embedded.node import EmbeddedNode

PEER, OTHER = "02" + "11" * 32, "02" + "22" * 32
RUNE = "zAP4jrG0F3Xd7tZ0xVCkRjMAsAVL1ex5yHSUPZ-x2Vo9MA=="


class Node:
    """What Commando needs of a node; `sent` are messages to peers, `ran` the commands that were let in."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.ran: list[tuple[str, Any]] = []
        self.checked: list[dict[str, Any]] = []
        self.logged: list[str] = []
        self.refuse: RpcError | None = None
        self.tasks: list[asyncio.Task[None]] = []
        self.log = SimpleNamespace(write=lambda level, source, text: self.logged.append(text))
        self.commando = Commando(cast(EmbeddedNode, self))

    async def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method == "sendcustommsg":
            self.sent.append((params["node_id"], bytes.fromhex(params["msg"])))
        elif method == "checkrune":
            self.checked.append(params)
            if self.refuse is not None:
                raise self.refuse
        return {}

    async def answer(self, method: str, params: Any, request_id: str) -> dict[str, Any]:
        self.ran.append((method, params))
        return {"result": {"echo": params}}

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work))

    async def replies(self) -> list[dict[str, Any]]:
        await asyncio.gather(*self.tasks)
        return [json.loads(message[10:]) for _, message in self.sent]


def piece(kind: int, number: int, content: bytes) -> bytes:
    return kind.to_bytes(2, "big") + number.to_bytes(8, "big") + content


def ask(**changes: Any) -> bytes:
    fields = {"method": "getinfo", "id": "1", "rune": RUNE, "params": {"a": 1}, **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


async def test_a_command_in_pieces_is_one_command_and_a_newer_one_replaces_it() -> None:
    node = Node()
    text = ask()
    node.commando.receive(PEER, piece(CMD_CONTINUES, 7, b"never finished"))
    node.commando.receive(PEER, piece(CMD_CONTINUES, 8, text[:20]))
    # Another peer's piece under the same number is not part of it.
    node.commando.receive(OTHER, piece(CMD_CONTINUES, 8, b"{"))
    node.commando.receive(PEER, piece(CMD_TERM, 8, text[20:]))
    assert await node.replies() == [{"jsonrpc": "2.0", "id": "1", "result": {"echo": {"a": 1}}}]
    assert node.ran == [("getinfo", {"a": 1})]
    # The rune is held against what runs, and against who sent it.
    assert node.checked == [{"nodeid": PEER, "rune": RUNE, "method": "getinfo", "params": {"a": 1}}]


async def test_what_is_too_large_or_no_command_runs_nothing() -> None:
    node = Node()
    node.commando.receive(PEER, piece(CMD_CONTINUES, 1, b"x" * 1_048_577))
    node.commando.receive(PEER, piece(CMD_TERM, 1, ask()))
    node.commando.receive(PEER, b"\x4c\x4f short")
    assert not node.tasks and node.logged == [f"{PEER}: ignoring oversize request"]
    for number, (content, said) in enumerate(
        (
            (b"{", "Invalid JSON"),
            (b"[]", "Not a JSON object"),
            (ask(method=None), "No method"),
            (ask(params="x"), "Params must be object or array"),
            (ask(id=None), "missing id field"),
            (ask(rune=None), "Missing rune"),
            (ask(rune="x"), "Invalid rune"),
        )
    ):
        node.sent.clear()
        node.commando.receive(PEER, piece(CMD_TERM, number, content))
        assert await node.replies() == [{"error": {"code": 0x4C50, "message": said}}]
    node.sent.clear()
    node.refuse = RpcError(1502, "Not permitted: no")
    node.commando.receive(PEER, piece(CMD_TERM, 99, ask()))
    assert await node.replies() == [{"error": {"code": 0x4C51, "message": "Invalid rune: Not permitted: no"}}]
    assert not node.ran


async def test_only_the_peer_that_was_asked_may_reply() -> None:
    node = Node()
    asking = asyncio.create_task(node.commando.command(PEER, "getinfo", "{}", RUNE, None, "5"))
    async with asyncio.timeout(60):
        while not node.sent:
            await asyncio.sleep(0)
    ((to, message),) = node.sent
    number = int.from_bytes(message[2:10], "big")
    assert to == PEER and json.loads(message[10:]) == {
        "method": "getinfo",
        "id": "5",
        "params": {},
        "rune": RUNE,
    }
    node.commando.receive(OTHER, piece(REPLY_TERM, number, b'{"result":{"forged":1}}'))
    assert node.logged == [f"Ignoring unexpected reply from {OTHER} (id {number})"]
    node.commando.receive(
        PEER, piece(REPLY_TERM, number, b'{"error":{"code":4003,"message":"no","data":{"a":1}}}')
    )
    with pytest.raises(RpcError) as error:
        await asking
    assert (error.value.code, error.value.message, error.value.data) == (4003, "no", {"a": 1})
