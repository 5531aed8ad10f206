"""The RPC socket of a node: any number of clients, pipelined requests, answers as they get ready."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hive_devnet.embedded.errors import INVALID_REQUEST, RpcError
from hive_devnet.rpc import FramingError, ObjectSplitter, encode_message, short_socket_path

_READ_SIZE = 1 << 16
Tell = Callable[[str, str], None]
Dispatch = Callable[[str, Any, str, "Connection"], Awaitable[dict[str, Any]]]
_connection_numbers = itertools.count(1)


class Connection:
    """One client. `notifications` is what the client chose with the `notifications` command."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.number = next(_connection_numbers)
        self.notifications = False
        self.writer = writer
        self.tasks: set[asyncio.Task[None]] = set()

    def send(self, message: dict[str, Any]) -> None:
        """Queues a message; a client that hung up gets nothing."""
        if not self.writer.is_closing():
            self.writer.write(encode_message(message))


class RpcServer:
    """Listens on `path`. `dispatch(method, params, id, connection)` returns a response without id."""

    def __init__(self, path: Path, dispatch: Dispatch) -> None:
        self._path = path
        self._dispatch = dispatch
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()

    async def listen(self) -> None:
        """Opens the socket, mode 0600, in place of a stale one."""
        self._path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, short_socket_path(self._path))
        finally:
            os.umask(mask)

    async def close(self, drain: bool) -> None:
        """Closes the socket and every client; `drain` lets what is written reach them first."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            for task in connection.tasks:
                task.cancel()
            if drain:
                try:
                    await asyncio.wait_for(connection.writer.drain(), 1)
                except (TimeoutError, ConnectionError):
                    pass
                connection.writer.close()
            else:
                connection.writer.transport.abort()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(writer)
        self._connections.add(connection)
        splitter = ObjectSplitter()
        try:
            while data := await reader.read(_READ_SIZE):
                for text in splitter.feed(data):
                    self._accept(connection, text)
                await writer.drain()
            await asyncio.gather(*connection.tasks, return_exceptions=True)
        except FramingError as error:
            connection.send(_malformed(str(error)))
        except ConnectionError:
            pass
        except asyncio.CancelledError:
            return
        finally:
            self._connections.discard(connection)
            writer.close()

    def _accept(self, connection: Connection, text: bytes) -> None:
        try:
            request = json.loads(text)
        except ValueError as error:
            raise FramingError(f"Invalid token in json input: {error}") from error
        problem = _malformed_reason(request)
        if problem is not None:
            connection.send(_malformed(problem))
            return
        task = asyncio.create_task(self._answer(connection, request))
        connection.tasks.add(task)
        task.add_done_callback(connection.tasks.discard)

    async def _answer(self, connection: Connection, request: dict[str, Any]) -> None:
        identity = request["id"]
        head = {"jsonrpc": "2.0", "id": identity}
        try:
            method, params = request.get("method"), request.get("params")
            if method is None or params is None:
                raise RpcError(INVALID_REQUEST, "No method" if method is None else "No params")
            if not isinstance(method, str):
                raise RpcError(INVALID_REQUEST, "Expected string for method")
            shown = identity if isinstance(identity, str) else json.dumps(identity)
            connection_reply = await self._dispatch(method, params, shown, connection)
            if "filter" in request and isinstance(connection_reply.get("result"), dict):
                connection_reply = {"result": filtered(connection_reply["result"], request["filter"])}
            connection.send(head | connection_reply)
        except RpcError as error:
            connection.send(head | {"error": error.as_json()})
        except LostAnswer:
            return


class LostAnswer(Exception):
    """A fault switch swallowed the answer: the client hears nothing."""


def filtered(value: Any, wanted: Any) -> Any:
    """`value` cut down to what a request's `filter` asks for."""
    if wanted is True:
        return value
    if isinstance(value, dict) and isinstance(wanted, dict):
        return {key: filtered(value[key], part) for key, part in wanted.items() if key in value}
    if isinstance(value, list) and isinstance(wanted, list) and wanted:
        return [filtered(item, wanted[0]) for item in value]
    return value


def _malformed(problem: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": None, "error": {"code": INVALID_REQUEST, "message": problem}}


def _malformed_reason(request: Any) -> str | None:
    if not isinstance(request, dict):
        return "Expected {} for json command"
    if "id" not in request:
        return "No id"
    if isinstance(request["id"], dict | list):
        return "Expected string/primitive for id"
    if request.get("jsonrpc") != "2.0":
        return 'jsonrpc: "2.0" must be specified in the request'
    return None
