"""One HTTPS request to a server that somebody named: public addresses only, no redirects, 64 KiB, 10 s
(docs/protocol/11-advisor-kit.md §8)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final
from urllib.parse import urlsplit

import httpcore
from hive_shared.errors import TransportUnavailable
from hive_shared.nostr.dialer import public_address
from hive_shared.socks_http import ProxyOrDirect

MAX_BYTES: Final = 65_536
TOTAL_S: Final = 10.0
Resolve = Callable[[str, int], Awaitable[str]]
"""`resolve(host, port)`: the address to connect to. Raises OSError for one that is not public."""


class PublicWeb:
    """Asks public servers. `proxy` (SOCKS5 ``host:port``) takes every connection and resolves the names;
    `trust` replaces the system's certificates."""

    def __init__(
        self,
        proxy: str | None = None,
        *,
        trust: ssl.SSLContext | None = None,
        resolve: Resolve = public_address,
    ) -> None:
        self._proxy, self._trust = proxy, trust
        self._backend = ProxyOrDirect(proxy, only_onion=False)
        self._resolve = resolve

    async def get(self, url: str) -> bytes:
        """The body of a 200. Raises TransportUnavailable with why there is none."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        if host.endswith(".onion") and self._proxy is None:
            raise TransportUnavailable(f"{host} is an onion service: set relays.proxy in config.toml")
        try:
            async with asyncio.timeout(TOTAL_S):
                return await self._get(url, parts.netloc, parts.scheme == "https")
        except TimeoutError:
            raise TransportUnavailable(f"{host} did not answer in {TOTAL_S:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            why = str(error) or type(error).__name__
            raise TransportUnavailable(f"{host} cannot be asked: {why}") from None

    async def _get(self, url: str, netloc: str, secure: bool) -> bytes:
        trust = self._trust
        if trust is None and secure:
            # Reads the system's certificates from disk.
            trust = await asyncio.to_thread(ssl.create_default_context)
        backend = self._backend if self._proxy is not None else _Public(self._backend, self._resolve)
        async with httpcore.AsyncConnectionPool(
            ssl_context=trust, max_connections=1, network_backend=backend
        ) as pool:
            headers = [
                (b"host", netloc.encode()),
                (b"accept", b"application/json"),
                (b"accept-encoding", b"identity"),
            ]
            response = await pool.handle_async_request(httpcore.Request("GET", url, headers=headers))
            try:
                body = bytearray()
                async for chunk in response.aiter_stream():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise TransportUnavailable(f"{netloc} answers more than {MAX_BYTES} bytes; not read")
            finally:
                await response.aclose()
        if 300 <= response.status < 400:
            raise TransportUnavailable(f"{netloc} redirects elsewhere, which is not followed")
        if response.status != 200:
            raise TransportUnavailable(f"{netloc} answers HTTP {response.status}")
        return bytes(body)


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
