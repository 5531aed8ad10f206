"""What a mint was seen to do in a probe (docs/protocol/03-escrow-and-payments.md §4.2)."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["NO_CAPS", "PROBE_VALID_S", "Caps"]

PROBE_VALID_S: Final = 30 * 86_400
"""How long the result of a probe counts, seconds."""


class Caps(msgspec.Struct, frozen=True):
    """What a mint was seen to do, in a probe."""

    htlc: bool = False
    multisig: bool = False
    sigall: bool = False
    late_redeem: bool = False
    restore: bool = False
    n_sigs_refund: bool = False

    @property
    def tickets(self) -> bool:
        """Whether any ticket may be locked there."""
        return self.htlc and self.restore


NO_CAPS: Final = Caps()
"""Nothing seen yet."""
