"""JSON-RPC over a unix socket, framed as Core Lightning frames it.

CLN ends every message with an empty line but accepts any framing: a peer may send objects back to
back, in pieces, or with white space between them. `ObjectSplitter` cuts such a stream into objects.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hive_devnet.node import DevnetRpcError

_STRUCTURE = re.compile(rb'["\\{}\[\]]')
_READ_SIZE = 1 << 16
_ids = itertools.count(1)


class FramingError(ValueError):
    """The stream holds something that is not a JSON object or array."""


class ObjectSplitter:
    """Cuts a byte stream into top-level JSON objects without parsing them twice."""

    def __init__(self, limit: int = 64 << 20) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._scanned = 0
        self._depth = 0
        self._in_string = False
        self._escape_at = -1

    def feed(self, data: bytes) -> list[bytes]:
        """Adds `data`; returns the objects that are now complete, in order.

        Raises FramingError on text outside an object and on an object above the size limit.
        """
        self._buffer += data
        found: list[bytes] = []
        start = 0
        for match in _STRUCTURE.finditer(self._buffer, self._scanned):
            position = match.start()
            mark = match.group()
            if self._in_string:
                if position == self._escape_at:
                    continue
                if mark == b"\\":
                    self._escape_at = position + 1
                elif mark == b'"':
                    self._in_string = False
                continue
            if self._depth == 0:
                self._check_gap(start, position, mark)
                start = position
            if mark == b'"':
                self._in_string = True
            elif mark in b"{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == 0:
                    found.append(bytes(self._buffer[start : position + 1]))
                    start = position + 1
        if self._depth == 0 and self._buffer[start:].strip():
            shown = bytes(self._buffer[start : start + 40])
            raise FramingError(f"Invalid token in json input: {shown!r}")
        del self._buffer[:start]
        self._scanned = len(self._buffer)
        self._escape_at -= start
        if len(self._buffer) > self._limit:
            raise FramingError(f"JSON object larger than {self._limit} bytes")
        return found

    def _check_gap(self, start: int, position: int, mark: bytes) -> None:
        if mark not in (b"{", b"[") or self._buffer[start:position].strip():
            shown = bytes(self._buffer[start : position + 1])
            raise FramingError("Invalid token in json input: " + repr(shown[:40]))


def encode_message(message: Mapping[str, object]) -> bytes:
    """One JSON-RPC message as CLN writes it, with the closing empty line."""
    return msgspec.json.encode(message) + b"\n\n"


def open_unix(path: Path) -> Any:
    """Coroutine of `asyncio.open_unix_connection` that also reaches paths above the 108-byte limit."""
    return asyncio.open_unix_connection(short_socket_path(path))


def short_socket_path(path: Path) -> str:
    """A name of `path` that fits in sockaddr_un: the path itself, or relative to the working directory."""
    text = str(path)
    if len(text.encode()) <= 107:
        return text
    relative = os.path.relpath(text)
    return relative if len(relative.encode()) <= 107 else text


async def call(
    path: Path,
    method: str,
    params: Mapping[str, object] | Sequence[object] | None = None,
    timeout: float = 60,
    request_id: str | None = None,
) -> dict[str, Any]:
    """Calls `method` on the node whose RPC socket is `path`; returns the result object.

    Raises DevnetRpcError with CLN's code and message, TimeoutError after `timeout` seconds, and
    ConnectionError when the node is not there or hangs up before answering.
    """
    async with asyncio.timeout(timeout):
        reader, writer = await open_unix(path)
        try:
            identity = request_id or f"devnet:{method}#{os.getpid()}/{next(_ids)}"
            request = {"jsonrpc": "2.0", "id": identity, "method": method, "params": params or {}}
            writer.write(encode_message(request))
            await writer.drain()
            reply = await _read_reply(reader, identity, method)
        finally:
            writer.close()
    return _result_of(reply)


async def _read_reply(reader: asyncio.StreamReader, identity: str, method: str) -> dict[str, Any]:
    splitter = ObjectSplitter()
    while True:
        data = await reader.read(_READ_SIZE)
        if not data:
            raise ConnectionResetError(f"the node hung up before it answered {method}")
        for text in splitter.feed(data):
            reply: dict[str, Any] = json.loads(text)
            if reply.get("id") == identity or (reply.get("id") is None and "error" in reply):
                return reply


def _result_of(reply: dict[str, Any]) -> dict[str, Any]:
    error = reply.get("error")
    if error is not None:
        raise DevnetRpcError(int(error["code"]), str(error["message"]), error.get("data"))
    result = reply["result"]
    return result if isinstance(result, dict) else {"result": result}
