"""What every end by the clock has in common, whatever it puts back: how long it is tried, and its receipt
(docs/protocol/02-fleet-management.md §5.5)."""

from __future__ import annotations

from typing import Final

from hive_shared.canonical import JsonValue
from hive_shared.errors import HiveError

from ..domain.command_record import TimerRow
from .executors.action import Caller
from .receipt_service import ReceiptFields

_TRIED_FOR_S: Final = 86_400


def tried_again(timer: TimerRow, error: HiveError | None, now: int) -> bool:
    """Whether what could not be put back is tried at the next tick: for a day, and after that only because
    the emergency stop keeps it waiting. A fee must not stay as it is for one refused call."""
    stopped = error is not None and error.symbol == "emergency_stop"
    return stopped or now < timer.due + _TRIED_FOR_S


def timer_event(
    schema: str,
    action: str,
    status: str,
    *,
    timer: TimerRow,
    caller: Caller,
    error: HiveError | None,
    result: JsonValue,
) -> ReceiptFields:
    """The receipt of an end by the clock, for the credential that set the timer."""
    return ReceiptFields(
        schema=schema,
        action=action,
        status=status,
        advisor_id=caller.advisor_id,
        credential_id=caller.credential_id or None,
        command_id=timer.timer_id,
        params={"by": "timer"},
        error=None if error is None else {"code": error.code, "slug": error.symbol, "message": error.detail},
        result=result,
    )
