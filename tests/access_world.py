"""A pipeline that sells access, over a node whose invoices a test pays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cl_hive_comms.domain.access_fee import AccessTerms
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from pipeline_world import View, World, issue


def preimage_of(label: str) -> bytes:
    """The preimage of the invoice of a label."""
    return hashlib.sha256(b"preimage" + label.encode()).digest()


class Selling(World):
    """Agent 1 pays per action; `invoices` are those of the node by label."""

    def __init__(self, directory: Path, methods: tuple[str, ...] = ("bolt11", "l402"), **access: Any) -> None:
        super().__init__(directory)
        self.access_terms = AccessTerms(methods=methods, l402_actions=3)
        self.invoices: dict[str, dict[str, Any]] = {}
        terms: dict[str, JsonValue] = {"model": "per_action", **access}
        self.credentials.add(View(issue(access=terms), "adv-1"))
        self.node.answers |= {"invoice": self._invoice, "listinvoices": self._listinvoices}

    def _invoice(self, params: Mapping[str, Any]) -> dict[str, Any]:
        label = params["label"]
        if label in self.invoices:
            raise ClnError("invoice", 900, "Duplicate label")
        payment_hash = hashlib.sha256(preimage_of(label)).hexdigest()
        self.invoices[label] = {
            "label": label,
            "payment_hash": payment_hash,
            "amount_msat": params["amount_msat"],
            "status": "unpaid",
            "bolt11": f"lnbcrt1{len(self.invoices)}",
            "expires_at": self.now + params["expiry"],
        }
        return dict(self.invoices[label])

    def _listinvoices(self, params: Mapping[str, Any]) -> dict[str, Any]:
        found = [row for row in self.invoices.values() if row["payment_hash"] == params["payment_hash"]]
        return {"invoices": [dict(row) for row in found]}

    def pay(self, invoice: str, *, part: int = 1) -> str:
        """Pay an invoice of the node; its preimage. `part`: only the amount divided by this arrived."""
        row = next(row for row in self.invoices.values() if row["bolt11"] == invoice)
        assert row["expires_at"] > self.now
        row |= {"status": "paid", "amount_received_msat": row["amount_msat"] // part}
        return preimage_of(row["label"]).hex()

    async def asked(self, **options: Any) -> dict[str, Any]:
        """What a command without a proof is told to pay."""
        response = await self.set_fee(101, **options)
        assert response["error"]["slug"] == "payment_required", response
        return dict(response["error"]["data"])

    async def one_fee(self) -> dict[str, JsonValue]:
        """The proof of a fee that was paid for one action."""
        told = (await self.asked())["bolt11"]
        return {"method": "bolt11", "preimage": self.pay(told["invoice"])}

    async def token(self, channel: str = "101x1x0") -> dict[str, JsonValue]:
        """The proof of an L402 token that was paid for."""
        told = await self.asked(channel=channel)
        return {"method": "l402", "macaroon": told["macaroon"], "preimage": self.pay(told["invoice"])}

    def row(self, sql: str, *values: object) -> Any:
        """First row of a query."""
        return self.db.peek(lambda tx: tx.execute(sql, values).fetchone())

    def uses(self) -> list[int]:
        """How many uses of each paid token are taken."""
        sql = "SELECT uses FROM comms_l402_tokens WHERE status = 'paid' ORDER BY token_id"
        return self.db.peek(lambda tx: [row["uses"] for row in tx.execute(sql)])
