"""Alerts for the operator: stored, logged, deduplicated (docs/protocol/08-client-and-plugins.md §6).

An alert says with its row where it has to go; services.alert_delivery takes it there.
"""

import asyncio
from collections.abc import Callable, Collection

from hive_shared.alerts import Level
from hive_shared.hidden import hidden_text
from hive_shared.store import Db, Tx

from cl_hive_comms.domain.alert import DEDUP_S, MAX_PER_HOUR, Alert, Channel, channels_of, with_repeats
from cl_hive_comms.services.ports_identity import AlertStore, Clock, Log

_LOG_LEVEL = {Level.INFO: "info", Level.NOTICE: "info", Level.WARNING: "warning", Level.CRITICAL: "error"}


class AlertService:
    """Raises alerts, inside the caller's transaction or in one of its own.

    `channels` tells by which ways the operator wants to be told at present.
    """

    def __init__(
        self,
        db: Db,
        store: AlertStore,
        *,
        now: Clock,
        log: Log,
        channels: Callable[[], Collection[Channel]] = frozenset,
    ) -> None:
        self._db, self._store, self._now, self._log = db, store, now, log
        self._channels = channels
        self._soon: set[asyncio.Task[None]] = set()

    def raise_in(self, tx: Tx, level: Level, code: str, text: str, dedup_key: str = "") -> None:
        """Stores the alert with the caller's change. A repeat within ten minutes of its telling is only
        counted; the next one tells how many there were."""
        now = self._now()
        text = hidden_text(text)
        key = dedup_key or f"{code}:{text}"
        if self._store.count_repeat(tx, key, now - DEDUP_S, now) is not None:
            return
        # Beyond the hourly cap alerts of one level share a row, so that a flood stays one line.
        if self._store.raised_since(tx, level, now - 3_600) >= MAX_PER_HOUR:
            key, code, text = (
                f"flood:{level}",
                "alert_flood",
                f"more than {MAX_PER_HOUR} {level} alerts in an hour",
            )
            if self._store.count_repeat(tx, key, now - 3_600, now) is not None:
                return
        text = with_repeats(text, *self._store.untold(tx, key))
        ways = channels_of(level, code).intersection(self._channels())
        self._store.add_alert(tx, level, code=code, text=text, dedup_key=key, now=now, channels=ways)
        self._log(_LOG_LEVEL[level], "alert", severity=level.value, code=code, text=text)

    def raise_alert(
        self, tx: Tx | None, level: Level | str, code: str, text: str, dedup_key: str = ""
    ) -> None:
        """Inside the caller's transaction, or without one (`tx` None) soon after in its own."""
        if tx is not None:
            self.raise_in(tx, Level(level), code, text, dedup_key)
            return
        task = asyncio.get_running_loop().create_task(self.alert(Level(level), code, text, dedup_key))
        self._soon.add(task)
        task.add_done_callback(self._soon.discard)

    async def alert(self, level: Level, code: str, text: str, dedup_key: str = "") -> None:
        """In a transaction of its own."""
        await self._db.write(lambda tx: self.raise_in(tx, level, code, text, dedup_key))

    async def alert_critical(self, code: str, text: str) -> None:
        """A critical alert in a transaction of its own."""
        await self.alert(Level.CRITICAL, code, text)

    async def recent(self, limit: int = 20) -> list[Alert]:
        """The newest alerts first."""
        return await self._db.read(lambda tx: self._store.recent_alerts(tx, limit))
