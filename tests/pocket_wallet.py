"""A wallet for tests: it makes invoices that read as real ones, is paid and pays, and keeps what it did.

It stands behind the ways of the kit: as an own node, behind wallet connect, behind a Lightning address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from coincurve import PrivateKey
from hive_advisor.services.ports import NodeRefused
from hive_devnet.embedded import bolt11 as codec
from hive_shared.bolt11 import read_invoice
from hive_shared.errors import TransportUnavailable

KEY = PrivateKey((11).to_bytes(32, "big"))


@dataclass
class Ordered:
    """An invoice of the wallet."""

    label: str
    text: str
    preimage: str
    payment_hash: str
    expires_at: int
    paid: bool = False


class PocketWallet:
    """`changes` replace fields of the next invoices (amount_msat, expiry); `knows` are preimages by
    which it can pay; `lost` answers of xpay do not arrive, `works` False: it cannot be reached."""

    def __init__(self, now: Callable[[], int], point: Callable[[], None] = lambda: None) -> None:
        self.now, self.point = now, point
        self.invoices: list[Ordered] = []
        self.changes: dict[str, Any] = {}
        self.knows: dict[str, str] = {}
        self.sent: list[str] = []
        self.failing = self.lost = False
        self.works = True

    def invoice(self, amount_msat: int, label: str, expiry: int = 86_400) -> Ordered:
        """A fresh invoice."""
        preimage = hashlib.sha256(f"pocket {label} {len(self.invoices)}".encode())
        digest = hashlib.sha256(preimage.digest()).hexdigest()
        fields: dict[str, Any] = {
            "payee": KEY.public_key.format().hex(),
            "payment_hash": digest,
            "payment_secret": "cd" * 32,
            "created_at": self.now(),
            "amount_msat": amount_msat,
            "description": label,
            "expiry": expiry,
            **self.changes,
        }
        made = codec.Invoice(**fields)
        text = codec.encode_invoice(made, lambda hashed: KEY.sign_recoverable(hashed, hasher=None))
        ordered = Ordered(label, text, preimage.hexdigest(), digest, self.now() + int(fields["expiry"]))
        self.invoices.append(ordered)
        return ordered

    def pay_in(self, text: str) -> str:
        """Somebody pays an invoice of the wallet; the preimage."""
        found = next(one for one in self.invoices if one.text == text)
        assert self.now() < found.expires_at and not found.paid, "nobody can pay this invoice"
        found.paid = True
        return found.preimage

    def pay_out(self, text: str) -> str:
        """The wallet pays an invoice; the preimage, "" when it fails."""
        payment_hash = read_invoice(text).payment_hash
        assert payment_hash not in self.sent, "paid twice"
        if self.failing:
            return ""
        self.sent.append(payment_hash)
        return self.knows[payment_hash]

    async def call(self, _name: str, method: str, params: Mapping[str, object]) -> dict[str, Any]:
        """The wallet as an own node (services.ports.OwnNodeCalls)."""
        if not self.works:
            raise TransportUnavailable("node pocket did not answer in 30 s")
        found: dict[str, Any] = getattr(self, f"_{method}")(**params)
        self.point()
        return found

    def _invoice(self, amount_msat: int, label: str, description: str, expiry: int) -> dict[str, Any]:
        if any(one.label == label for one in self.invoices):
            raise NodeRefused(900, f"Duplicate label {label!r}")
        return {"bolt11": self.invoice(amount_msat, label, expiry).text}

    def _listinvoices(self, label: str | None = None, payment_hash: str | None = None) -> dict[str, Any]:
        rows = [
            {
                "label": one.label,
                "bolt11": one.text,
                "payment_hash": one.payment_hash,
                "status": "paid" if one.paid else "expired" if self.now() >= one.expires_at else "unpaid",
                **({"payment_preimage": one.preimage} if one.paid else {}),
            }
            for one in self.invoices
            if label in (None, one.label) and payment_hash in (None, one.payment_hash)
        ]
        return {"invoices": rows}

    def _xpay(self, invstring: str, maxfee: int, retry_for: int) -> dict[str, Any]:
        preimage = self.pay_out(invstring)
        if self.lost:
            raise TransportUnavailable("node pocket did not answer in 30 s")
        if not preimage:
            raise NodeRefused(205, "no route")
        return {"payment_preimage": preimage}

    def _listpays(self, payment_hash: str) -> dict[str, Any]:
        done = [name for name in self.sent if name == payment_hash]
        return {"pays": [{"status": "complete", "preimage": self.knows[name]} for name in done]}
