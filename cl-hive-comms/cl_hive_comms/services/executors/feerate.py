"""What a feerate of a command comes to at this node (docs/protocol/02-fleet-management.md §4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hive_shared.errors import from_symbol
from hive_shared.registry import perkw_of

from ..ports_commands import Node

# Blocks within which CLN means slow, normal and urgent to confirm.
_BLOCKS: Final = {"slow": 100, "normal": 12, "urgent": 6}


async def perkw(node: Node, asked: str | None, param: str) -> int:
    """Sat per 1000 weight of a feerate text, the node's own for openings without one.

    Raises InvalidParams when the node has no estimate, ClnError.
    """
    if asked is not None and (number := perkw_of(asked)) is not None:
        return number
    if asked in _BLOCKS:
        for row in (await _rates(node)).get("estimates", ()):
            if int(row["blockcount"]) == _BLOCKS[asked]:
                return int(row["feerate"])
    return await node_perkw(node, param)


async def node_perkw(node: Node, param: str) -> int:
    """The node's own feerate for a normal transaction, sat per 1000 weight.

    Raises InvalidParams (for `param`, which would name one) when the node has no estimate, ClnError.
    """
    rates = await _rates(node)
    rate = rates.get("opening") or rates.get("floor")
    if not isinstance(rate, int):
        raise from_symbol(
            "invalid_params",
            f"the node has no estimate of fees now; give {param}",
            param=param,
            expected="present",
        )
    return rate


async def _rates(node: Node) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (await node.call("feerates", {"style": "perkw"}))["perkw"]
    return found
