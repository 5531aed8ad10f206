"""On-chain feerates of the development chain, fixed so that amounts are predictable."""

from __future__ import annotations

from typing import Any

from hive_devnet.embedded.errors import INVALID_PARAMS, RpcError
from hive_devnet.embedded.params import token_text

FLOOR_PERKW = 253
ESTIMATES_PERKW = {2: 1000, 6: 750, 12: 500, 100: 253}
_NAMED = {
    "opening": 500,
    "mutual_close": 253,
    "penalty": 500,
    "unilateral_close": 750,
    "unilateral_anchor_close": 1250,
    "slow": 253,
    "normal": 500,
    "urgent": 750,
    "minimum": FLOOR_PERKW,
}


def for_deadline(blocks: int) -> int:
    """Feerate (per kiloweight) to confirm within `blocks`."""
    reached = [rate for target, rate in sorted(ESTIMATES_PERKW.items()) if target <= max(blocks, 2)]
    return reached[-1]


def feerate(name: str, value: Any) -> int:
    """A feerate parameter in sat per kiloweight: a name, "Nblocks", "Nperkw", "Nperkb" or N (per kB)."""
    text = token_text(value)
    if text in _NAMED:
        return _NAMED[text]
    if text.endswith("blocks"):
        digits = text.removesuffix("blocks")
        if not digits.isdigit():
            raise RpcError(INVALID_PARAMS, f"'{name}' should be an integer not '{digits}'")
        return for_deadline(int(digits))
    digits = text.removesuffix("perkw").removesuffix("perkb")
    if not digits.isdigit() or int(digits) >= 1 << 32:
        text = f"'{name}' should be an integer with optional perkw/perkb, not '{digits}'"
        raise RpcError(INVALID_PARAMS, text)
    rate = int(digits) if text.endswith("perkw") else -(-int(digits) // 4)
    return max(rate, FLOOR_PERKW)


def describe(style: str) -> dict[str, Any]:
    """The rates as `feerates` shows them, in `style` perkw or perkb."""
    factor = 4 if style == "perkb" else 1
    shown: dict[str, Any] = {
        name: _NAMED[name] * factor
        for name in ("opening", "mutual_close", "unilateral_close", "unilateral_anchor_close", "penalty")
    }
    return shown | {
        "splice": 505 * factor,
        "min_acceptable": FLOOR_PERKW * factor,
        "max_acceptable": 10000 * factor,
        "floor": FLOOR_PERKW * factor,
        "estimates": [
            {"blockcount": blocks, "feerate": rate * factor, "smoothed_feerate": rate * factor}
            for blocks, rate in ESTIMATES_PERKW.items()
        ],
    }
