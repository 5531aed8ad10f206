"""config.toml of a profile (docs/protocol/11-advisor-kit.md §13), the part that is served."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import msgspec
from hive_shared.cashu.mint_url import normal_mint_url
from hive_shared.errors import InvalidParams
from hive_shared.nostr.pow import MAX_BITS
from hive_shared.nostr.relay import normalise_relay_url

from hive_advisor.domain.auto_hire import TIERS, AutoHire
from hive_advisor.domain.lnaddress import address_url
from hive_advisor.domain.node_tool_sets import DEFAULT_SETS, check_sets
from hive_advisor.domain.route import TRANSPORTS

DEFAULT_ORDER = TRANSPORTS
DEFAULT_RELAYS = ("wss://nos.lol", "wss://relay.damus.io")
_MAX_RELAYS = 8
MAX_MINTS = 16
MCP_ROLES = ("operator", "advisor")
_MCP = ("role", "toolsets", "max_output", "uids", "group", "socket")
_MOST_UIDS = 32
_LAST_UID = 2**32 - 2
_MOST_OUTPUT = 1_048_576
WAYS_IN = ("none", "manual", "cln", "lnaddress", "nwc")
WAYS_OUT = ("none", "cln", "nwc", "cashu")
_MOST_SATS = 100_000_000
_AUTO = ("min_monthly_sats", "max_nodes", "tiers", "capabilities", "min_trial_sats", "mints")


class McpConfig(msgspec.Struct, frozen=True):
    """What `mcp serve` does when it is not told otherwise. ``max_output``: bytes of one answer.

    ``uids``: whose programs the engine serves, None is its own user's. ``group`` may open ``socket``, which
    stands in the profile's own directories when it is None.
    """

    role: str = "operator"
    toolsets: tuple[str, ...] = DEFAULT_SETS
    max_output: int = 65_536
    uids: tuple[int, ...] | None = None
    group: str | int | None = None
    socket: Path | None = None


class ReceiveConfig(msgspec.Struct, frozen=True):
    """How nodes pay us. ``cln`` is the name of a node of nodes.toml."""

    method: str = "none"
    lnaddress: str = ""
    cln: str = ""


class SpendConfig(msgspec.Struct, frozen=True):
    """How we pay, at most ``daily_sats`` in 24 hours. ``cln`` is ``receive.cln`` when it is empty."""

    method: str = "none"
    cln: str = ""
    daily_sats: int = 0


class MarketConfig(msgspec.Struct, frozen=True):
    """How adverts are published: with so many bits of work in each."""

    pow_bits: int = 20


class AdvisorConfig(msgspec.Struct, frozen=True):
    """Settings of one profile. ``proxy`` is a SOCKS URL or None; relays are normalised URLs;
    ``transport_order`` names the ways to a client, best first; ``hook`` is the program told of events;
    ``mints`` are those the wallet trusts, in normal form, the primary first."""

    relays: tuple[str, ...] = DEFAULT_RELAYS
    proxy: str | None = None
    accept_offers: bool = False
    transport_order: tuple[str, ...] = DEFAULT_ORDER
    mcp: McpConfig = McpConfig()
    hook: tuple[str, ...] = ()
    receive: ReceiveConfig = ReceiveConfig()
    spend: SpendConfig = SpendConfig()
    mints: tuple[str, ...] = ()
    market: MarketConfig = MarketConfig()
    auto_hire: AutoHire | None = None


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
    mints = _mints(document.pop("mints", []), path)
    known = {
        "relays": {"primary", "proxy"},
        "auto": {"enabled", *_AUTO},
        "market": {"pow_bits"},
        "transport": {"order"},
        "mcp": set(_MCP),
        "hooks": {"exec"},
        "receive": {"method", "lnaddress", "cln"},
        "spend": {"method", "cln", "daily_sats"},
    }
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
    mcp = _mcp(_section(document, "mcp"))
    hook = _hook(_section(document, "hooks").get("exec", []), path)
    receive, spend = _receive(_section(document, "receive")), _spend(_section(document, "spend"))
    market, hire = _market(_section(document, "market")), _auto_hire(_section(document, "auto"), accept)
    return AdvisorConfig(
        normalised, proxy or None, accept, order, mcp, hook, receive, spend, mints, market, hire
    )


def _market(section: dict[str, object]) -> MarketConfig:
    bits = section.get("pow_bits", 20)
    if not isinstance(bits, int) or isinstance(bits, bool) or not 0 <= bits <= MAX_BITS:
        raise InvalidParams(f"market.pow_bits takes a number from 0 to {MAX_BITS}")
    return MarketConfig(bits)


def _auto_hire(section: dict[str, object], enabled: bool) -> AutoHire | None:
    """Nothing is agreed to unasked before all of its limits are given."""
    if not any(name in section for name in _AUTO):
        return None
    missing = [name for name in _AUTO[:4] if name not in section]
    if missing:
        raise InvalidParams(f"auto.{missing[0]} is missing: agreeing to hires unasked takes all its limits")
    limits = AutoHire(
        min_monthly_sats=_sats(section, "min_monthly_sats"),
        max_nodes=_sats(section, "max_nodes"),
        tiers=_words(section, "tiers"),
        capabilities=_words(section, "capabilities"),
        min_trial_sats=_sats(section, "min_trial_sats"),
        mints=_words(section, "mints"),
    )
    wrong = sorted(set(limits.tiers) - set(TIERS))
    if wrong:
        raise InvalidParams(f"auto.tiers: {wrong[0]!r} is none of {', '.join(TIERS)}")
    return limits if enabled else None


def _sats(section: dict[str, object], name: str) -> int:
    value = section.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_SATS:
        raise InvalidParams(f"auto.{name} takes a number from 0 to {_MOST_SATS}")
    return value


def _words(section: dict[str, object], name: str) -> tuple[str, ...]:
    listed = section.get(name, [])
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise InvalidParams(f"auto.{name} takes a list of texts")
    return tuple(listed)


def _receive(section: dict[str, object]) -> ReceiveConfig:
    method, address, node = (section.get(name, "") for name in ("method", "lnaddress", "cln"))
    if not isinstance(address, str) or not isinstance(node, str):
        raise InvalidParams("receive.lnaddress and receive.cln take texts")
    if address:
        address_url(address)
    method = method or ("none" if not (address or node) else "cln" if node else "lnaddress")
    if method not in WAYS_IN:
        raise InvalidParams(f"receive.method takes one of {', '.join(WAYS_IN)}")
    for name, value in (("lnaddress", address), ("cln", node)):
        if method == name and not value:
            raise InvalidParams(f"receive.method {name} needs receive.{name}")
    return ReceiveConfig(str(method), address.strip().lower(), node)


def _spend(section: dict[str, object]) -> SpendConfig:
    method, node, daily = section.get("method", "none"), section.get("cln", ""), section.get("daily_sats", 0)
    if method not in WAYS_OUT:
        raise InvalidParams(f"spend.method takes one of {', '.join(WAYS_OUT)}")
    if not isinstance(node, str):
        raise InvalidParams("spend.cln takes the name of a node of nodes.toml")
    if not isinstance(daily, int) or isinstance(daily, bool) or not 0 <= daily <= _MOST_SATS:
        raise InvalidParams(f"spend.daily_sats takes a number of sat from 0 to {_MOST_SATS}")
    return SpendConfig(str(method), node, daily)


def _mints(value: object, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_MINTS:
        raise InvalidParams(f'{path}: mints takes a list of at most {MAX_MINTS} addresses: ["https://..."]')
    try:
        return tuple(dict.fromkeys(normal_mint_url(str(url)) for url in value))
    except ValueError as error:
        raise InvalidParams(f"{path}: mints: {error}") from error


def with_mints(text: str, mints: Sequence[str]) -> str:
    """config.toml with these mints and nothing else changed.

    Raises InvalidParams where it is written in a way that cannot be changed here.
    """
    text = text.replace("\r\n", "\n")
    line = f"mints = {json.dumps([*mints])}\n"
    table = re.search(r"^[ \t]*\[", text, re.MULTILINE)
    head, rest = (text, "") if table is None else (text[: table.start()], text[table.start() :])
    found = re.search(r"^mints[ \t]*=[ \t]*\[[^\]\n#]*\][ \t]*$\n?", head, re.MULTILINE)
    made = line + text if found is None else head[: found.start()] + line + head[found.end() :] + rest
    try:
        same = tomllib.loads(made) == {**tomllib.loads(text), "mints": [*mints]}
    except tomllib.TOMLDecodeError:
        same = False
    if not same:
        raise InvalidParams(
            "config.toml writes mints in a way that cannot be changed here; write them in an editor, as"
            f" {line.strip()}"
        )
    return made


def _hook(value: object, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise InvalidParams('hooks.exec takes a program and its arguments: ["/usr/local/bin/tell", "--all"]')
    if not value:
        return ()
    if not value[0].startswith("/"):
        raise InvalidParams(f"hooks.exec: {value[0]!r} is no full path; no shell and no PATH looks for it")
    if any("\0" in word for word in value):
        raise InvalidParams("hooks.exec: an argument holds a zero byte")
    if path.stat().st_mode & 0o022:
        raise InvalidParams(
            f"{path} names a program to run and can be written by others than its owner; run:"
            f" chmod go-w {path}"
        )
    return tuple(value)


def _mcp(section: dict[str, object]) -> McpConfig:
    default = McpConfig()
    role = section.get("role", default.role)
    if role not in MCP_ROLES:
        raise InvalidParams(f"mcp.role takes {' or '.join(MCP_ROLES)}")
    sets = section.get("toolsets", list(default.toolsets))
    if not isinstance(sets, list) or not all(isinstance(name, str) for name in sets):
        raise InvalidParams("mcp.toolsets takes a list of names")
    size = section.get("max_output", default.max_output)
    if not isinstance(size, int) or isinstance(size, bool) or not 4_096 <= size <= _MOST_OUTPUT:
        raise InvalidParams(f"mcp.max_output takes a number of bytes from 4096 to {_MOST_OUTPUT}")
    uids, group, socket = _others(section)
    try:
        return McpConfig(str(role), check_sets(sets), size, uids, group, socket)
    except InvalidParams as error:
        raise InvalidParams(f"mcp.toolsets: {error.detail}") from error


def _others(section: dict[str, object]) -> tuple[tuple[int, ...] | None, str | int | None, Path | None]:
    """Who beside the engine's own user may call tools, and where."""
    uids, group, socket = section.get("uids"), section.get("group"), section.get("socket")
    if uids is not None and (
        not isinstance(uids, list) or len(uids) > _MOST_UIDS or not all(_is_id(uid) for uid in uids)
    ):
        raise InvalidParams(
            f"mcp.uids takes a list of at most {_MOST_UIDS} user numbers, as `id -u` says them"
        )
    if group is not None and not _is_id(group) and not (isinstance(group, str) and group):
        raise InvalidParams("mcp.group takes the name or number of a group")
    if socket is not None and not (isinstance(socket, str) and socket.startswith("/") and socket[-1] != "/"):
        raise InvalidParams("mcp.socket takes a whole path such as /run/hive-advisor/mcp.sock")
    known = group if isinstance(group, str | int) else None
    return (
        None if uids is None else tuple(dict.fromkeys(uids)),
        known,
        None if socket is None else Path(socket),
    )


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LAST_UID


def _order(value: object) -> tuple[str, ...]:
    names = value if isinstance(value, list) else []
    if not names or len(set(map(str, names))) != len(names) or not set(names) <= set(TRANSPORTS):
        raise InvalidParams(f"transport.order takes a list of {', '.join(TRANSPORTS)}, each at most once")
    return tuple(names)


def _section(document: dict[str, object], name: str) -> dict[str, object]:
    section = document.get(name, {})
    return section if isinstance(section, dict) else {}
