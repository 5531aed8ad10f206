"""Composition root of cl-hive-comms: builds every object once, wires ports, starts and stops loops.

Nothing here decides anything (DESIGN "The dependency rule"). `init` opens the database, loads the identity
and answers; connecting and everything slow runs in loops afterwards
(docs/protocol/08-client-and-plugins.md §2, docs/protocol/00-index.md §11).
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hive_shared.cln import ClnClient, version_problem
from hive_shared.nostr.giftwrap import Message
from hive_shared.nostr.relay_url import normalise_relay_url
from hive_shared.runtime import InitInfo, MethodSpec, PluginApp
from hive_shared.siblings import SiblingHub, hello_spec, load_sibling_key
from hive_shared.store import Db

from cl_hive_comms import __version__
from cl_hive_comms.commands.advisors import AdvisorCommands
from cl_hive_comms.commands.aliases import AliasCommands
from cl_hive_comms.commands.identity import IdentityCommands
from cl_hive_comms.commands.policy import PolicyCommands
from cl_hive_comms.commands.selfcheck import SelfcheckCommands
from cl_hive_comms.commands.status import StatusCommands
from cl_hive_comms.commands.transports import TransportCommands
from cl_hive_comms.domain.advisor import CredentialRow
from cl_hive_comms.options import PREFIX, Config, option_specs
from cl_hive_comms.plugin_pipeline import compose_pipeline, unix_now
from cl_hive_comms.services.advisor_offers import AdvisorOffers
from cl_hive_comms.services.advisor_service import AdvisorService, Ports
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.command_pipeline import Pipeline
from cl_hive_comms.services.command_push import CommandPush
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.inbound_routes import PeerRoutes
from cl_hive_comms.services.inbound_service import InboundService
from cl_hive_comms.services.intake import Ingress
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.policy_service import Limits, PolicyService
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.services.selfcheck_service import SelfcheckService, Subjects
from cl_hive_comms.services.status_sections import StatusSections
from cl_hive_comms.services.status_service import StatusService
from cl_hive_comms.storage.advisor_store import AdvisorStore
from cl_hive_comms.storage.at_rest import AtRest, open_at_rest
from cl_hive_comms.storage.command_store import CommandStore
from cl_hive_comms.storage.identity_store import IdentityStore
from cl_hive_comms.storage.policy_store import PolicyStore
from cl_hive_comms.storage.receipt_store import ReceiptStore
from cl_hive_comms.storage.state_store import StateStore
from cl_hive_comms.storage.transport_store import InboxStore, OutboxStore
from cl_hive_comms.transport.nostr import NostrTransport
from cl_hive_comms.transport.rest import ClnrestRunes

MIGRATIONS = Path(__file__).parent / "storage" / "migrations"
SCHEMA = 4
CAPABILITIES: tuple[str, ...] = ()
"""What sibling plugins may use of us, as `name.vN` (docs/protocol/08 §3.2); only what is served."""
NOTIFICATIONS = (
    "hive_comms_ready",
    "hive_policy_changed",
    "hive_emergency",
    "hive_identity_changed",
    "hive_credential_revoked",
    "hive_receipt",
)


class Comms:
    """All objects of the running plugin. Attributes without a value exist once `init` was answered."""

    config: Config
    info: InitInfo
    cln: ClnClient
    node: dict[str, str]
    db: Db
    db_path: Path
    at_rest: AtRest
    alerts: AlertService
    identity: IdentityService
    kill_switch: KillSwitch
    siblings: SiblingHub
    credentials: CredentialService
    aliases: AliasService
    receipts: ReceiptService
    messenger: Messenger
    inbound: InboundService
    nostr: NostrTransport
    runes: ClnrestRunes
    offers: AdvisorOffers
    advisors: AdvisorService
    policy: PolicyService
    push: CommandPush
    pipeline: Pipeline
    sections: StatusSections
    selfcheck: SelfcheckService

    def __init__(self) -> None:
        self.status = StatusService()
        self.app = PluginApp(
            name="cl-hive-comms",
            version=__version__,
            options=option_specs(),
            methods=self._methods(),
            subscriptions={
                "plugin_started": self._plugin_started,
                "plugin_stopped": self._plugin_stopped,
            },
            notifications=NOTIFICATIONS,
            on_init=self.on_init,
            on_setconfig=self.on_setconfig,
            on_stop=self.on_stop,
        )

    def _methods(self) -> list[MethodSpec]:
        return [
            hello_spec("comms", self._hello),
            *StatusCommands(lambda: self.status).specs(),
            *IdentityCommands(
                lambda: self.identity,
                set_relays=self._set_relays,
                describe=self._describe_identity,
            ).specs(),
            *AdvisorCommands(
                lambda: self.advisors, lambda: self.aliases, lambda: self.credentials, unix_now
            ).specs(),
            *AliasCommands(lambda: self.aliases, lambda: self.credentials).specs(),
            *PolicyCommands(lambda: self.policy, unix_now).specs(),
            *SelfcheckCommands(lambda: self.selfcheck).specs(),
            *TransportCommands(self._transport_rows).specs(),
        ]

    def log(self, level: str, event: str, /, **fields: object) -> None:
        """One structured line in the node's log."""
        self.app.log(level, event, **fields)

    # -- start ---------------------------------------------------------------------------------------

    async def on_init(self, info: InitInfo) -> str | None:
        """Open and load; a reason or an exception ends the plugin with that reason."""
        self.info, self.config = info, Config.build(info.options)
        self.cln = ClnClient(info.rpc_path, id_prefix="comms")
        self.db_path = Path(self.config.get("db-path") or info.net_dir / "cl_hive_comms.db")
        node, sibling_key, self.at_rest, self.db = await asyncio.gather(
            self.cln.getinfo(),
            load_sibling_key(self.cln, info.net_dir),
            open_at_rest(self.cln.makesecret, info.net_dir, os.urandom),
            asyncio.to_thread(Db.open, self.db_path, MIGRATIONS),
        )
        if problem := version_problem(str(node["version"])):
            return problem
        self.node = {"node_id": node["id"], "network": info.network, "alias": node.get("alias") or ""}
        self._build_base()
        await self.identity.load_or_create(self.config.get("nsec"), self.config.get("nsec-file"))
        await self.kill_switch.load()
        self._build_policy()
        await self.policy.load(self.config.preset, self.config.policy_file)
        self._build_transport()
        self._build_advisors()
        await self.credentials.load()
        await self.aliases.load()
        await self.inbound.load()
        self._build_siblings(sibling_key)
        self._build_status()
        self._start_loops()
        return None

    def _build_base(self) -> None:
        facts = StateStore()
        self.alerts = AlertService(self.db, facts, now=unix_now, log=self.log)
        self.identity = IdentityService(
            self.db,
            IdentityStore(),
            self.at_rest.sealer,
            makesecret=self.cln.makesecret,
            now=unix_now,
            random_bytes=os.urandom,
            log=self.log,
        )
        self.kill_switch = KillSwitch(self.db, facts, self.info.net_dir / "hive", now=unix_now, log=self.log)
        self.kill_switch.on_change(self._emergency_changed)
        self.receipts = ReceiptService(
            self.db,
            ReceiptStore(),
            self.identity,
            node_id=lambda: self.node["node_id"],
            node_keys=self.identity.all_pubkeys,
            signmessage=self.cln.signmessage,
            now=unix_now,
        )
        self.credentials = CredentialService(self.db, AdvisorStore(), now=unix_now)
        self.aliases = AliasService(self.db, AdvisorStore(), self.credentials, now=unix_now)

    def _build_policy(self) -> None:
        self.policy = PolicyService(
            self.db,
            PolicyStore(),
            StateStore(),
            receipts=self.receipts,
            alerts=self.alerts,
            limits=lambda: Limits(
                self.config.get("confirm-hours-low"), self.config.get("confirm-hours-high")
            ),
            now=unix_now,
            random_bytes=os.urandom,
            log=self.log,
        )
        self.policy.on_change(self._policy_changed)
        self.credentials.also_known(self.policy.approver_keys)

    def _build_transport(self) -> None:
        proxy = self.info.proxy if self.info.always_use_proxy else None
        self.inbound = InboundService(
            self.db,
            InboxStore(),
            self.identity,
            knows=self.credentials.knows,
            handle_command=self._handle_command,
            now=unix_now,
            log=self.log,
        )
        self.nostr = NostrTransport(
            self.db,
            IdentityStore(),
            self.identity,
            on_wrap=self.inbound.on_wrap,
            now=unix_now,
            log=self.log,
            proxy=proxy,
            # Test networks live on loopback; elsewhere a stranger must not send us to private hosts.
            private_relays=self.info.network == "regtest",
        )
        routes = PeerRoutes(
            own_relays=lambda: self.config.relays,
            arrived_from=self.inbound.arrived_from,
            normalise=lambda url: normalise_relay_url(url, foreign=self.info.network != "regtest"),
            lookup=self.nostr.lookup,
            now=unix_now,
        )
        self.messenger = Messenger(
            self.db,
            OutboxStore(self.at_rest.sealer),
            self.identity,
            self.nostr,
            routes,
            now=unix_now,
            log=self.log,
        )

    def _build_advisors(self) -> None:
        facts = StateStore()
        self.push = CommandPush(CommandStore(), self.identity, self.messenger, unix_now)
        self.runes = ClnrestRunes(self.cln, enabled=lambda: bool(self.config.get("rest-enabled")))
        self.offers = AdvisorOffers(
            self.db,
            facts,
            identity=self.identity,
            credentials=self.credentials,
            push=self.push,
            messenger=self.messenger,
            receipts=self.receipts,
            alerts=self.alerts,
            signer=self.cln,
            node=self.node,
            relays=lambda: self.config.relays,
            max_skew_s=lambda: self.config.max_skew_s,
            now=unix_now,
        )
        self.identity.announce = self.offers.announce_rotation
        self.identity.on_change(self._identity_changed)
        self.advisors = AdvisorService(
            Ports(
                db=self.db,
                store=AdvisorStore(),
                facts=facts,
                credentials=self.credentials,
                aliases=self.aliases,
                offers=self.offers,
                receipts=self.receipts,
                alerts=self.alerts,
                messenger=self.messenger,
                runes=self.runes,
                signer=self.cln,
                kill_switch=self.kill_switch,
                commands=lambda: self.pipeline.commands,
                node_id=self.node["node_id"],
                now=unix_now,
                random_bytes=os.urandom,
                log=self.log,
            )
        )
        self.advisors.on_revoked = self._credentials_revoked
        self.pipeline = compose_pipeline(
            db=self.db,
            cln=self.cln,
            at_rest=self.at_rest,
            node=self.node,
            config=lambda: self.config,
            identity=self.identity,
            credentials=self.credentials,
            policy=self.policy,
            kill_switch=self.kill_switch,
            alerts=self.alerts,
            messenger=self.messenger,
            receipts=self.receipts,
            push=self.push,
            offers=self.offers,
            log=self.log,
        )

    def _build_siblings(self, key: bytes) -> None:
        self.siblings = SiblingHub(
            me="comms",
            version=__version__,
            capabilities=CAPABILITIES,
            cln=self.cln,
            key=key,
            now=unix_now,
            random_bytes=os.urandom,
            identity=lambda: {"npub": self.identity.npub, "node_id": self.node["node_id"]},
            db_schema=SCHEMA,
            log=self.app.log,
        )
        self.app.authenticate = self.siblings.verify

    def _build_status(self) -> None:
        self.sections = StatusSections(
            config=lambda: self.config,
            node=self.node,
            identity=self.identity,
            credentials=self.credentials,
            aliases=self.aliases,
            messenger=self.messenger,
            nostr=self.nostr.status,
            inbound=lambda: dict(self.inbound.counters),
            rest_url=self.runes.url,
            siblings=self.siblings,
            policy=self.policy,
            kill_switch=self.kill_switch,
            alerts=self.alerts,
            now=unix_now,
        )
        self.sections.register(self.status)
        self.selfcheck = SelfcheckService(
            Subjects(
                db=self.db,
                db_path=self.db_path,
                node=self.cln,
                options=lambda: self.config,
                identity=self.identity,
                policy=self.policy,
                receipts=self.receipts,
                last_receipt=self._last_receipt,
                messenger=self.messenger,
                nostr=self.nostr.status,
                rest_url=self.runes.url,
                siblings=self.siblings,
                kill_switch=self.kill_switch,
                now=unix_now,
                log=self.log,
            )
        )

    def _start_loops(self) -> None:
        spawn = self.app.spawn
        spawn("siblings", self.siblings.run)
        spawn("emergency", self.kill_switch.watch, every=5.0)
        spawn("nostr", self._start_nostr)
        spawn("messenger", self.messenger.run)
        spawn("outbox", self.messenger.sweep, every=60.0)
        spawn("inbox", self.inbound.flush, every=2.0)
        spawn("inbox-prune", self.inbound.prune, every=86_400.0, first=300.0)
        spawn("relay-cursors", self.nostr.save_cursors, every=600.0, first=600.0)
        spawn("offers", self.offers.reissue)
        spawn("runes", self.advisors.blacklist_pending, every=60.0)
        spawn("policy-file", self.policy.watch_file, every=5.0)
        spawn("policy-overrides", self.policy.expire_overrides, every=30.0)
        spawn("selfcheck", self.selfcheck.report, every=86_400.0, first=30.0)
        spawn("capabilities", self.pipeline.executors.probe)
        spawn("commands", self.pipeline.timers.tick, every=30.0)
        spawn("receipts", self.pipeline.timers.hourly, every=3_600.0, first=60.0)

    async def _start_nostr(self) -> None:
        await self.nostr.start(self.config.relays, self.config.profile_relays)
        self.app.spawn("relay-lists", self._publish_lists)
        self.app.notify("hive_comms_ready", {"npub": self.identity.npub, "version": __version__})

    async def _publish_lists(self) -> None:
        while True:
            complete = await self.nostr.publish_lists()
            # Relays forget: what they have is told again every four hours (docs/protocol/04 §5.1).
            await asyncio.sleep(4 * 3_600 if complete else 60)
            if complete:
                self.nostr.forget_published()

    # -- changes -------------------------------------------------------------------------------------

    async def on_setconfig(self, name: str, value: Any) -> None:
        """Apply a dynamic option; raising refuses it and keeps the old value."""
        changed = self.config.changed(name, value)
        if name in (PREFIX + "nostr-relays", PREFIX + "nostr-profile-relays"):
            await self.nostr.apply(changed.relays, changed.profile_relays)
            self.app.spawn("relay-lists-changed", self.nostr.publish_lists)
        elif name == PREFIX + "policy-preset":
            await self.policy.follow_preset(value)
        elif name == PREFIX + "policy-file":
            await self.policy.reload_file(value)
        self.config = changed

    async def _set_relays(self, relays: Sequence[str]) -> None:
        # Through CLN, so that listconfigs, the configuration file and we agree.
        await self.cln.setconfig(PREFIX + "nostr-relays", ",".join(relays))

    async def _identity_changed(self) -> None:
        await self.nostr.apply(self.config.relays, self.config.profile_relays)
        self.app.notify("hive_identity_changed", {"npub": self.identity.npub})
        self.app.spawn("relay-lists-changed", self.nostr.publish_lists)
        await self.offers.reissue()

    def _policy_changed(self) -> None:
        snapshot = self.policy.snapshot()
        self.app.notify("hive_policy_changed", {"version": snapshot.version, "preset": snapshot.preset})

    async def _handle_command(self, text: str, message: Message) -> None:
        await self.pipeline.commands.handle(
            text, Ingress("nostr_dm", message.sender, message.rumor_id, unix_now())
        )

    async def _emergency_changed(self, engaged: bool) -> None:
        self.app.notify("hive_emergency", {"engaged": engaged})
        if engaged:
            await self.pipeline.approvals.cancel_all("emergency_stop", "the emergency stop was engaged")

    def _credentials_revoked(self, rows: Sequence[CredentialRow]) -> None:
        for row in rows:
            self.app.notify("hive_credential_revoked", {"credential_id": row.credential_id})

    async def _describe_identity(self, verbose: bool) -> dict[str, Any]:
        return await self.sections.identity(verbose)

    async def _transport_rows(self) -> list[dict[str, Any]]:
        return await self.sections.transport_rows()

    async def _last_receipt(self) -> int:
        head = await self.db.read(ReceiptStore().head)
        return 0 if head is None else head.receipt_id

    async def _hello(self, params: dict[str, Any]) -> dict[str, Any]:
        return await self.siblings.hello(params)

    async def _plugin_started(self, payload: dict[str, Any]) -> None:
        await self.siblings.on_plugin_started(payload)
        await self.pipeline.executors.probe()

    async def _plugin_stopped(self, payload: dict[str, Any]) -> None:
        await self.siblings.on_plugin_stopped(payload)
        await self.pipeline.executors.probe()

    # -- stop ----------------------------------------------------------------------------------------

    async def on_stop(self) -> None:
        """Stop intake, keep what is unsent, close in the reverse order of opening."""
        if hasattr(self, "nostr"):
            await self.inbound.stop()
            await self.pipeline.commands.drain()
            await self.nostr.stop()
        if hasattr(self, "db"):
            await asyncio.to_thread(self.db.close)
        if hasattr(self, "cln"):
            await self.cln.close()


def main() -> None:
    """Entry point of the executable."""
    Comms().app.run()
