#!/usr/bin/env python3
"""clnrest for development networks: the node's RPC over HTTP(S), opened by runes.

Stands in for CLN's own clnrest, a Rust plugin that small builds of lightningd leave out, and answers as that
one (v26.06) does, in its order: the body is read whole, the path looked up, the body parsed, and only then
the rune is asked about.

- `POST /v1/<method>`, header `Rune`: 201 with the result; 403 code 1501 without a rune, 401 with the code of
  `checkrune` for one it refuses, 404 for an unknown path or method, 405 for another HTTP method, 406 for a
  body or answer of another kind or a name given twice, 500 with the error of the method or of the parser.
- The body is JSON, or a form whose values are texts.
- `GET /v1/list-methods` without a rune: 200, text about every method.
- `clnrest-register-path`: further paths, with `{name}` for a part that becomes a parameter.

Left out: YAML and XML bodies, Swagger UI, websocket notifications, CORS; one request per connection.
The real one takes bodies of any size; this one ends at 64 MiB (413), as a proxy in front of it would.
"""

from __future__ import annotations

import asyncio
import html
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from hive_shared.cln import ClnClient, ClnError
from hive_shared.errors import HiveError
from hive_shared.runtime import InitInfo, MethodSpec, OptionSpec, Param, PluginApp

from hive_devnet.certificates import make_certificates

_HEAD_LIMIT: Final = 32_768
_BODY_LIMIT: Final = 67_108_864
_REQUEST_S: Final = 60.0
_REASONS: Final = {
    200: "OK",
    201: "Created",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    413: "Payload Too Large",
    500: "Internal Server Error",
}
_HTTP_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_RULE: Final = "\n" + "-" * 171 + "\n\n"


class Refused(Exception):
    """An HTTP status with clnrest's error body."""

    def __init__(self, status: int, code: int | None, message: str, data: object = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"code": code, "message": message, "data": data}


class HandlerError(HiveError):
    """What cln-plugin makes of an error of a Rust handler."""

    slug, code = "", -32700

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.args = (message,)


@dataclass(frozen=True)
class Route:
    """What a registered path and HTTP method lead to."""

    rpc_method: str
    rune_required: bool = True
    rune_restrictions: Mapping[str, Any] | None = None


class Clnrest:
    """The plugin: options, the register method, and the HTTP server."""

    def __init__(self) -> None:
        self._paths: dict[str, dict[str, Route]] = {}
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
                        Param("http_method", "str", default="POST"),
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
        path, http_method = params["path"].strip("/"), params["http_method"].upper()
        if http_method not in _HTTP_METHODS:
            raise HandlerError(f"{http_method} is not a supported http method!")
        if http_method != "GET" and not params["rune_required"]:
            raise HandlerError("rune_required must be true for anything but GET requests")
        if params["path"] == "/":
            raise HandlerError("Path must not be root")
        if not path:
            raise HandlerError("Path must not be empty")
        if "{*" in path:
            raise HandlerError("Wildcards not supported")
        routes = next((found for pattern, found, _ in self._matches(path)), None)
        if routes is None:
            routes = self._paths.setdefault(path, {})
        if http_method in routes:
            text = f"Conflicting path '{path}' already exists with http_method: {http_method}"
            raise HandlerError(text)
        routes[http_method] = Route(
            params["rpc_method"], params["rune_required"], params["rune_restrictions"]
        )
        return {}

    def _matches(self, path: str) -> list[tuple[str, dict[str, Route], dict[str, str]]]:
        """Registered patterns that fit a path, exact ones first, with what stands for their `{name}`s."""
        found = []
        for pattern, routes in self._paths.items():
            parts = (
                f"(?P<{part[1:-1]}>[^/]+)" if re.fullmatch(r"\{\w+\}", part) else re.escape(part)
                for part in pattern.split("/")
            )
            if fits := re.fullmatch("/".join(parts), path):
                found.append((pattern, routes, fits.groupdict()))
        return sorted(found, key=lambda entry: entry[0] != path)

    # -- HTTP ----------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_S):
                status, kind, text = await self._answer(reader)
            head = (
                f"HTTP/1.1 {status} {_REASONS[status]}\r\n"
                f"content-type: {kind}\r\ncontent-length: {len(text)}\r\nconnection: close\r\n\r\n"
            )
            writer.write(head.encode() + text)
            await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            self.app.log("debug", "request_broken_off", kind=type(error).__name__)
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, str, bytes]:
        try:
            method, path, headers = _head(await reader.readuntil(b"\r\n\r\n"))
            body = await _body(reader, headers)
            if path == "v1/list-methods":
                if method != "GET":
                    raise Refused(405, None, "")
                return 200, "text/html; charset=utf-8", (await self._list_methods()).encode()
            result = await self._call(method, path, headers, body)
            return 201, "application/json", json.dumps(result).encode()
        except Refused as refused:
            return refused.status, "application/json", json.dumps(refused.body).encode()

    async def _list_methods(self) -> str:
        rows = (await self._cln.call("help"))["help"]
        return "".join(f"Command: {html.escape(row['command'])}\n{_RULE}" for row in rows)

    async def _call(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> object:
        route, params = self._route(method, path)
        kind = headers.get("content-type", "application/json")
        if "*/*" in kind or "application/json" in kind:
            given = _params(body)
        elif "application/x-www-form-urlencoded" in kind:
            given = _form(body)
        else:
            raise Refused(406, None, f"Unsupported content-type header: {kind}")
        for name, value in given.items():
            if name in params:
                raise Refused(406, None, f"Duplicate key: {name}")
            params[name] = value
        params = {name: value for name, value in params.items() if value is not None}
        if route.rune_required or method != "GET":
            await self._check_rune(headers.get("rune"), route, params)
        try:
            result = await self._cln.call(route.rpc_method, params, timeout=_REQUEST_S)
        except ClnError as error:
            status = 404 if error.code == -32601 else 500
            raise Refused(status, error.code, error.message, error.data) from error
        wanted = headers.get("accept", "application/json")
        if "*/*" not in wanted and "application/json" not in wanted:
            raise Refused(406, None, f"Unsupported accept header: {wanted}")
        return result

    def _route(self, method: str, path: str) -> tuple[Route, dict[str, Any]]:
        for _, routes, captured in self._matches(path):
            if method not in routes:
                text = f"Dynamic path: {path} has no http_method:{method} registered"
                raise Refused(405, -32601, text)
            return routes[method], dict(captured)
        prefix, version, rpc_method = path.partition("v1/")
        if not version:
            raise Refused(404, -32601, "Path not found")
        if prefix:
            raise Refused(404, -32601, "Path invalid, version missing for CLN methods")
        if method != "POST":
            raise Refused(405, -32601, "Path invalid, http_method must be POST for CLN methods")
        return Route(rpc_method), {}

    async def _check_rune(self, rune: str | None, route: Route, params: Mapping[str, Any]) -> None:
        if rune is None:
            raise Refused(403, 1501, "Not authorized: Missing rune")
        asked = {"method": route.rpc_method, "params": dict(params), **(route.rune_restrictions or {})}
        try:
            await self._cln.call("checkrune", {"rune": rune, **asked})
        except ClnError as error:
            raise Refused(401, error.code, error.message, error.data) from error


def _head(raw: bytes) -> tuple[str, str, dict[str, str]]:
    """Method, path without the leading slash, headers."""
    lines = raw.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[1].startswith("/"):
        raise Refused(400, None, "")
    pairs = (line.split(":", 1) for line in lines[1:] if ":" in line)
    path = unquote(words[1].split("?", 1)[0]).removeprefix("/")
    return words[0], path, {name.strip().lower(): value.strip() for name, value in pairs}


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    length = headers.get("content-length", "0")
    if not length.isdigit() or "transfer-encoding" in headers:
        raise Refused(400, None, "this stand-in needs a content-length")
    if int(length) > _BODY_LIMIT:
        raise Refused(413, None, f"more than {_BODY_LIMIT} bytes")
    return await reader.readexactly(int(length))


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _params(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    shown = body.decode(errors="replace")
    try:
        params = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refused(500, None, f"Could not parse `{shown}` JSON request: {error}") from error
    if not isinstance(params, dict):
        text = f"Could not parse `{shown}` JSON request: invalid type, expected a map"
        raise Refused(500, None, text)
    return params


def _form(body: bytes) -> dict[str, Any]:
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body)))
    except ValueError as error:
        shown = body.decode(errors="replace")
        raise Refused(500, None, f"Could not parse `{shown}` FORM-URLENCODED request: {error}") from error


if __name__ == "__main__":
    Clnrest().app.run()
