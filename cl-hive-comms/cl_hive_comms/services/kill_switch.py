"""The emergency stop: nothing remote runs while it is engaged (docs/protocol/08-client-and-plugins.md §6).

Engaged by the file `NET/hive/EMERGENCY_STOP`, looked at on every dispatch and every 5 s, or by a stored
decision of the operator. The stored state outlives restarts; the file counts for as long as it is there.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

from hive_shared.errors import EmergencyStop
from hive_shared.store import Db

from cl_hive_comms.services.ports_identity import Clock, FactStore, Log

_FACT = "emergency"
Listener = Callable[[bool], Awaitable[None]]


class KillSwitch:
    """Knows whether the emergency stop is engaged and tells listeners when that changes."""

    def __init__(
        self,
        db: Db,
        store: FactStore,
        directory: Path,
        *,
        now: Clock,
        log: Log,
    ) -> None:
        self._db, self._store, self._now, self._log = db, store, now, log
        self._file = directory / "EMERGENCY_STOP"
        self._drain = directory / "DRAIN"
        self._stored: int | None = None
        self._announced = False
        self._since: int | None = None
        self._listeners: list[Listener] = []

    async def load(self) -> None:
        """Reads the stored state; call once before the first dispatch."""
        stored = await self._db.read(lambda tx: self._store.get(tx, _FACT))
        self._stored = int(stored) if stored else None

    def on_change(self, listener: Listener) -> None:
        """`listener(engaged)` runs after each change that `watch` or an operator call notices."""
        self._listeners.append(listener)

    def engaged(self) -> bool:
        """Whether the stop is on now; looks at the file each time."""
        return self._stored is not None or self._file.exists()

    def draining(self) -> bool:
        """Whether `NET/hive/DRAIN` asks for no new work (docs/protocol/10 §20.2)."""
        return self._drain.exists()

    def check(self) -> None:
        """Raises EmergencyStop while engaged."""
        if self.engaged():
            raise EmergencyStop("the emergency stop is engaged; hive-client-status shows since when")

    async def watch(self) -> None:
        """Notices the file; run every 5 s."""
        engaged = self.engaged()
        if engaged == self._announced:
            return
        self._since = self._now() if engaged else None
        self._log("warning", "emergency_stop", engaged=engaged)
        for listener in self._listeners:
            await listener(engaged)
        # Only now: what waits was not cancelled if a listener failed, and the next look tries again. A stop
        # engaged while the plugin was down is news too.
        self._announced = engaged

    def status(self) -> dict[str, object]:
        """For hive-client-status."""
        by_file = self._file.exists()
        return {
            "engaged": self.engaged(),
            "by": "file" if by_file else ("operator" if self._stored is not None else None),
            "since": self._stored if self._stored is not None else self._since,
            "draining": self.draining(),
        }
