"""What hive-client-wallet shows of the mints (docs/protocol/03-escrow-and-payments.md §4.2, §9)."""

from __future__ import annotations

from typing import Any

import msgspec
from hive_shared.cashu.keysets import listed
from hive_shared.cashu.mint_book import MintBookService
from hive_shared.cashu.mint_caps import PROBE_VALID_S
from hive_shared.cashu.mints import MintRow


def shown_mints(book: MintBookService, now: int) -> dict[str, Any]:
    """Every mint that is or was named, those in use first; times in Unix seconds."""
    items = [shown_mint(book, row, now) for row in book.every()]
    return {"count": len(items), "items": items}


def shown_mint(book: MintBookService, row: MintRow, now: int) -> dict[str, Any]:
    """One mint as the operator sees it."""
    shown: dict[str, Any] = {
        "mint": row.url,
        "role": row.role.value,
        "status": row.status.value,
        "version": row.version,
        "detail": row.last_error,
        "failed_checks": row.failures,
        "checked_at": row.checked_at or None,
        "last_ok_at": row.last_ok_at or None,
        "clock_skew_s": row.skew_s,
        "keysets": [
            {
                "id": each.id,
                "active": each.active,
                "input_fee_ppk": each.input_fee_ppk,
                "final_expiry": each.final_expiry,
            }
            for each in listed(book.known_keysets(row.url)).values()
        ],
        "caps": msgspec.to_builtins(row.caps) if row.probe_at else None,
        "probed_at": row.probe_at or None,
        "probe_due": row.probe_due(now),
        "probe_valid_until": row.probe_at + PROBE_VALID_S if row.probe_at else None,
    }
    if row.url in book.accepted():
        traffic = book.at(row.url).traffic
        shown["breaker"] = traffic.breaker
        shown["held_for_s"] = round(traffic.held_for_s)
    return shown
