"""Ways to a client besides relays: REST through the node's clnrest, the socket of an own node, and commando
(docs/protocol/11-advisor-kit.md §4).
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from hive_shared.errors import InvalidParams
from hive_shared.nostr.relay_url import is_local, is_loopback

TRANSPORTS: Final = ("nostr", "rest", "local", "commando")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_RUNE: Final = re.compile(r"[A-Za-z0-9_=-]{40,4096}")
_MAX_URL: Final = 512


class RestRoute(msgspec.Struct, frozen=True):
    """Where a client's clnrest is, and what proves it: the authority's certificate (PEM) or the SHA-256 of
    the server's own certificate; with neither, the system's authorities. `allow_private` permits addresses
    of this machine or a private network."""

    url: str
    ca_cert: str | None = None
    tls_sha256: str | None = None
    allow_private: bool = False


class OfferedRest(msgspec.Struct, frozen=True):
    """The `rest` part of a credential offer. The rune opens `hive-comms-rpc` to our key alone."""

    url: str
    rune: str
    tls_sha256: str | None = None


class CommandoRoute(msgspec.Struct, frozen=True):
    """The carrier: RPC socket of the user's own node, which hands commands to the client's by commando.

    `rune` is one the operator gave by other ways than the offer; `host` and `port` say where the client's
    node listens, if the carrier would not know.
    """

    socket_path: str
    rune: str | None = None
    host: str | None = None
    port: int | None = None


class Routes(msgspec.Struct, frozen=True):
    """What the user set for a client."""

    rest: RestRoute | None = None
    socket_path: str | None = None
    commando: CommandoRoute | None = None


def check_rest_url(url: str, *, allow_private: bool) -> str:
    """The address without a trailing slash. Raises InvalidParams saying what is wrong with it.

    A host name that turns out to be a private address is found when it is resolved.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidParams(f"REST address {url[:80]!r} cannot be read: {error}") from error
    if parts.scheme not in ("http", "https") or not host or len(url) > _MAX_URL or not url.isascii():
        raise InvalidParams(f"REST address {url[:80]!r} must look like https://node.example.com:3010")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InvalidParams(f"REST address of {host} must not carry a user name, password, query or fragment")
    if port == 0 or not url.isprintable() or " " in url:
        raise InvalidParams(f"REST address {url[:80]!r} has no usable port or odd characters")
    if parts.scheme == "http" and not is_loopback(host):
        raise InvalidParams(f"REST address of {host} must use https://; http:// is only for this machine")
    if is_local(host) and not allow_private:
        raise InvalidParams(f"{host} is on this machine or a private network; --allow-private permits that")
    return url.rstrip("/")


def check_address(text: str) -> tuple[str, int]:
    """HOST:PORT of a Lightning node. Raises InvalidParams."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise InvalidParams(f"{text[:80]!r} is no address of a Lightning node: give HOST:PORT")
    if not host.isascii() or not host.isprintable() or " " in host or "@" in host or len(host) > 255:
        raise InvalidParams(f"{text[:80]!r} has a host name with odd characters")
    return host, int(port)


def check_fingerprint(text: str) -> str:
    """A certificate's SHA-256 as 64 lower-case hex digits; colons are taken out. Raises InvalidParams."""
    digits = text.replace(":", "").lower()
    if not _SHA256.fullmatch(digits):
        raise InvalidParams("the certificate's SHA-256 is 64 hex digits, as openssl x509 -fingerprint prints")
    return digits


def offered_rest(value: object) -> OfferedRest | None:
    """Read the `rest` part of an offer. Raises InvalidParams when it is malformed."""
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) - {"url", "rune", "tls_sha256"}:
        raise InvalidParams("the offer's rest part has unknown fields")
    fields: dict[str, Any] = value
    url, rune, pin = fields.get("url"), fields.get("rune"), fields.get("tls_sha256")
    if not isinstance(url, str) or not isinstance(rune, str) or not _RUNE.fullmatch(rune):
        raise InvalidParams("the offer's rest part needs a url and a rune")
    # Its address is used only if the user says so; then it counts as typed by the user.
    check_rest_url(url, allow_private=True)
    return OfferedRest(url, rune, None if pin is None else check_fingerprint(str(pin)))
