"""Opening channels: `open` of hive:channel/v1 and `propose_channel_open` of hive:expansion/v1
(docs/protocol/02-fleet-management.md §4 item 6; docs/decisions/0372).

`fundchannel` runs inside the node: no kill of this plugin and no lost answer stops it. What it did shows
in the node's channels, and that it did nothing in coins that are as free as they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import HiveError, from_symbol

from ...domain.spend import ONCHAIN, Spend
from ..ports_commands import Node
from .action import Caller, Outcome, Params, Plan
from .feerate import perkw
from .long_call import LongCalls
from .node_errors import node_error
from .own_address import is_own
from .pages import pick

ANSWER_S: Final = 30.0
"""How long a command waits for the node's answer before it counts as left to the node."""
_CONNECT_S: Final = 60.0
_HELD_S: Final = 3_600.0
SETTLED_S: Final = 600
"""After so long without a trace of it an opening did not begin: once connected, the node reserves coins."""
GIVEN_UP_S: Final = 86_400
"""After so long an opening whose coins were used otherwise meanwhile cannot be proved any more."""
_INPUT_WEIGHT: Final = 272
_OTHER_WEIGHT: Final = 43 + 4 * (43 + 43)
_WHY: Final = {
    300: "the amount is above what this peer and node allow for a channel",
    301: "the wallet's free coins do not cover the amount and the fee",
    302: "the amount is too small for a channel",
    303: "the funding transaction was not accepted by the network",
    313: "the reserve the node keeps for closing its anchor channels would not remain",
    400: "the node knows no address of this peer; connect with its host first",
    401: "none of the peer's addresses answered",
    402: "the peer hung up during the handshake",
}

# Still being negotiated: no transaction is signed.
_NOT_YET: Final = ("OPENINGD", "DUALOPEND_OPEN")

Row = Mapping[str, Any]


class Open:
    """`open`: one channel, paid from the wallet."""

    def __init__(self, node: Node, calls: LongCalls) -> None:
        self._node, self._calls = node, calls

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Look at coins, channels and feerate. Raises InvalidParams for what cannot be opened; ClnError."""
        peer_id, amount_sat = str(params["peer_id"]), params["amount_sats"]
        assert isinstance(amount_sat, int)
        push_msat = _whole(params.get("push_msat"))
        if push_msat > amount_sat * 1_000:
            raise _invalid(
                "push_msat", f"{push_msat} msat is more than the channel's {amount_sat} sat", "less"
            )
        if peer_id == (await self._node.getinfo())["id"]:
            raise _invalid("peer_id", "peer_id is this node itself", "another node's key")
        close_to = params.get("close_to")
        if close_to is not None and not await is_own(self._node, str(close_to), "close_to"):
            raise _invalid("close_to", "close_to is no address of this node's wallet", "an own address")
        coins = _free(await self._coins())
        used = _chosen(coins, params.get("utxos"), amount_sat)
        rate = await perkw(self._node, _text(params.get("feerate")), "feerate")
        fee_sat = -(-rate * (_OTHER_WEIGHT + _INPUT_WEIGHT * len(used)) // 1_000)
        rows = await self._node.listpeerchannels(peer_id)
        undo: dict[str, JsonValue] = {
            "asked": _asked(params, peer_id, amount_sat, push_msat, rate),
            "known": [*(str(row["channel_id"]) for row in rows)],
            "free": [*sorted(coins)],
            "started": caller.now,
        }
        return Plan(
            undo=undo,
            basis=[peer_id, close_to],
            locks=frozenset({"wallet", f"peer:{peer_id}"}),
            amount_sat=amount_sat,
            spend=Spend(ONCHAIN, -(-push_msat // 1_000), fee_sat),
            foreign=push_msat > 0,
            feerate_perkw=rate,
        )

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Connect, then `fundchannel`, once."""
        asked = plan.undo["asked"]
        assert isinstance(asked, dict)
        try:
            await self._node.call("connect", {"id": asked["id"]}, timeout=_CONNECT_S)
        except ClnError as error:
            return Outcome("error", {"peer_id": asked["id"]}, _told(error), acted=False)
        try:
            answer = await self._calls.answer(
                caller.command_id, "fundchannel", asked, wait_s=ANSWER_S, held_s=_HELD_S
            )
        except ClnError as error:
            if error.outcome_unknown:
                return await self.probe(plan.undo, caller) or _left(plan.undo)
            return await self._after_refusal(plan.undo, error)
        if answer is None:
            return await self.probe(plan.undo, caller) or _left(plan.undo)
        return _opened(plan.undo, pick(answer, ("txid", "outnum", "channel_id", "mindepth", "close_to")))

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """A channel to that peer with that amount that was not there before; else whether the coins moved."""
        try:
            found = await self._new_channels(undo)
            free = set(_free(await self._coins()))
        except ClnError:
            return None
        if found:
            self._calls.forget(caller.command_id)
            return _shown(undo, found)
        if self._calls.running(caller.command_id):
            return _left(undo)
        refusal = self._calls.refusal(caller.command_id)
        if refusal is not None:
            self._calls.forget(caller.command_id)
            return Outcome("error", _peer(undo), _told(refusal), acted=False)
        age = caller.now - _whole(undo["started"])
        before = undo["free"]
        assert isinstance(before, list)
        if age >= SETTLED_S and free.issuperset(map(str, before)):
            stopped = from_symbol("shutting_down", "the plugin stopped before a channel was opened; none was")
            return Outcome("error", _peer(undo), stopped, acted=False)
        if age >= GIVEN_UP_S:
            unclear = from_symbol(
                "indeterminate", "no such channel is there, but coins of the wallet moved meanwhile; check it"
            )
            return Outcome("indeterminate", _peer(undo), unclear)
        return _left(undo)

    async def _after_refusal(self, undo: Mapping[str, JsonValue], error: ClnError) -> Outcome:
        """The node said no. It takes back what it began; a channel that is there all the same decides."""
        try:
            found = await self._new_channels(undo)
        except ClnError:
            lost = from_symbol(
                "indeterminate", "the channels could not be read after the refusal; check them"
            )
            return Outcome("indeterminate", _peer(undo), lost)
        return _shown(undo, found) if found else Outcome("error", _peer(undo), _told(error), acted=False)

    async def _coins(self) -> list[Row]:
        return list((await self._node.call("listfunds"))["outputs"])

    async def _new_channels(self, undo: Mapping[str, JsonValue]) -> list[Row]:
        asked, known = undo["asked"], undo["known"]
        assert isinstance(asked, dict) and isinstance(known, list)
        rows = await self._node.listpeerchannels(str(asked["id"]))
        closed = (await self._node.call("listclosedchannels", {"id": asked["id"]})).get("closedchannels", ())
        return [
            row
            for row in (*rows, *closed)
            if row.get("channel_id") not in known
            and "funding_txid" in row
            and not str(row.get("state", "")).startswith(_NOT_YET)
            and row.get("opener") == "local"
            and int(row.get("total_msat", 0)) == _whole(asked["amount"]) * 1_000
        ]


class ProposeOpen:
    """`propose_channel_open`: an opening with the reasons for it, for the operator to decide."""

    def __init__(self, opening: Open) -> None:
        self._open = opening

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """As `open` plans it."""
        as_open: dict[str, JsonValue] = {
            "peer_id": params["peer_id"],
            "amount_sats": params["capacity_sats"],
            "push_msat": _whole(params.get("push_sats")) * 1_000,
            "announce": True,
        }
        plan = await self._open.prepare(as_open, caller)
        return replace(plan, basis=[params["peer_id"]])

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """As `open` runs."""
        return await self._open.run(plan, caller)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """As `open` is asked about."""
        return await self._open.probe(undo, caller)


def _whole(value: JsonValue) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None


def _invalid(param: str, sentence: str, expected: str) -> HiveError:
    return from_symbol("invalid_params", sentence, param=param, expected=expected)


def _told(error: ClnError) -> HiveError:
    if error.code in _WHY:
        return from_symbol("node_error", _WHY[error.code], rpc=error.method, code=error.code)
    return node_error(error)


def _free(outputs: Sequence[Row]) -> dict[str, int]:
    """Confirmed coins that nothing reserves, in sat by outpoint."""
    return {
        f"{row['txid']}:{row['output']}": int(row["amount_msat"]) // 1_000
        for row in outputs
        if row.get("status") == "confirmed" and not row.get("reserved")
    }


def _chosen(coins: Mapping[str, int], utxos: JsonValue, amount_sat: int) -> list[str]:
    """The coins a transaction takes at most: those named, or the largest. Raises InvalidParams."""
    if isinstance(utxos, list):
        names = [str(name) for name in utxos]
        for name in names:
            if name not in coins:
                raise _invalid(
                    "utxos", f"{name} is no confirmed, free coin of the wallet", "outpoints of list_funds"
                )
        have = sum(coins[name] for name in names)
    else:
        names, have = [], 0
        # Smallest last: CLN may take more and smaller ones, so all that are needed at worst are counted.
        for name in sorted(coins, key=lambda each: coins[each]):
            if have >= amount_sat:
                break
            names.append(name)
            have += coins[name]
    if have < amount_sat:
        what = "those coins have" if isinstance(utxos, list) else "the wallet has"
        raise _invalid(
            "amount_sats",
            f"{what} {have} sat confirmed and free, {amount_sat} are asked for",
            f"below {have}",
        )
    return names


def _asked(params: Params, peer_id: str, amount_sat: int, push_msat: int, rate: int) -> dict[str, JsonValue]:
    """The parameters of `fundchannel`."""
    asked: dict[str, JsonValue] = {
        "id": peer_id,
        "amount": amount_sat,
        "announce": params.get("announce") is not False,
    }
    if push_msat:
        asked["push_msat"] = push_msat
    if "feerate" in params:
        # As a number, so that it is what the policy judged.
        asked["feerate"] = f"{rate}perkw"
    for name in ("mindepth", "utxos", "close_to"):
        if name in params:
            asked[name] = params[name]
    return asked


def _peer(undo: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    asked = undo["asked"]
    assert isinstance(asked, dict)
    return {"peer_id": asked["id"], "amount_sats": asked["amount"]}


def _left(undo: Mapping[str, JsonValue]) -> Outcome:
    return Outcome("pending_external", _peer(undo))


def _opened(undo: Mapping[str, JsonValue], found: Mapping[str, JsonValue]) -> Outcome:
    return Outcome("success", {**_peer(undo), **found})


def _shown(undo: Mapping[str, JsonValue], found: Sequence[Row]) -> Outcome:
    if len(found) > 1:
        ids: list[JsonValue] = [str(row["channel_id"]) for row in found]
        unclear = from_symbol(
            "indeterminate", "several channels like the one asked for were opened meanwhile; check them"
        )
        return Outcome("indeterminate", {**_peer(undo), "channel_ids": ids}, unclear)
    row = found[0]
    names = {"txid": "funding_txid", "outnum": "funding_outnum", "channel_id": "channel_id"}
    return _opened(undo, {name: row[there] for name, there in names.items() if there in row})
