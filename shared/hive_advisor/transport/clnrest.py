"""One call of a node's clnrest: one HTTPS request, no redirects, nothing sent to an unproven server
(docs/protocol/11-advisor-kit.md §4, §11.3).

HTTP/1.0 on a connection of its own per call: the answer ends with the connection, and there is no state
between calls that could mix answers up.
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

from hive_advisor.domain.route import RestRoute, check_rest_url
from hive_advisor.transport.pace import RunePace

CONNECT_S: Final = 5.0
TOTAL_S: Final = 30.0


class ClnRest:
    """Calls methods through clnrest, one at a time and a second apart per server: as fast as a rune with
    ``rate=60`` is good for. ``proxy`` is the SOCKS proxy (host, port) all connections have to take;
    ``max_answer`` bounds an answer, in bytes."""

    def __init__(self, *, proxy: tuple[str, int] | None = None, max_answer: int = 1_114_112) -> None:
        self._proxy, self._max_answer = proxy, max_answer
        self._pace = RunePace()

    async def call(
        self, route: RestRoute, rune: str, method: str, params: Mapping[str, object]
    ) -> tuple[int, str]:
        """Status and text of the answer. Raises TransportUnavailable with why there is none."""
        url = check_rest_url(route.url, allow_private=route.allow_private)
        body = json.dumps(params).encode()
        async with self._pace.turn(url):
            try:
                async with asyncio.timeout(TOTAL_S):
                    return await self._post(url, route, rune, method, body)
            except TimeoutError as error:
                raise TransportUnavailable(f"{url} did not answer in {TOTAL_S:g} s") from error
            except ssl.SSLError as error:
                said = getattr(error, "verify_message", "") or error.reason or "TLS failed"
                raise TransportUnavailable(f"{url}: its certificate is not accepted: {said}") from error
            except (OSError, EOFError, ValueError) as error:
                raise TransportUnavailable(f"{url} cannot be reached: {error}") from error

    async def _post(self, url: str, route: RestRoute, rune: str, method: str, body: bytes) -> tuple[int, str]:
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
                f"POST {parts.path}/v1/{method} HTTP/1.0\r\nHost: {parts.netloc}\r\nRune: {rune}\r\n"
                f"Content-Type: application/json\r\nAccept: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
            return await _response(reader, self._max_answer)
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


async def _response(reader: asyncio.StreamReader, limit: int) -> tuple[int, str]:
    head, _, rest = (await _read_all(reader, limit)).partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ValueError("it answered something that is no HTTP")
    return int(words[1]), rest.decode()


async def _read_all(reader: asyncio.StreamReader, limit: int) -> bytes:
    raw = bytearray()
    while chunk := await reader.read(65_536):
        raw += chunk
        if len(raw) > limit:
            raise ValueError(f"its answer has more than {limit} bytes")
    return bytes(raw)


def why(status: int, text: str) -> str:
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
