"""The words of the advisor market: capabilities, prices, payment methods (04 §2).

In documents capabilities are kebab-case, in tags snake_case; both are read in either form.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

CAPABILITIES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "fee-optimization": ("hive:fee-policy/*",),
        "high-volume-routing": ("hive:fee-policy/*", "hive:config/*"),
        "rebalancing": ("hive:rebalance/*",),
        "expansion-planning": ("hive:expansion/*",),
        "emergency-response": ("hive:emergency/*", "hive:htlc/*"),
        "splice-management": ("hive:splice/*",),
        "config-tuning": ("hive:config/*",),
        "htlc-resolution": ("hive:htlc/*",),
        "monitoring-only": ("hive:monitor/*",),
        "liquidity-services": ("hive:liquidity/*",),
        "full-stack": ("hive:*",),
    }
)
"""The official capabilities and the schemas that each works with."""
FULL_STACK: Final = "full-stack"
PRICING_MODELS: Final = ("per_action", "subscription", "performance", "hybrid")
PRICING_TAGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "per_action": "per-action",
        "subscription": "subscription",
        "performance": "performance-percentage",
        "hybrid": "hybrid",
        "flat": "flat",
    }
)
PAYMENT_METHODS: Final = ("bolt11", "bolt12", "cashu", "l402")
MAX_SATS: Final = 2_100_000_000_000_000
_ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "channel-expansion": "expansion-planning",
        "htlc-management": "htlc-resolution",
        "liquidity-management": "rebalancing",
        "monitoring": "monitoring-only",
    }
)
_WORD: Final = re.compile(r"[a-z0-9-]{1,40}")
_SEPARATORS: Final = re.compile(r"[_ ]")
_SEMVER: Final = re.compile(
    r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})"
    r"(?:-([0-9A-Za-z-]{1,40}(?:\.[0-9A-Za-z-]{1,40}){0,9}))?(?:\+[0-9A-Za-z.-]{1,40})?",
    re.ASCII,
)
_HIDDEN: Final = frozenset({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})
_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
MAX_NAME: Final = 64

VersionKey = tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]


def word(text: object) -> str | None:
    """A capability or specialisation in canonical form; None when it is no such word."""
    if not isinstance(text, str) or len(text) > 40:
        return None
    canonical = _SEPARATORS.sub("-", text.lower())
    canonical = _ALIASES.get(canonical, canonical)
    return canonical if _WORD.fullmatch(canonical) else None


def in_tags(capability: str) -> str:
    """A capability as tags carry it."""
    return capability.replace("-", "_")


def schemas_of(capabilities: Iterable[str]) -> tuple[str, ...]:
    """The schema patterns that these capabilities work with, each once."""
    return tuple(dict.fromkeys(schema for one in capabilities for schema in CAPABILITIES.get(one, ())))


def display_name(text: object) -> str | None:
    """A name fit to be shown: NFKC, 1 to 64 characters, nothing hidden in it; None when it is not."""
    if not isinstance(text, str) or len(text) > 4 * MAX_NAME:
        return None
    name = unicodedata.normalize("NFKC", text).strip()
    if not 1 <= len(name) <= MAX_NAME:
        return None
    if name.isascii() and name.isprintable():
        return name
    hidden = any(char in _BIDI or unicodedata.category(char) in _HIDDEN for char in name)
    return None if hidden else name


def version_key(text: object) -> VersionKey | None:
    """What orders versions (semver 2.0, build metadata aside); None for what is no version."""
    found = _SEMVER.fullmatch(text) if isinstance(text, str) and len(text) <= 128 else None
    if found is None:
        return None
    pre = found[4]
    parts = tuple(
        (not one.isdigit(), int(one) if one.isdigit() else 0, "" if one.isdigit() else one)
        for one in (pre.split(".") if pre is not None else ())
    )
    return int(found[1]), int(found[2]), int(found[3]), pre is None, parts
