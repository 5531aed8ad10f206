"""How a splice is run and what became of it (docs/protocol/02-fleet-management.md §4 item 7;
docs/decisions/0415).

CLN's steps one by one: both ends agree on a transaction, its txid is put on our disk, they exchange
commitments for it, and only then our signatures go out. Until they do, `abort_channels` takes everything
back; from then on the node carries the splice on by itself. Crash points: `splice_noted`, `splice_secured`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import Busy, HiveError, from_symbol
from hive_shared.store import StoreError

from ...domain.json_value import whole
from ...domain.psbt import unsigned_of
from ...domain.spend import ONCHAIN, Spend
from ..ports_commands import Fault
from .action import Caller, Outcome, Params, Plan
from .channels import channel_key, fact_of, find_channel
from .moved_balance import BALANCE, MOVES, history_of, moves_of
from .node_errors import node_error
from .wallet_send import Keep, Wallet

SETTLED_S: Final = 10
"""After so long nothing that this plugin asked for before it was killed is still on its way to the node."""
_CALL_S: Final = 60.0
_MOST_UPDATES: Final = 6
_LOOKS: Final = 20
_LOOK_S: Final = 0.1
_NORMAL: Final = "CHANNELD_NORMAL"
_SIGNED: Final = "CHANNELD_AWAITING_SPLICE"
_OPTION_SPLICE: Final = 62
_AWAY: Final = 351
_WHY: Final = {
    301: "the wallet's free coins do not cover the amount and the fee",
    302: "the amount is too small for an output",
    313: "the reserve the node keeps for closing its anchor channels would not remain",
    _AWAY: "the peer is not connected",
    353: "the channel is in no state in which it can be spliced",
    354: "the peer does not support splices",
    355: "another splice of this channel is under way at the node",
    357: "the amounts of the splice do not fit together",
    358: "the node is not ready for this step of a splice; another one may be under way on the channel",
    359: "the fee is too low for this node and peer; name a higher feerate_perkw",
    360: "the fee is higher than the node pays without being forced to; name a lower feerate_perkw",
    362: "the peer or the node called the splice off",
    363: "the channel failed during the splice; look at its state",
}

Row = Mapping[str, Any]


class Splicing(ABC):
    """What both directions have in common. `engaged` is the kill switch."""

    def __init__(self, wallet: Wallet, keep: Keep, engaged: Callable[[], bool], fault: Fault) -> None:
        self.wallet, self.node, self._engaged = wallet, wallet.node, engaged
        self._keep, self._fault = keep, fault

    @abstractmethod
    async def begun(self, undo: Mapping[str, JsonValue]) -> str:
        """The PSBT with our side of the transaction: coins and change, or the output. Raises ClnError."""

    @abstractmethod
    async def paid_fee(self, undo: Mapping[str, JsonValue], psbt: str) -> int | None:
        """What we pay miners with that PSBT; None when it cannot be known."""

    async def spliceable(self, params: Params) -> Row:
        """The channel that a command names. Raises InvalidParams for one that cannot be spliced, ClnError."""
        text = str(params["channel_id"])
        row = find_channel(await self.node.listpeerchannels(), text)
        if row["state"] != _NORMAL or row.get("inflight"):
            shown = f"is in state {row['state']}" if row["state"] != _NORMAL else "has a splice under way"
            raise invalid("channel_id", f"channel {text} {shown}", f"a channel in state {_NORMAL}")
        if row.get("peer_connected") is not True:
            raise invalid(
                "channel_id", f"the peer of channel {text} is not connected", "a channel whose peer is there"
            )
        peers = (await self.node.call("listpeers", {"id": row["peer_id"]}))["peers"]
        features = next((str(peer["features"]) for peer in peers if "features" in peer), "")
        if features and not int(features, 16) >> _OPTION_SPLICE & 0b11:
            raise invalid(
                "channel_id",
                f"the peer of channel {text} does not support splices",
                "a channel whose peer supports splices",
            )
        return row

    def planned(
        self,
        row: Row,
        caller: Caller,
        *,
        amount_sat: int,
        change_sat: int,
        rate: int,
        fee_sat: int,
        destination: str | None = None,
        foreign: bool = False,
    ) -> Plan:
        """The plan; `change_sat` is by how much the channel changes, `fee_sat` the most it costs."""
        undo: dict[str, JsonValue] = {
            "splices": {
                "channel": channel_key(row),
                "channel_id": str(row["channel_id"]),
                "peer_id": str(row["peer_id"]),
            },
            "amount_sat": amount_sat,
            "change_sat": change_sat,
            "capacity_sat": int(row["total_msat"]) // 1_000,
            "feerate_perkw": rate,
            "fee_sat": fee_sat,
            "destination": destination,
            "foreign": foreign,
            "earlier": _signings(row),
            "started": caller.now,
            MOVES: moves_of((row,)),
        }
        locks = {f"channel:{row['channel_id']}"} | ({"wallet"} if change_sat > 0 else set())
        return Plan(
            undo=undo,
            # What an approval is for: this channel, and who gets the money.
            basis=[str(row["channel_id"]), destination, foreign],
            channels=(fact_of(row),),
            fields=frozenset({BALANCE}),
            locks=frozenset(locks),
            amount_sat=amount_sat,
            spend=Spend(ONCHAIN, amount_sat if foreign else 0, fee_sat),
            foreign=foreign,
            feerate_perkw=rate,
            moves=frozenset({"wallet"}),
        )

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Agree, note, secure, sign."""
        undo = dict(plan.undo)
        if self._engaged():
            return _nothing(undo, _stopped())
        try:
            psbt = await self.begun(undo)
        except ClnError as error:
            return _nothing(undo, _refusal(error))
        try:
            undo["fee_sat"] = await self.paid_fee(undo, psbt)
            secured = await self._secured(undo, psbt, caller)
            if whole(undo["change_sat"]) > 0:
                secured = str((await self.node.call("signpsbt", {"psbt": secured}))["signed_psbt"])
        except ClnError as error:
            return await self._given_up(undo, caller, _refusal(error), psbt)
        except (HiveError, StoreError, ValueError) as error:
            return await self._given_up(undo, caller, _ours(error), psbt)
        await self._fault("splice_secured")
        if self._engaged():
            return await self._given_up(undo, caller, _stopped(), psbt)
        asked = {"channel_id": _of(undo)["channel_id"], "psbt": secured}
        try:
            answer = await self.node.call("splice_signed", asked, timeout=_CALL_S)
        except ClnError as error:
            if error.outcome_unknown:
                return _watched(undo)
            return await self._given_up(undo, caller, _refusal(error), psbt)
        return _sent(undo, caller, answer.get("outnum"))

    async def _secured(self, undo: dict[str, JsonValue], psbt: str, caller: Caller) -> str:
        """The transaction for which both ends hold commitments; its txid is on disk.

        Raises ClnError, StoreError, HiveError; what was begun is left to the caller to take back.
        """
        channel_id = _of(undo)["channel_id"]
        begun = await self.node.call(
            "splice_init",
            {
                "channel_id": channel_id,
                "relative_amount": undo["change_sat"],
                "initialpsbt": psbt,
                "feerate_per_kw": undo["feerate_perkw"],
            },
            timeout=_CALL_S,
        )
        psbt = str(begun["psbt"])
        for _ in range(_MOST_UPDATES):
            asked = {"channel_id": channel_id, "psbt": psbt}
            answer = await self.node.call("splice_update", asked, timeout=_CALL_S)
            psbt = str(answer["psbt"])
            if (made := unsigned_of(psbt)).txid != undo.get("txid"):
                undo |= {"txid": made.txid, "inputs": [*made.tx.inputs]}
                await self._keep(caller, undo)
                await self._fault("splice_noted")
                if self._engaged():
                    raise _stopped()
            if answer["commitments_secured"] is True:
                return psbt
        raise from_symbol("node_error", "the peer kept changing the transaction", rpc="splice_update", code=0)

    async def _given_up(
        self, undo: Mapping[str, JsonValue], caller: Caller, why: HiveError, psbt: str
    ) -> Outcome:
        """Take back what our signatures were not given for; the node decides whether they were."""
        if undo.get("txid") is None:
            await self._abort(undo)
            await self._free(psbt)
            return _nothing(undo, why)
        try:
            return await self._ended(undo, caller) or await self._taken_back(undo, why)
        except ClnError:
            return _watched(undo)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Look for the transaction; make sure that a splice which was not signed never is."""
        if caller.now - whole(undo["started"]) < SETTLED_S:
            return _watched(undo)
        text = "the splice was called off before this node signed it: the plugin stopped or lost the node"
        try:
            if undo.get("txid") is not None:
                found = await self._ended(undo, caller)
                if found is not None:
                    return found
            return await self._taken_back(undo, from_symbol("shutting_down", text))
        except ClnError:
            return None

    async def _ended(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """The end, or how far it is; None while our signatures are not given. Raises ClnError."""
        if await self._listed(undo["txid"]):
            return _sent(undo, caller, None)
        row = await self._row(undo)
        if row is None or row["state"] not in (_NORMAL, _SIGNED):
            unclear = "the channel closed while it was being spliced; look for the transaction on the network"
            return Outcome("indeterminate", _result(undo), from_symbol("indeterminate", unclear))
        if row.get("funding_txid") == undo["txid"]:
            return _sent(undo, caller, row.get("funding_outnum"))
        if _signings(row) == whole(undo["earlier"]):
            return None
        if _inflight(row, undo):
            return _watched(undo)
        unclear = "the splice was signed and the node does not know it any more; look for the transaction"
        return Outcome("indeterminate", _result(undo), from_symbol("indeterminate", unclear))

    async def _taken_back(self, undo: Mapping[str, JsonValue], why: HiveError) -> Outcome:
        """Call off what is not signed and look again. Raises ClnError."""
        told = await self._abort(undo)
        row = await self._row(undo)
        for _ in range(_LOOKS if told else 0):
            if row is None or not _inflight(row, undo):
                break
            await asyncio.sleep(_LOOK_S)
            row = await self._row(undo)
        if row is not None and (_inflight(row, undo) or _signings(row) > whole(undo["earlier"])):
            # Its peer is away, so that it cannot be called off; or it went on by itself.
            return _watched(undo)
        if row is not None and not told and row.get("peer_connected") is True:
            return _watched(undo)
        inputs = undo.get("inputs")
        if isinstance(inputs, list) and whole(undo["change_sat"]) > 0:
            await self._free_coins([str(name) for name in inputs])
        return _nothing(undo, why)

    async def _abort(self, undo: Mapping[str, JsonValue]) -> bool:
        """Give up the negotiation; it ends with the connection anyway. Whether the node was told."""
        try:
            await self.node.call("abort_channels", {"channel_ids": [_of(undo)["channel_id"]]})
        except ClnError:
            return False
        return True

    async def _free(self, psbt: str) -> None:
        try:
            await self.node.call("unreserveinputs", {"psbt": psbt})
        except ClnError:
            # They come free by themselves after 72 blocks.
            return

    async def _free_coins(self, inputs: list[str]) -> None:
        """Let go of our coins among the inputs of a transaction."""
        try:
            known = {coin.outpoint for coin in (await self.wallet.coins())[0] if coin.reserved_to}
            for name in inputs:
                if name in known:
                    asked = {"satoshi": "0sat", "feerate": "253perkw", "startweight": 0, "utxos": [name]}
                    held = await self.node.call("utxopsbt", {**asked, "reserve": 0, "reservedok": True})
                    await self._free(str(held["psbt"]))
        except ClnError:
            return

    async def _listed(self, txid: JsonValue) -> bool:
        rows = (await self.node.call("listtransactions"))["transactions"]
        return any(row.get("hash") == txid for row in rows)

    async def _row(self, undo: Mapping[str, JsonValue]) -> Row | None:
        wanted = _of(undo)
        for row in await self.node.listpeerchannels(str(wanted["peer_id"])):
            if row.get("channel_id") == wanted["channel_id"]:
                return row
        return None


def _signings(row: Row) -> int:
    """How often our signatures for a splice of this channel were given."""
    return sum(each.get("new_state") == _SIGNED for each in row.get("state_changes", ()))


def _inflight(row: Row, undo: Mapping[str, JsonValue]) -> bool:
    return any(each.get("funding_txid") == undo.get("txid") for each in row.get("inflight", ()))


def _of(undo: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    splices = undo["splices"]
    assert isinstance(splices, dict)
    return splices


def invalid(param: str, sentence: str, expected: str) -> HiveError:
    """The refusal of a parameter."""
    return from_symbol("invalid_params", sentence, param=param, expected=expected)


def _refusal(error: ClnError) -> HiveError:
    if error.code in _WHY:
        return from_symbol("node_error", _WHY[error.code], rpc=error.method, code=error.code)
    return node_error(error)


def _ours(error: HiveError | StoreError | ValueError) -> HiveError:
    if isinstance(error, StoreError | Busy):
        text = "the node cannot write its records now, so nothing was spliced"
        return from_symbol("receipt_store_unavailable", text)
    if isinstance(error, HiveError):
        return error
    text = f"the node's transaction cannot be read: {error}"
    return from_symbol("node_error", text, rpc="splice_update", code=0)


def _stopped() -> HiveError:
    text = "the emergency stop was engaged before the splice was signed; it was called off"
    return from_symbol("emergency_stop", text)


def _nothing(undo: Mapping[str, JsonValue], error: HiveError) -> Outcome:
    return Outcome("error", dict(_of(undo)), error, acted=False)


def _watched(undo: Mapping[str, JsonValue]) -> Outcome:
    return Outcome("pending_external", _result(undo))


def _result(undo: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    result: dict[str, JsonValue] = {
        **_of(undo),
        "amount_sats": undo["amount_sat"],
        "fee_sats": undo["fee_sat"],
        "feerate_perkw": undo["feerate_perkw"],
        "capacity_sats": whole(undo["capacity_sat"]) + whole(undo["change_sat"]),
    }
    if undo["destination"] is not None:
        result["destination"] = undo["destination"]
    if undo.get("txid") is not None:
        result["txid"] = undo["txid"]
    return result


def _sent(undo: Mapping[str, JsonValue], caller: Caller, outnum: JsonValue) -> Outcome:
    """The outcome of a splice that is signed by both: the channel has its new size once it is confirmed."""
    result = _result(undo)
    if isinstance(outnum, int):
        result["outnum"] = outnum
    fee, spent = undo["fee_sat"], None
    if isinstance(fee, int):
        spent = Spend(ONCHAIN, whole(undo["amount_sat"]) if undo["foreign"] is True else 0, fee)
    return Outcome("success", result, spent=spent, fee_writes=history_of(undo, caller))
