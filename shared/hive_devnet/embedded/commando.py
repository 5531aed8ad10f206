"""commando: commands for a peer, and a peer's commands for us, as custom messages opened by runes.

As CLN's plugins/commando.c (v26.06): message types, chunks of 65,000 bytes, limits, error codes and texts.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hive_devnet.embedded.errors import RpcError
from hive_devnet.embedded.rpc_server import LostAnswer, filtered
from hive_devnet.embedded.runes import RuneError, parse_rune

if TYPE_CHECKING:
    from hive_devnet.embedded.node import EmbeddedNode

CMD_CONTINUES: Final = 0x4C4D
CMD_TERM: Final = 0x4C4F
REPLY_CONTINUES: Final = 0x594B
REPLY_TERM: Final = 0x594D
ERROR_LOCAL: Final = 0x4C4F
ERROR_REMOTE: Final = 0x4C50
ERROR_REMOTE_AUTH: Final = 0x4C51

_CHUNK: Final = 65_000
_MAX_COMMAND: Final = 1_048_576
_MAX_REPLY: Final = 500 * 1_048_576
_MAX_PARTIAL: Final = 16
_HEAD: Final = 10


@dataclass
class _Partial:
    """A command that arrives in pieces; `contents` is None once it was too large."""

    number: int
    contents: bytearray | None = field(default_factory=bytearray)


@dataclass
class _Sent:
    """A command of ours and what came of its reply; None once that was too large."""

    peer_id: str
    reply: asyncio.Future[bytes | None]
    contents: bytearray | None = field(default_factory=bytearray)


class Commando:
    """Both ends of one node."""

    def __init__(self, node: EmbeddedNode) -> None:
        self._node = node
        self._incoming: dict[str, _Partial] = {}
        self._outgoing: dict[int, _Sent] = {}

    # -- our commands ----------------------------------------------------------------------------------

    async def command(
        self,
        peer_id: str,
        method: str,
        params: str,
        rune: str | None,
        filter_text: str | None,
        request_id: str,
    ) -> dict[str, Any]:
        """Has a peer run a method; waits for the reply for ever. Raises RpcError with the peer's error."""
        text = f'{{"method":"{method}","id":"{request_id}","params":{params}'
        if rune is not None:
            text += f',"rune":"{rune}"'
        if filter_text is not None:
            text += f',"filter":{filter_text}'
        number = random.getrandbits(64)
        sent = _Sent(peer_id, asyncio.get_running_loop().create_future())
        self._outgoing[number] = sent
        try:
            for message in _messages(CMD_CONTINUES, CMD_TERM, number, f"{text}}}".encode()):
                await self._node.call("sendcustommsg", {"node_id": peer_id, "msg": message.hex()})
            return _result(await sent.reply)
        finally:
            del self._outgoing[number]

    # -- what peers send -------------------------------------------------------------------------------

    def receive(self, sender: str, message: bytes) -> None:
        """Takes a custom message of a peer; other types are none of ours."""
        kind, number = int.from_bytes(message[:2], "big"), int.from_bytes(message[2:_HEAD], "big")
        if len(message) < _HEAD:
            return
        if kind in (CMD_CONTINUES, CMD_TERM):
            self._take_command(sender, number, message[_HEAD:], kind == CMD_TERM)
        elif kind in (REPLY_CONTINUES, REPLY_TERM):
            self._take_reply(sender, number, message[_HEAD:], kind == REPLY_TERM)

    def _take_command(self, sender: str, number: int, piece: bytes, last: bool) -> None:
        partial = self._incoming.get(sender)
        if partial is None or partial.number != number:
            # One per peer: a newer one replaces what was not finished.
            self._incoming.pop(sender, None)
            partial = self._incoming[sender] = _Partial(number)
            if len(self._incoming) > _MAX_PARTIAL:
                self._incoming.pop(next(iter(self._incoming)))
        partial.contents = _joined(partial.contents, piece, _MAX_COMMAND)
        if not last:
            return
        self._incoming.pop(sender, None)
        if partial.contents is None:
            self._node.log.write("unusual", "plugin-commando", f"{sender}: ignoring oversize request")
            return
        self._node.spawn(self._serve(sender, number, bytes(partial.contents)))

    async def _serve(self, sender: str, number: int, contents: bytes) -> None:
        try:
            reply = await self._answer(sender, contents)
        except RpcError as error:
            reply = {"error": {"code": error.code, "message": error.message}}
        except LostAnswer:
            return
        text = json.dumps(reply, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
        for message in _messages(REPLY_CONTINUES, REPLY_TERM, number, text):
            try:
                await self._node.call("sendcustommsg", {"node_id": sender, "msg": message.hex()})
            except RpcError:
                return

    async def _answer(self, sender: str, contents: bytes) -> dict[str, Any]:
        asked = _read(contents)
        check = {"nodeid": sender, "rune": asked["rune"], "method": asked["method"]}
        if "params" in asked:
            check["params"] = asked["params"]
        try:
            await self._node.call("checkrune", check)
        except RpcError as error:
            raise RpcError(ERROR_REMOTE_AUTH, f"Invalid rune: {error.message}") from error
        reply = await self._node.answer(asked["method"], asked.get("params", {}), str(asked["id"]))
        if "filter" in asked and isinstance(reply.get("result"), dict):
            reply = {"result": filtered(reply["result"], asked["filter"])}
        return {"jsonrpc": "2.0", "id": asked["id"], **reply}

    def _take_reply(self, sender: str, number: int, piece: bytes, last: bool) -> None:
        sent = self._outgoing.get(number)
        if sent is None or sent.peer_id != sender:
            text = f"Ignoring unexpected reply from {sender} (id {number})"
            self._node.log.write("debug", "plugin-commando", text)
            return
        sent.contents = _joined(sent.contents, piece, _MAX_REPLY)
        if last and not sent.reply.done():
            sent.reply.set_result(None if sent.contents is None else bytes(sent.contents))


def _messages(continues: int, term: int, number: int, text: bytes) -> list[bytes]:
    pieces = [text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK)]
    kinds = [continues] * (len(pieces) - 1) + [term]
    return [
        kind.to_bytes(2, "big") + number.to_bytes(8, "big") + piece
        for kind, piece in zip(kinds, pieces, strict=True)
    ]


def _joined(contents: bytearray | None, piece: bytes, limit: int) -> bytearray | None:
    if contents is None or len(contents) + len(piece) > limit:
        return None
    contents += piece
    return contents


def _read(contents: bytes) -> dict[str, Any]:
    """A peer's command. Raises RpcError as commando answers."""
    try:
        asked = json.loads(contents)
    except (ValueError, RecursionError) as error:
        raise RpcError(ERROR_REMOTE, "Invalid JSON") from error
    if not isinstance(asked, dict):
        raise RpcError(ERROR_REMOTE, "Not a JSON object")
    if "method" not in asked:
        raise RpcError(ERROR_REMOTE, "No method")
    if "params" in asked and not isinstance(asked["params"], dict | list):
        raise RpcError(ERROR_REMOTE, "Params must be object or array")
    if "id" not in asked:
        raise RpcError(ERROR_REMOTE, "missing id field")
    if "rune" not in asked:
        raise RpcError(ERROR_REMOTE, "Missing rune")
    try:
        parse_rune(str(asked["rune"]))
    except RuneError as error:
        raise RpcError(ERROR_REMOTE, "Invalid rune") from error
    return asked


def _result(contents: bytes | None) -> dict[str, Any]:
    """What a reply means. Raises RpcError with its error, or saying why it means nothing."""
    if contents is None:
        raise RpcError(ERROR_LOCAL, "Reply was oversize")
    try:
        reply = json.loads(contents)
        if not isinstance(reply, dict):
            raise ValueError
    except (ValueError, RecursionError) as unparsable:
        text = contents.decode(errors="replace")
        raise RpcError(ERROR_LOCAL, f"Reply was unparsable: '{text}'") from unparsable
    error = reply.get("error")
    if isinstance(error, dict):
        if not isinstance(error.get("code"), int):
            raise RpcError(ERROR_LOCAL, f"Error '{json.dumps(error)}' had no valid code")
        if "message" not in error:
            raise RpcError(ERROR_LOCAL, "Error had no message")
        raise RpcError(error["code"], str(error["message"]), error.get("data"))
    if not isinstance(reply.get("result"), dict):
        raise RpcError(ERROR_LOCAL, "Reply had no result")
    result: dict[str, Any] = reply["result"]
    return result
