"""What the user of a wallet does about a refusal, in the words of the tool that he has before him."""

from __future__ import annotations

from typing import Final

import msgspec


class Advice(msgspec.Struct, frozen=True):
    """Sentence parts: how a first mint is named, how one more is, what brings more ecash, the setting that
    bounds what may be at one mint, what takes ecash out, what stops everything, the name that a caller gives
    a call. `option` is the setting's machine name."""

    first_mint: str
    name_mint: str
    fund: str
    most: str
    fewer: str
    stopped: str
    key: str
    option: str


NODE: Final = Advice(
    first_mint="set hive-comms-escrow-mint to the address of one you trust",
    name_mint="set hive-comms-escrow-mint or hive-comms-escrow-backup-mints if you trust it",
    fund="hive-client-wallet action=fund brings more",
    most="hive-comms-mint-max-balance",
    fewer="hive-client-wallet action=withdraw takes some out",
    stopped="the emergency stop is on (hive-client-emergency-stop action=status)",
    key="idempotency_key",
    option="hive-comms-escrow-mint",
)
"""The node's operator."""

KIT: Final = Advice(
    first_mint="'hive-advisor wallet mint add URL' names one you trust",
    name_mint="'hive-advisor wallet mint add URL' if you trust it",
    fund="'hive-advisor wallet receive' takes more in",
    most="spend.max_balance_sats",
    fewer="'hive-advisor wallet melt' takes some out",
    stopped="the guard is halted ('hive-advisor guard release')",
    key="--key",
    option="mints",
)
"""The advisor at his command line."""
