"""Payments on this node's adapters; part of the composition root."""

import os
from collections.abc import Callable
from functools import partial

import msgspec
from hive_shared.cln import ClnClient
from hive_shared.crypto import Secret
from hive_shared.invoice_messages import Invoice, read_body
from hive_shared.public_web import PublicWeb
from hive_shared.row_by_row import RowByRow
from hive_shared.runtime import MethodSpec
from hive_shared.runtime_spec import InitInfo
from hive_shared.signed_message import Draft
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from cl_hive_comms.commands.payments import PaymentCommands, SiblingPaymentCommands
from cl_hive_comms.domain.payment import RESTORED_FACT
from cl_hive_comms.domain.payment_limits import Limits
from cl_hive_comms.options import PREFIX, Config
from cl_hive_comms.payments.bolt11 import Bolt11
from cl_hive_comms.payments.bolt12 import Bolt12
from cl_hive_comms.plugin.fault_point import fault_point
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.plugin.subscriptions import compose_subscriptions
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.command_pipeline import Pipeline
from cl_hive_comms.services.command_push import CommandPush
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.debts import Debts
from cl_hive_comms.services.decoded_invoice import decoded
from cl_hive_comms.services.executors.sent_parts import SentParts
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.l402_client import L402Client
from cl_hive_comms.services.messenger_signed import SignedMessages
from cl_hive_comms.services.payment_budget import PaymentBudget
from cl_hive_comms.services.payment_history import PaymentHistory
from cl_hive_comms.services.payment_limits import PaymentLimits
from cl_hive_comms.services.payment_requests import PaymentRequests
from cl_hive_comms.services.payment_service import PaymentService
from cl_hive_comms.services.period_invoices import KEY as PERIOD_KEY
from cl_hive_comms.services.ports_commands import Fault
from cl_hive_comms.services.ports_identity import Log
from cl_hive_comms.services.subscription_service import SubscriptionService
from cl_hive_comms.storage.access_store import BoughtTokenStore
from cl_hive_comms.storage.advisor_store import AdvisorStore
from cl_hive_comms.storage.at_rest import AtRest
from cl_hive_comms.storage.lock_store import LockStore
from cl_hive_comms.storage.payment_store import PaymentStore
from cl_hive_comms.storage.sealed_command_store import SealedCommandStore
from cl_hive_comms.storage.state_store import StateStore


class Payments(msgspec.Struct, frozen=True):
    """The services of payments."""

    pay: PaymentService
    limits: PaymentLimits
    history: PaymentHistory
    budget: PaymentBudget
    requests: PaymentRequests
    debts: Debts
    subscriptions: SubscriptionService
    access: L402Client
    alone: RowByRow

    async def take_invoice(self, message: Draft, sender: str) -> None:
        """An agent's answer to a request of this node: of a period, or of a command. Raises as they do."""
        key = read_body(message.body, Invoice).idempotency_key
        if key.startswith(f"{PERIOD_KEY}:"):
            await self.subscriptions.take_invoice(message, sender)
        else:
            await self.debts.take_invoice(message, sender)

    async def settle(self) -> None:
        """What was paid, what came, and what is owed."""
        await self.alone.steps(
            "payments of this node",
            ("sent", self.pay.settle),
            ("requested", self.requests.settle),
            ("owed", self.debts.pay_due),
        )


def limits_of(config: Config) -> Limits:
    """The limits that the options say."""
    return Limits(
        daily=config.get("daily-limit"),
        weekly=config.get("weekly-limit"),
        per_advisor_daily=config.get("per-advisor-daily-limit"),
        per_action=config.get("per-action-limit"),
        max_fee_ppm=config.get("max-fee-ppm"),
        siblings={name: (day, week) for name, day, week in config.get("sibling-limits")},
    )


def compose_limits(
    db: Db,
    at_rest: AtRest,
    config: Callable[[], Config],
    credentials: CredentialService,
    alerts: AlertService,
) -> PaymentLimits:
    """What bounds everything that this node pays."""

    def daily_of(advisor_id: str) -> int | None:
        advisor = credentials.advisor(advisor_id)
        return None if advisor is None else advisor.daily_limit_sats

    return PaymentLimits(
        db,
        PaymentStore(at_rest.sealer),
        LockStore(at_rest.sealer),
        alerts,
        limits=lambda: limits_of(config()),
        advisor_daily=daily_of,
        now=unix_now,
    )


def public_web(info: InitInfo) -> PublicWeb:
    """Servers on the public network, by the node's proxy where it says so."""
    return PublicWeb(
        info.proxy, only_onion=not info.always_use_proxy, where_proxy="proxy in the node's configuration"
    )


def compose_payments(
    *,
    db: Db,
    cln: ClnClient,
    at_rest: AtRest,
    network: str,
    node_id: str,
    config: Callable[[], Config],
    credentials: CredentialService,
    aliases: AliasService,
    web: PublicWeb,
    limits: PaymentLimits,
    pipeline: Pipeline,
    letters: SignedMessages,
    push: CommandPush,
    kill_switch: KillSwitch,
    alerts: AlertService,
    log: Log,
) -> Payments:
    """All of them over the same tables; commands hear of what is being paid."""
    rows, executors, fault = PaymentStore(at_rest.sealer), pipeline.executors, fault_point(network)
    node = (lightning, offers) = _node(cln, executors.offers, network)
    name_of, methods = partial(_name_of, credentials, aliases), partial(_methods, config)
    service = PaymentService(
        db=db,
        rows=rows,
        limits=limits,
        lightning=lightning,
        offers=offers,
        paying=executors.paying,
        methods=methods,
        kill_switch=kill_switch,
        alerts=alerts,
        restored=lambda tx: StateStore().get(tx, RESTORED_FACT) is not None,
        now=unix_now,
        log=log,
        fault=fault,
    )
    executors.also_paying = service.paying
    history = PaymentHistory(db, rows, name_of=name_of, now=unix_now)
    requests = _requests(db, rows, cln, kill_switch, fault, at_rest, node_id, log)
    debts = Debts(
        db=db,
        rows=rows,
        commands=SealedCommandStore(at_rest.sealer),
        payments=service,
        lightning=lightning,
        letters=letters,
        push=push,
        alerts=alerts,
        now=unix_now,
        log=log,
    )
    pipeline.rewards.on_owed, service.on_debt_paid = debts.kick, debts.told
    mail, around = (letters, push), (kill_switch, alerts, log)
    of_payments = (db, rows, service, node, methods)
    subscriptions = compose_subscriptions(*of_payments, credentials, name_of, mail, around)
    budget = _budget(db, cln, limits, credentials)
    access = _access(db, at_rest, service, web, config)
    return Payments(service, limits, history, budget, requests, debts, subscriptions, access, RowByRow(log))


def _node(cln: ClnClient, offers: Callable[[str], bool], network: str) -> tuple[Bolt11, Bolt12]:
    lightning = Bolt11(cln, SentParts(cln), partial(decoded, cln), offers, network)
    return lightning, Bolt12(cln, lightning.read, offers)


def _access(
    db: Db, at_rest: AtRest, payments: PaymentService, web: PublicWeb, config: Callable[[], Config]
) -> L402Client:
    def hosts() -> tuple[str, ...]:
        return tuple(config().get("l402-hosts"))

    return L402Client(db, BoughtTokenStore(at_rest.sealer), payments, web, hosts=hosts, now=unix_now)


def _requests(
    db: Db,
    rows: PaymentStore,
    cln: ClnClient,
    kill_switch: KillSwitch,
    fault: Fault,
    at_rest: AtRest,
    node_id: str,
    log: Log,
) -> PaymentRequests:
    return PaymentRequests(
        db=db,
        rows=rows,
        node=cln,
        kill_switch=kill_switch,
        random_bytes=os.urandom,
        now=unix_now,
        fault=fault,
        key=Secret(at_rest.subkey(b"l402")),
        node_id=node_id,
        log=log,
    )


def _methods(config: Callable[[], Config]) -> tuple[str, ...]:
    return tuple(config().get("payment-methods"))


def _name_of(credentials: CredentialService, aliases: AliasService, advisor_id: str) -> str:
    advisor = credentials.advisor(advisor_id)
    return advisor_id if advisor is None else aliases.name_of(advisor)


def _budget(db: Db, cln: ClnClient, limits: PaymentLimits, credentials: CredentialService) -> PaymentBudget:
    async def set_option(name: str, sats: int) -> None:
        # Through CLN, so that listconfigs, the configuration file and we agree.
        await cln.setconfig(PREFIX + name, sats)

    def set_daily(tx: Tx, advisor_id: str, sats: int) -> None:
        advisor = credentials.advisor(advisor_id)
        if advisor is not None:
            AdvisorStore().update(tx, replace(advisor, daily_limit_sats=sats, updated_at=unix_now()))

    return PaymentBudget(db, limits, set_option=set_option, set_daily=set_daily, reload=credentials.load)


def payment_methods(
    payments: Callable[[], Payments], aliases: Callable[[], AliasService]
) -> list[MethodSpec]:
    """The methods of payments; they exist before the services do."""
    return [
        *PaymentCommands(
            lambda: payments().pay,
            lambda: payments().history,
            lambda: payments().budget,
            lambda: payments().subscriptions,
            lambda: payments().access,
            lambda: payments().debts,
            aliases,
        ).specs(),
        *SiblingPaymentCommands(lambda: payments().pay, lambda: payments().requests, aliases).specs(),
    ]
