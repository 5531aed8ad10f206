"""Subscriptions on this node's adapters; part of the composition root."""

from collections.abc import Callable, Sequence

from hive_shared.store import Db

from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.payment_service import PaymentService
from cl_hive_comms.services.ports_commands import Alerts, KillSwitch
from cl_hive_comms.services.ports_identity import Log
from cl_hive_comms.services.ports_payments import Lightning, Offers
from cl_hive_comms.services.subscription_service import SubscriptionService
from cl_hive_comms.storage.subscription_store import SubscriptionStore


def compose_subscriptions(
    db: Db,
    payments: PaymentService,
    node: tuple[Lightning, Offers],
    methods: Callable[[], Sequence[str]],
    credentials: CredentialService,
    name_of: Callable[[str], str],
    around: tuple[KillSwitch, Alerts, Log],
) -> SubscriptionService:
    """What pays period by period; a subscription lives as long as its advisor has a credential."""
    return SubscriptionService(
        db=db,
        rows=SubscriptionStore(),
        payments=payments,
        lightning=node[0],
        offers=node[1],
        hired=lambda advisor_id: credentials.active_of(advisor_id) is not None,
        name_of=name_of,
        methods=methods,
        kill_switch=around[0],
        alerts=around[1],
        now=unix_now,
        log=around[2],
    )
