"""What takes alerts to the operator, on this node's adapters; part of the composition root."""

from collections.abc import Callable

import msgspec
from hive_shared.cln import ClnClient
from hive_shared.runtime_spec import InitInfo
from hive_shared.store import Db

from cl_hive_comms.options import Config
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.alert_delivery import AlertDelivery, Targets
from cl_hive_comms.services.alert_digest import AlertDigest
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.ports_identity import Log
from cl_hive_comms.storage.state_store import StateStore
from cl_hive_comms.transport.mail import SmtpMail
from cl_hive_comms.transport.webhook import HttpWebhook


class Alerting(msgspec.Struct, frozen=True):
    """The services that carry alerts out."""

    delivery: AlertDelivery
    digest: AlertDigest


def targets_of(config: Config) -> Targets:
    """Where the operator wants alerts, by the options."""
    return Targets(
        webhook=config.get("alert-webhook"),
        dm=config.get("alert-nostr-dm"),
        email=config.get("alert-email"),
        mail_server=config.get("alert-smtp"),
    )


def compose_alerting(
    *,
    db: Db,
    cln: ClnClient,
    info: InitInfo,
    config: Callable[[], Config],
    alerts: AlertService,
    messenger: Messenger,
    node_id: str,
    log: Log,
) -> Alerting:
    """The services; `config` is asked at every use, so that options apply at once."""
    only_onion = not info.always_use_proxy
    delivery = AlertDelivery(
        db,
        StateStore(),
        alerts,
        messenger,
        HttpWebhook(loopback=info.network == "regtest", proxy=info.proxy, only_onion=only_onion),
        SmtpMail(proxy=info.proxy, only_onion=only_onion),
        targets=lambda: targets_of(config()),
        makesecret=cln.makesecret,
        node_id=node_id,
        now=unix_now,
        log=log,
    )
    digest = AlertDigest(
        db,
        StateStore(),
        channels=lambda: targets_of(config()).channels,
        hour=lambda: int(config().get("alert-digest-hour")),
        now=unix_now,
    )
    return Alerting(delivery, digest)
