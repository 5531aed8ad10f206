"""Pay of commands by ecash on this node's adapters; part of the composition root."""

from collections.abc import Callable

from hive_shared.cashu.derive import EscrowKeys
from hive_shared.cashu.mint_book import MintBookService
from hive_shared.crypto import Sealer
from hive_shared.store import Db

from cl_hive_comms.domain.payment import RESTORED_FACT
from cl_hive_comms.options import Config
from cl_hive_comms.plugin.escrow import EscrowParts
from cl_hive_comms.plugin.locks import LockTables
from cl_hive_comms.plugin.payments import Payments
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.bearer_pay import BearerPay
from cl_hive_comms.services.command_pipeline import Pipeline
from cl_hive_comms.services.command_push import CommandPush
from cl_hive_comms.services.lock_service import LockService
from cl_hive_comms.storage.payment_store import PaymentStore
from cl_hive_comms.storage.state_store import StateStore


def compose_bearer_pay(
    *,
    db: Db,
    sealer: Sealer,
    keys: EscrowKeys,
    tables: LockTables,
    locks: LockService,
    mints: MintBookService,
    escrow: EscrowParts,
    payments: Payments,
    pipeline: Pipeline,
    push: CommandPush,
    alerts: AlertService,
    config: Callable[[], Config],
) -> None:
    """Let the pipeline take claims of ecash, and what is owed so be paid."""
    bearer = BearerPay(
        db,
        PaymentStore(sealer),
        tables.rows,
        locks,
        mints,
        keys,
        escrow.payee_keys,
        push,
        alerts,
        most_locked=lambda: int(config().get("mint-max-locked")),
        restored=lambda tx: StateStore().get(tx, RESTORED_FACT) is not None,
        now=unix_now,
    )
    locks.on_change(bearer.on_lock)
    pipeline.rewards.bearer = payments.debts.bearer = bearer
