"""Who moved the money of a channel, and when: what a command notes that leaves the channel's fees as they are
(docs/protocol/02-fleet-management.md §7.5, docs/decisions/0477-what-a-rebalance-writes-to.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from hive_shared.canonical import JsonValue

from ...domain.command_record import FeeWrite
from .action import Caller
from .channels import channel_key, fees_of

BALANCE: Final = "balance"
"""The field of a channel that rebalances and splices change."""
MOVES: Final = "moves"
"""Where the plan of such a command keeps its channels (`undo`)."""


def moves_of(rows: Iterable[Mapping[str, Any]]) -> list[JsonValue]:
    """What of the channels' rows is noted before anything moves."""
    return [
        dict(zip(("channel", "base_msat", "fee_ppm"), (channel_key(row), *fees_of(row)), strict=True))
        for row in rows
    ]


def history_of(undo: Mapping[str, JsonValue], caller: Caller) -> tuple[FeeWrite, ...]:
    """Rows of the channels' history, once it moved. A command from before there was such a note has none."""
    noted = undo.get(MOVES, [])
    assert isinstance(noted, list)
    rows = []
    for each in noted:
        assert isinstance(each, dict)
        base, ppm = each["base_msat"], each["fee_ppm"]
        assert isinstance(base, int) and isinstance(ppm, int)
        who = (caller.advisor_id, caller.credential_id, caller.command_id)
        rows.append(FeeWrite(str(each["channel"]), caller.now, ppm, ppm, base, base, *who, field=BALANCE))
    return tuple(rows)
