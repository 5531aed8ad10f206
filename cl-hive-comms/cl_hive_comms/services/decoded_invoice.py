"""An invoice or offer as the node reads it (docs/protocol/03-escrow-and-payments.md §7.4)."""

from __future__ import annotations

from hive_shared.cln import ClnError

from ..domain.lightning_invoice import Asked, Kind, asked_by, refused
from .ports_commands import Node


async def decoded(node: Node, kind: Kind, text: str) -> Asked:
    """What it asks for. Raises InvalidParams for one that the node cannot read or that cannot be paid,
    ClnError when the node does not answer."""
    try:
        answer = await node.call("decode", {"string": text})
    except ClnError as error:
        if error.outcome_unknown:
            raise
        raise refused(f"the {kind} is damaged: the node cannot read it", "an intact invoice") from None
    return asked_by(kind, text, answer)
