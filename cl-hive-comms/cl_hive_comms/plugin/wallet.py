"""The ecash wallet on this node's adapters; part of the composition root."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
from hive_shared.alerts import Level
from hive_shared.cashu.derive import MASTER_LABEL, EscrowKeys
from hive_shared.cashu.journal import Op
from hive_shared.cashu.mint_book import MintBookService
from hive_shared.cashu.probe import Probe
from hive_shared.cashu.probe_service import ProbeService
from hive_shared.cashu.seed_restore import SeedRestore
from hive_shared.cashu.settling import Settler
from hive_shared.cashu.wallet import Wallet
from hive_shared.cashu.wallet_ends import Locks, WalletEnds
from hive_shared.cashu.wallet_service import WalletService, chosen_mint
from hive_shared.cln import ClnClient, ClnError
from hive_shared.crypto import Sealer, Secret
from hive_shared.errors import FeatureDisabled
from hive_shared.runtime import MethodSpec
from hive_shared.storage.cashu_store import CashuStore
from hive_shared.storage.families import NODE_ECASH
from hive_shared.store import Db

from cl_hive_comms.commands.wallet import WalletCommands
from cl_hive_comms.options import Config
from cl_hive_comms.payments.own_invoices import OwnInvoices
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.access_fees import AccessFees
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.ecash_fees import EcashFees, HeldFees
from cl_hive_comms.services.ecash_levels import EcashLevels, Levels
from cl_hive_comms.services.lock_restore import LockRestore
from cl_hive_comms.services.payment_limits import PaymentLimits
from cl_hive_comms.services.payment_service import PaymentService
from cl_hive_comms.services.ports_commands import Log
from cl_hive_comms.services.wallet_funding import FundPayer
from cl_hive_comms.storage.ecash_fee_store import EcashFeeStore
from cl_hive_comms.storage.payment_store import PaymentStore

NO_SECRETS = "this node has no `makesecret`, from which the keys of ecash are derived"
"""Why there is no ecash."""


def wallet_methods(
    ecash: Callable[[], "EcashParts | None"],
    locks: Callable[[], LockRestore | None],
    book: Callable[[], MintBookService],
) -> list[MethodSpec]:
    """The wallet's method; it exists before the services do."""

    def there() -> EcashParts:
        if (parts := ecash()) is None:
            raise FeatureDisabled(NO_SECRETS)
        return parts

    def locked() -> LockRestore:
        if (found := locks()) is None:
            raise FeatureDisabled(NO_SECRETS)
        return found

    return WalletCommands(
        lambda: there().service, lambda: there().restore, locked, lambda: there().probes, book, unix_now
    ).specs()


class EcashParts(msgspec.Struct, frozen=True):
    """The wallet's services."""

    service: WalletService
    restore: SeedRestore
    probes: ProbeService
    levels: EcashLevels


async def escrow_keys(cln: ClnClient) -> EscrowKeys | None:
    """Keys of the ecash side; None on a node without `makesecret`: then there is no ecash, rather than keys
    that a lost disk takes along (docs/protocol/03 §4.1)."""
    try:
        return EscrowKeys(Secret(await cln.makesecret(MASTER_LABEL)))
    except ClnError as error:
        if not error.is_unknown_command:
            raise
        return None


def compose_wallet(
    *,
    db: Db,
    sealer: Sealer,
    keys: EscrowKeys,
    mints: MintBookService,
    cln: ClnClient,
    payments: PaymentService,
    limits: PaymentLimits,
    levels: Callable[[], Levels],
    alerts: AlertService,
    stopped: Callable[[], bool],
    locks: Locks,
    access: AccessFees,
    income: PaymentStore,
    log: Log,
) -> EcashParts:
    """The engine and what the operator asks of it, over the same tables."""
    store = CashuStore(sealer, NODE_ECASH)

    async def alert(level: Level, code: str, text: str) -> None:
        await db.write(lambda tx: alerts.raise_in(tx, level, code, text))

    async def lost(op: Op) -> None:
        text = f"{op.kind.value} of {op.amount_sats} sat at {op.mint_url}: {op.error} (operation {op.op_id})"
        await alert(Level.CRITICAL, "wallet_operation", text)

    fees = EcashFeeStore()
    ends = WalletEnds(store, unix_now, locks, HeldFees(fees, alerts))
    payer, invoices = FundPayer(payments), OwnInvoices(cln, os.urandom)
    settler = Settler(db, store, mints, payer, ends, now=unix_now, alert=lost)
    wallet = Wallet(db, store, keys, now=unix_now, random_bytes=os.urandom)
    chosen = partial(chosen_mint, mints)
    restore = SeedRestore(db, store, mints, keys, chosen, cap=wallet.cap, now=unix_now)
    service = WalletService(
        db,
        store,
        wallet,
        settler,
        mints,
        invoices,
        keys,
        restore.beyond_signed,
        most_sat=lambda: levels().most,
        stopped=stopped,
        alert=alert,
        now=unix_now,
        wait=asyncio.sleep,
        random_bytes=os.urandom,
        log=log,
    )
    access.ecash = EcashFees(db, fees, service, store, income, accepted=mints.accepted, now=unix_now)
    probe = _probe(wallet, settler, mints, keys)
    probes = ProbeService(db, store, mints, service, probe, stopped=stopped, now=unix_now, log=log)
    loop = _levels(db, store, service, mints, limits, levels, stopped, alert, log)
    return EcashParts(service, restore, probes, loop)


def _probe(wallet: Wallet, settler: Settler, mints: MintBookService, keys: EscrowKeys) -> Probe:
    return Probe(
        *(wallet, settler, mints, keys),
        now=unix_now,
        sleep=asyncio.sleep,
        random_bytes=os.urandom,
        leisure=lambda url: mints.at(url).traffic.leisure_in_s,
    )


def _levels(
    db: Db,
    store: CashuStore,
    service: WalletService,
    mints: MintBookService,
    limits: PaymentLimits,
    levels: Callable[[], Levels],
    stopped: Callable[[], bool],
    alert: Callable[[Level, str, str], Awaitable[None]],
    log: Log,
) -> EcashLevels:
    return EcashLevels(
        db,
        store,
        service,
        mints,
        limits,
        levels=levels,
        fit=mints.healthy,
        stopped=stopped,
        alert=alert,
        now=unix_now,
        random_bytes=os.urandom,
        log=log,
    )


def levels_of(config: Config) -> Levels:
    """The operator's options about how much ecash lies at a mint."""
    return Levels(
        refill=config.get("escrow-auto-replenish") and config.get("escrow-replenish-source") == "lightning",
        refill_below=config.get("escrow-replenish-threshold"),
        refill_by=config.get("escrow-replenish-amount"),
        melt_above=config.get("cashu-automelt-threshold"),
        most=config.get("mint-max-balance"),
    )
