"""hive:payment/v1: asking for money and paying it (docs/protocol/02-fleet-management.md §4 item 9)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import from_symbol
from hive_shared.registry import DESCRIPTION_BYTES

from ...domain.lightning_invoice import (
    amount_of,
    check_payable,
    fee_bound_msat,
    plain,
    refused,
    sats_up,
)
from ...domain.spend import PAYMENT, Spend
from ..decoded_invoice import decoded
from ..ports_commands import Fault, Node
from .action import Caller, Outcome, Params, Plan, WriteAction
from .channels import FEE_STATES
from .node_errors import node_error
from .payment_send import Offers, Payer, Paying
from .wallet_send import Keep

_DUPLICATE_LABEL: Final = 900
_UNSUITABLE_HINTS: Final = 902
_FETCH_S: Final = 30
"""How long the payee of an offer has for its invoice."""
_KEYSEND_S: Final = 60
"""How long the node tries a keysend again; the sheet has no parameter for it."""
_LATE_S: Final = 60
"""How long after its asker is gone a node may still make an invoice."""


Hints = Callable[[], Awaitable[tuple[str, ...]]]
"""Short channel ids that invoices shall name."""


def _plan(asked: Mapping[str, JsonValue], payee: str | None, max_fee_ppm: JsonValue, retry_for: int) -> Plan:
    amount, payment_hash = asked["amount_msat"], asked["payment_hash"]
    assert isinstance(amount, int) and isinstance(max_fee_ppm, int)
    fee = fee_bound_msat(amount, max_fee_ppm)
    return Plan(
        undo={
            **asked,
            "destination": payee,
            "maxfee_msat": fee,
            "retry_for": retry_for,
            "started": None,
            "since": None,
        },
        basis=[payee, payment_hash, amount],
        locks=frozenset() if payment_hash is None else frozenset({f"payment:{payment_hash}"}),
        amount_sat=sats_up(amount),
        spend=Spend(PAYMENT, sats_up(amount), sats_up(fee)),
        peers=frozenset() if payee is None else frozenset({payee}),
    )


class PayInvoice(Payer):
    """`pay_invoice` and `pay_multipath`: an invoice of somebody else, once."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Read the invoice. Raises InvalidParams for one that cannot be paid as asked, Busy while it is."""
        info = await self._node.getinfo()
        kind, text = plain(str(params["bolt11"]), str(info["network"]))
        if kind == "bolt12 offer" and not self._offers("fetchinvoice"):
            sentence = "this node cannot ask for the invoice of an offer: it has no fetchinvoice"
            raise refused(sentence, "an invoice")
        asked = await decoded(self._node, kind, text)
        if kind == "bolt12 offer" and asked.recurrence is not None:
            sentence = "the offer is for repeated payments, which its operator begins (hive-client-pay)"
            raise refused(sentence, "an offer paid once")
        check_payable(asked, str(info["id"]), caller.now)
        amount = amount_of(asked, params.get("amount_msat"))
        if asked.payment_hash is not None:
            await self.check_unpaid(asked.payment_hash)
        retry_for = params["timeout_seconds"]
        assert isinstance(retry_for, int)
        what: dict[str, JsonValue] = {
            "offer": text if kind == "bolt12 offer" else None,
            "invstring": text,
            "payment_hash": asked.payment_hash,
            "amount_msat": amount,
            "amount_is_ours": asked.amount_msat is None,
        }
        return _plan(what, asked.payee, params["max_fee_ppm"], retry_for)

    async def resolve(self, undo: Mapping[str, JsonValue], caller: Caller) -> dict[str, JsonValue]:
        """Of an offer its invoice, which must ask for the amount that was allowed (docs/decisions/0381)."""
        offer, amount, retry_for = undo["offer"], undo["amount_msat"], undo["retry_for"]
        if offer is None:
            return {}
        assert isinstance(retry_for, int)
        wait = min(retry_for, _FETCH_S)
        params: dict[str, object] = {"offer": offer, "timeout": wait}
        if undo["amount_is_ours"] is True:
            params["amount_msat"] = amount
        answer = await self._node.call("fetchinvoice", params, timeout=wait + 10.0)
        asked = await decoded(self._node, "bolt12 invoice", str(answer["invoice"]))
        check_payable(asked, str((await self._node.getinfo())["id"]), caller.now)
        if asked.amount_msat != amount:
            sentence = f"the offer's invoice asks for {asked.amount_msat} msat, not for {amount}"
            raise refused(sentence, "an offer whose invoice asks for its amount")
        return {
            "invstring": asked.text,
            "payment_hash": asked.payment_hash,
            "destination": asked.payee,
            "amount_is_ours": False,
        }


class Keysend(Payer):
    """`keysend`: an amount to a node that asked for none. The node makes preimage and hash up itself, so the
    label is what the payment is known by."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan it. Raises InvalidParams when the destination is this node."""
        to, amount = str(params["destination"]), params["amount_msat"]
        if to == (await self._node.getinfo())["id"]:
            raise refused("destination is this node itself", "another node", "destination")
        what: dict[str, JsonValue] = {"invstring": None, "payment_hash": None, "amount_msat": amount}
        return _plan(what, to, params["max_fee_ppm"], _KEYSEND_S)


class CreateInvoice:
    """`create_invoice`: an invoice of this node under a label of its own."""

    def __init__(self, node: Node, hints: Hints) -> None:
        self._node, self._hints = node, hints

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Choose the label. Raises InvalidParams when it is taken or the description is too long."""
        text, name = str(params["description"]), params.get("label")
        if len(text.encode()) > DESCRIPTION_BYTES:
            sentence = f"description is {len(text.encode())} bytes long, an invoice holds {DESCRIPTION_BYTES}"
            raise refused(sentence, f"at most {DESCRIPTION_BYTES} bytes", "description")
        label = f"hive:{caller.credential_id[:8]}:{name or caller.command_id}"
        if await self._labelled(label) is not None:
            raise refused(f"an invoice labelled {label} exists already", "another label", "label")
        asked = {each: params[each] for each in ("amount_msat", "description", "expiry")}
        hints: list[JsonValue] = [*await self._open_hints()]
        undo = {**asked, "label": label, "started": caller.now, "hints": hints}
        return Plan(undo=undo, basis=[label])

    async def _open_hints(self) -> list[str]:
        """The kept routing hints whose channels are still open."""
        if not (hints := await self._hints()):
            return []
        rows = await self._node.listpeerchannels()
        usable = {row.get("short_channel_id") for row in rows if row.get("state") in FEE_STATES}
        return [scid for scid in hints if scid in usable]

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Ask for it."""
        undo = dict(plan.undo)
        asked: dict[str, object] = {
            name: undo[name] for name in ("amount_msat", "label", "description", "expiry")
        }
        # Without one that is open the choice is the node's.
        if undo.get("hints"):
            asked["exposeprivatechannels"] = undo["hints"]
        try:
            answer = await self._invoice(asked)
        except ClnError as error:
            if error.outcome_unknown:
                found = await self.probe({**undo, "started": caller.now}, caller)
                return found or Outcome("pending_external", {"label": undo["label"]})
            if error.code == _DUPLICATE_LABEL:
                why = refused(f"an invoice labelled {undo['label']} exists already", "another label", "label")
                return Outcome("error", {}, why, acted=False)
            return Outcome("error", {}, node_error(error), acted=False)
        return _made({**answer, "label": undo["label"], "amount_msat": undo["amount_msat"]})

    async def _invoice(self, asked: dict[str, object]) -> dict[str, Any]:
        try:
            return await self._node.call("invoice", asked)
        except ClnError as error:
            if error.code != _UNSUITABLE_HINTS or "exposeprivatechannels" not in asked:
                raise
            # No invoice was made: the node knows no way in by these channels now, and chooses itself.
            return await self._node.call(
                "invoice", {name: asked[name] for name in asked if name != "exposeprivatechannels"}
            )

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Look for its label."""
        try:
            row = await self._labelled(str(undo["label"]))
        except ClnError:
            return None
        if row is not None:
            return _made({"amount_msat": "any", **row})
        started = undo["started"]
        assert isinstance(started, int)
        if caller.now < started + _LATE_S:
            return Outcome("pending_external", {"label": undo["label"]})
        text = "the plugin stopped before the node made the invoice; ask again"
        return Outcome("error", {}, from_symbol("shutting_down", text), acted=False)

    async def _labelled(self, label: str) -> dict[str, Any] | None:
        rows = (await self._node.call("listinvoices", {"label": label}))["invoices"]
        return rows[0] if rows else None


def _made(row: Mapping[str, Any]) -> Outcome:
    fields = ("bolt11", "payment_hash", "label", "amount_msat", "expires_at")
    return Outcome("success", {name: row[name] for name in fields})


def payment_writes(
    node: Node,
    keep: Keep,
    paying: Paying,
    hints: Hints,
    offers: Offers,
    engaged: Callable[[], bool],
    now: Callable[[], int],
    fault: Fault,
) -> dict[str, WriteAction]:
    """The actions of the schema, by name."""
    parts = (node, keep, paying, offers, engaged, now, fault)
    pay = PayInvoice(*parts)
    return {
        "create_invoice": CreateInvoice(node, hints),
        "pay_invoice": pay,
        "pay_multipath": pay,
        "keysend": Keysend(*parts),
    }
