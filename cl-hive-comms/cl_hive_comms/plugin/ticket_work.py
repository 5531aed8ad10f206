"""Pay of commands by escrow tickets on this node's adapters; part of the composition root."""

from hive_shared.cashu.escrow_work import EscrowWork
from hive_shared.crypto import Sealer
from hive_shared.store import Db

from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.lock_service import LockService
from cl_hive_comms.services.ticket_work import TicketWork
from cl_hive_comms.storage.escrow_store import EscrowStore
from cl_hive_comms.storage.sealed_command_store import SealedCommandStore


def compose_ticket_work(
    *, db: Db, sealer: Sealer, locks: LockService, credentials: CredentialService, node_id: str
) -> TicketWork:
    """Over the tables of tickets and the locks of this node's wallet."""
    rows = EscrowStore(sealer)
    return TicketWork(
        db=db,
        rows=rows,
        work=EscrowWork(rows, locks, unix_now),
        commands=SealedCommandStore(sealer),
        credentials=credentials,
        node_id=node_id,
    )
