"""A node's log: a file in lightningd's format and a bounded memory of it for `getlog`."""

from __future__ import annotations

import datetime
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LEVELS = {"io": 0, "trace": 1, "debug": 2, "info": 3, "unusual": 4, "warn": 4, "broken": 5, "error": 5}
_SHOWN = {0: "IO", 1: "TRACE", 2: "DEBUG", 3: "INFO", 4: "UNUSUAL", 5: "BROKEN"}
_MAX_BYTES = 8 << 20


@dataclass(frozen=True)
class Entry:
    """One line: level number, seconds since the epoch, source, text, and the peer it is about."""

    level: int
    time: float
    source: str
    text: str
    node_id: str | None = None


def iso_time(seconds: float) -> str:
    """Milliseconds-exact UTC time, as CLN writes it."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


class LogBook:
    """Writes every line at once, so a killed process loses none. `on_entry` sees every entry."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1, encoding="utf-8", errors="replace")
        self.created = time.time()
        self.entries: deque[Entry] = deque()
        self.bytes_used = 0
        self.bytes_max = _MAX_BYTES
        self.on_entry: Callable[[Entry], None] | None = None

    def write(self, level: str, source: str, text: str, node_id: str | None = None) -> None:
        """Adds one entry; `level` is one of LEVELS. Lines are split."""
        for line in text.split("\n"):
            entry = Entry(LEVELS[level], time.time(), source, line, node_id)
            prefix = f"{node_id}-" if node_id else ""
            self._file.write(f"{iso_time(entry.time)} {_SHOWN[entry.level]:<7} {prefix}{source}: {line}\n")
            self.entries.append(entry)
            self.bytes_used += len(line) + 64
            while self.bytes_used > self.bytes_max:
                self.bytes_used -= len(self.entries.popleft().text) + 64
            if self.on_entry is not None:
                self.on_entry(entry)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def level_name(level: int) -> str:
    """A level as `getlog` and `listpeers` show it."""
    return _SHOWN[level]
