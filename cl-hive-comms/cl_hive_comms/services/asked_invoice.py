"""The invoice that an agent answered with: checked like one that was given with the order
(docs/protocol/03-escrow-and-payments.md §7.4; 11-advisor-kit.md §15.10)."""

from __future__ import annotations

from hive_shared.cln import ClnError
from hive_shared.errors import Busy, Conflict, PaymentFailed
from hive_shared.store import Tx

from ..domain.lightning_invoice import Asked
from ..domain.payment import OUT
from ..domain.payment_checks import check_asked
from ..domain.payment_machine import State
from .ports_payments import Lightning, PaymentRows


async def read_answer(lightning: Lightning, bolt11: str, amount_msat: int, now: int) -> Asked:
    """What an invoice asks for, when that is what was asked of its sender: a Bolt 11 invoice of this network,
    of exactly `amount_msat`, good for a minute at least and not our own.

    Raises InvalidParams, PaymentFailed, and Busy when the node does not answer.
    """
    try:
        asked, own = await lightning.read(bolt11), await lightning.own_id()
    except ClnError:
        raise Busy("the node does not answer; the invoice is asked for again") from None
    if asked.kind != "bolt11 invoice" or asked.amount_msat is None:
        raise PaymentFailed("the invoice names no amount, or is none of BOLT 11", reason="invoice_mismatch")
    check_asked(asked, amount_msat, own, None, now)
    return asked


def check_unused(tx: Tx, rows: PaymentRows, payment_hash: str, payment_id: str = "") -> None:
    """Raises Conflict where the invoice is that of another payment than `payment_id`."""
    taken = rows.by_hash(tx, payment_hash, OUT)
    if any(one.state is not State.FAILED and one.payment_id != payment_id for one in taken):
        raise Conflict("the invoice is that of another payment", reason="already_paid")
