"""A TCP connection through a SOCKS5 proxy with the name resolved by the proxy (RFC 1928; Protocol 04 §7.2).

Ours, because the WebSocket library wants another dependency for it and a leak of one DNS question to the
local resolver defeats the purpose of `always-use-proxy`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from urllib.parse import urlsplit

_REPLIES = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "time to live expired",
    7: "command not supported",
    8: "address type not supported",
}


def parse_proxy(text: str) -> tuple[str, int]:
    """Read `host:port` or `socks5://host:port`; raises ValueError with a sentence."""
    parts = urlsplit(text if "://" in text else f"socks5://{text}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in ("socks5", "socks5h") or not host or not port:
        raise ValueError(f"proxy {text!r} must look like 127.0.0.1:9050 or socks5://127.0.0.1:9050")
    return host, port


async def connect_through(proxy: tuple[str, int], host: str, port: int) -> socket.socket:
    """Return a connected non-blocking socket to host:port through the proxy.

    Raises OSError when the proxy cannot be reached or refuses; the caller sets the deadline.
    """
    loop = asyncio.get_running_loop()
    # Proxies are configured by address on this machine or network; resolving their name leaks nothing.
    infos = await loop.getaddrinfo(*proxy, type=socket.SOCK_STREAM)
    family, kind, protocol, _, address = infos[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        await loop.sock_sendall(sock, b"\x05\x01\x00")
        if await _exactly(sock, 2) != b"\x05\x00":
            raise OSError("the SOCKS proxy asks for a login, which is not supported")
        await loop.sock_sendall(sock, b"\x05\x01\x00" + _address(host) + port.to_bytes(2, "big"))
        version, reply, _, kind_of_address = await _exactly(sock, 4)
        if version != 5 or reply != 0:
            raise OSError(f"the SOCKS proxy could not reach {host}: {_REPLIES.get(reply, f'reply {reply}')}")
        rest = {1: 4, 4: 16}.get(kind_of_address)
        await _exactly(sock, (rest if rest is not None else (await _exactly(sock, 1))[0]) + 2)
    except BaseException:
        sock.close()
        raise
    return sock


def _address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("ascii")
        if len(name) > 255:
            raise OSError(f"host name of {len(name)} bytes does not fit SOCKS") from None
        return b"\x03" + bytes((len(name),)) + name
    return (b"\x01" if address.version == 4 else b"\x04") + address.packed


async def _exactly(sock: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < count:
        more = await loop.sock_recv(sock, count - len(data))
        if not more:
            raise OSError("the SOCKS proxy closed the connection")
        data += more
    return data
