"""What sibling plugins may call, on this node's adapters; part of the composition root."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hive_shared.cln import ClnClient
from hive_shared.runtime import MethodSpec
from hive_shared.store import Db

from cl_hive_comms.commands.sibling_calls import SiblingCommands
from cl_hive_comms.commands.sibling_policy import SiblingPolicyCommands
from cl_hive_comms.commands.sibling_records import SiblingRecordCommands
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.command_pipeline import Pipeline
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.messenger_signed import SignedMessages
from cl_hive_comms.services.policy_service import PolicyService
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.services.sibling_policy import SiblingPolicy
from cl_hive_comms.services.sibling_records import SiblingRecords
from cl_hive_comms.storage.fee_store import FeeStore
from cl_hive_comms.storage.receipt_store import ReceiptStore

SIBLING_CAPABILITIES: tuple[str, ...] = ("dm.v1", "policy.v1", "receipts.v1", "alerts.v1")
"""What sibling plugins may use of us, as `name.vN` (docs/protocol/08 §3.2); only what is served."""


@dataclass(frozen=True)
class SiblingServices:
    """The services behind the calls of class S."""

    messages: SignedMessages
    policy: SiblingPolicy
    records: SiblingRecords


def compose_sibling_services(
    *,
    db: Db,
    cln: ClnClient,
    node_id: str,
    identity: IdentityService,
    messages: SignedMessages,
    policy: PolicyService,
    receipts: ReceiptService,
    alerts: AlertService,
    kill_switch: KillSwitch,
    pipeline: Pipeline,
    on_receipt: Callable[[int, str], None],
) -> SiblingServices:
    """All of them over the same tables."""
    return SiblingServices(
        messages=messages,
        policy=SiblingPolicy(
            db=db,
            fees=FeeStore(),
            policies=policy,
            node=cln,
            find_write=pipeline.executors.write,
            kill_switch=kill_switch,
            now=unix_now,
        ),
        records=SiblingRecords(
            db=db,
            alerts=alerts,
            receipts=receipts,
            rows=ReceiptStore(),
            identity=identity,
            kill_switch=kill_switch,
            node_id=node_id,
            now=unix_now,
            on_receipt=on_receipt,
        ),
    )


def sibling_methods(services: Callable[[], SiblingServices]) -> list[MethodSpec]:
    """The methods of class S; they exist before the services do."""
    return [
        *SiblingCommands(lambda: services().messages).specs(),
        *SiblingPolicyCommands(lambda: services().policy).specs(),
        *SiblingRecordCommands(lambda: services().records).specs(),
    ]
