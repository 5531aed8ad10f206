"""The end of frozen coins by the clock (docs/protocol/02-fleet-management.md §5.5; docs/decisions/0363)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.registry import WALLET
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.command_record import TimerRow
from .executors.action import Caller
from .executors.wallet_freeze import BLOCK_S, FREEZE
from .ports_commands import CommandRows, Database, Log, Node
from .receipt_service import ReceiptService
from .timer_end import timer_event


class FreezeEnd:
    """Writes down that the node has let a frozen coin go. Blocks are not minutes: a timer that comes early is
    set to when the block may be there."""

    def __init__(
        self,
        db: Database,
        commands: CommandRows,
        receipts: ReceiptService,
        node: Node,
        now: Callable[[], int],
        log: Log,
    ) -> None:
        self._db, self._commands, self._receipts = db, commands, receipts
        self._node, self._now, self._log = node, now, log

    async def end_due(self) -> None:
        """Look at every due timer; one receipt for each coin whose block is reached."""
        due = await self._db.read(lambda tx: self._commands.timers(tx, FREEZE, self._now()))
        if not due:
            return
        try:
            height = int((await self._node.getinfo())["blockheight"])
        except ClnError as error:
            self._log("warning", "freeze_end_postponed", code=error.code)
            return
        for timer in due:
            await self._db.write(partial(self._look, timer=timer, height=height))

    def _look(self, tx: Tx, timer: TimerRow, height: int) -> None:
        payload: Mapping[str, Any] = json.loads(timer.payload_json)
        left = int(payload["until"]) - height
        if not self._commands.timer_done(tx, timer.timer_id, self._now()):
            return
        if left > 0:
            later = replace(timer, timer_id=f"{timer.timer_id}+", due=self._now() + left * BLOCK_S)
            self._commands.set_timer(tx, later)
            return
        # The command that froze it may have frozen others: their timers bear its id and a number.
        timer = replace(timer, timer_id=timer.timer_id.partition(":")[0])
        caller = Caller(timer.timer_id, "", payload["advisor_id"], payload["credential_id"], self._now())
        result: dict[str, JsonValue] = {"utxo": timer.subject, "until_block": payload["until"]}
        fields = timer_event(
            WALLET, "unfreeze_utxos", "success", timer=timer, caller=caller, error=None, result=result
        )
        self._receipts.append(tx, fields)
