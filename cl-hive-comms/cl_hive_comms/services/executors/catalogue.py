"""Which executor serves which action of the registry."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from hive_shared.canonical import JsonValue
from hive_shared.errors import from_symbol
from hive_shared.registry import (
    BACKUP,
    CHANNEL,
    CONFIG,
    CONTROL,
    EMERGENCY,
    EXPANSION,
    FEE_POLICY,
    FORWARDING,
    HTLC_MGMT,
    HTLC_POLICY,
    MONITOR,
    PAYMENT,
    PEER,
    PLUGIN,
    REBALANCE,
    SPLICE,
    WALLET,
)
from hive_shared.store import StoreError

from ...domain.command_machine import State
from ...domain.command_record import FeeWrite, TimerRow
from ...domain.forwarding import Hold
from ..node_backups import NodeBackups
from ..ports_commands import CommandRows, Database, Fault, FeeRows, NameRows, Node, Revoking, SavedRows
from .action import Caller, Params, ReadAction, WriteAction
from .backup import VerifyBackup, backup_writes
from .channel_close import ForceClose, ResolveExpired, channel_writes
from .channel_open import expansion_writes
from .channel_write import ChannelWriter, FeeTarget
from .channels import fees_of
from .close_all import CloseAll, ForceCloseAll
from .config import Configure, config_writes
from .config_adjust import Adjust, ConfigRows, GetConfig, Parameters
from .emergency import SPIKE, FeeSpike, RevokeAll, spiked
from .fee_policy import ANCHOR, ClearAnchor, ListAnchors, SetAnchor, SetBulk, SetSingle, SetZeroFee
from .fee_schedule import SCHEDULE, FeeSchedule
from .forwarding import DisableAll, DisableChannel, EnableAll, EnableChannel
from .htlc_mgmt import HtlcReads, Seen
from .htlc_policy import SetHtlcLimits, SetHtlcLimitsBulk
from .kept_setting import HINTS, Kept, SetMaxChannelSize, SetRoutingHints, hints_of
from .long_call import LongCalls
from .monitor import Monitor
from .monitor_history import History
from .node_down import NOT_SUPERVISED, RestartNode, StopNode
from .payment import payment_writes
from .payment_send import Paying
from .peer import BAN, peer_writes
from .peer_rebalance import TASKS, PeerRebalance
from .plugin_run import Approved, plugin_writes
from .proposal import SetCltvDelta
from .rebalance import CircularRebalance
from .rebalance_rules import RULES, AutoRebalanceRules
from .splice import splice_writes
from .swap import Configured, SwapIn, SwapOut
from .wallet import ListFunds, wallet_writes
from .wallet_freeze import FREEZE
from .wallet_send import Wallet

# Whose fee history is looked up without leaving the event loop.
_FEW_CHANNELS: Final = 8
_Read = Callable[[Params, Caller], Awaitable[dict[str, JsonValue]]]

_SPLICE_STEPS: Final = ("splice_init", "splice_update", "splice_signed", "abort_channels")
# Actions that need more of the node than every supported CLN offers (02 §5.1).
_NEEDS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    (MONITOR, "earnings"): ("bkpr-listincome", "bkpr-channelsapy"),
    **{(BACKUP, name): ("staticbackup", "makesecret") for name in ("trigger_backup", "verify_backup")},
    (BACKUP, "export_scb"): ("staticbackup",),
    (PEER, "connect"): ("connect",),
    (PEER, "disconnect"): ("disconnect",),
    **{
        (WALLET, name): ("txprepare", "txsend", "txdiscard")
        for name in ("send_onchain", "sweep", "consolidate_utxos", "bump_fee")
    },
    (SPLICE, "splice_in"): ("fundpsbt", "signpsbt", "unreserveinputs", *_SPLICE_STEPS),
    (SPLICE, "splice_out"): ("addpsbtoutput", "setpsbtversion", *_SPLICE_STEPS),
    (WALLET, "freeze_utxos"): ("utxopsbt",),
    (WALLET, "unfreeze_utxos"): ("utxopsbt", "unreserveinputs"),
    **{(PAYMENT, name): ("wait",) for name in ("pay_invoice", "pay_multipath", "keysend")},
    (REBALANCE, "peer_rebalance"): (TASKS,),
    (REBALANCE, "circular_rebalance"): (
        *(f"askrene-{name}" for name in ("create-layer", "update-channel", "inform-channel")),
        *("askrene-disable-node", "askrene-remove-layer", "getroutes"),
        *("sendpay", "waitsendpay", "wait", "delinvoice"),
    ),
}
# One of them is enough.
_NEEDS_ONE: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    (PAYMENT, "pay_invoice"): ("xpay", "pay"),
    (PAYMENT, "pay_multipath"): ("xpay", "pay"),
    (PAYMENT, "keysend"): ("xkeysend", "keysend"),
}


async def _nobody(_payment_hash: str) -> str | None:
    return None


class _Reading:
    """A method as a ReadAction."""

    def __init__(self, read: _Read) -> None:
        self._read = read

    async def read(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """The method's result."""
        return await self._read(params, caller)


class Executors:
    """All executors over one node. `probe` learns which calls the node offers; until then all count.
    `also_paying` names what the node pays by itself; `forbidden` are the nodes that policy forbids,
    `swap_rpcs` the methods configured for swaps."""

    def __init__(
        self,
        *,
        node: Node,
        db: Database,
        commands: CommandRows,
        fees: FeeRows,
        saved: SavedRows,
        history: ConfigRows,
        revoking: Revoking,
        backups: NodeBackups,
        node_id: str,
        engaged: Callable[[], bool],
        state_hash: Callable[[], Awaitable[dict[str, JsonValue]]],
        seen: Seen,
        names: NameRows,
        look_at_names: Callable[[], Awaitable[None]],
        approved: Approved,
        forbidden: Callable[[], frozenset[str]],
        swap_rpcs: Configured,
        supervised: Callable[[], bool],
        setting: Kept,
        now: Callable[[], int],
        fault: Fault,
    ) -> None:
        self._forbidden, self._swap_rpcs = forbidden, swap_rpcs
        self._lacking: dict[tuple[str, str], Callable[[], str]] = {}
        self._node, self._db, self._commands, self._fees = node, db, commands, fees
        self._saved, self._backups, self._node_id = saved, backups, node_id
        self._changes, self.parameters = history, Parameters(node, self.offers)
        self._state_hash, self._now, self._setting = state_hash, now, setting
        self._names, self._look_at_names = names, look_at_names
        self.channel_writer = ChannelWriter(node, engaged, fault)
        self._offered: frozenset[str] | None = None
        self.also_paying: Paying = _nobody
        self._writes: dict[tuple[str, str], WriteAction] = {
            (FEE_POLICY, "set_single"): SetSingle(node, self.channel_writer, self._history),
            (FEE_POLICY, "set_zero_fee"): SetZeroFee(node, self.channel_writer, self._history),
            (FEE_POLICY, "set_bulk"): SetBulk(node, self.channel_writer, self._history),
            (FEE_POLICY, "set_anchor"): SetAnchor(
                node, self.channel_writer, self._history, self._anchors, self._spiked
            ),
            (FEE_POLICY, "clear_anchor"): ClearAnchor(
                node, self.channel_writer, self._history, self._anchors
            ),
        }
        self._writes |= self._forwarding(node) | self._emergency(node, revoking) | self._htlc_policy(node)
        self._writes |= self._by_schema(node, engaged, fault, approved)
        self._writes |= {
            (EMERGENCY, "stop_node"): StopNode(node, engaged, self.offers),
            (CONFIG, "restart_node"): RestartNode(node, engaged, self.offers),
        }
        self._lacking[CONFIG, "restart_node"] = lambda: "" if supervised() else NOT_SUPERVISED
        self._reads = self._all_reads(node, state_hash, seen)

    def _all_reads(
        self, node: Node, state_hash: Callable[[], Awaitable[dict[str, JsonValue]]], seen: Seen
    ) -> dict[tuple[str, str], ReadAction]:
        history = History(node)
        now = Monitor(node, state_hash, history.forward_totals, self._backups)
        reads: dict[str, _Read] = {
            "health_summary": now.health_summary,
            "channel_list": now.channel_list,
            "forward_history": history.forward_history,
            "earnings": history.earnings,
            "peer_list": now.peer_list,
            "invoice_list": history.invoice_list,
            "payment_list": history.payment_list,
            "htlc_snapshot": now.htlc_snapshot,
            "fee_report": now.fee_report,
            "onchain_balance": history.onchain_balance,
            "graph_query": now.graph_query,
            "log_stream": now.log_stream,
            "plugin_status": now.plugin_status,
            "backup_status": now.backup_status,
            "state_hash": now.state_hash,
        }
        found: dict[tuple[str, str], ReadAction] = {
            (MONITOR, name): _Reading(read) for name, read in reads.items()
        }
        found[WALLET, "list_funds"] = ListFunds(node, self._frozen)
        found[FEE_POLICY, "list_anchors"] = ListAnchors(self._anchors)
        found[PLUGIN, "list"] = _Reading(now.plugin_status)
        found[BACKUP, "verify_backup"] = VerifyBackup(node, self._backups)
        found[CONFIG, "get_config"] = GetConfig(
            node, self.parameters, self._db, self._changes, self._commands
        )
        return found | self._htlc_reads(HtlcReads(node, seen))

    def _by_schema(
        self, node: Node, engaged: Callable[[], bool], fault: Fault, approved: Approved
    ) -> dict[tuple[str, str], WriteAction]:
        """The schemas whose modules name their own actions."""
        calls = LongCalls(node)
        schemas: dict[str, dict[str, WriteAction]] = {
            PEER: peer_writes(node, self._bans, engaged),
            WALLET: wallet_writes(node, self._keep, engaged, fault, self._frozen),
            SPLICE: splice_writes(Wallet(node), self._keep, engaged, fault),
            CONFIG: {
                **config_writes(node),
                "adjust": self._adjust(node),
                SCHEDULE: FeeSchedule(node),
                "set_max_channel_size": SetMaxChannelSize(node, self._setting),
                RULES: AutoRebalanceRules(node),
            },
            CHANNEL: {
                **channel_writes(node, calls, engaged),
                "close_all": CloseAll(node, engaged, self._keep),
            },
            EMERGENCY: {
                "force_close": ForceClose(node, calls),
                "force_close_all": ForceCloseAll(node, engaged, self._keep),
            },
            HTLC_MGMT: {"force_resolve_expired": ResolveExpired(node, calls)},
            EXPANSION: expansion_writes(node, calls, engaged),
            PAYMENT: payment_writes(
                node, self._keep, self._being_paid, self._hints, self.offers, engaged, self._now, fault
            ),
            PLUGIN: {"configure": Configure(node), **plugin_writes(node, calls, engaged, approved)},
            REBALANCE: self._rebalance(node, engaged, fault),
            BACKUP: backup_writes(node, self._backups, self._node_id),
        }
        return {(schema, name): action for schema, made in schemas.items() for name, action in made.items()}

    def _rebalance(self, node: Node, engaged: Callable[[], bool], fault: Fault) -> dict[str, WriteAction]:
        asked = (node, self._swap_rpcs, self.offers, self._keep, engaged, self._now, fault)
        out, back = SwapOut(*asked), SwapIn(*asked)
        self._lacking = {(REBALANCE, "swap_out"): out.lacking, (REBALANCE, "swap_in"): back.lacking}
        return {
            "circular_rebalance": CircularRebalance(
                node, self._node_id, self._keep, engaged, self._forbidden, self._now, fault
            ),
            "peer_rebalance": PeerRebalance(node, self._keep, engaged, self._now),
            "swap_out": out,
            "swap_in": back,
        }

    def _adjust(self, node: Node) -> WriteAction:
        return Adjust(node, self.parameters, self._db, self._changes, self._commands)

    @staticmethod
    def _htlc_reads(htlcs: HtlcReads) -> dict[tuple[str, str], ReadAction]:
        reads: dict[str, _Read] = {
            "list_htlcs": htlcs.list_htlcs,
            "list_stuck": htlcs.list_stuck,
            "inspect": htlcs.inspect,
        }
        return {(HTLC_MGMT, name): _Reading(read) for name, read in reads.items()}

    def _forwarding(self, node: Node) -> dict[tuple[str, str], WriteAction]:
        parts = (node, self.channel_writer, self._holds)
        disable_all, enable_all = DisableAll(*parts), EnableAll(*parts)
        return {
            (FORWARDING, "disable_channel"): DisableChannel(*parts),
            (FORWARDING, "enable_channel"): EnableChannel(*parts),
            (FORWARDING, "disable_all"): disable_all,
            (FORWARDING, "enable_all"): enable_all,
            (FORWARDING, "set_routing_hints"): SetRoutingHints(node, self._setting),
            (CONFIG, "disable_forwarding"): disable_all,
            (CONFIG, "enable_forwarding"): enable_all,
            (EMERGENCY, "disable_forwarding"): disable_all,
        }

    def _htlc_policy(self, node: Node) -> dict[tuple[str, str], WriteAction]:
        parts = (node, self.channel_writer, self._holds)
        return {
            (HTLC_POLICY, "set_htlc_limits"): SetHtlcLimits(*parts),
            (HTLC_POLICY, "set_htlc_limits_bulk"): SetHtlcLimitsBulk(*parts),
            (HTLC_POLICY, "set_cltv_delta"): SetCltvDelta(node),
        }

    def _emergency(self, node: Node, revoking: Revoking) -> dict[tuple[str, str], WriteAction]:
        return {
            (EMERGENCY, "fee_spike"): FeeSpike(node, self.channel_writer, self._history, self._spikes),
            (EMERGENCY, "revoke_all_credentials"): RevokeAll(revoking),
        }

    async def probe(self) -> None:
        """Ask the node which calls it offers; at start and whenever a plugin starts or stops.

        Takes the state hash along: the first command must not pay for reading the whole node.
        """
        self._offered = await self._node.help_names()
        await self.parameters.probe()
        await self._state_hash()

    def served(self, schema: str, action: str) -> bool:
        """Whether this node runs the action now."""
        key = (schema, action)
        if schema == CONTROL:
            return True
        if key not in self._writes and key not in self._reads:
            return False
        return not self.why_not(schema, action)

    def why_not(self, schema: str, action: str) -> str:
        """What an action of this version lacks on this node; empty when it can run."""
        key = (schema, action)
        missing = [name for name in _NEEDS.get(key, ()) if not self.offers(name)]
        one = _NEEDS_ONE.get(key, ())
        if one and not any(map(self.offers, one)):
            missing.append(" or ".join(one))
        if missing:
            return f"this node lacks the calls for it: {', '.join(missing)}"
        return self._lacking[key]() if key in self._lacking else ""

    def offers(self, method: str) -> bool:
        """Whether the node has a call."""
        return self._offered is None or method in self._offered

    def read(self, schema: str, action: str) -> ReadAction | None:
        """The executor of a read; None when this node does not serve it."""
        return self._reads.get((schema, action)) if self.served(schema, action) else None

    def write(self, schema: str, action: str) -> WriteAction | None:
        """The executor of a write; None when this node does not serve it."""
        return self._writes.get((schema, action)) if self.served(schema, action) else None

    def to_run(self, schema: str, action: str) -> WriteAction | None:
        """As `write`; raises Unsupported, with what the node lacks, for an action that this version has."""
        key = (schema, action)
        if key in self._writes and (why := self.why_not(schema, action)):
            raise from_symbol("unsupported_action", f"{action} cannot run here: {why}")
        return self._writes.get(key)

    def must_write(self, schema: str, action: str) -> WriteAction:
        """The executor of a write that was judged. Raises Unsupported when it is gone."""
        action_ = self._writes.get((schema, action))
        if action_ is None:
            raise from_symbol("unsupported_action", f"{action} of {schema} is not served by this version")
        return action_

    async def present_fees(self, channel_id: str) -> tuple[int, int] | None:
        """(base msat, ppm) of a channel now, None when it is gone. Raises ClnError."""
        for row in await self._node.listpeerchannels():
            if row.get("channel_id") == channel_id:
                return fees_of(row)
        return None

    async def _history(self, scids: Sequence[str], since: int) -> tuple[FeeWrite, ...]:
        if self._db.peek(lambda tx: self._names.strangers(tx, scids)):
            # A new channel, or one with another name since a splice.
            await self._look_at_names()
        if len(scids) > _FEW_CHANNELS:
            return await self._db.read(lambda tx: self._fees.since(tx, scids, since))
        return self._db.peek(lambda tx: self._fees.since(tx, scids, since))

    async def _anchors(self) -> tuple[TimerRow, ...]:
        return await self._db.read(lambda tx: self._commands.timers(tx, ANCHOR))

    async def _spikes(self) -> tuple[TimerRow, ...]:
        return await self._db.read(lambda tx: self._commands.timers(tx, SPIKE))

    async def _spiked(self) -> tuple[FeeTarget, ...]:
        return tuple(target for timer in await self._spikes() for target in spiked(timer))

    async def _bans(self) -> tuple[TimerRow, ...]:
        return await self._db.read(lambda tx: self._commands.timers(tx, BAN))

    async def _frozen(self) -> tuple[TimerRow, ...]:
        return await self._db.read(lambda tx: self._commands.timers(tx, FREEZE))

    async def _hints(self) -> tuple[str, ...]:
        return hints_of(await self._setting(HINTS))

    async def _keep(self, caller: Caller, undo: Mapping[str, JsonValue]) -> None:
        """Put the undo row of a running command on disk again."""
        state, text = State.EXECUTING, json.dumps(undo)
        moved = await self._db.write(
            lambda tx: self._commands.move(tx, caller.command_id, state, state, caller.now, undo_json=text)
        )
        if not moved:
            raise StoreError(f"command {caller.command_id} is not executing")

    async def _being_paid(self, payment_hash: str) -> str | None:
        """What pays this hash at present: a command, or the node by itself."""
        return await self.paying(payment_hash) or await self.also_paying(payment_hash)

    async def paying(self, payment_hash: str) -> str | None:
        """The unfinished command that pays this hash."""
        states = (State.EXECUTING, State.PENDING_EXTERNAL)
        for row in await self._db.read(lambda tx: self._commands.in_states(tx, states)):
            undo = json.loads(row.undo_json or "{}")
            # What has not noted its start has not told the node anything.
            if undo.get("payment_hash") == payment_hash and undo.get("started") is not None:
                return row.command_id
        return None

    async def _holds(self) -> tuple[Hold, ...]:
        return await self._db.read(self._saved.holds)
