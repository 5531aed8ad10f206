"""Opening one WebSocket to a relay: bounds, proxy, and no way to be sent somewhere else (Protocol 04
§7.2).
"""

from __future__ import annotations

import asyncio
import fcntl
import inspect
import socket
import termios
from array import array
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from hive_shared.nostr.relay_limits import RelayLimits
from hive_shared.nostr.relay_url import is_local, split_relay_url
from hive_shared.nostr.socks import connect_through

_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


class Socket(Protocol):
    """The part of a WebSocket connection the engine uses."""

    async def send(self, message: str) -> None:
        """Send one text frame."""

    async def recv(self) -> str | bytes:
        """Return the next message."""

    async def close(self) -> None:
        """Close with a handshake, bounded by the connection's close timeout."""


def clock_offset(socket: object, now: float) -> float | None:
    """Our time minus the relay's, seconds, by the Date header of its handshake; None when it sent none."""
    headers = getattr(getattr(socket, "response", None), "headers", None)
    try:
        date = None if headers is None else headers.get("Date")
        return None if date is None else now - parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, LookupError, OverflowError):
        return None


def socket_errors() -> tuple[type[Exception], ...]:
    """Return what sending, receiving and closing raise when a connection is broken or gone."""
    from websockets.exceptions import WebSocketException

    return (OSError, TimeoutError, WebSocketException)


def acknowledge(connection: Socket) -> None:
    """Send the TCP acknowledgement of what was just read at once, where the system can (Linux).

    Relays that leave Nagle's algorithm on hold their next frame back until the last one is acknowledged,
    and a delayed acknowledgement takes 40 ms: a command's answer would wait for it.
    """
    raw = _raw(connection)
    if raw is not None and _QUICKACK is not None:
        with suppress(OSError):
            raw.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


def unread_bytes(connection: Socket) -> int:
    """Return how much the system has received for us that we have not read; 0 where it cannot say."""
    raw = _raw(connection)
    if raw is None or raw.fileno() < 0:
        return 0
    waiting = array("i", [0])
    try:
        fcntl.ioctl(raw.fileno(), termios.FIONREAD, waiting)
    except OSError:
        return 0
    return waiting[0]


def _raw(connection: Socket) -> socket.socket | None:
    transport = getattr(connection, "transport", None)
    raw: socket.socket | None = transport.get_extra_info("socket") if transport is not None else None
    return raw


async def close_socket(socket: Socket, seconds: float) -> None:
    """Close within this time; a connection that is broken already is closed."""
    with suppress(*socket_errors()):
        await asyncio.wait_for(socket.close(), seconds)


async def dial(
    url: str, *, limits: RelayLimits, proxy: tuple[str, int] | None, public_only: bool = False
) -> Socket:
    """Connect to a normalised relay URL.

    `public_only` refuses names that resolve to private addresses: for relays that somebody else named. Raises
    OSError, TimeoutError, ValueError or an exception of `websockets`.
    """
    import websockets

    secure, host, port = split_relay_url(url)
    options: dict[str, Any] = {
        "max_size": limits.socket_bytes,
        "max_queue": limits.socket_frames,
        "compression": None,
        "open_timeout": limits.open_seconds,
        "ping_interval": limits.ping_seconds,
        "ping_timeout": limits.pong_seconds,
        "close_timeout": limits.close_seconds,
        "user_agent_header": None,
    }
    # From version 15 on the library follows proxy settings of the environment unless told not to.
    if "proxy" in inspect.signature(websockets.connect).parameters:
        options["proxy"] = None
    if secure:
        options["server_hostname"] = host
    if proxy is not None:
        async with asyncio.timeout(limits.open_seconds):
            options["sock"] = await connect_through(proxy, host, port)
    else:
        # An explicit host also makes the library refuse redirects to another one.
        options["host"] = await public_address(host, port) if public_only else host
        options["port"] = port
    connected: Socket = await websockets.connect(url, **options)
    return connected


async def public_address(host: str, port: int) -> str:
    """Resolve a name; raises OSError if there is no address or one that is not on the public network."""
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError(f"{host[:80]} is no name that a host can have") from None
    addresses = [str(info[4][0]) for info in infos]
    # The checked address is the one connected to: a second look-up could answer differently.
    if not addresses or any(is_local(address) for address in addresses):
        raise OSError(f"{host} resolves to a private address")
    return addresses[0]
