"""The part of the kit that is paid by escrow tickets (docs/protocol/11-advisor-kit.md §8). Composed here,
used by `advisor.Advisor`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from hive_shared.cashu.derive import EscrowKeys
from hive_shared.cashu.escrow_rows import MAX_ACTIVE_TICKETS
from hive_shared.cashu.payee import PayeeEngine, TicketMints
from hive_shared.cashu.redeeming import Redeemer, RedeemingWallet
from hive_shared.cashu.ticket_mints import TicketMintBook
from hive_shared.crypto import Sealer
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Db, Tx

from hive_advisor.domain.keyring import Keyring
from hive_advisor.ecash import Ecash
from hive_advisor.services.ports import ClientRows, CommandRows, RecordRows
from hive_advisor.services.signed_mail import SignedMail
from hive_advisor.services.ticket_disputes import TicketDisputes
from hive_advisor.services.ticket_hashes import TicketHashes
from hive_advisor.services.ticket_peers import TicketMail, TicketOffers, TicketPeers
from hive_advisor.services.tickets import TicketService
from hive_advisor.storage.ticket_hash_store import TicketHashStore
from hive_advisor.storage.ticket_store import TicketStore


class Purse(msgspec.Struct, frozen=True):
    """What tickets need of the ecash wallet."""

    mints: TicketMints
    wallet: RedeemingWallet
    keys: EscrowKeys
    ready: Callable[[], Awaitable[None]]


class TicketNeighbours(msgspec.Struct, frozen=True):
    """What tickets read of the rest of a profile."""

    clients: ClientRows
    commands: CommandRows
    records: RecordRows
    keyring: Keyring


def purse_of(ecash: Ecash) -> Purse:
    """The kit's wallet as tickets use it."""
    return Purse(TicketMintBook(ecash.book), ecash.service, ecash.keys, ecash.ready)


def ticket_service(
    db: Db,
    sealer: Sealer,
    purse: Purse,
    beside: TicketNeighbours,
    mail: SignedMail,
    *,
    now: Callable[[], int],
    rng: Callable[[int], bytes],
    alone: RowByRow,
) -> TicketService:
    """The tickets of a profile."""
    clients, commands, records, keyring = beside.clients, beside.commands, beside.records, beside.keyring
    rows = TicketStore(sealer)

    def payee(tx: Tx, ticket_id: str) -> str:
        held = rows.ticket(tx, ticket_id)
        return "" if held is None or held.terms is None else held.terms.payee.id

    out = TicketMail(clients, keyring, mail, payee)
    peers = TicketPeers(db, clients, keyring, purse.keys)

    def told(tx: Tx, kind: str, ticket_id: str, text: str) -> None:
        records.add_event(tx, kind, ticket_id, text, now())

    hashes = TicketHashes(db, TicketHashStore(sealer), records, mail, now=now, random_bytes=rng)
    parts = (db, rows, purse.mints, purse.keys, peers, out, hashes)
    # As many as a node has of its own: clients share no cap here.
    engine = PayeeEngine(*parts, told=told, now=now, most_live=MAX_ACTIVE_TICKETS)
    redeemer = Redeemer(
        db,
        rows,
        engine,
        purse.mints,
        purse.wallet,
        purse.keys,
        out,
        told=told,
        now=now,
        random_bytes=rng,
    )
    return TicketService(
        db,
        rows,
        engine,
        redeemer,
        peers,
        commands,
        records,
        mail,
        TicketDisputes(
            *(db, rows, engine, out, clients, commands, records), now=now, random_bytes=rng, alone=alone
        ),
        hashes,
        TicketOffers(db, clients, keyring, purse.keys, mail, mints=purse.mints.accepted),
        ready=purse.ready,
        now=now,
        alone=alone,
    )
