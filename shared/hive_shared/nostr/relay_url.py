"""Relay addresses: one spelling per relay, and none that would make the node knock on private doors
(04 §7.1).
"""

from __future__ import annotations

from urllib.parse import urlsplit

from hive_shared.web_address import is_local, is_loopback, normal_address

__all__ = ["is_local", "is_loopback", "normalise_relay_url", "split_relay_url"]

_DEFAULT_PORTS = {"ws": 80, "wss": 443}


def normalise_relay_url(url: str, *, foreign: bool = False) -> str:
    """Return the canonical form of a relay URL: lower-case host, no default port, no trailing slash.

    `wss` only; `ws` is accepted for loopback and onion hosts. `foreign=True` is for addresses that somebody
    else gave us (a 10050 list, `reply_relays`): loopback, private and link-local hosts are refused there.
    Raises ValueError with a sentence.
    """
    address = normal_address(url, what="relay", secure="wss", plain="ws")
    host = urlsplit(address).hostname or ""
    if foreign and is_local(host):
        raise ValueError(f"relay {host} is a private address that somebody else named; it is not contacted")
    return address


def split_relay_url(url: str) -> tuple[bool, str, int]:
    """Return (TLS, host, port) of a normalised relay URL."""
    parts = urlsplit(url)
    return parts.scheme == "wss", parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]
