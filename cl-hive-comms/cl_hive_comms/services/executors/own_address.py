"""Whether an on-chain address is the node's own (docs/protocol/02-fleet-management.md §3 "+W")."""

from __future__ import annotations

from typing import Final

from hive_shared.cln import ClnError
from hive_shared.errors import from_symbol

from ..ports_commands import Node

_NOT_AN_ADDRESS: Final = -1


async def is_own(node: Node, address: str, param: str) -> bool:
    """Whether the wallet gave out the address; False where an older node cannot tell.

    Raises InvalidParams for a text that is no address of this network, else ClnError.
    """
    try:
        found = (await node.call("listaddresses", {"address": address}))["addresses"]
    except ClnError as error:
        if error.outcome_unknown:
            raise
        if error.code != _NOT_AN_ADDRESS:
            # An older node cannot tell.
            return False
        raise from_symbol(
            "invalid_params",
            f"{param} {address[:100]!a} is no address of this node's network",
            param=param,
            expected="an on-chain address of this node's network",
        ) from error
    return bool(found)
