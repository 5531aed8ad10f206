"""hive:wallet/v1: what is sent, and from which coins (docs/protocol/02-fleet-management.md §4 item 10)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import HiveError, from_symbol
from hive_shared.registry import DUST_SAT

from ...domain.bitcoin_tx import parse_tx
from ...domain.coins import Coin, child_feerate, fee_of, most_inputs, named, spendable
from ...domain.spend import ONCHAIN, Spend
from ..ports_commands import Fault, Node
from .action import Caller, Outcome, Params, Plan, WriteAction
from .monitor import limit_of
from .node_errors import node_error
from .pages import page_of_list, pick
from .wallet_freeze import Freeze, FrozenCoins, Unfreeze
from .wallet_send import LOCK, Keep, Sending, Wallet

_MANY: Final = 100


def _plan(
    *,
    destination: str | None,
    foreign: bool,
    amount_sat: int | None,
    rate: int,
    depth: int,
    inputs: Sequence[Coin] | None,
    height: int,
    fee_sat: int,
    leaves_sat: int,
    max_fee_sat: int | None = None,
) -> Plan:
    """`inputs` None: the node chooses. `leaves_sat` is the most the destination gets."""
    names: list[JsonValue] = [coin.outpoint for coin in inputs or ()]
    return Plan(
        undo={
            "destination": destination,
            "foreign": foreign,
            "amount_sat": amount_sat,
            "feerate_perkw": rate,
            "min_confirmations": depth,
            "utxos": None if inputs is None else names,
            "height": height,
            "max_fee_sat": max_fee_sat,
        },
        # People allow a payment to somebody; which coins it takes is the node's matter.
        basis=[destination, foreign],
        locks=LOCK,
        amount_sat=leaves_sat,
        spend=Spend(ONCHAIN, leaves_sat if foreign else 0, fee_sat),
        foreign=foreign,
        feerate_perkw=rate,
    )


def _too_much(available_sat: int, wanted_sat: int, param: str) -> HiveError:
    return from_symbol(
        "invalid_params",
        f"{wanted_sat} sat with the fee are more than the {available_sat} sat of coins that may be used now",
        param=param,
        expected=f"at most {available_sat} sat with the fee",
    )


class SendOnchain(Sending):
    """`send_onchain`: an amount to an address."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan it. Raises InvalidParams for an address, coins or an amount that cannot be."""
        destination, amount, depth = (
            str(params["destination"]),
            params["amount_sats"],
            params["min_confirmations"],
        )
        assert isinstance(amount, int) and isinstance(depth, int)
        foreign = await self._wallet.is_foreign(destination)
        rate = await self._wallet.feerate(params.get("feerate_perkw"))
        coins, height = await self._wallet.coins()
        chosen, given = None, params.get("utxos")
        if isinstance(given, list):
            chosen = named(coins, map(str, given), depth)
        free = spendable(coins, depth) if chosen is None else chosen
        available = sum(coin.amount_sat for coin in free)
        count = most_inputs(free, amount) if chosen is None else len(chosen)
        if available < amount + fee_of(1 if chosen is None else len(chosen), 1, rate):
            raise _too_much(available, amount + fee_of(max(1, len(chosen or ())), 1, rate), "amount_sats")
        return _plan(
            destination=destination,
            foreign=foreign,
            amount_sat=amount,
            rate=rate,
            depth=depth,
            inputs=chosen,
            height=height,
            fee_sat=fee_of(count, 2, rate),
            leaves_sat=amount,
        )


class Sweep(Sending):
    """`sweep`: every confirmed coin that nothing else uses, to one address."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan it. Raises InvalidParams when there is nothing to send."""
        destination = str(params["destination"])
        foreign = await self._wallet.is_foreign(destination)
        rate = await self._wallet.feerate(None)
        coins, height = await self._wallet.coins()
        free = spendable(coins, 1)
        total, fee = sum(coin.amount_sat for coin in free), fee_of(len(free), 2, rate)
        if total < fee + DUST_SAT:
            raise _too_much(total, fee + DUST_SAT, "destination")
        return _plan(
            destination=destination,
            foreign=foreign,
            amount_sat=None,
            rate=rate,
            depth=1,
            inputs=None,
            height=height,
            fee_sat=fee,
            leaves_sat=total,
        )


class Consolidate(Sending):
    """`consolidate_utxos`: many coins become one, at an address of the wallet's own."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan it. Raises InvalidParams for fewer than two coins, or coins worth less than their fee."""
        rate = await self._wallet.feerate(params.get("feerate_perkw"))
        coins, height = await self._wallet.coins()
        given, count = params.get("utxos"), params.get("max_count", _MANY)
        assert isinstance(count, int)
        chosen = named(coins, map(str, given), 1) if isinstance(given, list) else spendable(coins, 1)[:count]
        if len(chosen) < 2:
            raise from_symbol(
                "invalid_params",
                f"the wallet has {len(chosen)} confirmed coins that nothing else uses; two make one",
                param="utxos",
                expected="at least two coins",
            )
        total, fee = sum(coin.amount_sat for coin in chosen), fee_of(len(chosen), 1, rate)
        if total < fee + DUST_SAT:
            raise _too_much(total, fee + DUST_SAT, "utxos")
        return _plan(
            destination=None,
            foreign=False,
            amount_sat=None,
            rate=rate,
            depth=1,
            inputs=chosen,
            height=height,
            fee_sat=fee,
            leaves_sat=0,
        )


class BumpFee(Sending):
    """`bump_fee`: an unconfirmed coin of ours is spent to ourselves; its fee pays for its parent too."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan the child. Raises InvalidParams for a coin that is confirmed or gone, or too high a fee."""
        rate, most, txid = params["feerate_perkw"], params["max_fee_sats"], str(params["txid"])
        assert isinstance(rate, int) and isinstance(most, int)
        coins, height = await self._wallet.coins()
        (coin,) = named(coins, (f"{txid}:{params['vout']}",), 0)
        if coin.depth:
            raise from_symbol(
                "invalid_params",
                f"utxo {coin.outpoint} is confirmed; there is no fee left to raise",
                param="txid",
                expected="an unconfirmed transaction",
            )
        child = child_feerate(rate, *await self._parent(txid))
        fee = fee_of(1, 1, child)
        if fee > most:
            raise from_symbol(
                "invalid_params",
                f"{rate} sat per kw for the transaction and its child take {fee} sat, more than max_fee_sats",
                param="max_fee_sats",
                expected=f"at least {fee}",
            )
        if coin.amount_sat < fee + DUST_SAT:
            raise _too_much(coin.amount_sat, fee + DUST_SAT, "vout")
        return _plan(
            destination=None,
            foreign=False,
            amount_sat=None,
            rate=child,
            depth=0,
            inputs=(coin,),
            height=height,
            fee_sat=fee,
            leaves_sat=0,
            max_fee_sat=most,
        )

    async def _parent(self, txid: str) -> tuple[int, int]:
        """Weight and fee (sat) of the parent as far as the node knows them; what somebody else sent and no
        block has yet counts nothing, then only the child has the rate."""
        rows = (await self._node.call("listtransactions"))["transactions"]
        raw = {str(row["hash"]): str(row["rawtx"]) for row in rows}
        if txid not in raw:
            return 0, 0
        parent, paid = parse_tx(raw[txid]), 0
        for outpoint in parent.inputs:
            before, _, vout = outpoint.partition(":")
            if before not in raw:
                # Its fee is not known: what it paid goes on top.
                return parent.weight, 0
            paid += parse_tx(raw[before]).outputs_sat[int(vout)]
        return parent.weight, paid - sum(parent.outputs_sat)


class GenerateAddress:
    """`generate_address`: a fresh address of the wallet."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan the call."""
        return Plan(undo={"type": params["type"]}, basis=[params["type"]])

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Ask for it."""
        kind = str(plan.undo["type"])
        try:
            answer = await self._node.call("newaddr", {"addresstype": kind})
        except ClnError as error:
            return Outcome("error", {}, node_error(error), acted=False)
        return Outcome("success", {"address": str(answer[kind]), "type": kind})

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Nobody got an address; one that the node may have made is used by nobody."""
        text = "the plugin stopped before an address was handed out; ask again"
        return Outcome("error", {}, from_symbol("shutting_down", text), acted=False)


class ListFunds:
    """`list_funds`: the wallet's outputs, and what they come to."""

    def __init__(self, node: Node, frozen: FrozenCoins) -> None:
        self._node, self._frozen = node, frozen

    async def read(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """A page of outputs, oldest first, under totals of all."""
        funds = await self._node.call("listfunds")
        frozen = {timer.subject for timer in await self._frozen()}
        rows: list[dict[str, Any]] = list(funds["outputs"])
        fields = (
            "txid",
            "output",
            "amount_msat",
            "address",
            "status",
            "blockheight",
            "reserved",
            "reserved_to_block",
        )
        items = [
            {
                **pick(row, (*fields, "reserved_to_block")),
                "frozen": f"{row['txid']}:{row['output']}" in frozen,
            }
            for row in rows
        ]
        totals: dict[str, JsonValue] = {
            f"{status}_sats": sum(int(row["amount_msat"]) for row in rows if row.get("status") == status)
            // 1_000
            for status in ("confirmed", "unconfirmed")
        }
        held = _sats(row for row in rows if row.get("reserved") is True)
        channels = sum(int(row.get("our_amount_msat", 0)) for row in funds.get("channels", ()))
        totals |= {"reserved_sats": held, "channels_sats": channels // 1_000}
        return {**page_of_list(items, limit_of(params), params.get("cursor")), **totals}


def _sats(rows: Iterable[Mapping[str, Any]]) -> int:
    return sum(int(row["amount_msat"]) for row in rows) // 1_000


def wallet_writes(
    node: Node, keep: Keep, engaged: Callable[[], bool], fault: Fault, frozen: FrozenCoins
) -> dict[str, WriteAction]:
    """The actions of the schema that change something, by name."""
    wallet = Wallet(node)
    parts = (wallet, keep, engaged, fault)
    return {
        "generate_address": GenerateAddress(node),
        "send_onchain": SendOnchain(*parts),
        "sweep": Sweep(*parts),
        "consolidate_utxos": Consolidate(*parts),
        "freeze_utxos": Freeze(wallet, frozen, engaged),
        "unfreeze_utxos": Unfreeze(wallet, frozen, engaged),
        "bump_fee": BumpFee(*parts),
    }
