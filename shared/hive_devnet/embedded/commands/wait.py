"""wait: the indexes of payment parts, invoices and forwards."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from hive_devnet.embedded.params import bad_param, req, u64
from hive_devnet.embedded.registry import Call, Result, command

_POLL_S: Final = 0.05
_COUNTERS: Final = {
    ("sendpays", "created"): "sendpays",
    ("sendpays", "updated"): "sendpay updates",
    ("invoices", "created"): "invoices",
    ("forwards", "created"): "forwards",
    ("forwards", "updated"): "forward updates",
}
"""The ledger's names of what is counted here; another subsystem or index is refused."""


def _subsystem(name: str, value: Any) -> str:
    if value not in {subsystem for subsystem, _ in _COUNTERS}:
        raise bad_param(name, "unknown subsystem", value)
    return str(value)


def _index(name: str, value: Any) -> str:
    if value not in {index for _, index in _COUNTERS}:
        raise bad_param(name, "unknown index", value)
    return str(value)


@command("wait", req("subsystem", _subsystem), req("indexname", _index), req("nextvalue", u64))
async def wait(call: Call) -> Result:
    """An index, once it has reached a value."""
    subsystem, index = call["subsystem"], call["indexname"]
    counter = _COUNTERS.get((subsystem, index))
    if counter is None:
        raise bad_param("indexname", "unknown index", index)
    while (value := call.node.world.database.number(f"{counter} {call.node.node_id}")) < call["nextvalue"]:
        await asyncio.sleep(_POLL_S)
    return {"subsystem": subsystem, index: value}
