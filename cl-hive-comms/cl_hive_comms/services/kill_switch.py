"""The emergency stop as everything asks it: nothing remote runs while it is engaged
(docs/protocol/08-client-and-plugins.md §6).

Engaged by the operator's call or by the file `NET/hive/EMERGENCY_STOP`, looked at on every dispatch and
every 5 s. A stop is stored and outlives restarts; once the file was seen, removing it does not release.
What a stop does beyond refusing is services.emergency_service.
"""

from contextlib import suppress
from pathlib import Path

from hive_shared.errors import EmergencyStop
from hive_shared.store import Db, Tx

from cl_hive_comms.domain.emergency import ENGAGED, Stop, stop_from_text
from cl_hive_comms.services.ports_identity import Clock, FactStore

EMERGENCY_FACT = "emergency"
"""Fact: the stop that is engaged, as Stop.to_text writes it."""


class KillSwitch:
    """Knows whether the emergency stop is engaged."""

    def __init__(self, db: Db, store: FactStore, directory: Path, *, now: Clock) -> None:
        self._db, self._store, self._now = db, store, now
        self.file = directory / "EMERGENCY_STOP"
        self._drain = directory / "DRAIN"
        self._stop: Stop | None = None
        self._latched = False

    async def load(self) -> None:
        """Reads the stored stop and makes the place for the files; call once before the first dispatch."""
        # An operator in a hurry must be able to `touch` the file; without the directory the call still stops.
        with suppress(OSError):
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._stop = await self._db.read(self.stored)

    def stored(self, tx: Tx) -> Stop | None:
        """The stop as it stands in the database."""
        text = self._store.get(tx, EMERGENCY_FACT)
        return None if text is None else stop_from_text(text)

    @property
    def stop(self) -> Stop | None:
        """The stored stop."""
        return self._stop

    def engaged(self) -> bool:
        """Whether the stop is on now; looks at the file each time."""
        return self._stop is not None or self._latched or self.file_present()

    def file_present(self) -> bool:
        """Whether the file is there, or cannot be looked for: a stop that we may not see counts."""
        try:
            self.file.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            pass
        self._latched = True
        return True

    def draining(self) -> bool:
        """Whether `NET/hive/DRAIN` asks for no new work (docs/protocol/10 §20.2)."""
        try:
            self._drain.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            # What we may not see counts, as with the stop.
            return True
        return True

    def check(self) -> None:
        """Raises EmergencyStop while engaged."""
        if self.engaged():
            raise EmergencyStop(ENGAGED)

    def in_force(self, tx: Tx) -> Stop | None:
        """The stop that is on, also one that was not stored yet: by the file, or while the disk was full."""
        stop = self.stored(tx)
        if stop is None and self.engaged():
            return Stop(since=self._now(), by="file" if self.file_present() else "operator")
        return stop

    # -- for the emergency service -----------------------------------------------------------------------

    def latch(self) -> None:
        """Refuse from now on, before anything is written."""
        self._latched = True

    def put(self, tx: Tx, stop: Stop | None) -> None:
        """Store a stop, or its end."""
        if stop is None:
            self._store.delete(tx, EMERGENCY_FACT)
        else:
            self._store.put(tx, EMERGENCY_FACT, stop.to_text(), self._now())

    def adopt(self, stop: Stop | None) -> None:
        """Follow what was stored. Releasing looks at the file again at the next question."""
        self._stop = stop
        self._latched = stop is not None
