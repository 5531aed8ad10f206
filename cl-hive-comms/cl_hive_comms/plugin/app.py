"""Composition root of cl-hive-comms: builds every object once, wires ports, starts and stops loops.

Nothing here decides anything (DESIGN "The dependency rule"). `init` opens the database, loads the identity
and answers; connecting and everything slow runs in loops afterwards
(docs/protocol/08-client-and-plugins.md §2, docs/protocol/00-index.md §11).
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hive_shared.cln import ClnClient, version_problem
from hive_shared.nostr.keys import parse_pubkey
from hive_shared.runtime import InitInfo, MethodSpec, PluginApp
from hive_shared.siblings import hello_spec, load_sibling_key
from hive_shared.store import Db

from cl_hive_comms import __version__
from cl_hive_comms.commands.advisors import AdvisorCommands
from cl_hive_comms.commands.alerts import AlertCommands
from cl_hive_comms.commands.aliases import AliasCommands
from cl_hive_comms.commands.approvals import ApprovalCommands
from cl_hive_comms.commands.backups import BackupCommands
from cl_hive_comms.commands.comms_rpc import CommsRpcCommands
from cl_hive_comms.commands.credential_issue import CredentialIssueCommands
from cl_hive_comms.commands.emergency import EmergencyCommands
from cl_hive_comms.commands.handoffs import HandoffCommands
from cl_hive_comms.commands.identity import IdentityCommands
from cl_hive_comms.commands.migration import MigrationCommands
from cl_hive_comms.commands.policy import PolicyCommands
from cl_hive_comms.commands.receipt_files import ReceiptFileCommands
from cl_hive_comms.commands.receipts import ReceiptCommands
from cl_hive_comms.commands.reports import ReportCommands
from cl_hive_comms.commands.schemas import SchemaCommands
from cl_hive_comms.commands.selfcheck import SelfcheckCommands
from cl_hive_comms.commands.setup import SetupCommands
from cl_hive_comms.commands.status import StatusCommands
from cl_hive_comms.commands.transports import TransportCommands
from cl_hive_comms.commands.trials import TrialCommands
from cl_hive_comms.domain.advisor import CredentialRow
from cl_hive_comms.domain.arrival import Arrival
from cl_hive_comms.domain.emergency import Stop
from cl_hive_comms.options import PREFIX, RELAY_OPTIONS, Config, option_specs
from cl_hive_comms.plugin.engagements import engagement_methods
from cl_hive_comms.plugin.escrow import escrow_methods
from cl_hive_comms.plugin.locks import cashu_methods
from cl_hive_comms.plugin.market import market_methods
from cl_hive_comms.plugin.mints import MINT_OPTIONS
from cl_hive_comms.plugin.parts import MIGRATIONS
from cl_hive_comms.plugin.parts_command import CommandParts
from cl_hive_comms.plugin.parts_ledger import LedgerParts
from cl_hive_comms.plugin.parts_traffic import TrafficParts
from cl_hive_comms.plugin.payments import payment_methods
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.plugin.sibling_calls import sibling_methods
from cl_hive_comms.plugin.wallet import escrow_keys, wallet_methods
from cl_hive_comms.services.executors.backup import open_channels
from cl_hive_comms.services.intake import Ingress
from cl_hive_comms.services.status_service import StatusService
from cl_hive_comms.storage.at_rest import open_at_rest

NOTIFICATIONS = (
    "hive_comms_ready",
    "hive_policy_changed",
    "hive_emergency",
    "hive_identity_changed",
    "hive_credential_revoked",
    "hive_receipt",
    "hive_comms_escrow",
)


class Comms(LedgerParts, TrafficParts, CommandParts):
    """The plugin as CLN sees it: methods, options, events, loops."""

    def __init__(self) -> None:
        self.status = StatusService()
        self._lists_due = asyncio.Event()
        self.app = PluginApp(
            name="cl-hive-comms",
            version=__version__,
            options=option_specs(),
            methods=self.methods(),
            subscriptions={
                "plugin_started": self._plugin_started,
                "plugin_stopped": self._plugin_stopped,
                "invoice_payment": self._invoice_paid,
                "hive_credential_revoked": self._credential_doubted,
            },
            hooks={
                "peer_connected": self._peer_connected,
                "openchannel": self._openchannel,
                "openchannel2": self._openchannel2,
            },
            notifications=NOTIFICATIONS,
            on_init=self.on_init,
            on_setconfig=self.on_setconfig,
            on_stop=self.on_stop,
        )

    def methods(self) -> list[MethodSpec]:
        """Every RPC method. Handlers reach for their objects late, so this works before anything is built."""
        return [
            hello_spec("comms", self._hello),
            *StatusCommands(lambda: self.status).specs(),
            *IdentityCommands(
                lambda: self.identity,
                set_relays=self._set_relays,
                describe=self._describe_identity,
            ).specs(),
            *AdvisorCommands(
                lambda: self.advisors,
                lambda: self.aliases,
                lambda: self.credentials,
                lambda: self.trust,
                lambda: self.verifier,
                lambda: self.gossip,
                unix_now,
            ).specs(),
            *CredentialIssueCommands(
                lambda: self.advisors,
                lambda: (self.siblings.present("hive"), self.siblings.has("hive", "did-gossip")),
            ).specs(),
            *self._engagement_methods(),
            *AliasCommands(lambda: self.aliases, lambda: self.credentials).specs(),
            *PolicyCommands(lambda: self.policy, unix_now, self._advisor_id, self._advisor_name).specs(),
            *CommsRpcCommands(
                lambda: self.pipeline.commands,
                door=lambda: self.rest_door,
                parse_key=self._sender_key,
                now=unix_now,
            ).specs(),
            *ApprovalCommands(lambda: self.pipeline.approvals, self._advisor_name).specs(),
            *ReceiptCommands(
                lambda: self.receipts,
                self._advisor_id,
                self._agent_name,
                lambda: self.legacy_receipts,
                lambda: self.alerts,
            ).specs(),
            *ReceiptFileCommands(lambda: self.receipt_export, lambda: self.receipt_archive).specs(),
            *BackupCommands(
                lambda: self.backups,
                lambda: self.restores,
                safety_copy=self._safety_copy,
                channels=lambda backup_id: open_channels(self.cln, self.node_backups, backup_id),
            ).specs(),
            *MigrationCommands(lambda: self.migration).specs(),
            *AlertCommands(lambda: self.alerting.delivery).specs(),
            *SchemaCommands(lambda: self.pipeline.capabilities).specs(),
            *sibling_methods(lambda: self.for_siblings, lambda: self.gossip),
            *payment_methods(lambda: self.payments, lambda: self.aliases),
            *cashu_methods(lambda: self.sibling_locks, lambda: self.wallet, lambda: self.escrow),
            *wallet_methods(lambda: self.wallet, lambda: self.lock_restore, lambda: self.mints.book),
            *SelfcheckCommands(lambda: self.selfcheck).specs(),
            *SetupCommands(lambda: self.setup).specs(),
            *EmergencyCommands(lambda: self.emergency).specs(),
            *TransportCommands(self._transport_rows, self._handler_rows).specs(),
        ]

    def _engagement_methods(self) -> list[MethodSpec]:
        """How an advisor's engagement goes."""
        return [
            *escrow_methods(
                lambda: self.escrow, lambda: self.aliases, lambda: self.credentials, lambda: self.config
            ),
            *TrialCommands(
                lambda: self.contracts,
                lambda: self.verdicts,
                lambda: self.advisors,
                lambda: self.aliases,
                unix_now,
            ).specs(),
            *market_methods(lambda: self.market),
            *ReportCommands(lambda: self.reports, lambda: self.aliases, lambda: self.credentials).specs(),
            *HandoffCommands(lambda: self.handoffs, lambda: self.aliases).specs(),
            *engagement_methods(self),
        ]

    # -- start ---------------------------------------------------------------------------------------

    async def on_init(self, info: InitInfo) -> str | None:
        """Open and load; a reason or an exception ends the plugin with that reason."""
        self.info, self.config = info, Config.build(info.options)
        if problem := self.config.problem_on(info.network):
            return problem
        self.cln = ClnClient(info.rpc_path, id_prefix="comms")
        self.db_path = Path(self.config.get("db-path") or info.net_dir / "cl_hive_comms.db")
        node = await self.cln.getinfo()
        # Before the database is opened: that may bring its tables up to date.
        if problem := version_problem(str(node["version"])):
            return problem
        sibling_key, self.ecash_keys, self.at_rest, self.db = await asyncio.gather(
            load_sibling_key(self.cln, info.net_dir),
            escrow_keys(self.cln),
            open_at_rest(self.cln.makesecret, info.net_dir, os.urandom),
            asyncio.to_thread(Db.open, self.db_path, MIGRATIONS),
        )
        self.node = {"node_id": node["id"], "network": info.network, "alias": node.get("alias") or ""}
        self.build_base()
        await self.identity.load_or_create(self.config.get("nsec"), self.config.get("nsec-file"))
        await self.kill_switch.load()
        self.build_policy()
        await self.policy.load(self.config.preset, self.config.policy_file)
        self.build_transport()
        self.build_alerts()
        self.build_mints()
        self.build_advisors()
        self.build_pipeline()
        self.build_emergency()
        await self.credentials.load()
        await self.aliases.load()
        if self.escrow is not None:
            await self.escrow.received.payers.load()
        await self.handoffs.load()
        await self.engagements.negotiations.load()
        await self.legacy_peers.load()
        await self.inbound.load()
        await self.sibling_registry.load()
        await self.mints.book.load()
        self.build_siblings(sibling_key)
        self.build_status()
        self._start_loops()
        return None

    def _start_loops(self) -> None:
        spawn = self.app.spawn
        spawn("siblings", self.siblings.run)
        spawn("sibling-watch", self.sibling_watch.tick, every=5.0)
        spawn("emergency", self.emergency.watch, every=5.0)
        spawn("emergency-channels", self.freeze.settle, every=30.0)
        spawn("forbidden-peers", self.peer_gate.enforce, every=30.0)
        spawn("nostr", self._start_nostr)
        spawn("messenger", self.messenger.run)
        spawn("alerts", self.alerting.delivery.tick, every=5.0)
        spawn("alert-mail", self.alerting.delivery.mail_tick, every=5.0)
        spawn("alert-digest", self.alerting.digest.tick, every=60.0)
        spawn("outbox", self.messenger.sweep, every=60.0)
        spawn("inbox", self.inbound.flush, every=2.0)
        spawn("legacy-peers", self.legacy_peers.save, every=2.0)
        spawn("handed-in", self.inbound.resume, every=60.0)
        spawn("sibling-registrations", self.sibling_registry.prune, every=120.0, first=60.0)
        spawn("inbox-prune", self.inbound.prune, every=86_400.0, first=300.0)
        spawn("relay-cursors", self.nostr.save_cursors, every=600.0, first=600.0)
        spawn("offers", self.offers.reissue)
        spawn("credential-checks", self.verifier.run)
        spawn("runes", self.advisor_runes.settle, every=60.0)
        spawn("rest-path", self.rest_door.offer_path, every=60.0)
        self._start_engagements()
        spawn("setup", self.setup.settle, every=60.0)
        spawn("payments", self.payments.settle, every=60.0)
        spawn("subscriptions", self.payments.subscriptions.tick, every=3_600.0, first=5.0)
        if self.wallet is not None:
            spawn("wallet", self.wallet.service.tick, every=5.0)
            spawn("ecash-levels", self.wallet.levels.tick, every=60.0, first=120.0)
            spawn("mint-probes", self.wallet.probes.tick, every=15.0, first=60.0)
            spawn("wallet-tidy", self.wallet.service.tidy, every=3_600.0, first=900.0)
        if self.locks is not None:
            spawn("locks", self.locks.tick, every=5.0)
            spawn("locks-tidy", self.locks.tidy, every=3_600.0, first=900.0)
        if self.escrow is not None:
            spawn("escrow", self.escrow.tick, every=15.0)
            spawn("escrow-bonuses", self.escrow.judges.bonuses.tick, every=60.0, first=30.0)
        spawn("policy-file", self.policy.watch_file, every=5.0)
        spawn("policy-overrides", self.policy.expire_overrides, every=30.0)
        spawn("selfcheck", self.selfcheck.report, every=86_400.0, first=30.0)
        spawn("mints", self.mints.book.tick, every=15.0)
        spawn("capabilities", self.pipeline.executors.probe)
        spawn("commands", self.pipeline.timers.tick, every=30.0)
        spawn("telemetry", self.pipeline.telemetry.run)
        spawn("pings", self.pipeline.presence.run)
        spawn("reports", self.reports.tick, every=60.0, first=60.0)
        spawn("receipts", self.pipeline.timers.hourly, every=3_600.0, first=60.0)
        spawn("receipt-archive", self.receipt_archive.sweep, every=3_600.0, first=600.0)

    def _start_engagements(self) -> None:
        spawn = self.app.spawn
        spawn("trials", self.contracts.settle, every=30.0)
        spawn("trial-verdicts", self.verdicts.settle, every=30.0)
        spawn("handoffs", self.handoffs.settle, every=60.0)
        spawn("negotiations", self.engagements.negotiations.settle, every=60.0)
        spawn("contracts", self.engagements.contracts.run)

    async def _start_nostr(self) -> None:
        self.market.start_loops(self.app)
        await self.nostr.start(self.config.relay_sets)
        self.app.spawn("relay-lists", self._publish_lists)
        self.app.notify("hive_comms_ready", {"npub": self.identity.npub, "version": __version__})

    async def _publish_lists(self) -> None:
        while True:
            # While the emergency stop is on, nothing is published (docs/protocol/08 §6).
            complete = not self.kill_switch.engaged() and await self.nostr.publish_lists()
            # Relays forget: what they have is told again every four hours (docs/protocol/04 §5.1).
            try:
                async with asyncio.timeout(4 * 3_600 if complete else 60):
                    await self._lists_due.wait()
            except TimeoutError:
                if complete:
                    self.nostr.forget_published()
            self._lists_due.clear()

    # -- changes -------------------------------------------------------------------------------------

    async def on_setconfig(self, name: str, value: Any) -> None:
        """Apply a dynamic option; raising refuses it and keeps the old value."""
        changed = self.config.changed(name, value)
        if name in RELAY_OPTIONS:
            if problem := changed.relay_sets.too_many():
                raise ValueError(problem)
            await self.nostr.apply(changed.relay_sets)
            self._lists_due.set()
        elif name == PREFIX + "alert-smtp" and value is not None and value.password is not None:
            raise ValueError(
                "the node writes into its log what setconfig is given: put the password into a file of mode"
                " 0600 and give user@host:port?password_file=/path, or set the option in the config file"
            )
        elif name == PREFIX + "policy-preset":
            await self.policy.follow_preset(value)
        elif name == PREFIX + "policy-file":
            await self.policy.reload_file(value)
        elif name == PREFIX + "marketplace-subscribe":
            self.market.discovery.follow(subscribe=bool(value))
        self.config = changed
        if name in MINT_OPTIONS:
            self.app.spawn("mints-changed", self.mints.book.tick)

    async def _set_relays(self, relays: Sequence[str]) -> None:
        # Through CLN, so that listconfigs, the configuration file and we agree.
        await self.cln.setconfig(PREFIX + "nostr-relays", ",".join(relays))

    async def identity_changed(self) -> None:
        """Follow the new key: subscription, lists, offers."""
        await self.nostr.apply(self.config.relay_sets)
        self.app.notify("hive_identity_changed", {"npub": self.identity.npub})
        self._lists_due.set()
        await self.offers.reissue()

    @asynccontextmanager
    async def restoring(self) -> AsyncIterator[None]:
        """Memory follows what a restore wrote; the new key first, since all else is told under it."""
        async with self.emergency.restoring(), self.policy.restoring(), self.handoffs.restoring():
            try:
                yield
            finally:
                # Before credentials are back: a stop that was restored holds for them too.
                await self.kill_switch.load()
                await self.identity.reload()
                await self.credentials.load()
                await self.aliases.load()
                await self.market.cache.follow_blocklist()
                if self.escrow is not None:
                    await self.escrow.received.payers.load()

    def _safety_copy(self) -> Path:
        directory = self.info.net_dir / "hive" / "backup"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return directory / f"before-restore-{unix_now()}-{os.urandom(3).hex()}.sealed"

    def policy_changed(self) -> None:
        """Tell the node's other plugins."""
        snapshot = self.policy.snapshot()
        self.app.notify("hive_policy_changed", {"version": snapshot.version, "preset": snapshot.preset})
        self.app.spawn("forbidden-peers-changed", self.peer_gate.enforce)

    async def handle_command(self, text: str, arrival: Arrival) -> bool:
        """Run it through the pipeline, which answers by itself; False when it was dropped."""
        answer = await self.pipeline.commands.handle(
            text, Ingress(arrival.transport, arrival.sender, arrival.message_id, arrival.received_at)
        )
        return answer is not None

    def emergency_changed(self, stop: Stop | None) -> None:
        """Tell the node's other plugins."""
        by = None if stop is None else stop.by
        self.app.notify("hive_emergency", {"engaged": stop is not None, "by": by})
        if stop is None:
            # What could not be published meanwhile.
            self._lists_due.set()

    def republish(self) -> bool:
        """Tell all relays again where we read, unless the emergency stop is on."""
        if self.kill_switch.engaged():
            return False
        self.nostr.forget_published()
        self._lists_due.set()
        return True

    def credentials_revoked(self, rows: Sequence[CredentialRow]) -> None:
        """Tell the node's other plugins."""
        for row in rows:
            self.app.notify("hive_credential_revoked", {"credential_id": row.credential_id})

    def receipt_written(self, receipt_id: int, status: str) -> None:
        """Tell the node's other plugins."""
        self.app.notify("hive_receipt", {"receipt_id": receipt_id, "status": status})
        self.pipeline.telemetry.something_to_tell()

    def _advisor_name(self, advisor_id: str) -> str:
        advisor = self.credentials.advisor(advisor_id)
        return advisor_id if advisor is None else self.aliases.name_of(advisor)

    def _agent_name(self, agent_id: str) -> str:
        for row in self.credentials.rows():
            if row.credential.agent_id == agent_id:
                return self._advisor_name(row.advisor_id)
        return agent_id

    def _advisor_id(self, name: str) -> str:
        return self.aliases.resolve(name).advisor_id

    def _sender_key(self, text: str) -> str:
        # Whatever names an advisor names its key: one envelope stays one command (docs/protocol/08 §13.4).
        advisor = self.aliases.find(text)
        return parse_pubkey(text) if advisor is None or advisor.pubkey is None else advisor.pubkey

    async def _describe_identity(self, verbose: bool) -> dict[str, Any]:
        return await self.sections.identity(verbose)

    async def _transport_rows(self) -> list[dict[str, Any]]:
        return await self.sections.transport_rows()

    def _handler_rows(self) -> dict[str, Any]:
        return self.for_siblings.handler_rows()

    async def _hello(self, params: dict[str, Any]) -> dict[str, Any]:
        return await self.siblings.hello(params)

    async def _plugin_started(self, payload: dict[str, Any]) -> None:
        await self.siblings.on_plugin_started(payload)
        await self.rest_door.plugin_started(payload)
        await self.pipeline.executors.probe()

    async def _plugin_stopped(self, payload: dict[str, Any]) -> None:
        await self.siblings.on_plugin_stopped(payload)
        self.rest_door.plugin_stopped(payload)
        await self.for_siblings.stopped(payload)
        await self.pipeline.executors.probe()

    async def _credential_doubted(self, payload: dict[str, Any]) -> None:
        await self.verifier.doubt(str(payload.get("credential_id", "")))

    async def _invoice_paid(self, payload: dict[str, Any]) -> None:
        await self.payments.requests.heard(str(payload.get("label", "")))

    async def _peer_connected(self, payload: dict[str, Any]) -> dict[str, Any]:
        return await self.peer_gate.peer_connected(payload)

    async def _openchannel(self, payload: dict[str, Any]) -> dict[str, Any]:
        return await self.peer_gate.openchannel(payload)

    async def _openchannel2(self, payload: dict[str, Any]) -> dict[str, Any]:
        return await self.peer_gate.openchannel2(payload)

    # -- stop ----------------------------------------------------------------------------------------

    async def on_stop(self) -> None:
        """Stop intake, keep what is unsent, close in the reverse order of opening."""
        if hasattr(self, "nostr"):
            if hasattr(self, "for_siblings"):
                await self.for_siblings.delivery.stop()
            await self.inbound.stop()
            await self.legacy_peers.save()
            await self.pipeline.commands.drain()
            await self.pipeline.timers.drain()
            await self.nostr.stop()
            await self.mints.connections.close()
        if hasattr(self, "db"):
            await asyncio.to_thread(self.db.close)
        if hasattr(self, "cln"):
            await self.cln.close()


def main() -> None:
    """Entry point of the executable."""
    Comms().app.run()
