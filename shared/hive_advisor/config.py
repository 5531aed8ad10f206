"""config.toml of a profile (docs/protocol/11-advisor-kit.md §13), the part that is served."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from hive_shared.errors import InvalidParams
from hive_shared.nostr.relay import normalise_relay_url

from hive_advisor.domain.route import TRANSPORTS

DEFAULT_ORDER = TRANSPORTS
DEFAULT_RELAYS = ("wss://nos.lol", "wss://relay.damus.io")
_MAX_RELAYS = 8


@dataclass(frozen=True)
class AdvisorConfig:
    """Settings of one profile. ``proxy`` is a SOCKS URL or None; relays are normalised URLs;
    ``transport_order`` names the ways to a client, best first."""

    relays: tuple[str, ...] = DEFAULT_RELAYS
    proxy: str | None = None
    accept_offers: bool = False
    transport_order: tuple[str, ...] = DEFAULT_ORDER


def load_config(path: Path, relay_override: str | None = None) -> AdvisorConfig:
    """Read ``path`` (absent: defaults). ``relay_override`` is a comma list that wins over the file.

    Raises InvalidParams for bad TOML, an unknown key or a bad value.
    """
    document: dict[str, object] = {}
    if path.exists():
        try:
            document = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidParams(f"{path} is not valid TOML: {error}") from error
    known = {"relays": {"primary", "proxy"}, "auto": {"enabled"}, "transport": {"order"}}
    for section, keys in document.items():
        if section not in known or not isinstance(keys, dict):
            raise InvalidParams(f"{path}: unknown key {section!r}; known sections are {sorted(known)}")
        for key in keys:
            if key not in known[section]:
                raise InvalidParams(
                    f"{path}: unknown key {section}.{key}; known are {sorted(known[section])}"
                )
    relays = _section(document, "relays").get("primary", list(DEFAULT_RELAYS))
    if relay_override is not None:
        relays = [part.strip() for part in relay_override.split(",") if part.strip()]
    if not isinstance(relays, list) or not 0 < len(relays) <= _MAX_RELAYS:
        raise InvalidParams(f"relays.primary takes 1 to {_MAX_RELAYS} relay URLs")
    try:
        normalised = tuple(normalise_relay_url(str(url)) for url in relays)
    except ValueError as error:
        raise InvalidParams(f"relays.primary: {error}") from error
    proxy = _section(document, "relays").get("proxy")
    accept = _section(document, "auto").get("enabled", False)
    if proxy is not None and not isinstance(proxy, str):
        raise InvalidParams("relays.proxy takes a URL such as 127.0.0.1:9050")
    if not isinstance(accept, bool):
        raise InvalidParams("auto.enabled takes true or false")
    order = _order(_section(document, "transport").get("order", list(DEFAULT_ORDER)))
    return AdvisorConfig(normalised, proxy or None, accept, order)


def _order(value: object) -> tuple[str, ...]:
    names = value if isinstance(value, list) else []
    if not names or len(set(map(str, names))) != len(names) or not set(names) <= set(TRANSPORTS):
        raise InvalidParams(f"transport.order takes a list of {', '.join(TRANSPORTS)}, each at most once")
    return tuple(names)


def _section(document: dict[str, object], name: str) -> dict[str, object]:
    section = document.get(name, {})
    return section if isinstance(section, dict) else {}
