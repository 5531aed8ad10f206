"""The management schemas both ends share: actions, parameters, danger, tiers, prices.

docs/protocol/02-fleet-management.md §3, §4 and §8; control and push bodies: 11-advisor-kit.md §15.
"""

from .adjust import ADJUST_GROUP, ADJUST_LOWER_OF
from .backup import BACKUP
from .channel import CHANNEL, EXPANSION, perkw_of
from .config import CONFIG
from .control import CONTROL, PUSHES
from .danger import Danger, DangerFacts, DangerRule, Tier, lightning_spend, onchain_spend, tier_for
from .forwarding import EMERGENCY, FORWARDING
from .htlc import HTLC_MGMT, HTLC_POLICY
from .lookup import (
    SCHEMA_ALIASES,
    SCHEMAS,
    actions,
    contained,
    export,
    find,
    glob_names,
    managed,
    parse_params,
    scored_as,
    task_params,
    unsupported,
)
from .monitor import FEE_POLICY, MONITOR
from .params import MAX_MSAT, MAX_SAT, ParamSchema, is_uuid, parse_nonce, parse_scid
from .payment import DESCRIPTION_BYTES, PAYMENT
from .peer import PEER
from .plugin import PLUGIN
from .price import BASE_PRICE_SATS, access_price_sats, base_price_sats, check_price_table
from .rebalance import REBALANCE
from .spec import ActionSpec, SchemaSpec
from .splice import SPLICE, TO_WALLET
from .wallet import DUST_SAT, WALLET

__all__ = [
    "ADJUST_GROUP",
    "ADJUST_LOWER_OF",
    "BACKUP",
    "BASE_PRICE_SATS",
    "CHANNEL",
    "CONFIG",
    "CONTROL",
    "DESCRIPTION_BYTES",
    "DUST_SAT",
    "EMERGENCY",
    "EXPANSION",
    "FEE_POLICY",
    "FORWARDING",
    "HTLC_MGMT",
    "HTLC_POLICY",
    "MAX_MSAT",
    "MAX_SAT",
    "MONITOR",
    "PAYMENT",
    "PEER",
    "PLUGIN",
    "PUSHES",
    "REBALANCE",
    "SCHEMAS",
    "SCHEMA_ALIASES",
    "SPLICE",
    "TO_WALLET",
    "WALLET",
    "ActionSpec",
    "Danger",
    "DangerFacts",
    "DangerRule",
    "ParamSchema",
    "SchemaSpec",
    "Tier",
    "access_price_sats",
    "actions",
    "base_price_sats",
    "check_price_table",
    "contained",
    "export",
    "find",
    "glob_names",
    "is_uuid",
    "lightning_spend",
    "managed",
    "onchain_spend",
    "parse_nonce",
    "parse_params",
    "parse_scid",
    "perkw_of",
    "scored_as",
    "task_params",
    "tier_for",
    "unsupported",
]
