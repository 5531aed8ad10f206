"""Options of the node: `hive:config/v1` (02 §4 item 12)."""

from __future__ import annotations

from typing import Final

import msgspec

from ..canonical import MAX_INTEGER, JsonValue
from .adjust import ADJUST_PARAMS, adjust_danger
from .danger import Tier
from .params import (
    MAX_MSAT,
    MAX_SAT,
    NO_PARAMS,
    PAGE,
    Bool,
    Hex,
    Int,
    Param,
    ParamSchema,
    Text,
    refuse,
)
from .schedule import AUTO_REBALANCE_PARAMS, FEE_SCHEDULE_PARAMS
from .spec import SchemaSpec, SchemaTable

CONFIG: Final = "hive:config/v1"
MAX_ALIAS_BYTES: Final = 32
"""What a node announcement has room for (BOLT 7)."""

OPTION: Final = Text(100, 1, pattern=r"[a-z0-9][a-z0-9._-]*", what="the name of an option")
"""How options of the node and of its plugins are named."""
_ADDRESS: Final = Text(
    255, 4, pattern=r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?", what="host or host:port"
)
GOING_DOWN: Final = ParamSchema(
    (
        Param("reason", Text(minimum=1), required=True),
        Param("graceful_timeout_s", Int(0, 3_600), default=120),
    )
)
"""Why the node is stopped, and how long its payments have to end."""


class Scalar(msgspec.Struct, frozen=True):
    """The value of an option: text without control characters, an integer, or true or false."""

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The value."""
        if isinstance(value, str):
            return Text(500).parse(value, path)
        if value is None or isinstance(value, float | list | dict) or not _fits(value):
            refuse(path, "text, an integer, or true or false", value)
        return value

    def describe(self) -> dict[str, JsonValue]:
        """Types."""
        return {"type": ["string", "integer", "boolean"], "maxLength": 500}


def _fits(value: int) -> bool:
    return -MAX_INTEGER <= value <= MAX_INTEGER


class Alias(msgspec.Struct, frozen=True):
    """A node's name: 1 to 32 bytes of UTF-8 without control characters."""

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The name."""
        text = Text(MAX_ALIAS_BYTES, 1).parse(value, path)
        if not isinstance(text, str) or len(text.encode()) > MAX_ALIAS_BYTES or text != text.strip():
            refuse(path, f"1 to {MAX_ALIAS_BYTES} bytes of UTF-8 without spaces around", value)
        return text

    def describe(self) -> dict[str, JsonValue]:
        """Type and bounds; the length is in bytes."""
        return {"type": "string", "minLength": 1, "maxLength": MAX_ALIAS_BYTES, "format": "utf8-bytes"}


def config() -> SchemaSpec:
    """What agents may read and set of the node's options."""
    table = SchemaTable(CONFIG, "config_tune")
    table.read("get_config", params=ParamSchema((Param("key", OPTION), *PAGE)))
    table.write("adjust", adjust_danger(), params=ADJUST_PARAMS)
    table.write(
        "set_config",
        "5/3/5/5/5",
        tier=Tier.ADMIN,
        params=ParamSchema(
            (
                Param("key", OPTION, required=True),
                Param("value", Scalar(), required=True),
                Param("transient", Bool(), default=False),
            )
        ),
    )
    table.write(
        "set_alias",
        "1/1/1/1/1",
        tier=Tier.STANDARD,
        params=ParamSchema(
            (Param("alias", Alias()), Param("color", Hex(3))), at_least_one=("alias", "color")
        ),
    )
    table.write(
        "set_network_address",
        "3/3/5/5/3",
        params=ParamSchema((Param("address", _ADDRESS, required=True),)),
    )
    table.write("set_tor", "3/3/5/5/3", params=ParamSchema((Param("enabled", Bool(), required=True),)))
    table.write(
        "set_max_channel_size",
        "3/3/2/3/2",
        params=ParamSchema((Param("sats", Int(1, MAX_SAT), required=True),)),
    )
    table.write(
        "set_min_channel_size",
        "3/3/2/3/2",
        params=ParamSchema((Param("sats", Int(1, MAX_SAT), required=True),)),
    )
    table.write(
        "set_dust_limit",
        "3/4/4/4/3",
        tier=Tier.ADVANCED,
        params=ParamSchema((Param("max_dust_exposure_msat", Int(0, MAX_MSAT), required=True),)),
    )
    table.write("fee_schedule", "3/4/4/4/3", tier=Tier.STANDARD, params=FEE_SCHEDULE_PARAMS)
    table.write("auto_rebalance_rules", "4/6/5/5/4", params=AUTO_REBALANCE_PARAMS)
    table.write("disable_forwarding", "4/4/6/6/3", params=NO_PARAMS)
    table.write("enable_forwarding", "2/2/3/3/2", params=NO_PARAMS)
    table.write("restart_node", "5/5/7/7/4", tier=Tier.ADMIN, params=GOING_DOWN)
    return table.done()
