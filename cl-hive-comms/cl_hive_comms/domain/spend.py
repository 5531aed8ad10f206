"""What an action takes out of the node's hands: by class, with its fee (docs/protocol/02 §3, 08 §5.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue

ONCHAIN: Final = "onchain"
PAYMENT: Final = "payment"
REBALANCE: Final = "rebalance"
LIQUIDITY: Final = "liquidity"
CLASSES: Final = (ONCHAIN, PAYMENT, REBALANCE, LIQUIDITY)
DAY_S: Final = 86_400
"""Spends of the last 24 hours count, sliding."""


class Spend(msgspec.Struct, frozen=True):
    """Sats that leave for somebody else's wallet, and what moving them costs (an upper bound before it ran).

    Sats that only move within the node's own wallet are no amount; their fee counts all the same.
    """

    kind: str
    amount_sat: int
    fee_sat: int = 0

    @property
    def total_sat(self) -> int:
        """Amount and fee: what the operator's daily budget counts."""
        return self.amount_sat + self.fee_sat

    def to_json(self) -> dict[str, JsonValue]:
        """The stored form, read back by `from_json`."""
        return {"kind": self.kind, "amount_sat": self.amount_sat, "fee_sat": self.fee_sat}

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> Spend:
        """Inverse of `to_json`."""
        return cls(str(doc["kind"]), int(doc["amount_sat"]), int(doc["fee_sat"]))


class SpentRow(msgspec.Struct, frozen=True):
    """Sums of one credential and class: amounts, fees, and how much of both is reserved but not settled."""

    credential_id: str
    kind: str
    amount_sat: int
    fee_sat: int
    reserved_sat: int

    @property
    def total_sat(self) -> int:
        """Amounts and fees."""
        return self.amount_sat + self.fee_sat
