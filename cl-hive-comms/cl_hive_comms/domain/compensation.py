"""What a node pays an agent for a command that succeeded (docs/protocol/02 §8; 11 §15.11).

The agent claims it with the command's payment proof. It is reserved in the step that starts the command, owed
from the step that receipts its success, and paid after that; a command that did not succeed frees it.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.cashu.windows import WAIVABLE_UP_TO, escrow_required
from hive_shared.errors import HiveError, from_symbol
from hive_shared.registry import base_price_sats

from .payment_choice import CASHU, ESCROW

COMPENSATION: Final = "compensation"
"""The direction of payment from the node to the agent."""
BOLT11: Final = "bolt11"
SERVED: Final = (BOLT11, CASHU, ESCROW)
"""Ways in which this node pays for a command."""
MAX_RATE_SATS: Final = 10_000_000
"""More than this no ticket holds (03 §6)."""
KEY: Final = "compensation:"
"""Begins the idempotency key of the payment of a command."""
PURPOSE: Final = "action"
TRUSTED: Final = Fraction(3, 2)
"""The trust from which escrow may be waived for an agent."""

RESERVED, OWED, NOT_DUE = "reserved", "owed", "not_due"
RELEASED, FAILED = "released", "failed"
"""How a receipt says what becomes of the pay of its command."""


class PayTerms(msgspec.Struct, frozen=True):
    """The operator's terms: methods taken in their order, and the danger from which pay is held in escrow."""

    methods: tuple[str, ...] = (BOLT11,)
    escrow_min_danger: int = 3


class Reward(msgspec.Struct, frozen=True):
    """What a command earns. `ref` is the payment hash, "" while no invoice is good; `invoice` the agent's.
    By ecash `payee` is the key it is locked to and `mints` those that both sides take; `then` is the method
    that takes over when this one has ended without paying, "" for none."""

    method: str
    amount_sats: int
    ref: str = ""
    invoice: str = ""
    payee: str | None = None
    expires_at: int | None = None
    mints: tuple[str, ...] = ()
    then: str = ""

    def to_json(self) -> dict[str, JsonValue]:
        """The stored form, read back by `reward_from`."""
        return {
            "method": self.method,
            "amount_sats": self.amount_sats,
            "ref": self.ref,
            "invoice": self.invoice,
            "payee": self.payee,
            "expires_at": self.expires_at,
            "mints": [*self.mints],
            "then": self.then,
        }

    def doc(self, state: str) -> dict[str, JsonValue]:
        """The `payment` of the receipt (02 §9.1)."""
        return {
            "direction": COMPENSATION,
            "method": self.method,
            "amount_sats": self.amount_sats,
            "ref": self.ref,
            "state": state,
        }


def reward_from(doc: Mapping[str, Any] | None) -> Reward | None:
    """Inverse of `Reward.to_json`."""
    return None if doc is None else Reward(**{**doc, "mints": tuple(doc.get("mints", ()))})


def earned(state: str, *, acted: bool) -> bool:
    """Whether an outcome earns its pay: success that changed something."""
    return state == "success" and acted


def key_of(command_id: str) -> str:
    """The idempotency key of the payment of a command."""
    return KEY + command_id


def command_of(key: str) -> str | None:
    """The command that a payment is for; None for any other payment."""
    return key.removeprefix(KEY) if key.startswith(KEY) else None


def claims(proof: Mapping[str, JsonValue]) -> bool:
    """Whether a payment proof asks to be paid, and is none of a payment."""
    method = proof.get("method")
    return (
        method == ESCROW
        or (method == BOLT11 and "invoice" in proof)
        or (method == CASHU and "token" not in proof)
    )


def check_ecash_claim(proof: Mapping[str, JsonValue]) -> None:
    """A claim of ecash says its method and nothing else. Raises PaymentFailed (payment_invalid)."""
    for name in proof:
        if name != "method":
            raise invalid(
                f"payment_proof that claims ecash has an unknown field {name[:32]!a}; the node locks it to"
                " the key that you announced"
            )


def invoice_claimed(proof: Mapping[str, JsonValue]) -> str:
    """The invoice of a claim. Raises PaymentFailed (payment_invalid) for one of another form."""
    invoice = proof.get("invoice")
    if not isinstance(invoice, str) or not 0 < len(invoice) <= 4_096:
        raise invalid("payment_proof.invoice must be a BOLT 11 invoice of at most 4096 characters")
    for name in proof:
        if name not in ("method", "invoice"):
            raise invalid(
                f"payment_proof with an invoice has an unknown field {name[:32]!a}; a command is either paid"
                " for or pays"
            )
    return invoice


def rate_sats(agreed: Mapping[str, JsonValue], danger: int) -> int:
    """What an action of this danger earns under a credential's compensation; 0 where nothing is agreed."""
    if agreed.get("model") != "per_action":
        return 0
    rate = agreed.get("rate_sats")
    if rate is None:
        return base_price_sats(danger)
    assert isinstance(rate, int)
    return rate


def accepted_of(agreed: Mapping[str, JsonValue]) -> tuple[str, ...]:
    """The ways to be paid that a credential allows: all of ours where it names none, and tickets with
    ecash."""
    taken = agreed.get("accepted_methods")
    if not isinstance(taken, list) or not taken:
        return SERVED
    return tuple(name for name in SERVED if name in taken or (name == ESCROW and CASHU in taken))


def must_be_held(agreed: Mapping[str, JsonValue], danger: int, trust: Fraction, min_danger: int) -> bool:
    """Whether pay for this danger goes through escrow only. The operator waives it for a trusted agent by a
    credential whose methods name no ecash, up to danger 4 (docs/decisions/0540)."""
    taken = agreed.get("accepted_methods")
    names = [str(name) for name in taken] if isinstance(taken, list) else []
    without = bool(names) and not any(name.startswith("cashu") for name in names)
    waived = without and trust >= TRUSTED and danger <= WAIVABLE_UP_TO
    return escrow_required(danger, min_danger=min_danger, waived=waived)


def invalid(what: str, **data: JsonValue) -> HiveError:
    """The refusal of a claim."""
    return from_symbol("payment_invalid", what, **data)
