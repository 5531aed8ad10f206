"""What nodes owe us for work, and what shows that it was paid (docs/protocol/11-advisor-kit.md §8).

Paid is only what a preimage, our own wallet or redeemed ecash shows; a node's word is none of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

import msgspec
from hive_shared.bolt11 import Invoice, prefix_of, read_invoice
from hive_shared.errors import HiveError, InvalidParams, PaymentFailed
from hive_shared.invoice_messages import Purpose
from hive_shared.registry import base_price_sats

WORK_EXPIRY_S: Final = 3_600
"""How long an invoice that goes with a command is good at least: the command may wait at the node."""
MADE_EXPIRY_S: Final = 86_400
"""How long the invoices are good that we have made."""
ANSWER_EXPIRY_S: Final = 600
"""How long an invoice that a node asked for is good at least."""
UNPAID_AFTER_S: Final = 14 * 86_400
_LOOK_FIRST_S, _LOOK_LONGEST_S = 10, 3_600


class EarningState(StrEnum):
    """Where a debt to us stands. VOID: the command did not run, so nothing is owed."""

    DUE = "due"
    INVOICED = "invoiced"
    PAID = "paid"
    UNPAID = "unpaid"
    DISPUTED = "disputed"
    VOID = "void"


class EarningEvent(StrEnum):
    """What moves it: a command claims it again, an invoice was made, the money is shown, its time ran out,
    a human objects, the command did nothing."""

    ON_CLAIMED = "on_claimed"
    ON_INVOICED = "on_invoiced"
    ON_PAID = "on_paid"
    ON_OVERDUE = "on_overdue"
    ON_DISPUTED = "on_disputed"
    ON_NOT_RUN = "on_not_run"


_S, _E = EarningState, EarningEvent
TABLE: Final[Mapping[tuple[EarningState, EarningEvent], EarningState]] = MappingProxyType(
    {
        (_S.VOID, _E.ON_CLAIMED): _S.DUE,
        (_S.DUE, _E.ON_INVOICED): _S.INVOICED,
        # The one before ran out unpaid.
        (_S.INVOICED, _E.ON_INVOICED): _S.INVOICED,
        (_S.UNPAID, _E.ON_INVOICED): _S.INVOICED,
        (_S.DISPUTED, _E.ON_INVOICED): _S.DISPUTED,
        # It was planned anew after we had given it up, and ran.
        (_S.VOID, _E.ON_INVOICED): _S.INVOICED,
        **{(state, _E.ON_PAID): _S.PAID for state in _S if state != _S.PAID},
        (_S.DUE, _E.ON_OVERDUE): _S.UNPAID,
        (_S.INVOICED, _E.ON_OVERDUE): _S.UNPAID,
        **{(state, _E.ON_DISPUTED): _S.DISPUTED for state in (_S.DUE, _S.INVOICED, _S.UNPAID)},
        **{(state, _E.ON_NOT_RUN): _S.VOID for state in (_S.DUE, _S.INVOICED)},
    }
)
OPEN: Final = frozenset({_S.DUE, _S.INVOICED})


def period_name(context: str, start: int) -> str:
    """What an earning is noted under that is owed for the period of a contract, or of a credential without
    one, that begins at `start` (Unix s)."""
    return f"{context}:{start}"


def next_state(state: EarningState, event: EarningEvent) -> EarningState | None:
    """The state after `event`; None when it changes nothing."""
    return TABLE.get((state, event))


class Asked(msgspec.Struct, frozen=True):
    """An `invoice_request` that waits for its answer: message, its key, the key of ours it was sent to."""

    msg_id: str
    key: str
    agent_key: str


class Earning(msgspec.Struct, frozen=True):
    """What a client owes us for one thing: a command, or a period of an agreement, which `command_id` then
    names (`period_name`). `way` is the way in that made `invoice`, `look_at` what that needs
    to find it again; `former` the hashes of invoices that ran out. `evidence`: preimage or wallet."""

    earning_id: str
    client_id: str
    purpose: str
    command_id: str
    amount_sats: int
    state: EarningState
    due_at: int
    created: int
    updated: int
    way: str = ""
    invoice: str = ""
    payment_hash: str = ""
    expires_at: int = 0
    look_at: str = ""
    looks: int = 0
    next_look: int = 0
    former: tuple[str, ...] = ()
    evidence: str = ""
    preimage: str = ""
    request_key: str = ""
    asked: Asked | None = None

    @property
    def work(self) -> bool:
        """Whether it is owed for a command."""
        return self.purpose == Purpose.ACTION

    @property
    def contract_id(self) -> str:
        """The contract, or the credential without one, by which a period is owed; "" for a command."""
        return "" if self.work else self.command_id.rpartition(":")[0]

    @property
    def period_start(self) -> int:
        """When the period begins (Unix s); 0 for a command."""
        return 0 if self.work else int(self.command_id.rpartition(":")[2])

    def live(self, now: int, least_s: int = 60) -> bool:
        """Whether its invoice can still be paid, `least_s` seconds from now at least."""
        return bool(self.invoice) and self.expires_at >= now + least_s

    def hashes(self) -> tuple[str, ...]:
        """The payment hashes of all invoices that were made for it."""
        return (*((self.payment_hash,) if self.payment_hash else ()), *self.former)


class Order(msgspec.Struct, frozen=True):
    """An invoice to make. `label` is the same whenever the same one is ordered again."""

    label: str
    amount_sats: int
    network: str
    description: str
    expiry_s: int = MADE_EXPIRY_S


class Made(msgspec.Struct, frozen=True):
    """An invoice as a way in made it, unchecked, and what that needs to find it again."""

    invoice: str
    look_at: str = ""


class Sight(msgspec.Struct, frozen=True):
    """What our wallet says of an invoice; `preimage` where it tells."""

    paid: bool
    preimage: str = ""


def look_pause_s(looks: int) -> int:
    """Seconds until the wallet is asked again, after so many times."""
    return min(_LOOK_LONGEST_S, _LOOK_FIRST_S << min(looks, 9))


def check_invoice(text: str, order: Order, least_s: int, now: int) -> Invoice:
    """An invoice that is to be handed out for an order. Raises PaymentFailed with what is wrong with it."""
    try:
        invoice = read_invoice(text)
    except InvalidParams as error:
        raise _bad(error.detail) from None
    if invoice.prefix != prefix_of(order.network):
        raise _bad(f"the invoice is of another network than {order.network}")
    if invoice.amount_msat != order.amount_sats * 1_000:
        raise _bad(
            f"the invoice asks for {invoice.amount_msat} msat, {order.amount_sats * 1_000} msat were ordered"
        )
    left = invoice.expires_at - now
    if left < least_s:
        raise _bad(f"the invoice is good for {max(0, left)} s, at least {least_s} s are needed")
    return invoice


def shows(preimage: str, payment_hash: str) -> bool:
    """Whether a preimage (hex) is that of a payment hash."""
    try:
        return hashlib.sha256(bytes.fromhex(preimage)).hexdigest() == payment_hash
    except ValueError:
        return False


def agreed_sats(credential: Mapping[str, Any], danger: int) -> int:
    """What a command of this danger earns by bolt11 under a credential (02 §8); 0: nothing."""
    agreed = credential.get("compensation")
    if not isinstance(agreed, dict) or agreed.get("model") != "per_action":
        return 0
    methods = agreed.get("accepted_methods")
    if isinstance(methods, list) and methods and "bolt11" not in methods:
        return 0
    return rate_sats(credential, danger)


def rate_sats(credential: Mapping[str, Any], danger: int) -> int:
    """What a command of this danger is worth by a credential, however it is paid (02 §8); 0: nothing."""
    agreed = credential.get("compensation")
    if not isinstance(agreed, dict) or agreed.get("model") != "per_action":
        return 0
    rate = agreed.get("rate_sats")
    if rate is None:
        return base_price_sats(danger)
    return rate if isinstance(rate, int) and not isinstance(rate, bool) else 0


def _bad(what: str) -> HiveError:
    return PaymentFailed(f"{what}; it was not handed out", reason="invoice_mismatch")
