"""Local aliases: the only names a client is called by (docs/protocol/11-advisor-kit.md §4)."""

from __future__ import annotations

import unicodedata

from hive_shared.errors import InvalidParams

_MAX = 64
_RESERVED_PREFIXES = ("did:", "npub", "nsec")


def check_alias(alias: str) -> tuple[str, str]:
    """The alias in NFKC and its comparison key. Raises InvalidParams saying which rule it breaks."""
    name = unicodedata.normalize("NFKC", alias).strip()
    if not 1 <= len(name) <= _MAX or not name.isprintable():
        raise InvalidParams(f"alias {alias!r}: take 1 to {_MAX} printable characters")
    key = name.casefold()
    if key.isdigit() or key == "all" or key.startswith(_RESERVED_PREFIXES):
        raise InvalidParams(f"alias {name!r}: digits only, 'all' and names starting like a key are reserved")
    return name, key


def offered_alias(node_key: str) -> str:
    """The alias of an offer before a human names it: from the key, never from the node's own words."""
    return f"node-{node_key[:12]}"
