#!/usr/bin/env python3
"""clnrest for development networks: the node's RPC over HTTP(S), opened by runes.

Stands in for CLN's own clnrest, a Rust plugin that small builds of lightningd leave out. It answers the same
way: `POST /v1/<method>` with the header `Rune`, 201 with the result, 403 without a rune, 401 when `checkrune`
refuses it, 404 for an unknown path or method, 500 with the method's error; `clnrest-register-path` adds
paths. It serves JSON only, one request per connection.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hive_shared.cln import ClnClient, ClnError
from hive_shared.runtime import InitInfo, MethodSpec, OptionSpec, Param, PluginApp

from hive_devnet.certificates import make_certificates

_HEAD_LIMIT = 32_768
_BODY_LIMIT = 4_194_304
_REQUEST_S = 60.0
_REASONS = {
    201: "Created",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
}


class Refused(Exception):
    """An HTTP status with clnrest's error body."""

    def __init__(self, status: int, code: int | None, message: str, data: object = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"code": code, "message": message, "data": data}


class Clnrest:
    """The plugin: options, the register method, and the HTTP server."""

    def __init__(self) -> None:
        self._paths: dict[str, str] = {}
        self._cln: ClnClient
        self._server: asyncio.Server | None = None
        self.app = PluginApp(
            name="clnrest",
            version="0.1.0",
            options=[
                OptionSpec("clnrest-port", "int", None, "REST server port to listen"),
                OptionSpec("clnrest-host", "string", "127.0.0.1", "REST server host"),
                OptionSpec("clnrest-protocol", "string", "https", "REST server protocol"),
                OptionSpec("clnrest-certs", "string", None, "Path for certificates (for https)"),
            ],
            methods=[
                MethodSpec(
                    "clnrest-register-path",
                    "X",
                    (
                        Param("path", "str", required=True),
                        Param("rpc_method", "str", required=True),
                        Param("http_method", "str", default="POST", choices=("POST",)),
                        Param("rune_required", "bool", default=True),
                        Param("rune_restrictions", "json"),
                    ),
                    self._register,
                    "Register a dynamic REST path for clnrest",
                )
            ],
            subscriptions={},
            on_init=self._on_init,
            on_setconfig=self._on_setconfig,
            on_stop=self._on_stop,
        )

    async def _on_init(self, info: InitInfo) -> str | None:
        port, host = info.options["clnrest-port"], info.options["clnrest-host"]
        if port is None:
            return "`clnrest-port` option is not configured"
        self._cln = ClnClient(info.rpc_path, id_prefix="clnrest")
        context = None
        if info.options["clnrest-protocol"].lower() == "https":
            directory = Path(info.options["clnrest-certs"] or info.net_dir)
            make_certificates(directory, host)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(directory / "server.pem", directory / "server-key.pem")
        self._server = await asyncio.start_server(
            self._serve, host, port, ssl=context, reuse_address=True, limit=_HEAD_LIMIT
        )
        return None

    async def _on_setconfig(self, name: str, value: Any) -> None:
        raise ValueError(f"{name} takes effect after a restart")

    async def _on_stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._cln.close()

    async def _register(self, params: dict[str, Any]) -> dict[str, Any]:
        path = params["path"].strip("/")
        if not path:
            raise ValueError("Path must not be empty")
        if path in self._paths:
            raise ValueError(f"Conflicting path '{path}' already exists with http_method: POST")
        self._paths[path] = params["rpc_method"]
        return {}

    # -- HTTP ----------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_S):
                status, body = await self._answer(reader)
            text = json.dumps(body).encode()
            head = (
                f"HTTP/1.1 {status} {_REASONS.get(status, 'Internal Server Error')}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(text)}\r\nconnection: close\r\n\r\n"
            )
            writer.write(head.encode() + text)
            await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            self.app.log("debug", "request_broken_off", kind=type(error).__name__)
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, object]:
        try:
            method, path, headers = _head(await reader.readuntil(b"\r\n\r\n"))
            length = int(headers.get("content-length", "0"))
            if not 0 <= length <= _BODY_LIMIT:
                raise Refused(500, None, "Could not read request body: length limit exceeded")
            body = await reader.readexactly(length)
            return 201, await self._call(method, path, headers, body)
        except Refused as refused:
            return refused.status, refused.body

    async def _call(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> object:
        rpc_method = self._paths.get(path.strip("/"))
        if rpc_method is None:
            if not path.startswith("/v1/"):
                raise Refused(404, -32601, "Path not found")
            rpc_method = path.removeprefix("/v1/")
        if method != "POST":
            raise Refused(405, -32601, "Path invalid, http_method must be POST for CLN methods")
        params = _params(body)
        await self._check_rune(headers.get("rune"), rpc_method, params)
        try:
            return await self._cln.call(rpc_method, params, timeout=_REQUEST_S)
        except ClnError as error:
            status = 404 if error.code == -32601 else 500
            raise Refused(status, error.code, error.message, error.data) from error

    async def _check_rune(self, rune: str | None, method: str, params: Mapping[str, Any]) -> None:
        if rune is None:
            raise Refused(403, 1501, "Not authorized: Missing rune")
        try:
            await self._cln.call("checkrune", {"rune": rune, "method": method, "params": dict(params)})
        except ClnError as error:
            raise Refused(401, error.code, error.message, error.data) from error


def _head(raw: bytes) -> tuple[str, str, dict[str, str]]:
    lines = raw.decode("latin-1").split("\r\n")
    try:
        method, target, _ = lines[0].split(" ")
    except ValueError:
        raise Refused(404, -32601, "Path not found") from None
    pairs = (line.split(":", 1) for line in lines[1:] if ":" in line)
    return method, target.split("?", 1)[0], {name.strip().lower(): value.strip() for name, value in pairs}


def _params(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    try:
        params = json.loads(body)
    except ValueError as error:
        raise Refused(500, None, f"Could not parse JSON request: {error}") from error
    if not isinstance(params, dict):
        raise Refused(500, None, "Could not parse JSON request: invalid type: expected a map")
    return {name: value for name, value in params.items() if value is not None}


if __name__ == "__main__":
    Clnrest().app.run()
