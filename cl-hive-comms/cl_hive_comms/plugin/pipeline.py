"""Composition of the command pipeline: the adapters and services of this plugin for its builder."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hive_shared.cln import ClnClient
from hive_shared.crypto import Secret
from hive_shared.store import Db

from cl_hive_comms import __version__
from cl_hive_comms.domain.access_fee import AccessTerms
from cl_hive_comms.domain.compensation import PayTerms
from cl_hive_comms.domain.sibling_routes import BUILT_IN
from cl_hive_comms.options import Config
from cl_hive_comms.plugin.fault_point import fault_point
from cl_hive_comms.services.advisor_offers import AdvisorOffers
from cl_hive_comms.services.advisor_service import AdvisorService
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.command_capabilities import About
from cl_hive_comms.services.command_pipeline import PipelineParts
from cl_hive_comms.services.command_push import CommandPush
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.handoff_service import HandoffService
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.node_backups import NodeBackups
from cl_hive_comms.services.payment_limits import PaymentLimits
from cl_hive_comms.services.policy_service import PolicyService
from cl_hive_comms.services.ports_identity import Log
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.services.trust_service import TrustService
from cl_hive_comms.services.vc_verifier import VcVerifier
from cl_hive_comms.storage.access_store import AccessStore
from cl_hive_comms.storage.at_rest import AtRest
from cl_hive_comms.storage.channel_name_store import ChannelNameStore
from cl_hive_comms.storage.config_store import ConfigStore
from cl_hive_comms.storage.fee_store import FeeStore
from cl_hive_comms.storage.htlc_seen_store import HtlcSeenStore
from cl_hive_comms.storage.payment_store import PaymentStore
from cl_hive_comms.storage.presence_store import PresenceStore
from cl_hive_comms.storage.receipt_store import ReceiptStore
from cl_hive_comms.storage.report_store import ReportStore
from cl_hive_comms.storage.saved_channel_store import SavedChannelStore
from cl_hive_comms.storage.sealed_command_store import SealedCommandStore
from cl_hive_comms.storage.spend_store import SpendStore
from cl_hive_comms.storage.telemetry_store import TelemetryStore


def unix_now() -> int:
    """The clock of this plugin, Unix seconds."""
    return int(time.time())


_STORED = partial(
    PipelineParts,
    fees=FeeStore(),
    saved=SavedChannelStore(),
    settings=ConfigStore(),
    htlcs=HtlcSeenStore(),
    names=ChannelNameStore(),
    spends=SpendStore(),
    telemetry_rows=TelemetryStore(),
    presence_rows=PresenceStore(),
    report_rows=ReportStore(),
    receipt_rows=ReceiptStore(),
    access_rows=AccessStore(),
)


def pipeline_parts(
    *,
    db: Db,
    cln: ClnClient,
    at_rest: AtRest,
    node: dict[str, str],
    config: Callable[[], Config],
    identity: IdentityService,
    credentials: CredentialService,
    advisors: AdvisorService,
    backups: NodeBackups,
    verifier: VcVerifier,
    policy: PolicyService,
    kill_switch: KillSwitch,
    alerts: AlertService,
    messenger: Messenger,
    receipts: ReceiptService,
    push: CommandPush,
    offers: AdvisorOffers,
    trust: TrustService,
    handoffs: HandoffService,
    payment_limits: PaymentLimits,
    registered: Callable[[], Sequence[str]],
    on_receipt: Callable[[int, str], None],
    log: Log,
) -> PipelineParts:
    """What the pipeline takes from this plugin. `registered` names the transports of siblings in use."""
    return _STORED(
        db=db,
        revoking=advisors,
        backups=backups,
        receipts=receipts,
        push=push,
        identity=identity,
        credentials=credentials,
        verify_credential=verifier.check,
        policies=policy,
        handoffs=handoffs,
        kill_switch=kill_switch,
        alerts=alerts,
        messages=messenger,
        acknowledgements=offers,
        trust=trust,
        node=cln,
        state_key=at_rest.subkey(b"state-hash"),
        payment_rows=PaymentStore(at_rest.sealer),
        commands=SealedCommandStore(at_rest.sealer),
        access_key=Secret(at_rest.subkey(b"l402")),
        payment_limits=payment_limits,
        node_id=node["node_id"],
        network=node["network"],
        about=lambda: _about(identity, node, config(), registered()),
        now=unix_now,
        on_receipt=on_receipt,
        log=log,
        fault=fault_point(node["network"]),
        **_options(config),
    )


def _options(config: Callable[[], Config]) -> dict[str, Any]:
    """What the operator's options say, of the moment it is asked for."""
    return {
        "access_terms": lambda: access_terms(config()),
        "pay_terms": lambda: pay_terms(config()),
        "trusted_issuers": lambda: config().trusted_issuers,
        "max_skew_s": lambda: config().max_skew_s,
        "supervised": lambda: bool(config().get("supervised")),
        "swap_rpcs": lambda: (str(config().get("swap-out-rpc")), str(config().get("swap-in-rpc"))),
    }


def access_terms(config: Config) -> AccessTerms:
    """What the options say of selling access."""
    taken = config.get("payment-methods")
    sold = {"bolt11": "bolt11" in taken, "l402": config.get("l402-enabled"), "bolt12": "bolt12" in taken}
    sold["cashu"] = "cashu" in taken
    return AccessTerms(
        methods=tuple(method for method, on in sold.items() if on),
        l402_price_sats=int(str(config.get("l402-price"))),
        l402_days=int(str(config.get("l402-days"))),
        l402_actions=int(str(config.get("l402-actions"))),
    )


def pay_terms(config: Config) -> PayTerms:
    """What the options say of paying agents for their commands."""
    methods = tuple(str(name) for name in config.get("payment-methods"))
    return PayTerms(methods=methods, escrow_min_danger=int(str(config.get("escrow-min-danger"))))


def _about(
    identity: IdentityService, node: dict[str, str], config: Config, registered: Sequence[str]
) -> About:
    return About(
        version=__version__,
        node_key=identity.pubkey,
        node_id=node["node_id"],
        network=node["network"],
        transports=_transports(config, registered),
        relays=config.relay_sets.inbox,
        max_skew_s=config.max_skew_s,
    )


def _transports(config: Config, registered: Sequence[str]) -> tuple[str, ...]:
    on = {"nostr_dm": bool(config.relay_sets.inbox), "rest": bool(config.get("rest-enabled"))}
    return (*(name for name in BUILT_IN if on.get(name, True)), *registered)
