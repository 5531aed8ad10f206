"""HTTP connections through a SOCKS5 proxy that resolves the names (docs/protocol/08-client-and-plugins.md).

A network backend of httpcore: what httpx itself offers for SOCKS wants another dependency.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore

from hive_shared.nostr.socks import connect_through, parse_proxy

__all__ = ["ProxyOrDirect"]


class ProxyOrDirect(httpcore.AsyncNetworkBackend):
    """Connects through `proxy` (SOCKS5 `host:port`): to every host, or only to onion ones (`only_onion`).

    Without a proxy an onion host is a ConnectError: its name is not asked of any resolver.
    """

    def __init__(self, proxy: str | None, *, only_onion: bool) -> None:
        self._proxy = parse_proxy(proxy) if proxy else None
        self._only_onion = only_onion

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """One connection; raises ConnectError or ConnectTimeout, then nothing has been sent."""
        onion = host.endswith(".onion")
        try:
            async with asyncio.timeout(timeout):
                if self._proxy is not None and (onion or not self._only_onion):
                    sock = await connect_through(self._proxy, host, port)
                    return _Stream(*await asyncio.open_connection(sock=sock))
                if onion:
                    raise httpcore.ConnectError("an onion address needs the node's proxy option")
                return _Stream(*await asyncio.open_connection(host, port))
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"no connection within {timeout:g} seconds") from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error

    async def sleep(self, seconds: float) -> None:
        """What httpcore waits with between attempts to connect."""
        await asyncio.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            async with asyncio.timeout(timeout):
                return await self._reader.read(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(buffer)
                await self._writer.drain()
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    async def aclose(self) -> None:
        # Not a polite goodbye: a server that dawdles over it must not hold us.
        self._writer.transport.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                await self._writer.start_tls(ssl_context, server_hostname=server_hostname)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except ssl.SSLError as error:
            verify = getattr(error, "verify_message", "") or error.reason
            raise httpcore.ConnectError(f"TLS: {verify}") from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        return self

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks of a connection: its TLS, its socket, whether the other end has closed it."""
        match info:
            case "ssl_object":
                return self._writer.get_extra_info("ssl_object")
            case "socket":
                found: socket.socket | None = self._writer.get_extra_info("socket")
                return found
            case "is_readable":
                return self._reader.at_eof() or self._writer.is_closing()
        return None
