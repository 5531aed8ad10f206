"""What an invoice or an offer asks for (docs/protocol/02-fleet-management.md §4 item 9; BOLT 11, BOLT 12)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec
from hive_shared.errors import HiveError, from_symbol

from .recurrence import LATEST_S, Recurrence

Kind = Literal["bolt11 invoice", "bolt12 invoice", "bolt12 offer"]

_BOLT11: Final = re.compile(r"ln(bcrt|tbs|bc|tb)(?:[1-9][0-9]*[munp]?)?1[02-9ac-hj-np-z]+")
_BOLT12: Final = re.compile(r"ln([ior])1[02-9ac-hj-np-z]+")
_NETWORKS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"bc": ("bitcoin",), "tb": ("testnet", "testnet4"), "tbs": ("signet",), "bcrt": ("regtest",)}
)
_URI: Final = "lightning:"
_BOLT12_EXPIRY_S: Final = 7_200


class Asked(msgspec.Struct, frozen=True):
    """What is to be paid. `amount_msat` None leaves it to the payer, `payee` None is hidden behind blinded
    paths; an offer has no `payment_hash` before its invoice is fetched. `expires_at` None: never. An
    offer that is paid period by period says so (`recurrence`), its invoice for which one (`counter`, counted
    from `start`) and since when (`base`)."""

    kind: Kind
    text: str
    payee: str | None
    amount_msat: int | None
    payment_hash: str | None
    expires_at: int | None
    recurrence: Recurrence | None = None
    counter: int | None = None
    base: int | None = None
    start: int | None = None


def refused(sentence: str, expected: str, param: str = "bolt11") -> HiveError:
    """The refusal of a parameter of a payment."""
    return from_symbol("invalid_params", sentence, param=param, expected=expected)


def plain(given: str, network: str) -> tuple[Kind, str]:
    """The bare text of an invoice or offer and what it is. Raises InvalidParams for anything else and for an
    invoice of another network."""
    text = given.strip()
    if text[: len(_URI)].lower() == _URI:
        text = text[len(_URI) :]
    if text == text.upper():
        text = text.lower()
    found = _BOLT11.fullmatch(text)
    if found is not None:
        of = _NETWORKS[found.group(1)]
        if network not in of:
            sentence = f"the invoice is for {of[0]}, this node is on {network}"
            raise refused(sentence, f"an invoice of {network}")
        return "bolt11 invoice", text
    found = _BOLT12.fullmatch(text)
    if found is None:
        raise refused("bolt11 is no BOLT 11 invoice, BOLT 12 invoice or offer", "an invoice or an offer")
    if found.group(1) == "r":
        raise refused("an invoice request asks to be paid, it cannot be paid", "an invoice or an offer")
    return ("bolt12 invoice" if found.group(1) == "i" else "bolt12 offer"), text


def asked_by(kind: Kind, text: str, decoded: Mapping[str, Any]) -> Asked:
    """Read what the node decoded. Raises InvalidParams when it is not valid or not what its prefix says."""
    if decoded.get("valid") is not True or decoded.get("type") != kind:
        raise refused(f"the {kind} is damaged: the node cannot verify it", "an intact invoice or offer")
    if kind == "bolt11 invoice":
        return Asked(
            kind,
            text,
            str(decoded["payee"]),
            _msat(decoded.get("amount_msat")),
            str(decoded["payment_hash"]),
            _until(int(decoded["created_at"]) + int(decoded["expiry"])),
        )
    if kind == "bolt12 invoice":
        expiry = int(decoded.get("invoice_relative_expiry", _BOLT12_EXPIRY_S))
        return Asked(
            kind,
            text,
            decoded.get("invoice_node_id"),
            _msat(decoded["invoice_amount_msat"]),
            str(decoded["invoice_payment_hash"]),
            _until(int(decoded["invoice_created_at"]) + expiry),
            _recurrence(kind, decoded),
            _msat(decoded.get("invreq_recurrence_counter")),
            _base(kind, decoded),
            _msat(decoded.get("invreq_recurrence_start")),
        )
    if "offer_currency" in decoded:
        raise refused(
            "the offer is priced in another currency; ask for one in bitcoin", "an offer in bitcoin"
        )
    payee, until = decoded.get("offer_issuer_id", decoded.get("offer_node_id")), None
    if "offer_absolute_expiry" in decoded:
        until = _until(int(decoded["offer_absolute_expiry"]))
    repeated = _recurrence(kind, decoded)
    return Asked(kind, text, payee, _msat(decoded.get("offer_amount_msat")), None, until, repeated)


def _recurrence(kind: Kind, decoded: Mapping[str, Any]) -> Recurrence | None:
    if "offer_recurrence" not in decoded:
        return None
    try:
        return Recurrence.of(decoded["offer_recurrence"])
    except (KeyError, TypeError, ValueError):
        text = f"the {kind} is for periods that this version cannot read"
        raise refused(text, "an offer whose periods are seconds, days or months") from None


def _base(kind: Kind, decoded: Mapping[str, Any]) -> int | None:
    base = _msat(decoded.get("invoice_recurrence_basetime"))
    if base is not None and base > LATEST_S:
        text = f"the {kind} counts its periods from a time ({base}) beyond the year 9999"
        raise refused(text, "an offer whose periods begin before that")
    return base


def _until(at: int) -> int:
    """An end that is further away than anything is none that anybody waits for."""
    return min(at, LATEST_S)


def amount_of(asked: Asked, given_msat: object) -> int:
    """What will be paid, in msat. Raises InvalidParams when both or neither say it, or they differ."""
    if asked.amount_msat is None:
        if not isinstance(given_msat, int):
            sentence = f"the {asked.kind} names no amount; give amount_msat"
            raise refused(sentence, "present", "amount_msat")
        return given_msat
    if given_msat is not None and given_msat != asked.amount_msat:
        sentence = (
            f"the {asked.kind} asks for {asked.amount_msat} msat, not {given_msat}; leave amount_msat out"
        )
        raise refused(sentence, f"{asked.amount_msat} or absent", "amount_msat")
    return asked.amount_msat


def check_payable(asked: Asked, own_id: str, now: int) -> None:
    """Raises InvalidParams for an invoice of this node's own and one that expired (`now`: unix seconds)."""
    if asked.payee == own_id:
        raise refused(f"the {asked.kind} is this node's own; it cannot pay itself", "somebody else's invoice")
    if asked.expires_at is not None and asked.expires_at <= now:
        gone = now - asked.expires_at
        raise refused(f"the {asked.kind} expired {gone} s ago; ask for a new one", "one that has not expired")


def fee_bound_msat(amount_msat: int, max_fee_ppm: int) -> int:
    """The most that a payment may cost beside its amount."""
    return amount_msat * max_fee_ppm // 1_000_000


def sats_up(msat: int) -> int:
    """Whole sats that cover an amount in msat."""
    return -(-msat // 1_000)


def _msat(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
