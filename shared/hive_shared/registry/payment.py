"""Payments over Lightning: `hive:payment/v1` (02 §4 item 9)."""

from __future__ import annotations

from typing import Final

import msgspec

from ..canonical import JsonValue
from .danger import Tier, payment, payment_at_least
from .params import MAX_MSAT, Int, NodeKey, Param, ParamSchema, Text, refuse
from .spec import SchemaSpec, SchemaTable

PAYMENT: Final = "hive:payment/v1"
DESCRIPTION_BYTES: Final = 639
"""Longest description that fits an invoice (BOLT 11)."""

_AMOUNT: Final = Int(1, MAX_MSAT)
_MOST_FEE: Final = Param("max_fee_ppm", Int(0, 50_000), default=5_000)


class AmountOrAny(msgspec.Struct, frozen=True):
    """What an invoice asks for: msat, or the word `any`."""

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The amount or the word."""
        if value == "any":
            return value
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_MSAT:
            refuse(path, f"an integer from 1 to {MAX_MSAT}, or any", value)
        return value

    def describe(self) -> dict[str, JsonValue]:
        """Both types and what they mean."""
        return {"type": ["integer", "string"], "format": "msat or any"}


def payments() -> SchemaSpec:
    """Asking for money and paying it."""
    table = SchemaTable(PAYMENT, "payment")
    text = Text(DESCRIPTION_BYTES)
    name = Text(100, 1, pattern="[A-Za-z0-9._-]+", what="a label")
    asked = (
        Param("amount_msat", AmountOrAny(), required=True),
        Param("description", text, required=True),
        Param("label", name),
        Param("expiry", Int(60, 2_592_000), default=3_600),
    )
    table.write("create_invoice", "1/1/1/1/1", tier=Tier.MONITOR, params=ParamSchema(asked))
    invoice = ParamSchema(
        (
            Param("bolt11", Text(2_000, 1, what="an invoice or offer"), required=True),
            Param("amount_msat", _AMOUNT),
            _MOST_FEE,
            Param("timeout_seconds", Int(5, 600), default=60),
        )
    )
    table.write("pay_invoice", payment(), "pay", params=invoice)
    to = (
        Param("destination", NodeKey(), required=True),
        Param("amount_msat", _AMOUNT, required=True),
        _MOST_FEE,
    )
    table.write("keysend", payment(), params=ParamSchema(to))
    split = payment_at_least("5/5/3/3/4")
    table.write("pay_multipath", split, s5="max_payment_sats_24h", params=invoice)
    return table.done()
