"""A splice while its two ends agree on it; never on disk."""

from __future__ import annotations

from dataclasses import dataclass

from hive_devnet.embedded.peers import Link
from hive_devnet.embedded.psbt import Psbt


@dataclass(frozen=True)
class Negotiation:
    """A splice being agreed on over a connection; `told` once the peer has the transaction."""

    link: Link
    amount_sat: int
    feerate_perkw: int
    psbt: Psbt
    told: bool = False
    secured: bool = False
