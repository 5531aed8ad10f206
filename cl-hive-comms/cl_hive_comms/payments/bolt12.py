"""Invoices of offers, asked of their issuers over the node (docs/protocol/03-escrow-and-payments.md §7.4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from hive_shared.cln import ClnError

from ..domain.lightning_invoice import Asked
from ..domain.payment import Payment
from ..domain.payment_checks import WHY, failed
from ..services.ports_commands import Node

FETCH_S: Final = 60
"""How long the issuer of an offer has for its invoice."""


class Bolt12:
    """`read` is the node's decoding of an invoice (payments.bolt11.Bolt11.read)."""

    def __init__(
        self, node: Node, read: Callable[[str], Awaitable[Asked]], offers: Callable[[str], bool]
    ) -> None:
        self._node, self._read, self._offers = node, read, offers

    def lacking(self) -> str:
        """Why this node cannot ask for an invoice; empty when it can."""
        if self._offers("fetchinvoice"):
            return ""
        return "this node cannot ask for the invoice of an offer: it has no fetchinvoice; ask for an invoice"

    async def fetch(self, row: Payment) -> Asked:
        """The invoice of an offer. Raises PaymentFailed when its issuer gives none or changes what was agreed
        (`offer_changed`), ClnError when the node does not answer."""
        target, series = row.target, row.target.series
        params: dict[str, object] = {"offer": target.text, "timeout": FETCH_S}
        if series is not None and series.label is not None:
            params |= {"recurrence_counter": series.counter, "recurrence_label": series.label}
            if series.start is not None:
                params["recurrence_start"] = series.start
        if target.amount_is_ours:
            params["amount_msat"] = row.amount_msat
        if target.payer_note:
            params["payer_note"] = target.payer_note
        try:
            answer = await self._node.call("fetchinvoice", params, timeout=FETCH_S + 10.0)
        except ClnError as error:
            if error.outcome_unknown:
                raise
            raise failed(*_why(error)) from None
        changes = dict(answer.get("changes") or {})
        asked_msat = changes.pop("amount_msat", row.amount_msat)
        asked = await self._read(str(answer["invoice"]))
        if changes or asked_msat > row.amount_msat or asked.amount_msat != row.amount_msat:
            named = ", ".join(sorted(changes)) or f"{asked.amount_msat} msat instead of {row.amount_msat}"
            raise failed(f"the issuer's invoice is not what was agreed: {named}", "offer_changed")
        if series is not None and series.label is not None and asked.counter != series.counter:
            raise failed("the issuer's invoice is for another period", "offer_changed")
        return asked

    async def end(self, offer: str, counter: int, label: str, start: int | None) -> None:
        """Tell the issuer that a series is over, a courtesy. Raises ClnError."""
        if not self._offers("cancelrecurringinvoice"):
            return
        params: dict[str, object] = {"offer": offer, "recurrence_counter": counter, "recurrence_label": label}
        if start is not None:
            params["recurrence_start"] = start
        await self._node.call("cancelrecurringinvoice", params, timeout=FETCH_S)


def _why(error: ClnError) -> tuple[str, str | None]:
    if error.message.startswith("Too early"):
        return "the time to pay this period has not come", "too_early"
    if error.message.startswith("Too late"):
        return "the time to pay this period is over", "too_late"
    return WHY.get(error.code, (f"the node refused to fetch the invoice (code {error.code})", None))
