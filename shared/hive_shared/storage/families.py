"""What the names of the ecash tables begin with (docs/protocol/03 §8, 11 §12)."""

from typing import Final

NODE_ECASH: Final = "comms_cashu"
KIT_ECASH: Final = "adv_cashu"
