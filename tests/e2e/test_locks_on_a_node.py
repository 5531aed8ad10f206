"""Ecash under conditions on a node, as a sibling plugin asks for it (docs/protocol/03 §9)."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from cashu_tickets import document, item
from comms_world import call, refused, until, world
from hive_devnet.node import DevnetRpcError, NodeHandle
from hive_shared.crypto import sha256
from sibling_caller import Sibling

WORD = bytes(range(32))


async def _trusted(node: NodeHandle) -> bool:
    try:
        await call(node, "hive-client-wallet", action="probe")
    except DevnetRpcError:
        return False
    mints = await call(node, "hive-client-wallet", action="mints")
    return [row["status"] for row in mints["items"]] == ["trusted"]


async def _terms(sibling: Sibling, mint_url: str, amount: int, node_id: str) -> dict[str, Any]:
    """A ticket of this node for itself, whose preimage the payee has."""
    ticket_id, now = os.urandom(16).hex(), int(time.time())
    part = item(0, amount, hash=sha256(WORD).hex(), deadline=now + 3_600, locktime=now + 7_200)
    refund = await sibling.call("hive-comms-cashu-pubkey", context=ticket_id, role="payer")
    lock = await sibling.call("hive-comms-cashu-pubkey", context="fleet")
    base = document([part])
    return {
        **base,
        **{"ticket_id": ticket_id, "mode": "receipt", "issued_at": now, "salt": os.urandom(16).hex()},
        "mints": [{"url": mint_url, "permille": 1_000}],
        "payer": {**base["payer"], "refund_pubkey": refund["pubkey"]},
        "payee": {**base["payee"], "lock_pubkey": lock["pubkey"]},
        "node_id": node_id,
    }


async def _refused(sibling: Sibling, method: str, code: int, *said: str, **params: Any) -> None:
    error = await sibling.refused(method, **params)
    assert error.code == code and all(each in error.message for each in said), error


async def test_a_sibling_locks_looks_redeems_and_asks(mint_url: str) -> None:
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    try:
        async with world(directory, **{"hive-comms-escrow-mint": mint_url}) as (_, node, _):
            await call(node, "hive-client-wallet", action="fund", amount_sats=500)
            await until(lambda: _trusted(node), "the mint is trusted")
            sibling = await Sibling.of(node)
            terms = await _terms(sibling, mint_url, 40, node.node_id)
            order = {"terms": terms, "item": 0, "idempotency_key": "one", "timeout": 90}
            await _refused(
                sibling, "hive-comms-cashu-lock", -32602, "conditions", **order, conditions={"ref": "x"}
            )
            wrong = {**terms, "payer": {**terms["payer"], "refund_pubkey": terms["payee"]["lock_pubkey"]}}
            await _refused(sibling, "hive-comms-cashu-lock", 4014, "refund key", **{**order, "terms": wrong})
            locked = await sibling.call("hive-comms-cashu-lock", **order)
            assert locked["state"] == "locked" and locked["token"].startswith("cashuB")
            assert await sibling.call("hive-comms-cashu-lock", **order) == locked
            await _refused(sibling, "hive-comms-cashu-refund", 4014, "too_early", lock_id=locked["lock_id"])
            budget = await call(node, "hive-client-budget")
            used = {row["name"]: row["used_sats"] for row in budget["limits"]}
            assert used["sibling-limits fleet (day)"] == locked["face_sats"] and used["daily-limit"] == 0
            saved = await sibling.call(
                "hive-comms-cashu-inspect", token=locked["token"], terms=terms, context="fleet", save=True
            )
            assert saved["dleq_ok"] and saved["problems"] == [] and saved["conditions"][0]["kind"] == "HTLC"
            mine = saved["lock_id"]
            await _refused(
                sibling,
                "hive-comms-cashu-redeem",
                4014,
                "preimage_mismatch",
                lock_id=mine,
                preimage="00" * 32,
            )
            got = await sibling.call("hive-comms-cashu-redeem", lock_id=mine, preimage=WORD.hex(), timeout=90)
            assert got["state"] == "done" and got["net_sats"] >= 40
            op = await sibling.call("hive-comms-cashu-op", op_id=got["op_id"])
            assert (op["kind"], op["state"], op["amount_sats"]) == ("redeem", "done", got["net_sats"])
            found = await call(node, "hive-client-wallet", action="restore", terms=terms)
            assert found["locked"] == {"locks": 0, "locked_sats": 0, "lock_ids": []}, "it is in the books"
            error = await refused(node, "hive-client-wallet", action="restore", terms="no terms")
            assert error.code == -32602 and "terms" in error.message
            (seen,) = (await sibling.call("hive-comms-cashu-state", lock_id=locked["lock_id"]))["locks"]
            assert (seen["state"], seen["preimage"]) == ("redeemed", WORD.hex())
            asked = await sibling.call("hive-comms-cashu-state", ys=locked["ys"], mint=mint_url)
            assert {each["state"] for each in asked["states"]} == {"spent"}
            await _refused(
                sibling, "hive-comms-cashu-state", -32602, "lock_id", ys=locked["ys"], lock_id=mine
            )
            await _refused(sibling, "hive-comms-cashu-op", 4001, "32 lower-case", op_id="nonsense")
            await _refused(sibling, "hive-comms-cashu-pubkey", -32602, "without spaces", context="two words")
            await _refused(
                sibling,
                "hive-comms-cashu-melt",
                -32602,
                "amount_sats",
                **{"amount_sats": 0, "idempotency_key": "m"},
            )
    finally:
        shutil.rmtree(directory, ignore_errors=True)
