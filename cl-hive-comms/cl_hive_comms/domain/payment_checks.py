"""Whether what is to be paid is what was agreed (docs/protocol/03-escrow-and-payments.md §7.4)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from hive_shared.errors import HiveError, InvalidParams, PaymentFailed

from .lightning_invoice import Asked, sats_up
from .payment import BOLT11, BOLT12, L402, Order

LEAST_LEFT_S: Final = 60
"""An invoice must be valid for so long yet when the node is told to pay it."""
_TLV_TYPE: Final = re.compile(r"[1-9][0-9]{0,18}")
_HEX: Final = re.compile(r"(?:[0-9a-f]{2}){1,1024}")
_MAX_TLVS: Final = 16
_KEYSEND_PREIMAGE: Final = "5482373484"

WHY: Final[Mapping[int, tuple[str, str | None]]] = MappingProxyType(
    {
        201: ("the node has a payment of this invoice with other parameters", "unknown_state"),
        203: ("the payee refused the payment", None),
        205: ("no route carries this amount within the fee limit and the channels' funds", "no_route"),
        206: ("every route costs more than the fee limit", "fee_too_high"),
        207: ("the invoice expired", "invoice_expired"),
        209: ("every attempt to pay failed", "no_route"),
        210: ("no attempt got through in the time given", "no_route"),
        1002: ("the offer expired", "invoice_expired"),
        1003: ("the node finds no way to the issuer of the offer", "no_route"),
        1004: ("the issuer of the offer refused to give an invoice", None),
        1005: ("the issuer of the offer did not answer in time", "no_route"),
    }
)
"""What an error code of the node means, and the reason of §9."""


def method_of(target: str) -> str:
    """The method that a text asks to be paid by, from its first letters."""
    text = target.strip().lower().removeprefix("lightning:")
    return BOLT12 if text.startswith(("lno1", "lni1")) else BOLT11


def failed(sentence: str, reason: str | None) -> HiveError:
    """A payment that cannot be made; nothing was paid."""
    return PaymentFailed(f"{sentence}; nothing was paid", reason=reason)


def of_target(error: HiveError) -> HiveError:
    """A refusal of the invoice's text, told of the parameter it came in."""
    text = error.detail.replace("bolt11 is no", "target is no", 1)
    return InvalidParams(text, data={"param": "target", "expected": error.data.get("expected")})


def due_msat(order: Order, asked: Asked) -> int:
    """What is paid: the agreed amount; for access what its invoice asks for, up to that. Raises PaymentFailed
    for access that costs more, names no price, or is bound to another payment than its invoice's."""
    if order.method != L402:
        return order.amount_msat
    if asked.payment_hash != order.payment_hash:
        raise failed("the macaroon is bound to another payment than the invoice's", "payment_invalid")
    if asked.amount_msat is None:
        raise failed("the invoice for the access names no amount", "invoice_mismatch")
    if asked.amount_msat > order.amount_msat:
        raise failed(
            f"the access costs {sats_up(asked.amount_msat)} sat, amount_sats allows"
            f" {order.amount_msat // 1_000}",
            "invoice_mismatch",
        )
    return asked.amount_msat


def check_asked(asked: Asked, amount_msat: int, own_id: str, payee: str | None, now: int) -> None:
    """Raises PaymentFailed unless the invoice asks for the agreed amount, is somebody else's and the pinned
    payee's, and does not expire within a minute. `asked.amount_msat` None leaves the amount to us."""
    if asked.amount_msat is not None and asked.amount_msat != amount_msat:
        raise failed(
            f"the {asked.kind} asks for {asked.amount_msat} msat, {amount_msat} msat were agreed",
            "invoice_mismatch",
        )
    if asked.payee == own_id:
        raise failed(f"the {asked.kind} is this node's own; it cannot pay itself", "invoice_mismatch")
    if payee is not None and asked.payee != payee:
        raise failed(
            f"the {asked.kind} is of {asked.payee or 'a hidden payee'}, not of {payee}", "invoice_mismatch"
        )
    if asked.expires_at is not None and asked.expires_at < now + LEAST_LEFT_S:
        left = asked.expires_at - now
        when = f"expired {-left} s ago" if left <= 0 else f"expires in {left} s, {LEAST_LEFT_S} s are needed"
        raise failed(f"the {asked.kind} {when}; ask for a new one", "invoice_expired")


def check_tlvs(given: object) -> dict[str, str]:
    """Records of a keysend as type -> hex. Raises InvalidParams."""
    if given is None:
        return {}
    if not isinstance(given, dict) or len(given) > _MAX_TLVS:
        raise InvalidParams(f"tlv_json is an object of at most {_MAX_TLVS} records, type -> hex")
    for kind, value in given.items():
        if not _TLV_TYPE.fullmatch(kind) or int(kind) < 65_536 or kind == _KEYSEND_PREIMAGE:
            raise InvalidParams(f"tlv_json: {kind[:24]!a} is no record type of ours; take one from 65536 up")
        if not isinstance(value, str) or not _HEX.fullmatch(value):
            raise InvalidParams(f"tlv_json: the value of {kind} is not 1 to 1024 bytes in lower-case hex")
    return dict(given)
