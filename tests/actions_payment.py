"""Entries of hive:payment/v1 for the table of actions (02 §4 item 9)."""

from __future__ import annotations

import itertools
from typing import Any

from action_table import Answer, Entry, Params, Stage, given
from hive_devnet.node import NodeHandle
from hive_devnet.world import until
from hive_shared.registry import PAYMENT

_serial = itertools.count(1)


async def _invoice(stage: Stage, amount: int | str, node: NodeHandle | None = None) -> str:
    """A fresh invoice of bob, or of another node."""
    made = await (node or stage.world.bob).call(
        "invoice", {"amount_msat": amount, "label": f"table-{next(_serial)}", "description": "table"}
    )
    return str(made["bolt11"])


async def _calm(stage: Stage) -> None:
    """No HTLC is on its way: only then do balances stand still."""

    async def settled() -> bool:
        rows = (await stage.call("listpeerchannels"))["channels"]
        return not any(row["htlcs"] for row in rows)

    await until(settled, "the channels to settle")


async def _received(stage: Stage, payment_hash: str) -> int:
    """Msat that bob got for a payment hash."""

    async def paid() -> Any:
        rows = (await stage.world.bob.call("listinvoices", {"payment_hash": payment_hash}))["invoices"]
        return next((row["amount_received_msat"] for row in rows if row["status"] == "paid"), None)

    return int(await until(paid, "bob to be paid", 60))


async def _bill(stage: Stage) -> Params:
    stage.kept["bill"] = await _invoice(stage, 20_000_000)
    return {"bolt11": stage.kept["bill"]}


async def _paid(stage: Stage, params: Params, result: Answer) -> None:
    await _calm(stage)
    assert await _received(stage, result["payment_hash"]) == result["amount_msat"] == 20_000_000
    assert (result["destination"], result["fee_msat"]) == (stage.world.bob.node_id, 0)
    asked = {"payment_hash": result["payment_hash"], "status": "complete"}
    (row,) = (await stage.call("listsendpays", **asked))["payments"]
    assert row["label"].startswith("hive:") and row["payment_preimage"] not in str(result)


async def _paid_before(stage: Stage) -> Params:
    return {"bolt11": stage.kept["bill"]}


async def _open_bill(stage: Stage) -> Params:
    return {"bolt11": "lightning:" + await _invoice(stage, "any"), "amount_msat": 3_000_000}


async def _open_paid(stage: Stage, params: Params, result: Answer) -> None:
    await _calm(stage)
    assert await _received(stage, result["payment_hash"]) == 3_000_000


async def _ones_own(stage: Stage) -> Params:
    return {"bolt11": await _invoice(stage, 1_000, stage.world.alice)}


async def _to_bob(stage: Stage) -> Params:
    return {"destination": stage.world.bob.node_id, "amount_msat": 1_500_000}


async def _got(stage: Stage, params: Params, result: Answer) -> None:
    await _calm(stage)
    assert await _received(stage, result["payment_hash"]) == 1_500_000


async def _to_nobody(stage: Stage) -> Params:
    return {"destination": stage.world.alice.node_id, "amount_msat": 1_000}


async def _can_be_paid(stage: Stage, params: Params, result: Answer) -> None:
    paid = await stage.world.bob.call("xpay", {"invstring": result["bolt11"]})
    assert paid["amount_msat"] == params["amount_msat"]
    (row,) = (await stage.call("listinvoices", label=result["label"]))["invoices"]
    assert (row["status"], row["payment_hash"]) == ("paid", result["payment_hash"])
    assert paid["payment_preimage"] not in str(result)
    await _calm(stage)


ENTRIES = (
    Entry(
        PAYMENT,
        "create_invoice",
        given(amount_msat=2_000_000, description="tea & Küche", expiry=600),
        _can_be_paid,
        given(amount_msat=0, description="nothing"),
    ),
    Entry(PAYMENT, "pay_invoice", _bill, _paid, _paid_before),
    Entry(PAYMENT, "pay_multipath", _open_bill, _open_paid, _ones_own),
    Entry(PAYMENT, "keysend", _to_bob, _got, _to_nobody),
)
