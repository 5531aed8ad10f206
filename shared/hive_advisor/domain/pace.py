"""Our own pace towards a node: below its limits, in the order of numbers (11 §5.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hive_shared import registry
from hive_shared.errors import Unsupported
from hive_shared.registry import CONTROL

from hive_advisor.domain.command_machine import CommandState
from hive_advisor.domain.rows import StoredCommand

PER_MINUTE: Final = 50
DANGEROUS: Final = 5
DANGEROUS_PER_MINUTE: Final = 4
READS_PER_DAY: Final = 4_500
IN_FLIGHT: Final = 8
MINUTE_S: Final = 60
DAY_S: Final = 86_400
_TURN_S: Final = 1


def wait_until(
    command: StoredCommand,
    dead_before: int,
    others: Sequence[StoredCommand],
    sent: Sequence[tuple[str, str, int, int]],
    now: int,
) -> int | None:
    """When to try a ready command again (unix seconds), None when it may leave now.

    `others` are the open commands to its client; envelopes signed before `dead_before` are dead. `sent` is
    what left for it in the last day: schema, action, danger, when. What the kit asks by itself counts, and
    goes first.
    """
    ours = [other for other in others if other.schema != CONTROL]
    if any(other.state == CommandState.READY and 0 < other.nonce < command.nonce for other in ours):
        return now + _TURN_S
    flying = [o for o in ours if o.state == CommandState.SENT and o.timestamp > dead_before]
    if len(flying) >= IN_FLIGHT:
        return now + _TURN_S
    minute = sorted(at for _, _, _, at in sent if at > now - MINUTE_S)
    if len(minute) >= PER_MINUTE:
        return minute[-PER_MINUTE] + MINUTE_S
    if command.total_danger >= DANGEROUS:
        dangerous = sorted(at for _, _, danger, at in sent if danger >= DANGEROUS and at > now - MINUTE_S)
        if len(dangerous) >= DANGEROUS_PER_MINUTE:
            return dangerous[-DANGEROUS_PER_MINUTE] + MINUTE_S
    if _reads(command.schema, command.action):
        reads = sorted(at for schema, action, _, at in sent if _reads(schema, action))
        if len(reads) >= READS_PER_DAY:
            return reads[-READS_PER_DAY] + DAY_S
    return None


def _reads(schema: str, action: str) -> bool:
    try:
        return registry.find(schema, action).read_only
    except Unsupported:
        return False
