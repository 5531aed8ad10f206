"""The address of a mint in its one normal form, which is its name in every table and every terms document
(docs/protocol/03-escrow-and-payments.md §4.2).
"""

from __future__ import annotations

from urllib.parse import urlsplit

from hive_shared.web_address import normal_address

__all__ = ["normal_mint_url"]


def normal_mint_url(url: str) -> str:
    """Lower-case host, no default port, no trailing slash, no query, fragment or user; https, or http for
    loopback and onion hosts. Raises ValueError with a sentence."""
    address = normal_address(url, what="mint", secure="https", plain="http")
    if any(part in (".", "..", "") for part in urlsplit(address).path.split("/")[1:]):
        raise ValueError(f"mint address {url[:80]!r} has a path that is not in its shortest form")
    return address
