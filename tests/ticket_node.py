"""The pipeline of a node whose agent is paid by tickets that are locked at a real mint."""

from __future__ import annotations

from pathlib import Path

from cashu_tickets import PAYEE
from cl_hive_comms.services.ticket_work import TicketWork
from cl_hive_comms.storage.sealed_command_store import SealedCommandStore
from hive_shared.cashu.escrow_work import EscrowWork
from hive_shared.storage.escrow_store import EscrowStore
from hive_shared.store import Db
from lock_world import LockWorld
from pipeline_world import SEALER, View, World, issue


class TicketNode(World):
    """A pipeline on the database of a wallet that locks, with `escrow` as its tickets; the payee is its
    agent. `node_id` is what the tickets call this node."""

    def __init__(self, directory: Path, locks: LockWorld, escrow: EscrowStore, node_id: str) -> None:
        self._locks = locks
        super().__init__(directory)
        self.now, self.ms = locks.now, locks.now * 1_000
        valid = (self.now - 1_000, self.now + 86_400)
        self.credentials.add(View(issue(PAYEE, valid=valid), "adv-1"))
        self.escrow = escrow
        self.pipeline.rewards.tickets = TicketWork(
            db=self.db,
            rows=escrow,
            work=EscrowWork(escrow, locks.locks, lambda: self.now),
            commands=SealedCommandStore(SEALER),
            credentials=self.credentials,
            node_id=node_id,
        )

    def _open(self) -> Db:
        return self._locks.db
