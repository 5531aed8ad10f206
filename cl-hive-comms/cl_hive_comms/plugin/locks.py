"""Locks of ecash on this node's adapters; part of the composition root."""

import os
from collections.abc import Callable
from typing import Protocol

import msgspec
from hive_shared.cashu.derive import EscrowKeys
from hive_shared.cashu.escrow_rows import Side, TicketQuery
from hive_shared.cashu.mint_book import MintBookService
from hive_shared.cashu.terms import Terms
from hive_shared.cashu.wallet_service import WalletService
from hive_shared.crypto import Sealer, Secret
from hive_shared.errors import FeatureDisabled
from hive_shared.runtime import MethodSpec
from hive_shared.storage.cashu_store import CashuStore
from hive_shared.storage.escrow_store import EscrowStore
from hive_shared.storage.families import NODE_ECASH, NODE_TICKETS
from hive_shared.store import Db, Tx

from cl_hive_comms.commands.cashu_calls import SiblingCashuCommands
from cl_hive_comms.domain.cashu_lock import LockRow
from cl_hive_comms.options import Config
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.plugin.wallet import NO_SECRETS, EcashParts
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.lock_books import LockBooks
from cl_hive_comms.services.lock_restore import LockRestore
from cl_hive_comms.services.lock_service import LockService, LockSettings
from cl_hive_comms.services.lock_swaps import LockSwaps
from cl_hive_comms.services.payment_limits import PaymentLimits
from cl_hive_comms.services.ports_commands import Log
from cl_hive_comms.services.sibling_locks import SiblingLocks
from cl_hive_comms.services.sibling_payees import SiblingPayees
from cl_hive_comms.storage.lock_store import LockStore

_TICKETS = 500
"""Tickets of ours, the newest ones, whose locks a restore looks for."""


class LockTables(msgspec.Struct, frozen=True):
    """The rows of locks, and who moves them; the wallet's ends need them before the services are."""

    rows: LockStore
    books: LockBooks


def lock_tables(sealer: Sealer) -> LockTables:
    """Both over the plugin's tables."""
    rows = LockStore(sealer)
    return LockTables(rows, LockBooks(rows, unix_now))


def lock_settings(config: Config) -> LockSettings:
    """The operator's options about locks."""
    return LockSettings(
        most_locked=config.get("mint-max-locked"),
        most_ticket=config.get("mint-max-ticket"),
        grace_s=config.get("escrow-refund-grace"),
    )


def compose_lock_restore(
    *,
    db: Db,
    tables: LockTables,
    mints: MintBookService,
    keys: EscrowKeys,
    sealer: Sealer,
    config: Callable[[], Config],
) -> LockRestore:
    """Locks found again by the terms that the operator gives, and by those of tickets in the database."""
    tickets = EscrowStore(sealer, NODE_TICKETS)
    query = TicketQuery(role=Side.PAYER, limit=_TICKETS)

    def stored(tx: Tx) -> list[Terms]:
        return [ticket.terms for ticket in tickets.tickets(tx, query)]

    return LockRestore(
        db,
        tables.rows,
        tables.books,
        mints,
        keys,
        stored=stored,
        grace_s=lambda: lock_settings(config()).grace_s,
        now=unix_now,
    )


def compose_sibling_locks(
    *,
    db: Db,
    tables: LockTables,
    locks: LockService,
    mints: MintBookService,
    keys: EscrowKeys,
    nostr_key: Callable[[], Secret],
    sealer: Sealer,
) -> SiblingLocks:
    """The same locks for the node's other plugins."""
    read_op = CashuStore(sealer, NODE_ECASH).op
    rows = tables.rows
    return SiblingLocks(
        db, rows, locks, mints, keys, nostr_key=nostr_key, read_op=read_op, answers=rows.answers
    )


class KnowsPayees(Protocol):
    """The services of tickets, as far as siblings ask them (plugin.escrow.EscrowParts)."""

    @property
    def payees(self) -> SiblingPayees: ...


def cashu_methods(
    locks: Callable[[], SiblingLocks | None],
    ecash: Callable[[], EcashParts | None],
    escrow: Callable[[], KnowsPayees | None],
) -> list[MethodSpec]:
    """What siblings call; it exists before the services do."""

    def of_siblings() -> SiblingLocks:
        if (found := locks()) is None:
            raise FeatureDisabled(NO_SECRETS)
        return found

    def wallet() -> WalletService:
        if (found := ecash()) is None:
            raise FeatureDisabled(NO_SECRETS)
        return found.service

    def told() -> SiblingPayees:
        if (found := escrow()) is None:
            raise FeatureDisabled(NO_SECRETS)
        return found.payees

    return SiblingCashuCommands(of_siblings, wallet, told).specs()


def compose_locks(
    *,
    db: Db,
    tables: LockTables,
    ecash: EcashParts,
    keys: EscrowKeys,
    mints: MintBookService,
    limits: PaymentLimits,
    alerts: AlertService,
    config: Callable[[], Config],
    stopped: Callable[[], bool],
    tell: Callable[[LockRow], None],
    log: Log,
) -> LockService:
    """Locks of this node; `tell` is told of each whose state changed."""
    swaps = LockSwaps(
        db,
        tables.rows,
        tables.books,
        ecash.service,
        mints,
        keys,
        alerts,
        tell=tell,
        now=unix_now,
        random_bytes=os.urandom,
        log=log,
    )
    return LockService(
        db,
        tables.rows,
        tables.books,
        swaps,
        ecash.service,
        mints,
        limits,
        keys,
        settings=lambda: lock_settings(config()),
        stopped=stopped,
        now=unix_now,
    )
