"""What ends items that no command decides, on this node's adapters; part of the composition root."""

from collections.abc import Awaitable, Callable, Collection

import msgspec
from hive_shared.cashu.escrow_work import EscrowWork
from hive_shared.cln import ClnClient
from hive_shared.storage.escrow_store import EscrowStore
from hive_shared.store import Db

from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.bonus_measure import BonusMeasure
from cl_hive_comms.services.contract_service import ContractService
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.escrow_adapters import EscrowMail, EscrowNotices
from cl_hive_comms.services.item_ends import ItemEnds, ItemPorts
from cl_hive_comms.services.item_judge import ItemJudge
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.ports_identity import Log
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.services.report_service import ReportService
from cl_hive_comms.services.trial_measure import TrialMeasure


class Judging(msgspec.Struct, frozen=True):
    """What judges and measures need of the node."""

    cln: ClnClient
    credentials: CredentialService
    contracts: ContractService
    reports: Callable[[], ReportService]
    kill_switch: KillSwitch
    allowed: Callable[[], Collection[str]]
    log: Log


class JudgeParts(msgspec.Struct, frozen=True):
    """The services; what they work on is also others'."""

    items: ItemPorts
    judge: ItemJudge
    bonuses: BonusMeasure


def compose_judges(
    node: Judging,
    db: Db,
    rows: EscrowStore,
    work: EscrowWork,
    mail: EscrowMail,
    receipts: ReceiptService,
    notices: EscrowNotices,
) -> JudgeParts:
    """All of them over the tickets of this node."""
    ends = ItemEnds(rows, work, mail, receipts, unix_now)
    items = ItemPorts(db, rows, work, ends, mail, notices)
    bonuses = BonusMeasure(
        items,
        incomes=TrialMeasure(node.cln),
        baselines=node.reports,
        credentials=node.credentials,
        in_trial=_on_trial(node.contracts),
        stopped=node.kill_switch.engaged,
        now=unix_now,
        log=node.log,
    )
    return JudgeParts(items, ItemJudge(items, node.cln, node.allowed, node.log), bonuses)


def _on_trial(contracts: ContractService) -> Callable[[str], Awaitable[bool]]:
    async def on_trial(credential_id: str) -> bool:
        newest, now = await contracts.trials(limit=1_000), unix_now()
        return any(trial.credential_id == credential_id and trial.running(now) for trial in newest)

    return on_trial
