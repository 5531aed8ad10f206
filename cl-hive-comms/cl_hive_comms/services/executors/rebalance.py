"""`circular_rebalance`: a payment to ourselves, out by one channel and home by another
(docs/protocol/02-fleet-management.md §5.2, §7.1 "Crash"; docs/decisions/0410).

Payment hash and time are on our disk before the first attempt. The invoice is what makes a second payment
impossible and an unsent one provable: only one payment of it is ever taken, and once an unpaid one is deleted
none can arrive any more. What became of the attempts is read from the node's list of payment parts.
Crash point: `rebalance_noted`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.cln_release import release_of
from hive_shared.errors import Busy, HiveError, from_symbol
from hive_shared.store import StoreError

from ...domain.circular_route import End, Way, way_of
from ...domain.lightning_invoice import fee_bound_msat, refused, sats_up
from ...domain.spend import REBALANCE, Spend
from ..ports_commands import Fault, Node
from .action import CHANNELS_ONLY, Caller, Outcome, Params, Plan
from .channels import fact_of, find_channel
from .moved_balance import BALANCE, MOVES, history_of, moves_of
from .node_errors import node_error
from .sent_parts import SentParts
from .wallet_send import Keep

MAX_TRIES: Final = 10
_EXPIRY_S: Final = 600
_CLTV: Final = 18
"""Blocks our invoice asks for …"""
_FINAL_CLTV: Final = 24
"""… and blocks the last hop is given: some may be found while the payment is on its way."""
_MAXPARTS_SINCE: Final = (25, 9)
_SLACK_S: Final = 15.0
_IN_PROGRESS, _REFUSED, _ON_THE_WAY = 200, 203, 204
_NO_ROUTE: Final = (205, 206)
_NO_INVOICE, _OTHER_STATUS = 905, 906
_WHY: Final[Mapping[int, str]] = {
    205: "no route from from_channel's peer to to_channel carries this amount",
    206: "every route costs more than max_fee_ppm allows, or takes more than 2016 blocks",
}


class CircularRebalance:
    """The action. `engaged` is the kill switch, asked last before each attempt; `forbidden` the nodes that
    no route may cross; `now` the time in unix seconds."""

    def __init__(
        self,
        node: Node,
        own_id: str,
        keep: Keep,
        engaged: Callable[[], bool],
        forbidden: Callable[[], frozenset[str]],
        now: Callable[[], int],
        fault: Fault,
    ) -> None:
        self._node, self._own_id, self._keep = node, own_id, keep
        self._engaged, self._forbidden, self._now, self._fault = engaged, forbidden, now, fault
        self._sent = SentParts(node)

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Look at both channels. Raises InvalidParams for what they cannot carry."""
        rows = await self._node.listpeerchannels()
        amount, ppm = params["amount_sats"], params["max_fee_ppm"]
        assert isinstance(amount, int) and isinstance(ppm, int)
        maxfee = fee_bound_msat(amount * 1_000, ppm)
        out = self._end(rows, params, "from_channel", "spendable_msat", amount * 1_000 + maxfee)
        home = self._end(rows, params, "to_channel", "receivable_msat", amount * 1_000)
        if out["channel_id"] == home["channel_id"]:
            raise refused("from_channel and to_channel are the same", "another channel", "to_channel")
        if out["peer_id"] == home["peer_id"]:
            # Forwarding is not strict (BOLT 4): the peer would give it back by whichever of them it likes.
            why = "both channels are with the same peer, who chooses by which one a payment comes back"
            raise refused(why, "a channel with another peer", "to_channel")
        ends = [end for row in (out, home) if (end := End.of_row(row, self._own_id)) is not None]
        release = release_of(str((await self._node.getinfo())["version"]))
        undo: dict[str, JsonValue] = {
            "from": ends[0].to_json(),
            "to": ends[1].to_json(),
            "amount_msat": amount * 1_000,
            "maxfee_msat": maxfee,
            "retry_for": params["retry_for"],
            "beside": [
                str(row["short_channel_id"])
                for row in rows
                if row["peer_id"] == home["peer_id"]
                and row.get("state") == "CHANNELD_NORMAL"
                and row["channel_id"] != home["channel_id"]
            ],
            "prefer_hive_route": params.get("prefer_hive_route", False),
            "maxparts": release is None or release >= _MAXPARTS_SINCE,
            "payment_hash": None,
            "since": None,
            MOVES: moves_of((out, home)),
        }
        names = (str(out["channel_id"]), str(home["channel_id"]))
        return Plan(
            undo=undo,
            basis=[*names],
            channels=(fact_of(out), fact_of(home)),
            fields=frozenset({BALANCE}),
            locks=frozenset(f"channel:{name}" for name in names),
            before=tuple(rows),
            amount_sat=amount,
            # The amount stays ours, the fee does not.
            spend=Spend(REBALANCE, 0, sats_up(maxfee)),
            moves=CHANNELS_ONLY,
        )

    def _end(
        self, rows: Sequence[Mapping[str, Any]], params: Params, param: str, holds: str, need_msat: int
    ) -> Mapping[str, Any]:
        """The row of a channel that can do its part."""
        text = str(params[param])
        row = find_channel(rows, text, param)
        state, has = str(row.get("state")), int(row.get(holds, 0))
        if state != "CHANNELD_NORMAL" or row.get("short_channel_id") is None:
            why = f"{param} {text} is in state {state}, which carries no payment"
            raise refused(why, "a channel in state CHANNELD_NORMAL", param)
        if row.get("peer_connected") is not True:
            raise refused(
                f"the peer of {param} {text} is not connected", "a channel of a connected peer", param
            )
        if has < need_msat:
            verb = "send" if holds == "spendable_msat" else "receive"
            what = "amount_sats with its fee" if verb == "send" else "amount_sats"
            why = f"{param} {text} can {verb} {has // 1_000} sat, {what} needs {sats_up(need_msat)}"
            raise refused(why, f"at most {has // 1_000} sat", "amount_sats")
        return row

    # -- run ----------------------------------------------------------------------------------------------

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Ask for an invoice, note it, try ways until one carries it."""
        undo = dict(plan.undo)
        try:
            undo["since"] = await self._sent.count()
            invoice = await self._node.call(
                "invoice",
                {
                    "amount_msat": undo["amount_msat"],
                    "label": _label(caller),
                    "description": "rebalance",
                    "expiry": _EXPIRY_S,
                    "cltv": _CLTV,
                },
            )
        except ClnError as error:
            return await self._given_up(undo, caller, node_error(error))
        undo["payment_hash"] = str(invoice["payment_hash"])
        try:
            await self._keep(caller, undo)
        except (StoreError, Busy):
            text = "the node cannot write its records now, so nothing was sent"
            return await self._given_up(undo, caller, from_symbol("receipt_store_unavailable", text))
        await self._fault("rebalance_noted")
        try:
            await self._make_layer(undo, caller)
        except ClnError as error:
            return await self._given_up(undo, caller, node_error(error))
        return await self._tries(undo, caller, str(invoice["payment_secret"]))

    async def _make_layer(self, undo: Mapping[str, JsonValue], caller: Caller) -> None:
        """No way home but by to_channel, and none across a forbidden node."""
        layer, home = _layer(caller), End.from_json(undo["to"])
        await self._node.call("askrene-create-layer", {"layer": layer})
        for row in await self._node.listpeerchannels():
            other = End.of_row(row, self._own_id)
            if other is None or other.channel_id == home.channel_id:
                continue
            closed = {"layer": layer, "short_channel_id_dir": other.homewards}
            await self._node.call("askrene-update-channel", {**closed, "enabled": False})
        for peer in sorted(self._forbidden()):
            await self._node.call("askrene-disable-node", {"layer": layer, "node": peer})

    async def _tries(self, undo: Mapping[str, JsonValue], caller: Caller, secret: str) -> Outcome:
        retry_for = undo["retry_for"]
        assert isinstance(retry_for, int)
        deadline = self._now() + retry_for
        why = from_symbol("timeout", f"no attempt got through within {retry_for} s", rpc="sendpay")
        for _ in range(MAX_TRIES):
            if self._engaged():
                text = "the emergency stop was engaged before an attempt got through; nothing was sent"
                return await self._given_up(undo, caller, from_symbol("emergency_stop", text))
            left = deadline - self._now()
            if left <= 0:
                return await self._given_up(undo, caller, why)
            ended = await self._try(undo, caller, secret, left)
            if isinstance(ended, Outcome):
                return ended
            why = ended
        return await self._given_up(undo, caller, why)

    async def _try(
        self, undo: Mapping[str, JsonValue], caller: Caller, secret: str, left: int
    ) -> Outcome | HiveError:
        """One attempt: the end of the action, or why another way has to be looked for."""
        try:
            way = await self._way(undo, caller)
        except (HiveError, ClnError) as error:
            why = _route_refusal(error) if isinstance(error, ClnError) else error
            return await self._given_up(undo, caller, why)
        asked = {"payment_hash": undo["payment_hash"], "payment_secret": secret, "label": _label(caller)}
        try:
            await self._node.call(
                "sendpay", {"route": [*way.route], "amount_msat": undo["amount_msat"], **asked}
            )
            await self._node.call(
                "waitsendpay",
                {"payment_hash": undo["payment_hash"], "timeout": left},
                timeout=left + _SLACK_S,
            )
        except ClnError as error:
            return await self._failed(undo, caller, way, error)
        return await self._looked(undo, caller)

    async def _way(self, undo: Mapping[str, JsonValue], caller: Caller) -> Way:
        out, home = End.from_json(undo["from"]), End.from_json(undo["to"])
        amount, maxfee = undo["amount_msat"], undo["maxfee_msat"]
        assert isinstance(amount, int) and isinstance(maxfee, int)
        single: dict[str, object] = {"maxparts": 1}
        layers = ["auto.localchans", _layer(caller)]
        if undo["maxparts"] is not True:
            single, layers = {}, [*layers, "auto.no_mpp_support"]
        answer = await self._node.call(
            "getroutes",
            {
                "source": out.peer_id,
                "destination": self._own_id,
                "amount_msat": amount,
                "layers": layers,
                "maxfee_msat": maxfee,
                "final_cltv": _FINAL_CLTV,
                **single,
            },
        )
        try:
            return way_of(answer, out, home, self._own_id, amount, maxfee)
        except (ValueError, KeyError, TypeError) as error:
            text = f"the node found {error}, which was not asked for; nothing was sent"
            raise from_symbol("node_error", text, rpc="getroutes", code=0) from error

    async def _failed(
        self, undo: Mapping[str, JsonValue], caller: Caller, way: Way, error: ClnError
    ) -> Outcome | HiveError:
        """What an attempt that did not get through leads to."""
        if error.outcome_unknown or error.code == _IN_PROGRESS:
            return await self._looked(undo, caller)
        data = error.data if isinstance(error.data, dict) else {}
        name = data.get("failcodename") or f"code {error.code}"
        index, channel, direction = (
            data.get(key) for key in ("erring_index", "erring_channel", "erring_direction")
        )
        hop = f"{channel}/{direction}"
        carried = way.carried(hop)
        if error.code == _ON_THE_WAY and index == 0:
            text = f"from_channel does not take the payment now ({name})"
            why = from_symbol("node_error", text, rpc=error.method, code=error.code)
            return await self._given_up(undo, caller, why)
        if error.code != _ON_THE_WAY or carried is None:
            text = f"the attempt failed where no other way helps ({name})"
            why = from_symbol("node_error", text, rpc=error.method, code=error.code)
            return await self._given_up(undo, caller, why)
        learned = {"layer": _layer(caller), "short_channel_id_dir": hop, "amount_msat": carried}
        try:
            await self._node.call("askrene-inform-channel", {**learned, "inform": "constrained"})
        except ClnError as failure:
            return await self._given_up(undo, caller, node_error(failure))
        text = f"all attempts failed, the last one at channel {channel} ({name})"
        return from_symbol("node_error", text, rpc=error.method, code=error.code)

    # -- ends ---------------------------------------------------------------------------------------------

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Look for the payment; make sure that one which was not sent never is."""
        text = "the plugin stopped before an attempt got through; nothing was sent, the invoice is gone"
        try:
            return await self._found(undo, caller, from_symbol("shutting_down", text))
        except ClnError:
            return None

    async def _given_up(self, undo: Mapping[str, JsonValue], caller: Caller, why: HiveError) -> Outcome:
        """No further attempt. What was sent before decides, not what we believe of it."""
        try:
            return await self._found(undo, caller, why)
        except ClnError:
            return _watched(undo)

    async def _looked(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome:
        """An attempt is under way or through, as far as we know."""
        text = "the attempt failed and no time was left for another; nothing was sent"
        return await self._given_up(undo, caller, from_symbol("node_error", text, rpc="sendpay", code=210))

    async def _found(self, undo: Mapping[str, JsonValue], caller: Caller, why: HiveError) -> Outcome:
        """The outcome that the node's lists prove; `why` nothing was sent, if that is it. Raises ClnError."""
        await self._drop_layer(caller)
        if undo["payment_hash"] is None:
            await self._withdraw(caller)
            return _nothing_sent(why)
        digest = str(undo["payment_hash"])
        known = await self._by_parts(undo, caller, await self._sent.by_hash(digest))
        if known is not None:
            return known
        gone = await self._withdraw(caller)
        # Only now: an attempt that we told the node of and lost sight of cannot arrive any more.
        rows = await self._sent.by_hash(digest)
        known = await self._by_parts(undo, caller, rows)
        if known is not None:
            return known
        if gone == "paid":
            # The rows of the payment were deleted, the invoice tells: what it cost stays counted in full.
            return await self._done(undo, caller, None, 0)
        since = undo["since"]
        assert isinstance(since, int)
        if gone == "unknown" and not rows and not await self._sent.none_missing(since):
            text = (
                "invoice and payments of that time were deleted from the node, so whether it was made is not"
            )
            unknown = from_symbol("indeterminate", f"{text} known; look for it in the node's bookkeeping")
            return Outcome("indeterminate", {"payment_hash": digest}, unknown)
        return _nothing_sent(why, {"payment_hash": digest, "attempts": len(rows)})

    async def _by_parts(
        self, undo: Mapping[str, JsonValue], caller: Caller, rows: Sequence[Mapping[str, Any]]
    ) -> Outcome | None:
        done = next((row for row in rows if row["status"] == "complete"), None)
        if done is not None:
            amount = undo["amount_msat"]
            assert isinstance(amount, int)
            return await self._done(undo, caller, int(done["amount_sent_msat"]) - amount, len(rows))
        return _watched(undo) if any(row["status"] == "pending" for row in rows) else None

    async def _done(
        self, undo: Mapping[str, JsonValue], caller: Caller, fee_msat: int | None, attempts: int
    ) -> Outcome:
        amount, out, home = undo["amount_msat"], End.from_json(undo["from"]), End.from_json(undo["to"])
        assert isinstance(amount, int)
        result: dict[str, JsonValue] = {
            "payment_hash": undo["payment_hash"],
            "from_channel": out.scid,
            "to_channel": home.scid,
            "amount_sats": amount // 1_000,
            "fee_msat": fee_msat,
            "fee_ppm": None if fee_msat is None else -(-fee_msat * 1_000_000 // amount),
            "attempts": attempts,
        }
        if undo["beside"]:
            # Their peer chose among them (docs/decisions/0411).
            result["or_by_channels"] = undo["beside"]
        if undo["prefer_hive_route"] is True:
            # Nobody on the node knows ways over the fleet yet (docs/decisions/0411).
            result["hive_route"] = False
        spent = None if fee_msat is None else Spend(REBALANCE, 0, sats_up(fee_msat))
        after = {str(row["channel_id"]): row for row in await self._node.listpeerchannels()}
        return Outcome("success", result, spent=spent, after=after, fee_writes=history_of(undo, caller))

    async def _withdraw(self, caller: Caller) -> str:
        """Delete our invoice unless it is paid: `gone`, `paid`, or `unknown` when there is none."""
        status = "unpaid"
        while True:
            try:
                await self._node.call("delinvoice", {"label": _label(caller), "status": status})
                return "gone"
            except ClnError as error:
                if error.outcome_unknown:
                    raise
                data = error.data if isinstance(error.data, dict) else {}
                now = data.get("current_status")
                if error.code == _NO_INVOICE:
                    return "unknown"
                if error.code != _OTHER_STATUS or now == status:
                    raise
                if now != "expired":
                    return "paid"
                status = "expired"

    async def _drop_layer(self, caller: Caller) -> None:
        try:
            await self._node.call("askrene-remove-layer", {"layer": _layer(caller)})
        except ClnError as error:
            # There is none, or it ends with the node.
            if error.outcome_unknown:
                raise


def _label(caller: Caller) -> str:
    return f"hive:{caller.command_id}"


def _layer(caller: Caller) -> str:
    return f"hive:{caller.command_id}"


def _route_refusal(error: ClnError) -> HiveError:
    if error.outcome_unknown or error.code not in _NO_ROUTE:
        return node_error(error)
    return from_symbol("node_error", _WHY[error.code], rpc=error.method, code=error.code)


def _nothing_sent(why: HiveError, result: dict[str, JsonValue] | None = None) -> Outcome:
    return Outcome("error", result or {}, why, acted=False)


def _watched(undo: Mapping[str, JsonValue]) -> Outcome:
    return Outcome("pending_external", {"payment_hash": undo["payment_hash"]})
