"""One POST to the operator's webhook (docs/protocol/08-client-and-plugins.md §6 "Alerts").

Five seconds, no redirects, and no private hosts: the address that was checked is the one connected to, so
that a second answer of a name server cannot send us elsewhere.
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

from hive_shared.nostr.relay_url import is_local, is_loopback
from hive_shared.nostr.socks import connect_through, parse_proxy

from cl_hive_comms.services.ports_alerts import WebhookFailed

_STATUS_LINE_MAX = 4_096


class HttpWebhook:
    """Posts over TLS; plain or to this machine only where `loopback` allows it (test networks).

    `proxy` is a SOCKS5 `host:port`, for every address or (`only_onion`) for onion ones. `trust` replaces the
    system's certificates.
    """

    def __init__(
        self,
        *,
        loopback: bool,
        proxy: str | None = None,
        only_onion: bool = False,
        trust: ssl.SSLContext | None = None,
        seconds: float = 5.0,
    ) -> None:
        self._loopback, self._seconds = loopback, seconds
        self._proxy, self._only_onion = parse_proxy(proxy) if proxy else None, only_onion
        self._trust = trust

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Return when the server said 2xx; raise WebhookFailed with the reason else."""
        try:
            async with asyncio.timeout(self._seconds):
                status = await self._post(url, body, headers)
        except TimeoutError:
            raise WebhookFailed(f"no answer within {self._seconds:g} seconds") from None
        except ssl.SSLError as error:
            raise WebhookFailed(f"TLS: {getattr(error, 'verify_message', '') or error.reason}") from None
        except (OSError, ValueError) as error:
            raise WebhookFailed(f"cannot be reached: {error}") from None
        if 300 <= status < 400:
            raise WebhookFailed(f"the server answered {status}: redirects are not followed")
        if not 200 <= status < 300:
            raise WebhookFailed(f"the server answered {status}")

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        parts = urlsplit(url)
        host, secure = parts.hostname or "", parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        if not secure and not (self._loopback and is_loopback(host)) and not host.endswith(".onion"):
            raise WebhookFailed("plain http is for this machine on a test network only; use https")
        context = (self._trust or await asyncio.to_thread(ssl.create_default_context)) if secure else None
        name = host if secure else None
        reader, writer = await self._open(host, port, context, name)
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            lines = {
                "Host": parts.netloc,
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                "Connection": "close",
                **headers,
            }
            head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            writer.write(f"POST {target} HTTP/1.1\r\n{head}\r\n".encode("ascii") + body)
            await writer.drain()
            return await _status(reader)
        finally:
            # Not a polite goodbye: a server that dawdles over it must not hold us.
            writer.transport.abort()

    async def _open(
        self, host: str, port: int, context: ssl.SSLContext | None, name: str | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        onion = host.endswith(".onion")
        if self._proxy is not None and (onion or not self._only_onion):
            if is_local(host):
                raise WebhookFailed(f"{host} is a private address")
            sock = await connect_through(self._proxy, host, port)
            return await asyncio.open_connection(
                sock=sock, ssl=context, server_hostname=name, limit=_STATUS_LINE_MAX
            )
        if onion:
            raise WebhookFailed("an onion address needs the node's proxy option")
        address = await self._public_address(host, port)
        return await asyncio.open_connection(
            address, port, ssl=context, server_hostname=name, limit=_STATUS_LINE_MAX
        )

    async def _public_address(self, host: str, port: int) -> str:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(info[4][0]) for info in infos]
        for address in addresses:
            if is_local(address) and not (self._loopback and is_loopback(address)):
                raise WebhookFailed(f"{host} resolves to the private address {address}")
        if not addresses:
            raise OSError(f"{host} has no address")
        return addresses[0]


async def _status(reader: asyncio.StreamReader) -> int:
    while True:
        try:
            line = await reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            raise WebhookFailed("the server's answer is not HTTP") from None
        words = line.split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            raise WebhookFailed("the server's answer is not HTTP")
        status = int(words[1])
        if not 100 <= status < 200:
            return status
        # An interim answer: the real one follows its header lines.
        while (await reader.readline()).strip():
            pass
