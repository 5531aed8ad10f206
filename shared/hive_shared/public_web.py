"""One HTTPS request to a server that somebody named: public addresses only, no redirects, 64 KiB, 10 s
(docs/protocol/11-advisor-kit.md §8, 03-escrow-and-payments.md §7.5)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpcore
import msgspec

from hive_shared.errors import TransportUnavailable
from hive_shared.nostr.dialer import public_address
from hive_shared.socks_http import ProxyOrDirect

MAX_BYTES: Final = 65_536
TOTAL_S: Final = 10.0
Resolve = Callable[[str, int], Awaitable[str]]
"""`resolve(host, port)`: the address to connect to. Raises OSError for one that is not public."""


class WebAnswer(msgspec.Struct, frozen=True):
    """What a server said. Names of headers are lower-case; one that came twice is there twice."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def values(self, name: str) -> tuple[str, ...]:
        """Every value of a header, in the order they came."""
        return tuple(value for known, value in self.headers if known == name)


class PublicWeb:
    """Asks public servers. `proxy` (SOCKS5 ``host:port``) takes every connection, or (`only_onion`) those to
    onion hosts, and resolves their names; `trust` replaces the system's certificates."""

    def __init__(
        self,
        proxy: str | None = None,
        *,
        only_onion: bool = False,
        trust: ssl.SSLContext | None = None,
        resolve: Resolve = public_address,
        where_proxy: str = "relays.proxy in config.toml",
    ) -> None:
        self._proxy, self._only_onion, self._trust = proxy, only_onion, trust
        self._backend = ProxyOrDirect(proxy, only_onion=only_onion)
        self._resolve, self._where_proxy = resolve, where_proxy

    async def get(self, url: str) -> bytes:
        """The body of a 200. Raises TransportUnavailable with why there is none."""
        answer = await self.ask(url, {"accept": "application/json"})
        if answer.status != 200:
            raise TransportUnavailable(f"{urlsplit(url).netloc} answers HTTP {answer.status}")
        return answer.body

    async def ask(self, url: str, headers: Mapping[str, str]) -> WebAnswer:
        """What a GET is answered with, whatever its status but a redirect. Raises TransportUnavailable."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        if host.endswith(".onion") and self._proxy is None:
            raise TransportUnavailable(f"{host} is an onion service: set {self._where_proxy}")
        try:
            async with asyncio.timeout(TOTAL_S):
                answer = await self._get(url, parts.netloc, parts.scheme == "https", headers)
        except TimeoutError:
            raise TransportUnavailable(f"{host} did not answer in {TOTAL_S:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            why = str(error) or type(error).__name__
            raise TransportUnavailable(f"{host} cannot be asked: {why}") from None
        if 300 <= answer.status < 400:
            raise TransportUnavailable(f"{parts.netloc} redirects elsewhere, which is not followed")
        if any(value != "identity" for value in answer.values("content-encoding")):
            raise TransportUnavailable(f"{parts.netloc} answers compressed, which was not asked for")
        return answer

    async def _get(self, url: str, netloc: str, secure: bool, headers: Mapping[str, str]) -> WebAnswer:
        trust = self._trust
        if trust is None and secure:
            # Reads the system's certificates from disk.
            trust = await asyncio.to_thread(ssl.create_default_context)
        onion = netloc.partition(":")[0].lower().endswith(".onion")
        proxied = self._proxy is not None and (onion or not self._only_onion)
        backend = self._backend if proxied else _Public(self._backend, self._resolve)
        async with httpcore.AsyncConnectionPool(
            ssl_context=trust, max_connections=1, network_backend=backend
        ) as pool:
            sent = {"host": netloc, "accept-encoding": "identity", **headers}
            response = await pool.handle_async_request(
                httpcore.Request("GET", url, headers=[(k.encode(), v.encode()) for k, v in sent.items()])
            )
            try:
                body = bytearray()
                async for chunk in response.aiter_stream():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise TransportUnavailable(f"{netloc} answers more than {MAX_BYTES} bytes; not read")
            finally:
                await response.aclose()
        got = tuple((k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in response.headers)
        return WebAnswer(response.status, got, bytes(body))


class _Public(httpcore.AsyncNetworkBackend):
    """Connects to what a name was resolved to and checked as, not to what a second look-up might say."""

    def __init__(self, backend: httpcore.AsyncNetworkBackend, resolve: Resolve) -> None:
        self._backend, self._resolve = backend, resolve

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """One connection. Raises ConnectError."""
        try:
            address = await self._resolve(host, port)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        """What httpcore waits with between attempts to connect."""
        await self._backend.sleep(seconds)
