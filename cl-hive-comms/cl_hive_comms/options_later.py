"""What an option waits for that this version does not serve: the part of the product that it steers.

By the beginning of the name; the longest one counts.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_LIQUIDITY: Final = "the liquidity market"

AWAITED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "directory-urls": "the search for advisors",
        "nostr-metadata": "a profile of this node's own; without one no name card is published",
        "marketplace-": "the advisor market",
        "liquidity-": _LIQUIDITY,
    }
)


def awaited(name: str) -> str:
    """What the option of this name (without prefix) waits for. Raises KeyError where nobody said."""
    fits = [start for start in AWAITED if name.startswith(start)]
    if not fits:
        raise KeyError(f"options_later does not say what {name} waits for")
    return AWAITED[max(fits, key=len)]
