"""How the values of plugin options are read: one small parser per kind of value.

A parser takes what CLN hands over (a string, an int, a bool, or nothing) and returns the value the
code uses, or raises ValueError with a sentence for the operator.
"""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from hive_shared.cashu.mint_url import normal_mint_url
from hive_shared.nostr.keys import parse_pubkey
from hive_shared.nostr.relay_url import normalise_relay_url
from hive_shared.web_address import host_of, public_url

from cl_hive_comms.domain.mail import MailServer, parse_address, parse_mail_server

Parser = Callable[[Any], Any]

MAX_RELAYS = 8
PAYMENT_METHODS = ("bolt11", "bolt12", "l402", "cashu")
_METHOD = re.compile(r"[a-z][a-z0-9_-]{1,79}")
_NODE_ID = re.compile(r"0[23][0-9a-f]{64}")
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_RUNE = re.compile(r"[A-Za-z0-9_=-]{40,4096}")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def text(value: Any) -> str:
    """A string without surrounding blanks; unset reads as empty."""
    return "" if value is None else str(value).strip()


def flag(value: Any) -> bool:
    """A truth value as CLN or lightning-cli writes it."""
    if isinstance(value, bool):
        return value
    lowered = text(value).lower()
    if lowered in ("true", "1", "yes", "on"):
        return True
    if lowered in ("false", "0", "no", "off", ""):
        return False
    raise ValueError(f"{value!r} is neither true nor false")


def whole(low: int, high: int = 2_100_000_000_000_000) -> Parser:
    """An integer within [low, high]."""

    def parse(value: Any) -> int:
        if isinstance(value, bool):
            raise ValueError(f"{value!r} is not a whole number")
        shown = text(value)
        if not _WHOLE.fullmatch(shown):
            raise ValueError(f"{shown[:40]!a} is not a whole number")
        number = int(shown)
        if not low <= number <= high:
            raise ValueError(f"{number} is outside {low}..{high}")
        return number

    return parse


def rune(value: Any) -> str:
    """A rune as createrune prints it, or nothing."""
    shown = text(value)
    if shown and not _RUNE.fullmatch(shown):
        raise ValueError("that is no rune: give the text that createrune printed")
    return shown


def one_of(*choices: str) -> Parser:
    """One word out of a fixed set."""

    def parse(value: Any) -> str:
        word = text(value)
        if word not in choices:
            raise ValueError(f"{word!r} is not one of {', '.join(choices)}")
        return word

    return parse


def words(value: Any) -> tuple[str, ...]:
    """A comma separated list; blanks around entries and empty entries vanish."""
    return tuple(part.strip() for part in text(value).split(",") if part.strip())


def relays(value: Any) -> tuple[str, ...]:
    """Up to eight relay addresses (docs/protocol/04-marketplace-and-nostr.md §7.1)."""
    found: list[str] = []
    for entry in words(value):
        url = normalise_relay_url(entry)
        if url not in found:
            found.append(url)
    if len(found) > MAX_RELAYS:
        raise ValueError(f"{len(found)} relays given; at most {MAX_RELAYS} are used")
    return tuple(found)


def https_urls(value: Any) -> tuple[str, ...]:
    """Web addresses, encrypted unless they are onion or loopback."""
    found = words(value)
    for entry in found:
        parts = urlsplit(entry)
        host = (parts.hostname or "").lower()
        plain_ok = host in _LOOPBACK or host.endswith(".onion")
        if not host or not (parts.scheme == "https" or (parts.scheme == "http" and plain_ok)):
            raise ValueError(f"{entry!r} is not an https:// address")
    return found


def web_hosts(value: Any) -> tuple[str, ...]:
    """Public hosts, each once, as `host` or `host:port`."""
    found = []
    for entry in words(value):
        url = f"https://{entry.lower()}"
        try:
            fits = host_of(public_url(url, entry[:80])) == entry.lower() and not entry.endswith((".", ":"))
        except ValueError as error:
            raise ValueError(f"{error}; a host looks like api.example.com or api.example.com:8443") from None
        if not fits:
            raise ValueError(f"{entry[:80]!r} is not a host like api.example.com or api.example.com:8443")
        found.append(entry.lower())
    return tuple(dict.fromkeys(found))


def mint_urls(value: Any) -> tuple[str, ...]:
    """Addresses of mints in normal form, each once."""
    return tuple(dict.fromkeys(normal_mint_url(entry) for entry in words(value)))


def mint_url(value: Any) -> str:
    """One mint, or none."""
    found = mint_urls(value)
    if len(found) > 1:
        raise ValueError(f"{len(found)} mints are named, one is wanted here: the others are backup mints")
    return found[0] if found else ""


def method_names(value: Any) -> tuple[str, ...]:
    """Names of RPC methods, each once."""
    found = words(value)
    for entry in found:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", entry):
            raise ValueError(f"{entry!r} is not the name of a method")
    return tuple(dict.fromkeys(found))


def webhook(value: Any) -> str:
    """One web address, or none."""
    shown = text(value)
    if not shown:
        return ""
    try:
        parts = urlsplit(shown)
        fits = re.fullmatch(r"[!-~]{1,2000}", shown) and "@" not in parts.netloc and parts.port != 0
        if not fits or parts.fragment or "," in parts.netloc:
            raise ValueError
        https_urls(shown.replace(",", "%2C"))
    except ValueError:
        # Not echoed whole: the path of such an address is often what opens it.
        raise ValueError(f"{shown[:12]!r}... is not an address like https://example.com/path") from None
    return shown


def public_key(value: Any) -> str:
    """An npub or 64 hex digits as hex, or nothing."""
    shown = text(value)
    return parse_pubkey(shown) if shown else ""


def mail_address(value: Any) -> str:
    """One mail address, or nothing."""
    shown = text(value)
    return parse_address(shown) if shown else ""


def mail_server(value: Any) -> MailServer | None:
    """A mail server with its login, or nothing."""
    shown = text(value)
    return parse_mail_server(shown) if shown else None


def payment_methods(value: Any) -> tuple[str, ...]:
    """Payment methods in the operator's order of preference (docs/protocol/02-fleet-management.md §8)."""
    found = words(value)
    for entry in found:
        if entry not in PAYMENT_METHODS:
            raise ValueError(f"{entry!r} is not one of {', '.join(PAYMENT_METHODS)}")
    if not found or len(set(found)) != len(found):
        raise ValueError("name at least one payment method, each once")
    return found


def node_ids(value: Any) -> tuple[str, ...]:
    """Node public keys, 66 hex digits each."""
    found = words(value)
    for entry in found:
        if not _NODE_ID.fullmatch(entry):
            raise ValueError(f"{entry!r} is not a node id of 66 lowercase hex digits")
    return found


def foreign_method(value: Any) -> str:
    """A method of another plugin; empty for none."""
    name = text(value)
    if name and not _METHOD.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a method: lower-case letters, digits, - and _")
    if name.startswith("hive-"):
        raise ValueError(f"{name!r} is a method of the hive plugins; name one of a swap service")
    return name


def kinds(value: Any) -> tuple[int, ...]:
    """Nostr event kinds."""
    number = whole(0, 65_535)
    return tuple(number(entry) for entry in words(value))


def weights(value: Any) -> tuple[tuple[str, str], ...]:
    """`name=0.35` pairs of the ranking; kept as text, they are read as exact fractions where used."""
    pairs = []
    for entry in words(value):
        name, _, share = entry.partition("=")
        if name not in ("rep", "cap", "spec", "price", "avail", "fresh") or not re.fullmatch(
            r"[01](\.\d{1,4})?", share
        ):
            raise ValueError(f"{entry!r} is not a weight like rep=0.35")
        pairs.append((name, share))
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a weight is named twice; which of them holds?")
    if len({name for name, share in pairs if not float(share)}) == 6:
        raise ValueError("one of the weights at least has to be above 0")
    return tuple(pairs)


def sibling_limits(value: Any) -> tuple[tuple[str, int, int], ...]:
    """`fleet=100000/500000`: sats per day and week that a sibling may spend."""
    limits, sats = [], whole(0)
    for entry in words(value):
        match = re.fullmatch(r"(fleet|provision|archon)=([0-9]{1,16})/([0-9]{1,16})", entry)
        if match is None:
            raise ValueError(f"{entry!r} is not a limit like fleet=100000/500000")
        limits.append((match[1], sats(match[2]), sats(match[3])))
    if len({name for name, *_ in limits}) != len(limits):
        raise ValueError("a sibling's limits are named twice; which of them holds?")
    return tuple(limits)
