"""What the names of tables begin with whose store is shared (docs/protocol/03 §8, 11 §12)."""

from typing import Final

NODE_ECASH: Final = "comms_cashu"
KIT_ECASH: Final = "adv_cashu"
NODE_TICKETS: Final = "comms_escrow"
"""Tickets of cl-hive-comms (03 §8)."""
FLEET_TICKETS: Final = "escrow"
"""Tickets of cl-hive (03 §8)."""
