"""Opening channels: `open` and `open_batch` of hive:channel/v1, and their proposals of hive:expansion/v1
(docs/protocol/02-fleet-management.md §4 item 6; docs/decisions/0372).

`fundchannel` runs inside the node: no kill of this plugin and no lost answer stops it. What it did shows
in the node's channels, and that it did nothing in coins that are as free as they were.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import HiveError, from_symbol
from msgspec.structs import replace

from ...domain.json_value import whole
from ...domain.spend import ONCHAIN, Spend
from ..ports_commands import Node
from .action import Caller, Outcome, Params, Plan, WriteAction
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
_OUTPUT_WEIGHT: Final = 4 * 43
# Version, counts, lock time; and the change.
_OTHER_WEIGHT: Final = 43 + _OUTPUT_WEIGHT
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


class _Opening(ABC):
    """What opening one channel and several have in common: one call of the node, one transaction. `engaged`
    is the kill switch: connecting takes up to a minute for each peer."""

    METHOD: str

    def __init__(self, node: Node, calls: LongCalls, engaged: Callable[[], bool]) -> None:
        self._node, self._calls, self._engaged = node, calls, engaged

    async def _planned(
        self,
        wanted: Sequence[tuple[str, int]],
        asked: dict[str, JsonValue],
        caller: Caller,
        *,
        push_msat: int = 0,
    ) -> Plan:
        """The plan for channels of (peer, sat). Raises InvalidParams for what cannot be opened; ClnError."""
        if (await self._node.getinfo())["id"] in [peer_id for peer_id, _ in wanted]:
            raise _invalid("peer_id", "peer_id is this node itself", "another node's key")
        total_sat = sum(amount_sat for _, amount_sat in wanted)
        coins = _free(await self._coins())
        used = _chosen(coins, asked.get("utxos"), total_sat)
        rate = await perkw(self._node, _text(asked.get("feerate")), "feerate")
        if "feerate" in asked:
            # As a number, so that it is what the policy judged.
            asked["feerate"] = f"{rate}perkw"
        weight = _OTHER_WEIGHT + _OUTPUT_WEIGHT * len(wanted) + _INPUT_WEIGHT * len(used)
        peers = {peer_id for peer_id, _ in wanted}
        known = [str(row["channel_id"]) for peer_id in sorted(peers) for row in await self._of_peer(peer_id)]
        undo: dict[str, JsonValue] = {
            "asked": asked,
            "wanted": [{"peer_id": peer_id, "amount_sats": amount_sat} for peer_id, amount_sat in wanted],
            "known": [*known],
            "free": [*sorted(coins)],
            "started": caller.now,
        }
        return Plan(
            undo=undo,
            basis=[*sorted(peers)],
            locks=frozenset({"wallet", *(f"peer:{peer_id}" for peer_id in peers)}),
            amount_sat=total_sat,
            spend=Spend(ONCHAIN, -(-push_msat // 1_000), -(-rate * weight // 1_000)),
            foreign=push_msat > 0,
            feerate_perkw=rate,
        )

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Connect, then the one call, once."""
        undo = plan.undo
        asked = undo["asked"]
        assert isinstance(asked, dict)
        for peer_id, _ in _wanted(undo):
            if self._engaged():
                return _stopped(undo)
            try:
                await self._node.call("connect", {"id": peer_id}, timeout=_CONNECT_S)
            except ClnError as error:
                return Outcome("error", {**_about(undo), "peer_id": peer_id}, _told(error), acted=False)
        if self._engaged():
            return _stopped(undo)
        try:
            answer = await self._calls.answer(
                caller.command_id, self.METHOD, asked, wait_s=ANSWER_S, held_s=_HELD_S
            )
        except ClnError as error:
            if error.outcome_unknown:
                return await self.probe(undo, caller) or _left(undo)
            return await self._after_refusal(undo, error)
        if answer is None:
            return await self.probe(undo, caller) or _left(undo)
        return self._opened(undo, answer)

    @abstractmethod
    def _opened(self, undo: Mapping[str, JsonValue], answer: Row) -> Outcome:
        """The end by the node's own answer."""

    @abstractmethod
    def _shown(self, undo: Mapping[str, JsonValue], rows: Sequence[Row]) -> Outcome:
        """The end by the channels that are there, one for each that was wanted."""

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Channels to those peers with those amounts that were not there before; else whether coins moved."""
        try:
            found = await self._new_channels(undo)
            free = set(_free(await self._coins()))
        except ClnError:
            return None
        if all(found) or any(len(rows) > 1 for rows in found):
            self._calls.forget(caller.command_id)
            return self._ended(undo, found)
        if self._calls.running(caller.command_id):
            return _left(undo)
        refusal = self._calls.refusal(caller.command_id)
        if refusal is not None and not any(found):
            self._calls.forget(caller.command_id)
            return Outcome("error", _about(undo), _told(refusal), acted=False)
        age = caller.now - whole(undo["started"])
        before = undo["free"]
        assert isinstance(before, list)
        if age >= settled_s(undo) and not any(found) and free.issuperset(map(str, before)):
            stopped = from_symbol("shutting_down", "the plugin stopped before a channel was opened; none was")
            return Outcome("error", _about(undo), stopped, acted=False)
        if age >= GIVEN_UP_S:
            what = "only some of the channels are there" if any(found) else "no such channel is there"
            unclear = from_symbol("indeterminate", f"{what}, and coins of the wallet moved; check them")
            return Outcome("indeterminate", _about(undo), unclear)
        return _left(undo)

    def _ended(self, undo: Mapping[str, JsonValue], found: Sequence[Sequence[Row]]) -> Outcome:
        if all(len(rows) == 1 for rows in found):
            return self._shown(undo, [rows[0] for rows in found])
        ids: list[JsonValue] = [str(row["channel_id"]) for rows in found for row in rows]
        unclear = from_symbol(
            "indeterminate", "several channels like one asked for were opened meanwhile; check them"
        )
        return Outcome("indeterminate", {**_about(undo), "channel_ids": ids}, unclear)

    async def _after_refusal(self, undo: Mapping[str, JsonValue], error: ClnError) -> Outcome:
        """The node said no. It takes back what it began; a channel that is there all the same decides."""
        try:
            found = await self._new_channels(undo)
        except ClnError:
            lost = from_symbol("indeterminate", "the channels could not be read again; check them")
            return Outcome("indeterminate", _about(undo), lost)
        if not any(found):
            return Outcome("error", {**_about(undo), **_failed_at(error)}, _told(error), acted=False)
        return self._ended(undo, found) if all(found) else _left(undo)

    async def _of_peer(self, peer_id: str) -> list[Row]:
        """The channels with a peer, those closed for good too."""
        closed = await self._node.call("listclosedchannels", {"id": peer_id})
        return [*await self._node.listpeerchannels(peer_id), *closed.get("closedchannels", ())]

    async def _coins(self) -> list[Row]:
        return list((await self._node.call("listfunds"))["outputs"])

    async def _new_channels(self, undo: Mapping[str, JsonValue]) -> list[list[Row]]:
        """For each wanted channel the rows that may be it, alive or closed meanwhile."""
        known, found = undo["known"], []
        assert isinstance(known, list)
        for peer_id, amount_sat in _wanted(undo):
            found.append(
                [
                    row
                    for row in await self._of_peer(peer_id)
                    if row.get("channel_id") not in known
                    and "funding_txid" in row
                    and not str(row.get("state", "")).startswith(_NOT_YET)
                    and row.get("opener") == "local"
                    and int(row.get("total_msat", 0)) == amount_sat * 1_000
                ]
            )
        return found


class Open(_Opening):
    """`open`: one channel, paid from the wallet."""

    METHOD = "fundchannel"

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Look at coins, channels and feerate. Raises InvalidParams for what cannot be opened; ClnError."""
        peer_id, amount_sat = str(params["peer_id"]), whole(params["amount_sats"])
        push_msat = whole(params.get("push_msat"))
        if push_msat > amount_sat * 1_000:
            sentence = f"{push_msat} msat is more than the channel's {amount_sat} sat"
            raise _invalid("push_msat", sentence, "at most the amount")
        close_to = params.get("close_to")
        if close_to is not None and not await is_own(self._node, str(close_to), "close_to"):
            raise _invalid("close_to", "close_to is no address of this node's wallet", "an own address")
        asked: dict[str, JsonValue] = {
            "id": peer_id,
            "amount": amount_sat,
            "announce": params.get("announce") is not False,
        }
        if push_msat:
            asked["push_msat"] = push_msat
        asked |= {n: params[n] for n in ("feerate", "mindepth", "utxos", "close_to") if n in params}
        return await self._planned([(peer_id, amount_sat)], asked, caller, push_msat=push_msat)

    def _opened(self, undo: Mapping[str, JsonValue], answer: Row) -> Outcome:
        names = ("txid", "outnum", "channel_id", "mindepth", "close_to")
        return Outcome("success", {**_about(undo), **pick(answer, names)})

    def _shown(self, undo: Mapping[str, JsonValue], rows: Sequence[Row]) -> Outcome:
        return Outcome("success", {**_about(undo), **_funded(rows[0])})


class OpenBatch(_Opening):
    """`open_batch`: channels to several peers in one transaction, all of them or none (0374)."""

    METHOD = "multifundchannel"

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """As `open` plans one. Raises InvalidParams also for a peer that is named twice."""
        destinations = params["destinations"]
        assert isinstance(destinations, list)
        wanted = _pairs(destinations)
        if len({peer_id for peer_id, _ in wanted}) < len(wanted):
            raise _invalid("destinations", "the list names one peer twice", "distinct peers")
        asked: dict[str, JsonValue] = {
            "destinations": [{"id": peer_id, "amount": amount_sat} for peer_id, amount_sat in wanted]
        }
        return await self._planned(wanted, asked, caller)

    def _opened(self, undo: Mapping[str, JsonValue], answer: Row) -> Outcome:
        opened: list[JsonValue] = [
            {"peer_id": str(row["id"]), **pick(row, ("channel_id", "outnum"))}
            for row in answer["channel_ids"]
        ]
        return self._all(undo, str(answer["txid"]), opened)

    def _shown(self, undo: Mapping[str, JsonValue], rows: Sequence[Row]) -> Outcome:
        opened: list[JsonValue] = []
        for (peer_id, _), row in zip(_wanted(undo), rows, strict=True):
            funded = _funded(row)
            opened.append({"peer_id": peer_id, **pick(funded, ("channel_id", "outnum"))})
        return self._all(undo, str(rows[0]["funding_txid"]), opened)

    @staticmethod
    def _all(undo: Mapping[str, JsonValue], txid: str, opened: list[JsonValue]) -> Outcome:
        return Outcome("success", {**_about(undo), "txid": txid, "channel_ids": opened, "failed": []})


class ProposeOpen:
    """`propose_channel_open`: an opening with the reasons for it, for the operator to decide."""

    def __init__(self, opening: Open) -> None:
        self._open = opening

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """As `open` plans it."""
        as_open: dict[str, JsonValue] = {
            "peer_id": params["peer_id"],
            "amount_sats": params["capacity_sats"],
            "push_msat": whole(params.get("push_sats")) * 1_000,
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
    """The coins a transaction takes: those named, or the smallest that suffice. Raises InvalidParams."""
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
        # Smallest first: whatever CLN chooses are hardly more coins, so the fee is counted high.
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


def settled_s(undo: Mapping[str, JsonValue]) -> int:
    """Seconds after which an opening has reserved its coins: each peer is connected to first."""
    return SETTLED_S + int(_CONNECT_S) * len(_wanted(undo))


def _wanted(undo: Mapping[str, JsonValue]) -> list[tuple[str, int]]:
    wanted = undo["wanted"]
    assert isinstance(wanted, list)
    return _pairs(wanted)


def _pairs(items: Sequence[JsonValue]) -> list[tuple[str, int]]:
    return [(str(each["peer_id"]), whole(each["amount_sats"])) for each in items if isinstance(each, dict)]


def _about(undo: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """What was wanted: the one channel, or how many for how much."""
    wanted = _wanted(undo)
    if len(wanted) == 1:
        return {"peer_id": wanted[0][0], "amount_sats": wanted[0][1]}
    return {"channels": len(wanted), "amount_sats": sum(amount_sat for _, amount_sat in wanted)}


def _failed_at(error: ClnError) -> dict[str, JsonValue]:
    """The peer at which a batch failed, where the node names one."""
    peer_id = error.data.get("id") if isinstance(error.data, dict) else None
    return {"peer_id": peer_id} if isinstance(peer_id, str) else {}


def _stopped(undo: Mapping[str, JsonValue]) -> Outcome:
    text = "the emergency stop was engaged before the node was told to open; no channel was opened"
    return Outcome("error", _about(undo), from_symbol("emergency_stop", text), acted=False)


def _left(undo: Mapping[str, JsonValue]) -> Outcome:
    return Outcome("pending_external", _about(undo))


def _funded(row: Row) -> dict[str, JsonValue]:
    names = {"txid": "funding_txid", "outnum": "funding_outnum", "channel_id": "channel_id"}
    return {name: row[there] for name, there in names.items() if there in row}


def expansion_writes(node: Node, calls: LongCalls, engaged: Callable[[], bool]) -> dict[str, WriteAction]:
    """The writes of hive:expansion/v1 by action; that they wait for the operator stands in the registry."""
    return {
        "propose_channel_open": ProposeOpen(Open(node, calls, engaged)),
        "propose_open_batch": OpenBatch(node, calls, engaged),
    }
