"""The ways `cln`: the advisor's own node makes invoices and pays (docs/protocol/11-advisor-kit.md §8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hive_shared.errors import HiveError, PaymentFailed

from hive_advisor.domain.earning import Made, Order, Sight
from hive_advisor.domain.outgoing import Outgoing, Result, max_fee_msat
from hive_advisor.services.ports import NodeRefused, OwnNodeCalls

_DUPLICATE_LABEL: Final = 900
_TRIES: Final = 8
_RETRY_S: Final = 20
_SETTLED_AFTER_S: Final = _RETRY_S + 120
"""When no call to pay can run any more (03 §7.3)."""


class OwnNodeMoney:
    """Both ways by one node of ``nodes.toml``."""

    name = "cln"
    most_fee_msat = staticmethod(max_fee_msat)

    def __init__(self, node: str, calls: OwnNodeCalls, now: Callable[[], int]) -> None:
        self._node, self._calls, self._now = node, calls, now

    async def check(self) -> None:
        """Whether the node answers. Raises what the node's calls raise."""
        try:
            await self._calls.call(self._node, "listinvoices", {"label": "hive-advisor:check"})
        except NodeRefused as refused:
            raise _failed(self._node, "refuses listinvoices", refused) from None

    async def make(self, order: Order) -> Made:
        """`invoice`; one that has the label already is the one we mean."""
        for label in (order.label, *(f"{order.label}:{number}" for number in range(1, _TRIES))):
            params = {
                "amount_msat": order.amount_sats * 1_000,
                "label": label,
                "description": order.description,
                "expiry": order.expiry_s,
            }
            try:
                made = await self._calls.call(self._node, "invoice", params)
            except NodeRefused as refused:
                if refused.code != _DUPLICATE_LABEL:
                    raise _failed(self._node, "makes no invoice", refused) from None
                rows = await self._rows("listinvoices", "invoices", {"label": label})
                if not rows or rows[0].get("status") == "expired":
                    # Made when we ended before we had its answer, and never handed out.
                    continue
                made = rows[0]
            return Made(str(made.get("bolt11", "")))
        raise PaymentFailed(f"node {self._node} has {_TRIES} expired invoices of this label already")

    async def offer(self, description: str) -> str:
        """A bolt12 offer for any amount; the same one whenever it is asked for. Raises PaymentFailed."""
        try:
            made = await self._calls.call(
                self._node, "offer", {"amount": "any", "description": description, "label": description}
            )
        except NodeRefused as refused:
            raise _failed(self._node, "makes no offer", refused) from None
        return str(made.get("bolt12", ""))

    async def look(self, payment_hash: str, invoice: str, look_at: str) -> Sight:
        """`listinvoices`."""
        rows = await self._rows("listinvoices", "invoices", {"payment_hash": payment_hash})
        paid = next((row for row in rows if row.get("status") == "paid"), None)
        return Sight(False) if paid is None else Sight(True, str(paid.get("payment_preimage", "")))

    async def _rows(self, method: str, name: str, params: dict[str, object]) -> list[dict[str, Any]]:
        try:
            said = await self._calls.call(self._node, method, params)
        except NodeRefused as refused:
            raise _failed(self._node, f"refuses {method}", refused) from None
        rows = said.get(name)
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    async def pay(self, payment: Outgoing) -> Result:
        """One `xpay`. Its errors decide nothing: `listpays` does."""
        params = {
            "invstring": payment.invoice,
            "maxfee": payment.max_fee_msat,
            "retry_for": _RETRY_S,
        }
        try:
            said = await self._calls.call(self._node, "xpay", params)
        except NodeRefused as refused:
            return Result(why=refused.text[:200])
        except HiveError as error:
            return Result(why=error.detail[:200])
        return Result(str(said.get("payment_preimage", "")))

    async def settled(self, payment: Outgoing) -> Result:
        """`listpays`."""
        try:
            rows = await self._rows("listpays", "pays", {"payment_hash": payment.payment_hash})
        except HiveError as error:
            return Result(why=error.detail[:200])
        done = next((row for row in rows if row.get("status") == "complete"), None)
        if done is not None:
            return Result(str(done.get("preimage", "")))
        over = self._now() >= payment.created + _SETTLED_AFTER_S
        if over and all(row.get("status") == "failed" for row in rows):
            return Result(failed=True, why="the node's list of payments has it as failed, or not at all")
        return Result(why="the node has not ended it")


def _failed(node: str, what: str, refused: NodeRefused) -> HiveError:
    said = "".join(char for char in refused.text[:200] if char.isprintable())
    return PaymentFailed(f"node {node} {what}: {said}", reason="wallet_failed")
