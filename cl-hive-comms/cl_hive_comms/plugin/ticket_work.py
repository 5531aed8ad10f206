"""Pay of commands by escrow tickets on this node's adapters; part of the composition root."""

from hive_shared.crypto import Sealer
from hive_shared.store import Db

from cl_hive_comms.plugin.escrow import EscrowParts
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.ticket_work import TicketWork
from cl_hive_comms.storage.sealed_command_store import SealedCommandStore


def compose_ticket_work(
    db: Db, sealer: Sealer, escrow: EscrowParts, credentials: CredentialService, node_id: str
) -> TicketWork:
    """Over the tickets of this node."""
    return TicketWork(
        db=db,
        rows=escrow.rows,
        work=escrow.work,
        commands=SealedCommandStore(sealer),
        credentials=credentials,
        node_id=node_id,
    )
