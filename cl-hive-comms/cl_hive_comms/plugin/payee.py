"""Tickets that pay this node, on its adapters; part of the composition root."""

import os
from collections.abc import Callable
from functools import partial

from hive_shared.cashu.derive import EscrowKeys
from hive_shared.cashu.escrow_rows import Side
from hive_shared.cashu.mint_book import MintBookService
from hive_shared.cashu.payee import PayeeEngine
from hive_shared.cashu.ticket_mints import TicketMintBook
from hive_shared.crypto import Sealer
from hive_shared.nostr.keys import npub_encode
from hive_shared.rate_limit import SlidingWindows
from hive_shared.runtime_loops import Log
from hive_shared.storage.escrow_store import EscrowStore
from hive_shared.storage.families import NODE_INTAKE
from hive_shared.storage.intake_store import IntakeStore
from hive_shared.store import Db

from cl_hive_comms.domain.advisor import Advisor
from cl_hive_comms.plugin.locks import LockTables
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.escrow_adapters import EscrowMail
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.lock_service import LockService
from cl_hive_comms.services.payer_book import PayerBook
from cl_hive_comms.services.received_rows import OperatorHashes, ReceivedTickets
from cl_hive_comms.services.received_tickets import PayeeAlerts, PayeeMail, ReceivedTicketService
from cl_hive_comms.storage.state_store import StateStore


def compose_received(
    tickets: EscrowStore,
    mail: EscrowMail,
    *,
    db: Db,
    sealer: Sealer,
    keys: EscrowKeys,
    tables: LockTables,
    locks: LockService,
    mints: MintBookService,
    identity: IdentityService,
    alerts: AlertService,
    advisor: Callable[[str], Advisor | None],
    kick: Callable[[], None],
    log: Log,
) -> ReceivedTicketService:
    """All of it over the tables of tickets and locks; items follow their locks. `advisor` by a key (x-only
    hex)."""

    rows = ReceivedTickets(
        IntakeStore(sealer, NODE_INTAKE),
        tickets,
        tables.rows,
        tables.books,
        locks.take_in,
        advisor_of=partial(_advisor_id, advisor),
        now=unix_now,
    )
    payers = PayerBook(
        db,
        StateStore(),
        keys,
        identity,
        mail,
        of_tickets=lambda tx: tickets.others(tx, Side.PAYEE),
        name_of=partial(_name, advisor),
        now=unix_now,
    )
    out, told = PayeeMail(mail, unix_now), PayeeAlerts(alerts)
    own = OperatorHashes(tickets, unix_now)
    engine = PayeeEngine(db, rows, TicketMintBook(mints), keys, payers, out, own, told=told, now=unix_now)
    service = ReceivedTicketService(
        db,
        rows,
        engine,
        payers,
        locks,
        out,
        mail,
        told,
        windows=SlidingWindows(unix_now, window_s=3_600),
        kick=kick,
        now=unix_now,
        random_bytes=os.urandom,
        log=log,
    )
    locks.on_change(service.on_lock)
    return service


def _advisor_id(advisor: Callable[[str], Advisor | None], key: str) -> str | None:
    found = advisor(key)
    return None if found is None else found.advisor_id


def _name(advisor: Callable[[str], Advisor | None], key: str) -> str:
    found = advisor(key)
    return npub_encode(key) if found is None else found.display_name
