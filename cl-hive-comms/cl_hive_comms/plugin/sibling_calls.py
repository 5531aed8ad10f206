"""What sibling plugins may call, on this node's adapters; part of the composition root."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgspec
from hive_shared.cln import ClnClient
from hive_shared.errors import HiveError
from hive_shared.runtime import MethodSpec
from hive_shared.siblings import PLUGIN, SiblingHub
from hive_shared.store import Db, StoreError

from cl_hive_comms.commands.sibling_calls import SiblingCommands
from cl_hive_comms.commands.sibling_channels import SiblingChannelCommands
from cl_hive_comms.commands.sibling_gossip import SiblingGossipCommands
from cl_hive_comms.commands.sibling_policy import SiblingPolicyCommands
from cl_hive_comms.commands.sibling_records import SiblingRecordCommands
from cl_hive_comms.options import Config
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.command_pipeline import Pipeline
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.event_publisher import EventPublisher
from cl_hive_comms.services.gossip_credentials import GossipCredentials
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.inbound_errors import MessageErrors
from cl_hive_comms.services.inbound_ingest import IngestService
from cl_hive_comms.services.inbound_service import InboundService
from cl_hive_comms.services.inbound_signed import SignedInbox
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.messenger_signed import SignedMessages
from cl_hive_comms.services.outbound_ways import OutboundWays
from cl_hive_comms.services.policy_service import PolicyService
from cl_hive_comms.services.ports_identity import Log
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.services.sibling_delivery import SiblingDelivery
from cl_hive_comms.services.sibling_policy import SiblingPolicy
from cl_hive_comms.services.sibling_records import SiblingRecords
from cl_hive_comms.services.sibling_registry import SiblingRegistry
from cl_hive_comms.services.sibling_subscriptions import SiblingSubscriptions
from cl_hive_comms.storage.command_store import CommandStore
from cl_hive_comms.storage.fee_store import FeeStore
from cl_hive_comms.storage.receipt_store import ReceiptStore
from cl_hive_comms.storage.sibling_store import SiblingStore
from cl_hive_comms.storage.spend_store import SpendStore
from cl_hive_comms.transport.nostr import NostrTransport

SIBLING_CAPABILITIES: tuple[str, ...] = (
    "dm.v1",
    "publish.v1",
    "subscribe.v1",
    "handlers.v1",
    "transports.v1",
    "policy.v1",
    "payments.v1",
    "receipts.v1",
    "alerts.v1",
)
"""What sibling plugins may use of us, as `name.vN` (docs/protocol/08 §3.2); only what is served."""


def compose_registry(db: Db, cln: ClnClient, log: Log) -> SiblingRegistry:
    """What siblings registered; empty until it is loaded."""
    return SiblingRegistry(db, SiblingStore(), cln, now=unix_now, log=log)


def compose_ways(
    db: Db,
    registry: SiblingRegistry,
    nostr: NostrTransport,
    hub: Callable[[], SiblingHub],
    credentials: CredentialService,
    kill_switch: KillSwitch,
    log: Log,
) -> OutboundWays:
    """Ways out besides direct messages; the hub exists later."""
    commands = CommandStore()

    async def call(who: Any, method: str, params: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        return await hub().call(who, method, params, timeout=timeout)

    def did_of(key: str) -> str | None:
        named = (row.credential.agent_id for row in credentials.rows() if row.agent_key == key)
        return next((name for name in named if name.startswith("did:cid:")), None)

    async def used_by(key: str) -> list[str]:
        return await db.read(lambda tx: commands.transports_of(tx, key))

    return OutboundWays(
        registry,
        nostr,
        call=call,
        did_of=did_of,
        used_by=used_by,
        engaged=kill_switch.engaged,
        log=log,
    )


class SiblingServices(msgspec.Struct, frozen=True):
    """The services behind the calls of class S."""

    messages: SignedMessages
    policy: SiblingPolicy
    records: SiblingRecords
    registry: SiblingRegistry
    delivery: SiblingDelivery
    ingest: IngestService
    subscriptions: SiblingSubscriptions
    publisher: EventPublisher
    outbox: Messenger
    hub: SiblingHub
    inbox: SignedInbox

    async def stopped(self, payload: dict[str, Any]) -> None:
        """A plugin of the node stopped: what it served is gone."""
        methods = payload.get("methods")
        names = [name for name in methods if isinstance(name, str)] if isinstance(methods, list) else []
        self.subscriptions.stopped(names)
        await self.registry.stopped(names)

    def transport_rows(self) -> list[dict[str, Any]]:
        """Registered transports for hive-comms-transports."""
        rows: list[dict[str, Any]] = []
        for row in self.registry.transports():
            there = row.gone_at is None and self.hub.present(row.owner)
            rows.append(
                {
                    "name": row.name,
                    "enabled": row.enabled,
                    "state": "off" if not row.enabled else "up" if there else "away",
                    "last_ok": row.last_ok,
                    "plugin": PLUGIN[row.owner],
                    "priority": row.priority,
                    "max_bytes": row.max_bytes,
                }
            )
        return rows

    def handler_rows(self) -> dict[str, Any]:
        """Who takes which messages, and what waits for them."""
        return {
            "handlers": [
                {
                    "pattern": row.pattern,
                    "plugin": PLUGIN[row.owner],
                    "state": "up" if row.gone_at is None and self.hub.present(row.owner) else "away",
                }
                for row in self.registry.handlers()
            ],
            "subscriptions": self.subscriptions.count(),
            "held": {PLUGIN[who]: self.delivery.waiting(who) for who in ("archon", "hive")},
            "messages": dict(self.inbox.counters + self.delivery.counters),
        }


def compose_sibling_services(
    *,
    db: Db,
    cln: ClnClient,
    node_id: str,
    config: Callable[[], Config],
    hub: SiblingHub,
    registry: SiblingRegistry,
    inbound: InboundService,
    nostr: NostrTransport,
    messenger: Messenger,
    credentials: CredentialService,
    identity: IdentityService,
    messages: SignedMessages,
    policy: PolicyService,
    receipts: ReceiptService,
    alerts: AlertService,
    kill_switch: KillSwitch,
    pipeline: Pipeline,
    on_receipt: Callable[[int, str], None],
    log: Log,
) -> SiblingServices:
    """All of them over the same tables; joins them to what comes in and to the siblings' coming and going."""

    async def reply(recipient: str, area: str, msg_id: str, code: str) -> bool:
        try:
            await messages.tell_error(recipient, area, msg_id, code)
        except (HiveError, StoreError) as error:
            log("debug", "error_not_told", why=type(error).__name__)
            return False
        return True

    delivery = SiblingDelivery(hub.call, present=hub.present, log=log)
    errors = MessageErrors(reply, now=unix_now)
    inbox = SignedInbox(registry, delivery, identity, errors=errors, now=unix_now, log=log)
    inbound.on_schema(inbox)
    subscriptions = SiblingSubscriptions(nostr, delivery, cln, random_bytes=os.urandom, log=log)
    nostr.on_asked = lambda _relay, name, event: subscriptions.on_event(name, event)
    registry.on_change(delivery.wake)
    hub.on_change(lambda who, present: delivery.wake())
    return SiblingServices(
        registry=registry,
        delivery=delivery,
        hub=hub,
        inbox=inbox,
        ingest=IngestService(registry, inbound, keys_of=lambda did: _keys_of(credentials, did)),
        subscriptions=subscriptions,
        publisher=_publisher(db, identity, messenger, kill_switch, nostr, config),
        outbox=messenger,
        messages=messages,
        policy=_policy(db, policy, cln, pipeline, kill_switch),
        records=_records(db, alerts, receipts, identity, kill_switch, node_id, on_receipt),
    )


def _keys_of(credentials: CredentialService, did: str) -> list[str]:
    rows = [row for row in credentials.rows() if row.credential.agent_id == did]
    # The last one counts: a key whose credential ended only while there is no other.
    rows.sort(key=lambda row: (row.status == "active", row.created_at))
    return [row.agent_key for row in rows]


def _publisher(
    db: Db,
    identity: IdentityService,
    messenger: Messenger,
    kill_switch: KillSwitch,
    nostr: NostrTransport,
    config: Callable[[], Config],
) -> EventPublisher:
    return EventPublisher(
        db,
        identity,
        messenger,
        kill_switch,
        extra_kinds=lambda: config().get("publish-kinds"),
        enabled=lambda name: bool(config().get(name)),
        low_redundancy=nostr.low_redundancy,
        now=unix_now,
    )


def _policy(
    db: Db, policy: PolicyService, cln: ClnClient, pipeline: Pipeline, kill_switch: KillSwitch
) -> SiblingPolicy:
    return SiblingPolicy(
        db=db,
        fees=FeeStore(),
        spends=SpendStore(),
        policies=policy,
        banned=pipeline.bans.banned,
        node=cln,
        find_write=pipeline.executors.write,
        kill_switch=kill_switch,
        now=unix_now,
    )


def _records(
    db: Db,
    alerts: AlertService,
    receipts: ReceiptService,
    identity: IdentityService,
    kill_switch: KillSwitch,
    node_id: str,
    on_receipt: Callable[[int, str], None],
) -> SiblingRecords:
    return SiblingRecords(
        db=db,
        alerts=alerts,
        receipts=receipts,
        rows=ReceiptStore(),
        identity=identity,
        kill_switch=kill_switch,
        node_id=node_id,
        now=unix_now,
        on_receipt=on_receipt,
    )


def sibling_methods(
    services: Callable[[], SiblingServices], gossip: Callable[[], GossipCredentials]
) -> list[MethodSpec]:
    """The methods of class S; they exist before the services do."""
    return [
        *SiblingCommands(lambda: services().messages).specs(),
        *SiblingChannelCommands(services).specs(),
        *SiblingPolicyCommands(lambda: services().policy).specs(),
        *SiblingRecordCommands(lambda: services().records).specs(),
        *SiblingGossipCommands(gossip).specs(),
    ]
