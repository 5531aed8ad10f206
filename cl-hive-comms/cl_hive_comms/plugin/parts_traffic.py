"""What comes in and goes out: transports, inbox, outbox, alerts, what siblings may call.

Part of the composition root: concrete adapters are joined here, nothing is decided.
"""

import os

from hive_shared.invoice_messages import INVOICE
from hive_shared.nostr.relay_url import normalise_relay_url
from hive_shared.siblings import SiblingHub

from cl_hive_comms import __version__
from cl_hive_comms.domain.arrival import Forms
from cl_hive_comms.plugin.alerting import compose_alerting
from cl_hive_comms.plugin.fault_point import fault_point
from cl_hive_comms.plugin.market import compose_market
from cl_hive_comms.plugin.mints import compose_mints
from cl_hive_comms.plugin.parts import MIGRATIONS, Parts
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.plugin.sibling_calls import (
    SIBLING_CAPABILITIES,
    compose_registry,
    compose_sibling_services,
    compose_ways,
)
from cl_hive_comms.services.inbound_routes import PeerRoutes
from cl_hive_comms.services.inbound_service import InboundService
from cl_hive_comms.services.legacy_peers import LegacyPeers
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.messenger_signed import SignedMessages
from cl_hive_comms.services.part_resend import PartResend
from cl_hive_comms.services.sibling_watch import SiblingWatch
from cl_hive_comms.storage.identity_store import IdentityStore
from cl_hive_comms.storage.state_store import StateStore
from cl_hive_comms.storage.transport_store import InboxStore, OutboxStore
from cl_hive_comms.transport.nostr import NostrTransport


class TrafficParts(Parts):
    """Builders; `app` calls them in its order."""

    def build_transport(self) -> None:
        self.legacy_peers = LegacyPeers(self.db, StateStore(), unix_now)
        forms = Forms(
            legacy=bool(self.config.get("nostr-legacy-dm")),
            plaintext=bool(self.config.get("nostr-allow-plaintext")),
        )
        self.sibling_registry = compose_registry(self.db, self.cln, self.log)
        self.inbound = InboundService(
            self.db,
            InboxStore(self.at_rest.sealer),
            self.identity,
            knows=lambda key: self.credentials.knows(key) or self.engagements.negotiations.hears(key),
            handle_command=self.handle_command,
            now=unix_now,
            log=self.log,
            fault=fault_point(self.node["network"]),
            forms=forms,
            note_form=self.legacy_peers.note,
        )
        self.nostr = NostrTransport(
            self.db,
            IdentityStore(),
            self.identity,
            on_wrap=self.inbound.on_wrap,
            now=unix_now,
            log=self.log,
            proxy=self.info.proxy,
            always_use_proxy=self.info.always_use_proxy,
            # Test networks live on loopback; elsewhere a stranger must not send us to private hosts.
            private_relays=self.info.network == "regtest",
            forms=forms,
            writes_legacy=self.legacy_peers,
        )
        outbox, routes = OutboxStore(self.at_rest.sealer), self._routes()
        self.part_resend = PartResend(
            self.db, outbox, self.identity, self.nostr, routes, now=unix_now, log=self.log
        )
        self.inbound.parts.on_lost(self.part_resend)
        self.messenger = Messenger(
            self.db,
            outbox,
            self.identity,
            self.nostr,
            routes,
            now=unix_now,
            log=self.log,
            further=compose_ways(
                self.db,
                self.sibling_registry,
                self.nostr,
                lambda: self.siblings,
                self.credentials,
                self.kill_switch,
                self.log,
            ),
        )
        self.nostr.on_connected = self.messenger.relays_back
        self.signed_messages = SignedMessages(
            self.db, StateStore(), self.identity, self.messenger, now=unix_now, random_bytes=os.urandom
        )

    def _routes(self) -> PeerRoutes:
        return PeerRoutes(
            own_relays=lambda: self.config.relays,
            arrived_from=self.inbound.arrived_from,
            normalise=lambda url: normalise_relay_url(url, foreign=self.info.network != "regtest"),
            lookup=self.nostr.lookup,
            now=unix_now,
            fleet_relays=lambda: self.config.relay_sets.fleet_only,
            in_fleet=self._in_fleet,
        )

    def _in_fleet(self, peer: str) -> bool:
        return self.credentials.knows(peer) or peer == self.config.get("alert-nostr-dm")

    def build_alerts(self) -> None:
        """What takes alerts to the operator."""
        self.alerting = compose_alerting(
            db=self.db,
            cln=self.cln,
            info=self.info,
            config=lambda: self.config,
            alerts=self.alerts,
            messenger=self.messenger,
            node_id=self.node["node_id"],
            log=self.log,
        )

    def build_mints(self) -> None:
        """The mints of the operator; no connection is made before the first check."""
        self.mints = compose_mints(
            db=self.db, info=self.info, config=lambda: self.config, alerts=self.alerts, log=self.log
        )

    def build_siblings(self, key: bytes) -> None:
        self.siblings = SiblingHub(
            me="comms",
            version=__version__,
            capabilities=SIBLING_CAPABILITIES,
            cln=self.cln,
            key=key,
            now=unix_now,
            random_bytes=os.urandom,
            identity=lambda: {"npub": self.identity.npub, "node_id": self.node["node_id"]},
            db_schema=max(int(file.name[:4]) for file in MIGRATIONS.glob("*.sql")),
            log=self.app.log,
            emergency=self.kill_switch.engaged,
        )
        self.sibling_watch = SiblingWatch(self.alerts.alert, now=unix_now)
        self.siblings.on_change(self.sibling_watch.changed)
        self.for_siblings = compose_sibling_services(
            db=self.db,
            cln=self.cln,
            node_id=self.node["node_id"],
            config=lambda: self.config,
            hub=self.siblings,
            registry=self.sibling_registry,
            inbound=self.inbound,
            nostr=self.nostr,
            messenger=self.messenger,
            credentials=self.credentials,
            identity=self.identity,
            messages=self.signed_messages,
            policy=self.policy,
            receipts=self.receipts,
            alerts=self.alerts,
            kill_switch=self.kill_switch,
            pipeline=self.pipeline,
            on_receipt=self.receipt_written,
            log=self.log,
        )
        self.market = compose_market(
            db=self.db,
            nostr=self.nostr,
            config=lambda: self.config,
            identity=self.identity,
            credentials=self.credentials,
            aliases=self.aliases,
            contract_counts=self.engagements.reading.counts,
            log=self.log,
        )
        self.for_siblings.inbox.own[INVOICE] = self.payments.take_invoice
        self.for_siblings.inbox.own.update(self.engagements.handlers())
        self.app.authenticate = self.siblings.verify
        self.siblings.on_change(lambda _who, _present: self.verifier.wake())
        if self.escrow is not None:
            self.for_siblings.inbox.own.update(self.escrow.handlers())
