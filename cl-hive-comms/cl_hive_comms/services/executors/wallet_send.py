"""Sending from the wallet: prepare at the node, note the txid, send (02 §4 item 10; docs/decisions/0360).

`txprepare` sets the inputs aside and names the transaction; its txid is on our disk before `txsend` may put
it on the network. So a probe after a crash looks for exactly that transaction, and where the node still holds
it unsent, `txdiscard` makes sure that it never goes out. Crash point: `wallet_prepared`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import Busy, HiveError, from_symbol
from hive_shared.store import StoreError

from ...domain.bitcoin_tx import parse_tx
from ...domain.coins import Coin, coins_of
from ...domain.spend import ONCHAIN, Spend
from ..ports_commands import Fault, Node
from .action import Caller, Outcome, Plan
from .feerate import node_perkw
from .node_errors import node_error
from .own_address import is_own

LOCK: Final = frozenset({"wallet"})
_SETTLED_DEPTH: Final = 6
"""Blocks after which a transaction that the node lost sight of is no longer waited for."""
_SEND_S: Final = 60.0

Keep = Callable[[Caller, Mapping[str, JsonValue]], Awaitable[None]]
"""Puts the undo row of a running command on disk again, with what it has learned."""


class Wallet:
    """What every action on coins asks the node."""

    def __init__(self, node: Node) -> None:
        self.node = node

    async def coins(self) -> tuple[tuple[Coin, ...], int]:
        """The unspent coins, and the block height."""
        height = int((await self.node.getinfo())["blockheight"])
        return coins_of((await self.node.call("listfunds"))["outputs"], height), height

    async def is_foreign(self, address: str) -> bool:
        """Whether an address is, or may be, somebody else's. Raises InvalidParams when it is none here."""
        return not await is_own(self.node, address, "destination")

    async def feerate(self, asked: JsonValue) -> int:
        """The rate asked for, else the node's own for a normal transaction; sat per kiloweight."""
        if isinstance(asked, int):
            return asked
        return await node_perkw(self.node, "feerate_perkw")


class Sending:
    """The run and the probe of every action that sends; `prepare` of each says what. `engaged` is the kill
    switch: it stops what is prepared and not sent."""

    def __init__(self, wallet: Wallet, keep: Keep, engaged: Callable[[], bool], fault: Fault) -> None:
        self._wallet, self._node, self._engaged = wallet, wallet.node, engaged
        self._keep, self._fault = keep, fault

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Prepare, note, send."""
        undo = dict(plan.undo)
        try:
            if undo["destination"] is None:
                answer = await self._node.call("newaddr", {"addresstype": "p2tr"})
                undo["destination"] = str(answer["p2tr"])
            prepared = await self._node.call("txprepare", _asked(undo))
        except ClnError as error:
            return _nothing_sent(_refusal(error))
        undo |= await self._described(prepared)
        refused = await self._not_kept(undo, caller)
        if refused is not None:
            return await self._discarded(undo, refused)
        await self._fault("wallet_prepared")
        if self._engaged():
            stop = from_symbol("emergency_stop", "the emergency stop was engaged before anything was sent")
            return await self._discarded(undo, stop)
        try:
            await self._node.call("txsend", {"txid": undo["txid"]}, timeout=_SEND_S)
        except ClnError as error:
            return await self._unsent(undo, caller, error)
        return sent(undo)

    async def _described(self, prepared: Mapping[str, Any]) -> dict[str, JsonValue]:
        """What was prepared. Its fee is None when the node does not show what the inputs are worth."""
        tx = parse_tx(str(prepared["unsigned_tx"]))
        try:
            worth = {coin.outpoint: coin.amount_sat for coin in (await self._wallet.coins())[0]}
        except ClnError:
            worth = {}
        known = all(outpoint in worth for outpoint in tx.inputs)
        fee = sum(worth[outpoint] for outpoint in tx.inputs) - sum(tx.outputs_sat) if known else None
        return {
            "txid": str(prepared["txid"]),
            "inputs": [*tx.inputs],
            "outputs_sat": [*tx.outputs_sat],
            "paid_fee_sat": fee,
        }

    async def _not_kept(self, undo: dict[str, JsonValue], caller: Caller) -> HiveError | None:
        """Why the prepared transaction must not go out; None once its txid is on disk."""
        most, fee = undo.get("max_fee_sat"), undo["paid_fee_sat"]
        if isinstance(most, int) and (not isinstance(fee, int) or fee > most):
            return from_symbol(
                "invalid_params",
                f"the transaction would cost {fee} sat, more than max_fee_sats {most}",
                param="max_fee_sats",
                expected=f"at least {fee}",
            )
        try:
            await self._keep(caller, undo)
        except (StoreError, Busy):
            return from_symbol(
                "receipt_store_unavailable", "the node cannot write its records now, so nothing was sent"
            )
        return None

    async def _discarded(self, undo: Mapping[str, JsonValue], why: HiveError) -> Outcome:
        try:
            await self._node.call("txdiscard", {"txid": undo["txid"]})
        except ClnError:
            # Its inputs come free by themselves after 72 blocks.
            return _nothing_sent(why)
        return _nothing_sent(why)

    async def _unsent(self, undo: Mapping[str, JsonValue], caller: Caller, error: ClnError) -> Outcome:
        found = await self.probe(undo, caller)
        if found is None:
            return _watched(undo)
        if found.state == "pending_external" and not error.outcome_unknown:
            # The node said no and does not hold it any more: it was not sent and never will be.
            return _nothing_sent(_refusal(error))
        return found

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Look for the transaction; make sure that one which was not sent never is."""
        txid = undo.get("txid")
        if txid is None:
            return _nothing_sent(
                from_symbol(
                    "shutting_down",
                    "the plugin stopped before anything was sent; coins it had set aside come free within"
                    " 72 blocks",
                )
            )
        try:
            if await self._listed(txid):
                return sent(undo)
            try:
                await self._node.call("txdiscard", {"txid": txid})
            except ClnError as error:
                if error.outcome_unknown:
                    return None
            else:
                text = "the plugin stopped before the transaction was sent; it was discarded"
                return _nothing_sent(from_symbol("shutting_down", text))
            return sent(undo) if await self._listed(txid) else await self._lost(undo)
        except ClnError:
            return None

    async def _listed(self, txid: JsonValue) -> bool:
        rows = (await self._node.call("listtransactions"))["transactions"]
        return any(row.get("hash") == txid for row in rows)

    async def _lost(self, undo: Mapping[str, JsonValue]) -> Outcome:
        """The node neither holds nor knows it: it ended in between. A block will tell, or none."""
        coins, height = await self._wallet.coins()
        inputs, begun = undo["inputs"], undo["height"]
        assert isinstance(inputs, list) and isinstance(begun, int)
        if not set(inputs) <= {coin.outpoint for coin in coins}:
            # Something else spent an input, so this transaction can never confirm.
            text = "the transaction was not sent; its inputs are spent by another one"
            return _nothing_sent(from_symbol("node_error", text, rpc="txsend", code=0))
        if height < begun + _SETTLED_DEPTH:
            return _watched(undo)
        text = (
            f"the node ended while it sent transaction {undo['txid']} and does not know it after"
            f" {_SETTLED_DEPTH} blocks; whether it is on the network is not known, look for it there"
        )
        return Outcome("indeterminate", _result(undo), from_symbol("indeterminate", text))


def _asked(undo: Mapping[str, JsonValue]) -> dict[str, object]:
    amount = undo["amount_sat"]
    return {
        "outputs": [{str(undo["destination"]): "all" if amount is None else f"{amount}sat"}],
        "feerate": f"{undo['feerate_perkw']}perkw",
        "minconf": undo["min_confirmations"],
        "utxos": undo["utxos"],
    }


def _refusal(error: ClnError) -> HiveError:
    if error.code == 301:
        text = "the wallet cannot pay this with its fee from the coins it may use; list_funds shows them"
        return from_symbol("node_error", text, rpc=error.method, code=error.code)
    return node_error(error)


def _nothing_sent(error: HiveError) -> Outcome:
    return Outcome("error", {}, error, acted=False)


def _watched(undo: Mapping[str, JsonValue]) -> Outcome:
    return Outcome("pending_external", _result(undo))


def _result(undo: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    outputs = undo["outputs_sat"]
    assert isinstance(outputs, list)
    result: dict[str, JsonValue] = {
        "txid": undo["txid"],
        "destination": undo["destination"],
        "fee_sats": undo["paid_fee_sat"],
        "feerate_perkw": undo["feerate_perkw"],
        "inputs": undo["inputs"],
    }
    amount = undo["amount_sat"]
    if amount is None and len(outputs) == 1:
        amount = outputs[0]
    result["amount_sats"] = amount
    if amount is None:
        # The node kept some back: which output is whose only its wallet can tell.
        result["outputs_sats"] = outputs
    return result


def sent(undo: Mapping[str, JsonValue]) -> Outcome:
    """The outcome of a transaction that went out: what it came to."""
    result, foreign = _result(undo), undo["foreign"] is True
    amount, fee = result["amount_sats"], result["fee_sats"]
    spent = None
    if isinstance(fee, int) and (not foreign or isinstance(amount, int)):
        spent = Spend(ONCHAIN, amount if foreign and isinstance(amount, int) else 0, fee)
    return Outcome("success", result, spent=spent)
