"""Paying over Lightning: noted first, asked for once, looked for afterwards (docs/protocol/02 §4 item 9, §7.1
"Crash"; docs/decisions/0380).

The payment hash (or, where the node chooses it, the label `hive:<command_id>`) is on our disk with the time
and the node's count of payments before the node may be told to pay. What became of it is read from the node's
own list of payment parts. That there is none proves that nothing was sent only once the call cannot run any
more: a node goes on with a payment whose asker is gone, but tries no further after `retry_for`.
Crash point: `payment_noted`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import Busy, HiveError, from_symbol
from hive_shared.store import StoreError

from ...domain.lightning_invoice import refused, sats_up
from ...domain.spend import PAYMENT, Spend
from ..ports_commands import Fault, Node
from .action import Caller, Outcome, Plan
from .node_errors import node_error
from .sent_parts import SentParts
from .wallet_send import Keep

_GRACE_S: Final = 120
"""How long after `retry_for` a call may still be at its last attempt."""
_ANSWER_S: Final = 60.0
"""How long an answer is waited for; a payment that takes longer is watched."""

Paying = Callable[[str], Awaitable[str | None]]
"""The unfinished command that pays a payment hash, if there is one."""
Offers = Callable[[str], bool]
"""Whether the node has a call."""

_WHY: Final[Mapping[int, str]] = MappingProxyType(
    {
        203: "the destination refused the payment",
        205: "no route to the destination carries this amount within max_fee_ppm and the channels' funds",
        206: "every route costs more than max_fee_ppm allows",
        207: "the invoice expired",
        209: "the payment failed",
        210: "no attempt got through in the time given",
        219: "this invoice is paid already",
    }
)


class Payer:
    """The run and the probe of every action that pays; `prepare` of each says what. `engaged` is the kill
    switch, asked last before the node is; `now` the time in unix seconds."""

    def __init__(
        self,
        node: Node,
        keep: Keep,
        paying: Paying,
        offers: Offers,
        engaged: Callable[[], bool],
        now: Callable[[], int],
        fault: Fault,
    ) -> None:
        self._node, self._keep, self._paying = node, keep, paying
        self._offers, self._engaged, self._now, self._fault = offers, engaged, now, fault
        self._sent = SentParts(node)

    async def check_unpaid(self, payment_hash: str) -> None:
        """Raises InvalidParams when this node has paid a hash, Busy while it is at it. Raises ClnError."""
        states = {row["status"] for row in await self._sent.by_hash(payment_hash)}
        if "complete" in states:
            raise refused("this node has paid this invoice already", "an invoice that is not paid")
        if "pending" in states:
            raise from_symbol("busy", "a payment of this invoice is under way; wait for its end")
        other = await self._paying(payment_hash)
        if other is not None:
            raise from_symbol("busy", f"command {other} is still paying this invoice; wait for its end")

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Note, then ask the node once."""
        undo = dict(plan.undo)
        try:
            undo |= await self.resolve(undo, caller)
            if undo["payment_hash"] is not None:
                # Between plan and run lie waits: another command may have paid it meanwhile.
                await self.check_unpaid(str(undo["payment_hash"]))
            undo["since"] = await self._sent.count()
            # Not the run's beginning: an offer's payee may have taken half a minute.
            undo["started"] = self._now()
        except (HiveError, ClnError) as error:
            return _nothing_sent(node_error(error) if isinstance(error, ClnError) else error)
        try:
            await self._keep(caller, undo)
        except (StoreError, Busy):
            text = "the node cannot write its records now, so nothing was sent"
            return _nothing_sent(from_symbol("receipt_store_unavailable", text))
        await self._fault("payment_noted")
        if self._engaged():
            text = "the emergency stop was engaged before the node was told to pay; nothing was sent"
            return _nothing_sent(from_symbol("emergency_stop", text))
        method, params = self._call(undo, caller)
        assert isinstance(undo["retry_for"], int)
        try:
            answer = await self._node.call(method, params, timeout=min(undo["retry_for"] + 15.0, _ANSWER_S))
        except ClnError as error:
            return await self._unpaid(undo, caller, error)
        return _answered(undo, answer)

    async def resolve(self, undo: Mapping[str, JsonValue], caller: Caller) -> dict[str, JsonValue]:
        """What has to be learned before the node can be told to pay. Raises HiveError, ClnError: then nothing
        is paid."""
        return {}

    def _call(self, undo: Mapping[str, JsonValue], caller: Caller) -> tuple[str, dict[str, object]]:
        params: dict[str, object] = {"maxfee": undo["maxfee_msat"], "retry_for": undo["retry_for"]}
        label = {"label": _label(caller)}
        if undo["invstring"] is None:
            method = "xkeysend" if self._offers("xkeysend") else "keysend"
            to = {"destination": undo["destination"], "amount_msat": undo["amount_msat"]}
            return method, {**to, **params, **label}
        if undo["amount_is_ours"] is True:
            params["amount_msat"] = undo["amount_msat"]
        if not self._offers("xpay"):
            return "pay", {"bolt11": undo["invstring"], **params, **label}
        # xpay and xkeysend learned of labels in the same release.
        named = label if self._offers("xkeysend") else {}
        return "xpay", {"invstring": undo["invstring"], **params, **named}

    async def _unpaid(self, undo: Mapping[str, JsonValue], caller: Caller, error: ClnError) -> Outcome:
        try:
            rows = await self._parts(undo, caller)
        except ClnError:
            return _watched(undo)
        return _by_parts(undo, rows, None if error.outcome_unknown else _refusal(error)) or _watched(undo)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Look for the payment's parts; without any, say so once none can come any more."""
        started, retry_for = undo["started"], undo["retry_for"]
        if not isinstance(started, int):
            text = "the plugin stopped before the node was told to pay; nothing was sent"
            return _nothing_sent(from_symbol("shutting_down", text))
        assert isinstance(retry_for, int)
        try:
            rows = await self._parts(undo, caller)
            over = caller.now >= started + retry_for + _GRACE_S
            failed = from_symbol(
                "node_error", "every attempt to pay failed; nothing was paid", rpc="", code=209
            )
            found = _by_parts(undo, rows, failed if over and rows else None)
            if found is not None:
                return found
            if not over:
                return _watched(undo)
            return await self._never(undo)
        except ClnError:
            return None

    async def _never(self, undo: Mapping[str, JsonValue]) -> Outcome:
        """No part of it is known and none can come: true unless rows of that time were deleted."""
        since = undo["since"]
        assert isinstance(since, int)
        if await self._sent.none_missing(since):
            text = "the plugin stopped while it told the node to pay; the node never began, nothing was sent"
            return _nothing_sent(from_symbol("shutting_down", text))
        text = (
            "payments of that time were deleted from the node's list, so whether this one was made is not"
            " known; look for it in the node's bookkeeping"
        )
        return Outcome("indeterminate", _result(undo), from_symbol("indeterminate", text))

    async def _parts(self, undo: Mapping[str, JsonValue], caller: Caller) -> list[dict[str, Any]]:
        since = undo["since"]
        assert isinstance(since, int)
        if undo["payment_hash"] is not None:
            # What failed before this command says nothing about it.
            rows = await self._sent.by_hash(str(undo["payment_hash"]))
            return [row for row in rows if row["created_index"] > since]
        return [row for row in await self._sent.since(since) if row.get("label") == _label(caller)]


def _label(caller: Caller) -> str:
    return f"hive:{caller.command_id}"


def _refusal(error: ClnError) -> HiveError:
    if error.code not in _WHY:
        return node_error(error)
    return from_symbol("node_error", _WHY[error.code], rpc=error.method, code=error.code)


def _nothing_sent(error: HiveError) -> Outcome:
    return Outcome("error", {}, error, acted=False)


def _result(undo: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    return {name: undo[name] for name in ("payment_hash", "destination", "amount_msat")}


def _watched(undo: Mapping[str, JsonValue]) -> Outcome:
    return Outcome("pending_external", _result(undo))


def _by_parts(
    undo: Mapping[str, JsonValue], rows: Sequence[Mapping[str, Any]], over: HiveError | None
) -> Outcome | None:
    """The outcome that a payment's parts prove; None when they prove none yet. `over`: why nothing was paid
    if none of them is still on its way."""
    done = next((row for row in rows if row["status"] == "complete"), None)
    if done is not None:
        # With one part paid its preimage is out: the others of the same attempt can only follow.
        paid = [row for row in rows if row["groupid"] == done["groupid"] and row["status"] != "failed"]
        sent = sum(int(row["amount_sent_msat"]) for row in paid)
        got = sum(int(row.get("amount_msat", row["amount_sent_msat"])) for row in paid)
        return _paid({**undo, "payment_hash": str(done["payment_hash"])}, got, sent, len(paid))
    if any(row["status"] == "pending" for row in rows):
        return _watched(undo)
    return None if over is None else _nothing_sent(over)


def _answered(undo: Mapping[str, JsonValue], answer: Mapping[str, Any]) -> Outcome:
    preimage = bytes.fromhex(str(answer["payment_preimage"]))
    known = {**undo, "payment_hash": hashlib.sha256(preimage).hexdigest()}
    parts = answer.get("successful_parts", answer.get("parts"))
    return _paid(known, int(answer["amount_msat"]), int(answer["amount_sent_msat"]), int(parts or 1))


def _paid(undo: Mapping[str, JsonValue], got_msat: int, sent_msat: int, parts: int) -> Outcome:
    fee = max(0, sent_msat - got_msat)
    result: dict[str, JsonValue] = {
        **_result(undo),
        "amount_msat": got_msat,
        "amount_sent_msat": sent_msat,
        "fee_msat": fee,
        "parts": parts,
    }
    return Outcome("success", result, spent=Spend(PAYMENT, sats_up(got_msat), sats_up(fee)))
