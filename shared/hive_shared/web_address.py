"""Addresses of servers that we are told to talk to: one spelling per server, and what kind of place it is."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

__all__ = ["host_of", "is_local", "is_loopback", "normal_address", "public_url"]

_DEFAULT_PORTS = {"ws": 80, "wss": 443, "http": 80, "https": 443}
_MAX_LENGTH = 512
_MAX_URL = 2_048
_PLACE = re.compile(r"([a-z0-9][a-z0-9.-]{0,252}|\[[0-9a-f:.]{2,45}\])(:[1-9][0-9]{0,4})?")
"""A host is shown in commands that people paste into a shell."""
# Names that resolve inside a house or a data centre, whatever the public DNS says.
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".lan", ".home.arpa")


def normal_address(url: str, *, what: str, secure: str, plain: str) -> str:
    """Return the canonical form of a server's address: lower-case host, no default port, no trailing slash.

    `secure` is the scheme it must have; `plain` is accepted for loopback and onion hosts. `what` names the
    kind of server in the sentence of the ValueError.
    """
    shown = url[:80]
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url or len(url) > _MAX_LENGTH:
        raise ValueError(f"{what} address {shown!r} is too long or has characters no address has")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{what} address {shown!r} cannot be read: {error}") from None
    if parts.scheme not in (secure, plain) or not host:
        raise ValueError(f"{what} address {shown!r} must look like {secure}://{what}.example.com")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{what} address of {host} must not carry a user name or password")
    if parts.fragment or parts.query:
        raise ValueError(f"{what} address {shown!r} must not carry a query or fragment")
    host = host.rstrip(".")
    if not host or port == 0:
        raise ValueError(f"{what} address {shown!r} has no usable host or port")
    if parts.scheme == plain and not (is_loopback(host) or host.endswith(".onion")):
        raise ValueError(
            f"{what} {host} must use {secure}://; {plain}:// is only for this machine and onion services"
        )
    shown_host = f"[{host}]" if ":" in host else host
    suffix = "" if port is None or port == _DEFAULT_PORTS[parts.scheme] else f":{port}"
    return f"{parts.scheme}://{shown_host}{suffix}{parts.path.rstrip('/')}"


def public_url(url: object, what: str) -> str:
    """A URL that may be asked: https, or http to an onion host, and no private address. Raises ValueError
    with a sentence that begins with `what`."""
    if not isinstance(url, str) or len(url) > _MAX_URL or not url.isascii() or not url.isprintable():
        raise ValueError(f"{what} has no URL that can be asked")
    base, _, _ = url.partition("?")
    try:
        normal_address(base[:512] if len(base) > 512 else base, what="server", secure="https", plain="http")
        host = urlsplit(url).hostname or ""
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    if len(base) > 512 or "#" in url or " " in url:
        raise ValueError(f"{what} has a URL that is too long or not whole")
    if not _PLACE.fullmatch(host_of(url)):
        raise ValueError(f"{what} is at a host whose name has characters no host has")
    if is_local(host) and not host.endswith(".onion"):
        raise ValueError(f"{what} is on this machine or a private network: {host}")
    return url


def host_of(url: str) -> str:
    """Host and port of a URL."""
    return urlsplit(url).netloc.lower()


def is_loopback(host: str) -> bool:
    """True for this machine: `localhost`, names below it, 127.0.0.0/8 and ::1."""
    address = _address(host)
    return host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback)


def is_local(host: str) -> bool:
    """True for hosts that are no place on the public internet, by name or by literal address."""
    address = _address(host)
    if address is not None:
        mapped = getattr(address, "ipv4_mapped", None)
        return not (mapped or address).is_global or address.is_multicast
    # A number that is no dotted quad (0x7f000001, 2130706433) is still an address to most resolvers.
    last = host.rsplit(".", 1)[-1]
    return "." not in host or last.isdigit() or last.startswith("0x") or host.endswith(_LOCAL_SUFFIXES)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
