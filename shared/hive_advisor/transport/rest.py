"""Commands through a node's clnrest: one HTTPS request, no redirects, nothing sent to an unproven server
(docs/protocol/11-advisor-kit.md §4, docs/protocol/02-fleet-management.md §6.3).

HTTP/1.0 on a connection of its own per command: the answer ends with the connection, and there is no state
between commands that could mix answers up.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from hive_shared.errors import TransportUnavailable
from hive_shared.nostr.relay_url import is_local
from hive_shared.nostr.socks import connect_through

from hive_advisor.domain.route import OfferedRest, RestRoute, check_rest_url

CONNECT_S: Final = 5.0
TOTAL_S: Final = 30.0
_MAX_ANSWER: Final = 1_114_112
_PATH: Final = "/v1/hive-comms-rpc"
# A rune is good for one call a second; the node's clock decides, so a little more.
_RUNE_REST_S: Final = 1.1


class RestLink:
    """Calls hive-comms-rpc. `proxy` is the SOCKS proxy (host, port) all connections have to take."""

    def __init__(self, agent_key: str, *, proxy: tuple[str, int] | None = None) -> None:
        self._agent_key, self._proxy = agent_key, proxy
        self._turns: dict[str, asyncio.Lock] = {}
        self._last: dict[str, float] = {}
        self._demanding: set[str] = set()

    async def call(self, route: RestRoute, offered: OfferedRest, envelope: str) -> str:
        """The answer's text. Raises TransportUnavailable with why there is none."""
        url = check_rest_url(route.url, allow_private=route.allow_private)
        params = {"request": envelope, "sender": self._agent_key}
        if url in self._demanding:
            params["rune"] = offered.rune
        status, text = await self._turn(url, route, offered.rune, params)
        if "rune" not in params and _demands_rune(status, text):
            # clnrest writes parameters into the node's log, so the rune is one only where it has to be.
            self._demanding.add(url)
            status, text = await self._turn(url, route, offered.rune, {**params, "rune": offered.rune})
        if status == 201:
            return text
        raise TransportUnavailable(f"{url}: {_why(status, text)}", data={"status": status})

    async def _turn(
        self, url: str, route: RestRoute, rune: str, params: Mapping[str, str]
    ) -> tuple[int, str]:
        body = json.dumps(params).encode()
        async with self._turns.setdefault(url, asyncio.Lock()):
            await self._pause(url)
            try:
                async with asyncio.timeout(TOTAL_S):
                    return await self._post(url, route, rune, body)
            except TimeoutError as error:
                raise TransportUnavailable(f"{url} did not answer in {TOTAL_S:g} s") from error
            except ssl.SSLError as error:
                why = getattr(error, "verify_message", "") or error.reason or "TLS failed"
                raise TransportUnavailable(f"{url}: its certificate is not accepted: {why}") from error
            except (OSError, EOFError, ValueError) as error:
                raise TransportUnavailable(f"{url} cannot be reached: {error}") from error
            finally:
                self._last[url] = asyncio.get_running_loop().time()

    async def _pause(self, url: str) -> None:
        since = asyncio.get_running_loop().time() - self._last.get(url, float("-inf"))
        if since < _RUNE_REST_S:
            await asyncio.sleep(_RUNE_REST_S - since)

    async def _post(self, url: str, route: RestRoute, rune: str, body: bytes) -> tuple[int, str]:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        async with asyncio.timeout(CONNECT_S):
            sock = await self._connect(host, port, route.allow_private)
            context = _tls(route) if parts.scheme == "https" else None
            reader, writer = await asyncio.open_connection(
                sock=sock, ssl=context, server_hostname=host if context is not None else None
            )
        try:
            if context is not None and route.tls_sha256 is not None:
                _check_pin(writer.get_extra_info("ssl_object"), route.tls_sha256)
            head = (
                f"POST {parts.path}{_PATH} HTTP/1.0\r\nHost: {parts.netloc}\r\nRune: {rune}\r\n"
                f"Content-Type: application/json\r\nAccept: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
            return await _response(reader)
        finally:
            writer.close()

    async def _connect(self, host: str, port: int, allow_private: bool) -> socket.socket:
        if self._proxy is not None and not is_local(host):
            return await connect_through(self._proxy, host, port)
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        if not allow_private and any(is_local(str(info[4][0])) for info in infos):
            raise OSError(f"{host} resolves to a private address, which --allow-private would permit")
        # The checked address is the one connected to: a second look-up could answer differently.
        family, kind, protocol, _, address = infos[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return sock


def _tls(route: RestRoute) -> ssl.SSLContext:
    if route.tls_sha256 is not None:
        # The certificate itself is compared, before anything is sent; who issued it does not matter then.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context = ssl.create_default_context(cadata=route.ca_cert)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _check_pin(tls: ssl.SSLObject, expected: str) -> None:
    certificate = tls.getpeercert(binary_form=True) or b""
    if hashlib.sha256(certificate).hexdigest() != expected:
        raise OSError("it showed another certificate than the pinned one")


async def _response(reader: asyncio.StreamReader) -> tuple[int, str]:
    head, _, rest = (await _read_all(reader)).partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ValueError("it answered something that is no HTTP")
    return int(words[1]), rest.decode()


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    raw = bytearray()
    while chunk := await reader.read(65_536):
        raw += chunk
        if len(raw) > _MAX_ANSWER:
            raise ValueError(f"its answer has more than {_MAX_ANSWER} bytes")
    return bytes(raw)


def _demands_rune(status: int, text: str) -> bool:
    """Whether the node refused for want of the parameter rune (its option rest-rune-required)."""
    if status != 500:
        return False
    try:
        said: Any = json.loads(text)
    except ValueError:
        return False
    data = said.get("data") if isinstance(said, dict) else None
    return isinstance(data, dict) and data.get("reason") == "rune_rejected"


def _why(status: int, text: str) -> str:
    """One line about a refusal; the node's words are cut, they are its own."""
    if 300 <= status < 400:
        return "it redirects elsewhere, which is not followed"
    try:
        said: Any = json.loads(text)
    except ValueError:
        said = None
    message = str(said.get("message", "")) if isinstance(said, dict) else ""
    printable = "".join(char for char in message[:200] if char.isprintable())
    return f"HTTP {status}" + (f", {printable}" if printable else "")
