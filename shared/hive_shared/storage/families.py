"""What the names of tables begin with, or are, whose store is shared (docs/protocol/03 §8, 11 §12)."""

from typing import Final

import msgspec


class IntakeTables(msgspec.Struct, frozen=True):
    """Tables of tickets that others handed over, and of their tokens (`intake_store`). `keeps_accepted`: an
    accepted ticket stays there, with the context of its lock keys, instead of in other books."""

    received: str
    parts: str
    keeps_accepted: bool


NODE_ECASH: Final = "comms_cashu"
KIT_ECASH: Final = "adv_cashu"
NODE_TICKETS: Final = "comms_escrow"
"""Tickets of cl-hive-comms (03 §8)."""
FLEET_TICKETS: Final = "escrow"
"""Tickets of cl-hive (03 §8)."""
NODE_INTAKE: Final = IntakeTables("comms_escrow_received", "comms_escrow_parts", keeps_accepted=False)
KIT_INTAKE: Final = IntakeTables("adv_tickets", "adv_ticket_parts", keeps_accepted=True)
