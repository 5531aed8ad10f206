"""A pipeline over a node that pays and is paid, and the writes that a crash test kills in it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from cl_hive_comms.domain.policy_rules import Override
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError, ClnTimeout
from hive_shared.registry import PAYMENT, Tier
from msgspec.structs import replace
from node_with_wallet import NodeWithWallet
from pipeline_world import NODE_ID, NOW, View, World, issue
from wallet_world import Case

SHOP = "03" + "5e" * 32
FRIEND = "02" + "fe" * 32


def bolt11(word: str) -> str:
    """A text of an invoice's form; what it says stands in `NodeWithPayments.invoices`."""
    return f"lnbcrt1{hashlib.sha256(word.encode()).hexdigest().translate(str.maketrans('b1', 'qp'))}"


class NodeWithPayments(NodeWithWallet):
    """`asked` are invoices of others by text, `own` invoices of this node by label. `ends` is how the next
    payment's part ends: complete, pending or failed. `parts` is what listsendpays shows."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[str, dict[str, Any]] = {}
        self.own: dict[str, dict[str, Any]] = {}
        self.offers: dict[str, dict[str, Any]] = {}
        self.parts: list[dict[str, Any]] = []
        self.made = 0
        self.ends = "complete"
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def invoice_of(self, word: str, amount_msat: int | None = 50_000, **fields: Any) -> str:
        """An invoice of somebody else that asks for an amount."""
        text = bolt11(word)
        preimage = hashlib.sha256(b"preimage" + word.encode()).digest()
        says: dict[str, Any] = {
            "type": "bolt11 invoice",
            "valid": True,
            "payee": SHOP,
            "payment_hash": hashlib.sha256(preimage).hexdigest(),
            "created_at": NOW,
            "expiry": 30 * 86_400,
        }
        if amount_msat is not None:
            says["amount_msat"] = amount_msat
        self.asked[text] = {**says, **fields, "preimage": preimage.hex()}
        return text

    def paid(self) -> list[tuple[str, int]]:
        """(payment hash or destination, msat) of what went through."""
        return [(row["destination"], row["amount_msat"]) for row in self.parts if row["status"] == "complete"]

    def end(self, status: str) -> None:
        """What was pending ends."""
        for row in self.parts:
            if row["status"] == "pending":
                row["status"] = status

    def _decode(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["string"] not in self.asked:
            raise ClnError("decode", -32602, "Unparsable string")
        return {name: value for name, value in self.asked[params["string"]].items() if name != "preimage"}

    def _fetchinvoice(self, params: dict[str, Any]) -> dict[str, Any]:
        """An offer's invoice is the one registered under `of`; its amount is the offer's or the payer's."""
        text = self.asked[params["offer"]]["of"]
        if "amount_msat" in params:
            self.asked[text]["invoice_amount_msat"] = params["amount_msat"]
        return {"invoice": text, "changes": {}}

    def offer_of(self, word: str, amount_msat: int | None, invoice_msat: int, **fields: Any) -> str:
        """An offer of somebody else, and the invoice that its issuer gives for it."""
        offer, invoice = bolt11(word).replace("lnbcrt", "lno"), bolt11(word).replace("lnbcrt", "lni")
        preimage = hashlib.sha256(word.encode()).digest()
        says: dict[str, Any] = {"type": "bolt12 offer", "valid": True, "offer_issuer_id": SHOP, "of": invoice}
        if amount_msat is not None:
            says["offer_amount_msat"] = amount_msat
        self.asked[offer] = {**says, **fields, "preimage": ""}
        digest = hashlib.sha256(preimage).hexdigest()
        self.asked[invoice] = {
            "type": "bolt12 invoice",
            "valid": True,
            "invoice_node_id": SHOP,
            "invoice_payment_hash": digest,
            "invoice_created_at": NOW,
            "invoice_amount_msat": invoice_msat,
            "preimage": preimage.hex(),
        }
        return offer

    def _wait(self, params: dict[str, Any]) -> dict[str, Any]:
        assert (params["subsystem"], params["indexname"], params["nextvalue"]) == ("sendpays", "created", 0)
        return {"subsystem": "sendpays", "created": self.made}

    def _listsendpays(self, params: dict[str, Any]) -> dict[str, Any]:
        rows = [row for row in self.parts if row["created_index"] >= params.get("start", 0)]
        wanted = params.get("payment_hash")
        chosen = [dict(row) for row in rows if wanted in (None, row["payment_hash"])]
        for row in chosen:
            if row["status"] != "complete":
                del row["payment_preimage"]
        return {"payments": chosen}

    def _xpay(self, params: dict[str, Any]) -> dict[str, Any]:
        asked = self.asked[params["invstring"]]
        digest = asked.get("payment_hash", asked.get("invoice_payment_hash"))
        if any(row["payment_hash"] == digest and row["status"] != "failed" for row in self.parts):
            raise ClnError("xpay", 219, "Already paid this invoice successfully")
        amount = params.get("amount_msat", asked.get("amount_msat", asked.get("invoice_amount_msat")))
        return self._send("xpay", params, SHOP, amount, asked["preimage"])

    def _pay(self, params: dict[str, Any]) -> dict[str, Any]:
        return self._xpay({**params, "invstring": params["bolt11"]})

    def _xkeysend(self, params: dict[str, Any]) -> dict[str, Any]:
        preimage = hashlib.sha256(str(self.made).encode()).hexdigest()
        return self._send("xkeysend", params, params["destination"], params["amount_msat"], preimage)

    def _keysend(self, params: dict[str, Any]) -> dict[str, Any]:
        answer = self._xkeysend(params)
        del answer["failed_parts"], answer["successful_parts"]
        return {**answer, "parts": 1, "status": "complete"}

    def _send(
        self, method: str, params: dict[str, Any], to: str, amount: int, preimage: str
    ) -> dict[str, Any]:
        self.made += 1
        self.sent.append((method, params))
        fee = min(int(params["maxfee"]), 150)
        row = {
            "created_index": self.made,
            "groupid": self.made,
            "payment_hash": hashlib.sha256(bytes.fromhex(preimage)).hexdigest(),
            "destination": to,
            "amount_msat": amount,
            "amount_sent_msat": amount + fee,
            "label": params.get("label"),
            "status": self.ends,
            "payment_preimage": preimage,
        }
        self.parts.append(row)
        if self.ends == "pending":
            raise ClnTimeout(method, 60)
        if self.ends == "failed":
            raise ClnError(method, 205, "no route at /var/lib/private-dir")
        answer = {"payment_preimage": preimage, "failed_parts": 0, "successful_parts": 1}
        return {**answer, "amount_msat": amount, "amount_sent_msat": amount + fee}

    def _invoice(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["label"] in self.own:
            raise ClnError("invoice", 900, "Duplicate label")
        preimage = hashlib.sha256(params["label"].encode())
        row = {
            "payment_hash": hashlib.sha256(preimage.digest()).hexdigest(),
            "bolt11": bolt11(params["label"]),
            "expires_at": NOW + params["expiry"],
        }
        self.own[params["label"]] = {**row, "label": params["label"], "status": "unpaid"}
        if params["amount_msat"] != "any":
            self.own[params["label"]]["amount_msat"] = params["amount_msat"]
        return {**row, "payment_secret": "5e" * 32, "created_index": 1}

    def _listinvoices(self, params: dict[str, Any]) -> dict[str, Any]:
        ((name, value),) = params.items()
        key = {"offer_id": "local_offer_id"}.get(name, name)
        return {"invoices": [dict(row) for row in self.own.values() if row.get(key) == value]}

    def _offer(self, params: dict[str, Any]) -> dict[str, Any]:
        assert params["single_use"] is True
        offer_id = hashlib.sha256(str(sorted(params.items())).encode()).hexdigest()
        self.offers[offer_id] = params
        return {"offer_id": offer_id, "bolt12": bolt11(offer_id).replace("lnbcrt", "lno"), "created": True}

    def fetched(self, offer_id: str, payer: str = "02" + "aa" * 32) -> dict[str, Any]:
        """The invoice that a payer gets for an offer of this node."""
        label = f"{offer_id}-{payer}-0"
        preimage = hashlib.sha256(label.encode())
        return self.own.setdefault(
            label,
            {
                "label": label,
                "payment_hash": hashlib.sha256(preimage.digest()).hexdigest(),
                "status": "unpaid",
                "local_offer_id": offer_id,
                "amount_msat": self.offers[offer_id]["amount"],
            },
        )


class Paying(World):
    """A world whose node pays and is paid."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, channels=0)
        self.node: NodeWithPayments = NodeWithPayments()
        self.restart()

    def shown(self) -> Any:
        """What the actions of this schema change."""
        return self.node.paid(), sorted(self.node.own)


BILL = bolt11("bill")
CASES = {
    (PAYMENT, "create_invoice"): Case(
        {"amount_msat": 70_000, "description": "tea", "label": "tea"}, "invoice"
    ),
    (PAYMENT, "pay_invoice"): Case({"bolt11": BILL}, "xpay"),
    (PAYMENT, "pay_multipath"): Case({"bolt11": BILL}, "xpay"),
    (PAYMENT, "keysend"): Case({"destination": FRIEND, "amount_msat": 9_000_000}, "xkeysend"),
}
OVER_S = 60 + 120
"""After that no call of `CASES` can still be under way."""


def trusted(directory: Path) -> Paying:
    """An agent that may pay by itself whatever people do not have to confirm; one bill to pay."""
    directory.mkdir(parents=True, exist_ok=True)
    world = Paying(directory)
    assert NODE_ID not in (SHOP, FRIEND)
    issued = issue(template="complete_management", tier=Tier.ADMIN)
    world.credentials.add(View(issued, "adv-1"))
    words: dict[str, JsonValue] = {"payment_*": "auto_execute"}
    world.policies.override("aggressive", approval_overrides=words)
    raised = Override("raised", {"max_danger": 10}, NOW - 1, NOW + 7 * 86_400)
    world.policies.now = replace(world.policies.now, override=raised)
    assert world.node.invoice_of("bill", 50_000_000) == BILL
    return world
