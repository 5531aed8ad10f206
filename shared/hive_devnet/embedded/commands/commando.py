"""commando."""

from __future__ import annotations

import json
from typing import Any

from hive_devnet.embedded.params import node_id, opt, req, string
from hive_devnet.embedded.registry import Call, Result, command


def _token(_name: str, value: Any) -> str:
    # CLN hands the text of the token on as it is; what is no JSON the peer finds out.
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


@command(
    "commando",
    req("peer_id", node_id),
    req("method", string),
    opt("params", _token),
    opt("rune", string),
    opt("filter", _token),
)
async def commando(call: Call) -> Result:
    """Sends a command to a connected peer and waits for its answer."""
    return await call.node.commando.command(
        call["peer_id"], call["method"], call["params"] or "{}", call["rune"], call["filter"], call.request_id
    )
