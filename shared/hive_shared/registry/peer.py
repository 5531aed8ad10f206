"""Peers: `hive:peer/v1` (02 §4 item 8)."""

from __future__ import annotations

from typing import Final

from .danger import Danger, DangerFacts, DangerRule, Params, Tier
from .params import Int, NodeKey, Param, ParamSchema, Text
from .spec import SchemaSpec, SchemaTable

PEER: Final = "hive:peer/v1"
MAX_BAN_HOURS: Final = 87_600
"""Ten years; a ban without hours has no end."""

_PEER: Final = Param("peer_id", NodeKey(), required=True, aliases=("node_id",))
_REASON: Final = Param("reason", Text(minimum=1), required=True)
_HOST: Final = Text(255, 1, pattern=r"[A-Za-z0-9.:_\[\]-]+", what="a host")


def _disconnect() -> DangerRule:
    none, some = Danger.of("2/2/2/1/1"), Danger.of("3/2/4/3/2")

    def pick(_params: Params, facts: DangerFacts) -> Danger:
        return none if facts.peer_channels == 0 else some

    return DangerRule((none, some), pick)


def peer() -> SchemaSpec:
    """Whom the node talks to."""
    table = SchemaTable(PEER, "peer")
    where = (Param("host", _HOST, aliases=("address",)), Param("port", Int(1, 65_535)))
    table.write("connect", "2/1/1/1/1", params=ParamSchema((_PEER, *where)))
    table.write("disconnect", _disconnect(), params=ParamSchema((_PEER,)))
    hours = Param("hours", Int(1, MAX_BAN_HOURS))
    table.write("ban", "4/4/3/4/5", "ban_peer", params=ParamSchema((_PEER, _REASON, hours)))
    table.write("unban", "2/1/1/2/1", tier=Tier.ADVANCED, params=ParamSchema((_PEER,)))
    return table.done()
