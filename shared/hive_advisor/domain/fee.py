"""Fees for access: what a node asks for, whether it is what it says, and which paid fee a command may take
(docs/protocol/11-advisor-kit.md §8; 02 §8).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from hive_shared import l402
from hive_shared.bolt11 import prefix_of, read_invoice
from hive_shared.errors import HiveError, InvalidParams, PaymentFailed
from hive_shared.registry import base_price_sats

from hive_advisor.domain.command_machine import FINAL, CommandState
from hive_advisor.domain.rows import StoredCommand

BOLT11: Final = "bolt11"
L402: Final = "l402"
_HEX64: Final = re.compile(r"[0-9a-f]{64}")
_TOOK: Final = (CommandState.DONE, CommandState.PARTIAL, CommandState.INDETERMINATE)


class Demand(msgspec.Struct, frozen=True):
    """What a node asked for when it refused a command (`payment_required`): checked against itself, not yet
    paid. `macaroon` is empty for the fee of one action."""

    command_id: str
    client_id: str
    credential_id: str
    method: str
    amount_sats: int
    invoice: str
    payment_hash: str
    expires_at: int
    macaroon: str = ""


class Fee(msgspec.Struct, frozen=True):
    """A fee that was paid. `demanded_by` is the command that was refused for it, `used_by` the last one that
    took it along; `expires_at` is the end of a token, 0 where there is none."""

    payment_hash: str
    client_id: str
    credential_id: str
    method: str
    amount_sats: int
    preimage: str
    macaroon: str
    expires_at: int
    demanded_by: str
    created: int
    used_by: str | None = None

    def proof(self) -> dict[str, Any]:
        """The `payment_proof` of a command."""
        if self.method == L402:
            return {"method": L402, "macaroon": self.macaroon, "preimage": self.preimage}
        return {"method": BOLT11, "preimage": self.preimage}


def price_hint_sats(credential: Mapping[str, Any], danger: int) -> int:
    """What a command of this danger costs at an agent modifier of 1, by the credential's own words; the price
    itself is in the node's `quote`. 0: nothing is due."""
    access = credential.get("access")
    if not isinstance(access, dict) or access.get("model", "none") == "none":
        return 0
    table = access.get("price_table")
    if isinstance(table, list) and len(table) == 10 and isinstance(table[danger - 1], int):
        return int(table[danger - 1])
    return base_price_sats(danger)


def demands_of(command: StoredCommand, network: str) -> list[Demand]:
    """What a refused command asks us to pay, the token for many actions first; empty for any other answer.

    Raises PaymentFailed when invoice, amount, network and macaroon do not belong together: then nothing
    should be paid.
    """
    error = (command.response or {}).get("error")
    data = error.get("data") if isinstance(error, dict) and command.slug == "payment_required" else None
    if not isinstance(data, dict):
        return []
    found = []
    if "macaroon" in data:
        found.append(_demand(command, network, L402, data, str(data["macaroon"])))
    one = data.get(BOLT11)
    if isinstance(one, dict):
        found.append(_demand(command, network, BOLT11, one, ""))
    return found


def _demand(
    command: StoredCommand, network: str, method: str, data: Mapping[str, Any], macaroon: str
) -> Demand:
    text, amount_sats = data.get("invoice"), data.get("amount_sats")
    if not isinstance(text, str) or not isinstance(amount_sats, int) or isinstance(amount_sats, bool):
        raise _refused("names no invoice and amount")
    try:
        invoice = read_invoice(text)
    except InvalidParams as error:
        raise _refused(error.detail) from None
    if invoice.prefix != prefix_of(network):
        raise _refused(f"brings an invoice of another network than {network}")
    if invoice.amount_msat != amount_sats * 1_000:
        raise _refused(f"says {amount_sats} sat, its invoice asks for {invoice.amount_msat} msat")
    if data.get("payment_hash", invoice.payment_hash) != invoice.payment_hash:
        raise _refused("names another payment hash than its invoice")
    if method == L402 and l402.decode(macaroon).identifier.payment_hash.hex() != invoice.payment_hash:
        raise _refused("brings a macaroon that is not bound to its invoice")
    return Demand(
        command.command_id,
        command.client_id,
        command.credential_id,
        method,
        amount_sats,
        text,
        invoice.payment_hash,
        invoice.expires_at,
        macaroon,
    )


def paid(demands: list[Demand], preimage: str, now: int) -> Fee:
    """The fee that a preimage shows to be paid. Raises PaymentFailed when it is of none of the demands."""
    if not _HEX64.fullmatch(preimage):
        raise PaymentFailed("the preimage must be 64 lower-case hex characters", reason="payment_invalid")
    digest = hashlib.sha256(bytes.fromhex(preimage)).hexdigest()
    demand = next((each for each in demands if each.payment_hash == digest), None)
    if demand is None:
        raise PaymentFailed(
            "this preimage is of none of the invoices of that command; see 'hive-advisor pay show'",
            reason="payment_invalid",
        )
    expires = l402.rights_of(l402.decode(demand.macaroon).caveats).expires if demand.macaroon else None
    return Fee(
        payment_hash=digest,
        client_id=demand.client_id,
        credential_id=demand.credential_id,
        method=demand.method,
        amount_sats=demand.amount_sats,
        preimage=preimage,
        macaroon=demand.macaroon,
        expires_at=expires or 0,
        demanded_by=demand.command_id,
        created=now,
    )


def standing(fee: Fee, user: StoredCommand | None, now: int) -> str:
    """`good`, `in use`, `used`, `short` (too little for that command), `refused` (the node would not have it)
    or `expired`. `user` is the command of `used_by`: a fee that a command took along in vain is good again,
    as it is at the node (02 §8)."""
    if fee.expires_at and now >= fee.expires_at:
        return "expired"
    if user is None:
        return "good"
    if user.slug in ("payment_required", "payment_replayed"):
        return "used"
    if user.slug == "payment_invalid":
        error = (user.response or {}).get("error")
        data = error.get("data") if isinstance(error, dict) else None
        return "short" if isinstance(data, dict) and "price_sats" in data else "refused"
    if fee.method == L402:
        return "good"
    if user.state not in FINAL:
        # A draft or held command gave up its envelope, and the fee with it.
        return "in use" if user.envelope else "good"
    return "used" if user.state in _TOOK else "good"


def best(good: list[Fee], hint_sats: int) -> Fee | None:
    """The fee a command takes along: a token for many actions, else the smallest one that may be enough (the
    lowest price is 70 % of what the credential says)."""
    tokens = [fee for fee in good if fee.method == L402]
    if tokens:
        return min(tokens, key=lambda fee: fee.expires_at)
    enough = [fee for fee in good if fee.amount_sats * 10 >= hint_sats * 7]
    return min(enough, key=lambda fee: (fee.amount_sats, fee.created), default=None)


def _refused(what: str) -> HiveError:
    return PaymentFailed(f"the node's demand {what}; do not pay it", reason="payment_invalid")
