"""What a relay says of itself over HTTP (NIP-11), as a hint of limits lower than ours (Protocol 04 §7.2).

The document is a stranger's: five seconds, 64 KiB, no redirects, and nothing in it can raise a limit.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import msgspec

from hive_shared.nostr.dialer import public_address
from hive_shared.nostr.frames import decode_json
from hive_shared.nostr.reasons import FrameInvalid
from hive_shared.nostr.relay_limits import RelayLimits
from hive_shared.nostr.relay_url import split_relay_url
from hive_shared.nostr.socks import connect_through

_CHUNK = 16_384
_HEAD_BYTES = 16_384
_NAMES = {"limit": "max_limit", "subscriptions": "max_subscriptions"}


class RelayInfo(msgspec.Struct, frozen=True):
    """Limits a relay names: stored events per REQ and subscriptions per socket; None where it names none."""

    limit: int | None = None
    subscriptions: int | None = None

    def status(self) -> dict[str, int]:
        """Return the limits that are named."""
        found = {name: getattr(self, name) for name in _NAMES}
        return {name: value for name, value in found.items() if value is not None}


Fetch = Callable[[str, bool], Coroutine[Any, Any, RelayInfo | None]]


class RelayInfos:
    """Information documents by relay address, asked for again after a day; a failure after an hour."""

    def __init__(self, fetch: Fetch, limits: RelayLimits, now: Callable[[], float]) -> None:
        self._fetch, self._limits, self._now = fetch, limits, now
        self._known: dict[str, tuple[float, RelayInfo | None]] = {}

    async def of(self, url: str, *, public_only: bool = False) -> RelayInfo | None:
        """Return what this relay says, None if it says nothing usable. Never raises."""
        known = self._known.get(url)
        if known is not None and self._now() < known[0]:
            return known[1]
        info = await self._fetch(url, public_only)
        keep = self._limits.info_seconds if info is not None else self._limits.info_retry_seconds
        self._known[url] = (self._now() + keep, info)
        return info

    def keep_only(self, urls: set[str]) -> None:
        """Forget relays that are no longer used."""
        self._known = {url: known for url, known in self._known.items() if url in urls}


def parse_relay_info(body: bytes) -> RelayInfo:
    """Read the limits out of an information document; what is no positive integer counts as not named.

    Raises FrameInvalid for a document that is not a JSON object or not strict JSON.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise FrameInvalid("malformed", "not UTF-8") from None
    document = decode_json(text)
    if type(document) is not dict:
        raise FrameInvalid("malformed", "not an object")
    limitation = document.get("limitation")
    named = limitation if type(limitation) is dict else {}
    values = {name: named.get(wire) for name, wire in _NAMES.items()}
    return RelayInfo(**{name: value for name, value in values.items() if type(value) is int and value > 0})


async def fetch_relay_info(
    url: str, *, limits: RelayLimits, proxy: tuple[str, int] | None, public_only: bool = False
) -> RelayInfo | None:
    """Ask the relay at a normalised address for its document; None if there is none to be had."""
    from websockets.exceptions import WebSocketException

    # What the parser is documented to raise; for codings it does not know, a kind of RuntimeError.
    unusable = (OSError, EOFError, ValueError, LookupError, RuntimeError, WebSocketException)
    with suppress(TimeoutError, FrameInvalid, *unusable):
        async with asyncio.timeout(limits.info_open_seconds):
            reader, writer = await _open(url, proxy, public_only)
            try:
                writer.write(_request(url))
                await writer.drain()
                return parse_relay_info(await _body(reader, limits.info_bytes))
            finally:
                # Not a polite goodbye: a server that dawdles over it must not hold us.
                writer.transport.abort()
    return None


def _request(url: str) -> bytes:
    parts = urlsplit(url)
    lines = (
        f"GET {parts.path or '/'} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Accept: application/nostr+json",
        "Accept-Encoding: identity",
        "Connection: close",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


async def _open(
    url: str, proxy: tuple[str, int] | None, public_only: bool
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    secure, host, port = split_relay_url(url)
    # Reading the system's certificates takes long enough to be felt on the loop.
    context = await asyncio.to_thread(ssl.create_default_context) if secure else None
    name = host if secure else None
    if proxy is not None:
        sock = await connect_through(proxy, host, port)
        return await asyncio.open_connection(sock=sock, ssl=context, server_hostname=name)
    address = await public_address(host, port) if public_only else host
    return await asyncio.open_connection(address, port, ssl=context, server_hostname=name)


async def _body(reader: asyncio.StreamReader, most: int) -> bytes:
    """The body of a 200 answer; raises ValueError for another one and for more than `most` bytes."""
    from websockets.http11 import Response
    from websockets.streams import StreamReader

    stream = StreamReader()
    parser = Response.parse(stream.read_line, stream.read_exact, stream.read_to_eof)
    size = 0
    try:
        while True:
            next(parser)
            chunk = await reader.read(_CHUNK)
            size += len(chunk)
            if size > most + _HEAD_BYTES:
                raise ValueError("the answer is too long")
            if chunk:
                stream.feed_data(chunk)
            elif stream.eof:
                raise EOFError("the answer ends early")
            else:
                stream.feed_eof()
    except StopIteration as done:
        response: Response = done.value
    if response.status_code != 200 or len(response.body) > most:
        raise ValueError(f"status {response.status_code}, {len(response.body)} bytes")
    return bytes(response.body)
