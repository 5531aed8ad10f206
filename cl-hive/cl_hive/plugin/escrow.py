"""Tickets of the fleet on this node's adapters; part of the composition root.

Imported with the first ticket: the engine costs memory that a node without fleet tickets does not need.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from hive_shared.cashu.escrow import EscrowEngine
from hive_shared.cashu.escrow_disputes import EscrowDisputes
from hive_shared.cashu.escrow_inbox import EscrowInbox
from hive_shared.cashu.escrow_work import EscrowWork
from hive_shared.cashu.terms import Terms, terms_hash, terms_text
from hive_shared.cln import ClnClient, ClnError
from hive_shared.crypto import Sealer, Secret, hkdf_sha256
from hive_shared.errors import FeatureDisabled
from hive_shared.runtime_loops import Log
from hive_shared.siblings import SiblingHub
from hive_shared.storage.escrow_store import EscrowStore
from hive_shared.storage.families import FLEET_TICKETS
from hive_shared.store import Db, Tx

from cl_hive.commands.escrow_calls import EscrowCalls
from cl_hive.domain.fleet_escrow import FleetLock
from cl_hive.services.fleet_escrow import FleetEscrow
from cl_hive.services.fleet_mail import FleetMail
from cl_hive.services.fleet_results import StoredResults
from cl_hive.services.fleet_rounds import FleetRounds
from cl_hive.services.fleet_wallet import FleetLocks
from cl_hive.storage.fleet_lock_store import FleetLockStore
from cl_hive.storage.fleet_mail_store import FleetMailStore
from cl_hive.storage.fleet_receipt_store import FleetReceiptStore

SECRET_LABEL = "hive-escrow-store-v1"


class CommsOfHub:
    """cl-hive-comms behind the sibling contract."""

    def __init__(self, hub: SiblingHub) -> None:
        self._hub = hub

    def present(self) -> bool:
        """Whether it has shaken hands and has not left since."""
        return self._hub.present("comms")

    def stopped(self) -> bool | None:
        """Whether the emergency stop is on."""
        return self._hub.emergency()

    async def call(self, method: str, params: Mapping[str, Any], timeout: float = 30.0) -> dict[str, Any]:
        """Call a method of class S."""
        return await self._hub.call("comms", method, params, timeout=timeout)


class NodePayer(msgspec.Struct, frozen=True):
    """This node as payer: its id signs terms by `signmessage`, comms has the keys of its refunds."""

    node_id: str

    @property
    def payer_id(self) -> str:
        """The node's own id."""
        return self.node_id

    def refund_pubkey(self, ticket_id: str) -> str:
        """Known before a ticket is made, from comms."""
        raise AssertionError(f"ticket {ticket_id} was not named beforehand")

    def sign(self, terms: Terms) -> str:
        """Nothing yet: the node is asked before anything is locked."""
        return ""


class EveryMessage:
    """comms has counted a peer's messages before it noted them."""

    def allow(self, kind: str, peer: str, most: int) -> bool:
        """Always."""
        return True


class FleetParts(msgspec.Struct, frozen=True):
    """The services of tickets, and what the plugin calls of them."""

    calls: EscrowCalls
    rounds: FleetRounds


async def open_sealer(cln: ClnClient) -> Sealer:
    """The sealer of preimages. Raises FeatureDisabled on a node without `makesecret`: there is no plain
    text instead."""
    try:
        seed = await cln.makesecret(SECRET_LABEL)
    except ClnError as error:
        if not error.is_unknown_command:
            raise
        raise FeatureDisabled(
            "this node has no `makesecret`, from which the key of preimages is derived: no fleet tickets"
        ) from None
    return Sealer({1: Secret(hkdf_sha256(seed))}, 1)


def _now() -> int:
    return int(time.time())


def compose_fleet_escrow(
    *,
    db: Db,
    sealer: Sealer,
    cln: ClnClient,
    hub: SiblingHub,
    node_id: str,
    settlement_mints: Callable[[], Sequence[str]],
    kicked: Callable[[], None],
    log: Log,
    now: Callable[[], int] = _now,
) -> FleetParts:
    """All of them over the plugin's tables; items follow what comms says of their locks."""
    rows, locks = EscrowStore(sealer, FLEET_TICKETS), FleetLockStore()
    outbox, receipts = FleetMailStore(), FleetReceiptStore()
    comms = CommsOfHub(hub)
    wallet = FleetLocks(db, locks, comms, now)
    mail = FleetMail(db, outbox, rows, wallet, comms, kicked=kicked, now=now, log=log)

    async def node(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return await cln.call(method, params)

    engine = _engine(db, rows, wallet, mail, node_id, cln, now, log)
    wallet.follow(_follower(engine))
    work = EscrowWork(rows, wallet, now)
    disputes = EscrowDisputes(
        *(db, rows, mail, mail),
        now=now,
        random_bytes=os.urandom,
        log=log,
        answered_by="hive-escrow-dispute",
    )
    inbox = _inbox(db, rows, engine, disputes, wallet, mail, now)
    service = FleetEscrow(
        db,
        rows,
        locks,
        receipts,
        engine,
        work,
        wallet,
        mail,
        comms,
        StoredResults(node),
        node=node,
        settlement_mints=settlement_mints,
        now=now,
        random_bytes=os.urandom,
    )
    rounds = FleetRounds(
        db, locks, outbox, engine, disputes, inbox, wallet, mail, service, comms, now=now, log=log
    )
    return FleetParts(EscrowCalls(service, disputes), rounds)


def _engine(
    db: Db,
    rows: EscrowStore,
    wallet: FleetLocks,
    mail: FleetMail,
    node_id: str,
    cln: ClnClient,
    now: Callable[[], int],
    log: Log,
) -> EscrowEngine:
    async def signed(terms: Terms) -> str:
        return await cln.signmessage(terms_text(terms_hash(terms)))

    return EscrowEngine(
        db,
        rows,
        wallet,
        mail,
        NodePayer(node_id),
        mail,
        now=now,
        random_bytes=os.urandom,
        log=log,
        sign_terms=signed,
        hand_over=mail.hand_over,
    )


def _inbox(
    db: Db,
    rows: EscrowStore,
    engine: EscrowEngine,
    disputes: EscrowDisputes,
    wallet: FleetLocks,
    mail: FleetMail,
    now: Callable[[], int],
) -> EscrowInbox:
    return EscrowInbox(
        db,
        rows,
        engine,
        disputes,
        wallet,
        mail,
        mail,
        windows=EveryMessage(),
        may_ask=lambda _: False,
        now=now,
    )


def _follower(engine: EscrowEngine) -> Callable[[Tx, FleetLock], None]:
    def follow(tx: Tx, row: FleetLock) -> None:
        if row.role == "payer":
            engine.on_lock(tx, row.terms_hash, row.item, row.lock_id, row.state)

    return follow
