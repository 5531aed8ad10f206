"""`swap_out` and `swap_in`: Lightning funds to the chain and back by a service that another plugin of the
operator's speaks to (docs/protocol/02-fleet-management.md §4 item 5; docs/decisions/0412).

The service is the method that the operator configured, else cl-revenue-ops' revenue-boltz-loop-out and
-loop-in. What is asked for is on our disk before it is asked. An answer that was lost is looked into where
the service can be asked about the swap, and is `indeterminate` where it cannot: nothing is asked for twice.
Crash point: `swap_noted`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, Literal

import msgspec
from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import Busy, HiveError, from_symbol
from hive_shared.store import StoreError

from ...domain.lightning_invoice import refused
from ...domain.spend import ONCHAIN, REBALANCE, Spend
from ...domain.swap_answer import SwapAnswer, boltz_answer, boltz_quote, boltz_status, own_answer
from ..ports_commands import Fault, Node
from .action import Caller, Outcome, Params, Plan
from .node_errors import node_error
from .own_address import is_own
from .payment_send import Offers
from .wallet_send import Keep

_CALL_S: Final = 150.0
_LATE_S: Final = 300
"""How long a call whose asker is gone may still begin a swap."""
_NEVER_BEGAN: Final = (-32601, -32602)
_QUOTE, _STATUS = "revenue-boltz-quote", "revenue-boltz-status"
_BOLTZ_KIND: Final = {"out": "reverse", "in": "submarine"}

Configured = Callable[[], tuple[str, str]]
"""The methods that the operator configured for swaps out and in; empty for none."""


class Service(msgspec.Struct, frozen=True):
    """A method that swaps. `boltz`: cl-revenue-ops', else a configured one with the contract of 0412."""

    method: str
    boltz: bool

    @property
    def status(self) -> str:
        """The method that tells of a swap."""
        return _STATUS if self.boltz else f"{self.method}-status"


class _Swap:
    """A swap in one direction. `engaged` is the kill switch; `now` the time in unix seconds."""

    _direction: ClassVar[Literal["out", "in"]]

    def __init__(
        self,
        node: Node,
        configured: Configured,
        offers: Offers,
        keep: Keep,
        engaged: Callable[[], bool],
        now: Callable[[], int],
        fault: Fault,
    ) -> None:
        self._node, self._configured = node, configured
        self._offers, self._keep, self._engaged = offers, keep, engaged
        self._now, self._fault = now, fault

    def lacking(self) -> str:
        """Why this node cannot swap that way; empty when it can."""
        named, option = self._named(), f"hive-comms-swap-{self._direction}-rpc"
        if named:
            return "" if self._offers(named) else f"the node has no method {named}, which {option} names"
        missing = [name for name in (self._loop(), _QUOTE, _STATUS) if not self._offers(name)]
        if not missing:
            return ""
        return f"the node has no swap service: {', '.join(missing)} missing, and {option} names no method"

    def _named(self) -> str:
        return self._configured()[0 if self._direction == "out" else 1]

    def _loop(self) -> str:
        return f"revenue-boltz-loop-{self._direction}"

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan it. Raises InvalidParams for a bad address and a fee above max_fee_sats, Unsupported without a
        service."""
        if why := self.lacking():
            raise from_symbol("unsupported_action", why)
        named = self._named()
        service = Service(named or self._loop(), not named)
        amount, most, address = params["amount_sats"], params["max_fee_sats"], params.get("address")
        assert isinstance(amount, int) and isinstance(most, int)
        foreign = address is not None and not await is_own(self._node, str(address), "address")
        quoted = await self._quoted(service, amount)
        if quoted is not None and quoted > most:
            why = f"the swap service asks for {quoted} sat, more than max_fee_sats {most}"
            raise refused(why, f"at least {quoted}", "max_fee_sats")
        return Plan(
            undo={
                "method": service.method,
                "boltz": service.boltz,
                "followed": self._offers(service.status),
                "amount_sat": amount,
                "max_fee_sat": most,
                "quoted_sat": quoted,
                "address": address,
                "foreign": foreign,
                "swap_id": None,
                "started": None,
            },
            basis=[service.method, foreign],
            # The service has one purse: one swap at a time.
            locks=frozenset({"swap"}),
            amount_sat=amount,
            spend=Spend(ONCHAIN, amount, most) if foreign else Spend(REBALANCE, 0, most),
            foreign=foreign,
        )

    async def _quoted(self, service: Service, amount: int) -> int | None:
        """What the service says it costs; None for one that keeps to max_fee_sats itself."""
        if not service.boltz:
            return None
        asked = {"amount_sats": amount, "swap_type": _BOLTZ_KIND[self._direction], "currency": "BTC"}
        fee = boltz_quote(await self._node.call(_QUOTE, asked, timeout=_CALL_S))
        if fee is None:
            raise from_symbol("node_error", "the swap service named no fee", rpc=_QUOTE, code=0)
        return fee

    # -- run ----------------------------------------------------------------------------------------------

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Note it, ask once."""
        undo = dict(plan.undo)
        try:
            if self._direction == "out" and undo["address"] is None:
                answer = await self._node.call("newaddr", {"addresstype": "p2tr"})
                undo["address"] = str(answer["p2tr"])
        except ClnError as error:
            return _nothing_begun(node_error(error))
        undo["started"] = self._now()
        try:
            await self._keep(caller, undo)
        except (StoreError, Busy):
            text = "the node cannot write its records now, so no swap was begun"
            return _nothing_begun(from_symbol("receipt_store_unavailable", text))
        await self._fault("swap_noted")
        if self._engaged():
            text = "the emergency stop was engaged before the swap was begun"
            return _nothing_begun(from_symbol("emergency_stop", text))
        method = str(undo["method"])
        try:
            answer = await self._node.call(method, self._asked(undo, caller), timeout=_CALL_S)
        except ClnError as error:
            if not error.outcome_unknown and (undo["boltz"] is not True or error.code in _NEVER_BEGAN):
                return _nothing_begun(node_error(error))
            # That another plugin's method failed does not say that it began nothing.
            return await self._looked(undo, caller)
        return await self._answered(undo, caller, answer)

    def _asked(self, undo: Mapping[str, JsonValue], caller: Caller) -> dict[str, object]:
        asked: dict[str, object] = {"amount_sats": undo["amount_sat"]}
        if self._direction == "out":
            asked["address"] = undo["address"]
        if undo["boltz"] is True:
            return {**asked, "currency": "BTC"}
        return {**asked, "max_fee_sats": undo["max_fee_sat"], "label": _label(caller)}

    async def _answered(
        self, undo: dict[str, JsonValue], caller: Caller, answer: Mapping[str, Any]
    ) -> Outcome:
        if undo["boltz"] is not True:
            return self._by(undo, own_answer(answer))
        said = boltz_answer(answer)
        if said.state != "pending":
            return self._by(undo, said)
        undo["swap_id"] = said.swap_id
        try:
            await self._keep(caller, undo)
        except (StoreError, Busy):
            # Not to be followed without its id on disk; the outcome waits for the disk too.
            return self._by(undo, said)
        return await self._looked(undo, caller)

    async def _looked(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome:
        try:
            return await self._look(undo, caller)
        except ClnError:
            return self._by(undo, SwapAnswer("pending", _id_of(undo)))

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Ask the service about the swap, where it can be asked."""
        if undo["started"] is None:
            text = "the plugin stopped before the swap was begun"
            return _nothing_begun(from_symbol("shutting_down", text))
        try:
            return await self._look(undo, caller)
        except ClnError:
            return None

    async def _look(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome:
        """How the swap stands. Raises ClnError."""
        service = Service(str(undo["method"]), undo["boltz"] is True)
        swap_id, started = _id_of(undo), undo["started"]
        if service.boltz:
            if swap_id is None:
                return self._by(undo, SwapAnswer("unclear"))
            answer = await self._node.call(service.status, {"swap_id": swap_id}, timeout=_CALL_S)
            return self._by(undo, boltz_status(answer, swap_id))
        if not self._followed(undo):
            return self._by(undo, SwapAnswer("unclear"))
        said = own_answer(await self._node.call(service.status, {"label": _label(caller)}, timeout=_CALL_S))
        assert isinstance(started, int)
        if said.state == "unknown":
            if caller.now < started + _LATE_S:
                return self._by(undo, SwapAnswer("pending"))
            text = "the swap service never heard of this swap; nothing was begun"
            return _nothing_begun(from_symbol("shutting_down", text))
        return self._by(undo, said)

    @staticmethod
    def _followed(undo: Mapping[str, JsonValue]) -> bool:
        """Whether the service can be asked about this swap: it could when the swap was planned."""
        return undo["followed"] is True and (undo["boltz"] is not True or undo["swap_id"] is not None)

    # -- ends ---------------------------------------------------------------------------------------------

    def _by(self, undo: Mapping[str, JsonValue], said: SwapAnswer) -> Outcome:
        most, amount = undo["max_fee_sat"], undo["amount_sat"]
        assert isinstance(most, int) and isinstance(amount, int)
        fee = said.fee_sat if said.fee_sat is not None else undo["quoted_sat"]
        result: dict[str, JsonValue] = {
            "amount_sats": amount,
            "fee_sats": fee,
            "address": undo["address"],
            "swap_id": said.swap_id or undo["swap_id"],
            "txid": said.txid,
        }
        result = {name: value for name, value in result.items() if value is not None}
        if said.state == "rejected":
            text = f"{undo['method']} refused the swap; nothing was begun"
            return _nothing_begun(from_symbol("node_error", text, rpc=str(undo["method"]), code=0))
        if said.state == "done":
            spent = None
            if isinstance(fee, int):
                spent = Spend(ONCHAIN, amount, fee) if undo["foreign"] is True else Spend(REBALANCE, 0, fee)
            dearer = isinstance(fee, int) and fee > most
            return Outcome("success", result, spent=spent, alert=Level.CRITICAL if dearer else None)
        if said.state == "failed":
            text = "the swap service gave the swap up; see there what came back"
            why = from_symbol("node_error", text, rpc=str(undo["method"]), code=0)
            return Outcome("error", result, why)
        if said.state == "pending" and self._followed(undo):
            return Outcome("pending_external", result)
        text = (
            f"what became of the swap is not known, and {undo['method']} cannot be asked about it; look there"
        )
        return Outcome("indeterminate", result, from_symbol("indeterminate", text))


class SwapOut(_Swap):
    """`swap_out`: Lightning funds to an address."""

    _direction: ClassVar[Literal["out", "in"]] = "out"


class SwapIn(_Swap):
    """`swap_in`: funds on the chain to Lightning."""

    _direction: ClassVar[Literal["out", "in"]] = "in"


def _id_of(undo: Mapping[str, JsonValue]) -> str | None:
    value = undo["swap_id"]
    return value if isinstance(value, str) else None


def _label(caller: Caller) -> str:
    return f"hive:{caller.command_id}"


def _nothing_begun(why: HiveError) -> Outcome:
    return Outcome("error", {}, why, acted=False)
