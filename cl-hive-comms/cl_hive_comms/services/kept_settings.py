"""The settings that this plugin keeps by itself, as they are now (services.executors.kept_setting)."""

from __future__ import annotations

from .executors.kept_setting import LARGEST
from .ports_commands import CommandRows, Database


class KeptSettings:
    """Reads kept settings; what was read stands until this process, the file's only writer, commits."""

    def __init__(self, db: Database, commands: CommandRows) -> None:
        self._db, self._commands = db, commands
        self._read: dict[str, tuple[int, str]] = {}

    async def value(self, kind: str) -> str:
        """The value of a setting, "" without one."""
        return self._value(kind)

    def largest_channel_sat(self) -> int | None:
        """The largest channel that others may open, None without a limit. Asked by the node's hooks."""
        value = self._value(LARGEST)
        return int(value) if value else None

    def _value(self, kind: str) -> str:
        written, known = self._db.stats.writes, self._read.get(kind)
        if known is None or known[0] != written:
            armed = self._db.peek(lambda tx: self._commands.armed(tx, kind))
            known = (written, armed[0][0] if armed else "")
            self._read[kind] = known
        return known[1]
