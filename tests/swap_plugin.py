#!/usr/bin/env python3
"""Somebody else's plugin for tests: a swap service as cl-revenue-ops offers one, one of another make, and the
tasks of a fleet. What it is asked for is kept in the file HIVE_SWAP_FILE; it moves no sat."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pyln.client import Plugin

plugin = Plugin(dynamic=True)
FEE_SAT = 250


def kept(new: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Everything asked for so far, with what is new."""
    file = Path(os.environ["HIVE_SWAP_FILE"])
    if new is not None:
        with file.open("a") as out:
            out.write(json.dumps(new) + "\n")
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


@plugin.method("revenue-boltz-quote")
def quote(amount_sats: int, swap_type: str = "reverse", currency: str = "LBTC") -> dict[str, Any]:
    """What a swap costs."""
    return {"swap_type": swap_type, "currency": currency, "estimated_total_fee_sats": FEE_SAT}


def _loop(kind: str, **asked: Any) -> dict[str, Any]:
    number = len(kept({"kind": kind, **asked}))
    return {"status": "accepted", "swap_type": kind, "result": {"id": f"swap{number}"}}


@plugin.method("revenue-boltz-loop-out")
def loop_out(amount_sats: int, address: str = "", currency: str = "LBTC") -> dict[str, Any]:
    """Lightning to the chain."""
    return _loop("reverse", amount_sats=amount_sats, address=address, currency=currency)


@plugin.method("revenue-boltz-loop-in")
def loop_in(amount_sats: int, currency: str = "LBTC") -> dict[str, Any]:
    """The chain to Lightning."""
    return _loop("submarine", amount_sats=amount_sats, currency=currency)


@plugin.method("revenue-boltz-status")
def status(swap_id: str) -> dict[str, Any]:
    """How a swap stands: it was quick."""
    entry = {"id": swap_id, "state": "SUCCESSFUL", "serviceFee": 200, "onchainFee": 45}
    return {"swap_id": swap_id, "swapinfo_entry": entry}


@plugin.method("acme-swap")
def acme(amount_sats: int, max_fee_sats: int, label: str, address: str = "") -> dict[str, Any]:
    """A swap of another make."""
    known = [each for each in kept() if each.get("label") == label]
    if not known:
        kept({"kind": "acme", "amount_sats": amount_sats, "address": address, "label": label})
    return {"status": "done", "id": "a1", "fee_sats": min(max_fee_sats, FEE_SAT)}


@plugin.method("acme-swap-status")
def acme_status(label: str) -> dict[str, Any]:
    """How such a swap stands."""
    known = any(each.get("label") == label for each in kept())
    return {"status": "done", "id": "a1", "fee_sats": FEE_SAT} if known else {"status": "unknown"}


@plugin.method("hive-tasks")
def tasks(action: str = "list", **asked: Any) -> dict[str, Any]:
    """The fleet's tasks."""
    if action == "request":
        number = len(kept({"kind": "task", **asked}))
        return {"tasks": [{**asked, "request_id": f"r{number}", "status": "open"}]}
    rows = enumerate(kept(), 1)
    return {"tasks": [{**each, "request_id": f"r{n}"} for n, each in rows if each["kind"] == "task"]}


plugin.run()
