"""Forwarding and emergencies: `hive:forwarding/v1` and `hive:emergency/v1` (02 §4 items 4 and 14)."""

from __future__ import annotations

from typing import Final

from .channel import ADDRESS
from .config import GOING_DOWN
from .danger import Tier
from .params import Bool, Channel, Int, ListOf, Param, ParamSchema, Text
from .spec import SchemaSpec, SchemaTable

FORWARDING: Final = "hive:forwarding/v1"
EMERGENCY: Final = "hive:emergency/v1"

_CHANNEL: Final = Param("channel_id", Channel(), required=True)
_REASON: Final = Param("reason", Text(minimum=1), required=True)


def forwarding() -> SchemaSpec:
    """Letting channels forward or not."""
    table = SchemaTable(FORWARDING, "forwarding")
    table.write("disable_channel", "2/3/3/3/2", params=ParamSchema((_CHANNEL, _REASON)))
    table.write("enable_channel", "2/1/1/2/1", params=ParamSchema((_CHANNEL,)))
    table.write("disable_all", "4/4/6/6/3", params=ParamSchema((_REASON,)))
    table.write(
        "enable_all",
        "2/2/3/3/2",
        params=ParamSchema((Param("respect_individual", Bool(), default=True),)),
    )
    table.write(
        "set_routing_hints",
        "3/2/3/3/2",
        tier=Tier.ADVANCED,
        params=ParamSchema((Param("hints", ListOf(Channel(), 0, 20), required=True),)),
    )
    return table.done()


def emergency() -> SchemaSpec:
    """What an advisor may do at once when something is badly wrong."""
    table = SchemaTable(EMERGENCY, "emergency")
    table.write(
        "disable_forwarding",
        "4/4/6/6/3",
        params=ParamSchema((_REASON, Param("notify_operator", Bool(), default=True))),
    )
    table.write(
        "fee_spike",
        "3/4/5/5/3",
        params=ParamSchema(
            (
                _REASON,
                Param("fee_ppm", Int(1_000, 100_000), default=50_000),
                Param("hours", Int(1, 72), default=6),
            )
        ),
    )
    table.write("force_close", "8/8/8/3/7", params=ParamSchema((_CHANNEL, _REASON)))
    table.write(
        "force_close_all",
        "10/10/9/10/9",
        "emergency_close_all",
        params=ParamSchema((_REASON, Param("destination", ADDRESS))),
    )
    table.write("revoke_all_credentials", "2/1/3/3/2", tier=Tier.ADMIN, params=ParamSchema((_REASON,)))
    table.write("stop_node", "8/6/7/3/6", params=GOING_DOWN)
    return table.done()
