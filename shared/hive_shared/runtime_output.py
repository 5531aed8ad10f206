"""Everything a plugin says to lightningd goes out here: answers, notifications and log lines on one pipe.

The asyncio loop must never wait for lightningd to read. A short message is written at once when the pipe has
room; anything else, log lines too, goes to a writer thread. Log lines are the only traffic a plugin produces
on its own initiative without bound, so they are the only ones that are dropped (and counted) when lightningd
does not keep up.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from hive_shared.canonical import is_plain

__all__ = ["LOG_LINES_MAX", "Output", "render_log", "without_secrets"]

LOG_LINES_MAX: Final = 1_000
# A pipe that polls as writable takes PIPE_BUF bytes without blocking (POSIX: at least 512, Linux: 4,096).
_AT_ONCE: Final = select.PIPE_BUF
_SECRET_NAMES: Final = re.compile(
    r"secret|token|rune$|nsec|preimage|passphrase|password|privkey|seed", re.IGNORECASE
)
_SECRET_TEXT: Final = re.compile(r"nsec1[02-9ac-hj-np-z]{10,}|cashu[AB][A-Za-z0-9_-]{10,}")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:/+@-]+\Z")
_ENCODE: Final = msgspec.json.Encoder().encode
_GENERAL: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_LEVELS: Final = {"debug": "debug", "info": "info", "warning": "warn", "warn": "warn", "error": "error"}


def render_log(event: str, fields: Mapping[str, Any]) -> str:
    """One line: the event's name, then ``key=value`` pairs. Fields that name a secret print as
    ``<secret>``."""
    parts = [event]
    for key, value in fields.items():
        if _SECRET_NAMES.search(key) and not isinstance(value, bool | int):
            parts.append(f"{key}=<secret>")
            continue
        plain = isinstance(value, bool | int | float | list | tuple | dict | None)
        text = json.dumps(value, default=str) if plain else str(value)
        text = without_secrets(text)
        parts.append(f"{key}={text}" if _PLAIN.match(text) else f"{key}={json.dumps(text)}")
    return " ".join(parts)


def without_secrets(text: str) -> str:
    """The text with everything that reads like a private key or a bearer token printed as ``<secret>``.

    People paste them into the wrong parameter, and errors quote what they refuse.
    """
    return _SECRET_TEXT.sub("<secret>", text)


class Output:
    """The plugin's side of the pipe to lightningd. All methods may be called from any thread and return at
    once."""

    def __init__(self, fd: int, *, max_log_lines: int = LOG_LINES_MAX) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._queue: deque[tuple[bytes, bool]] = deque()
        self._state = threading.Condition(threading.Lock())
        self._writing = False
        self._closing = False
        self._gone = False
        self._thread: threading.Thread | None = None
        self._max_log_lines = max_log_lines
        self._logs_queued = 0
        self._logs_dropped = 0

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one JSON-RPC message. Raises ``TypeError``/``ValueError`` if it is not JSON."""
        self._push(_frame(message), is_log=False)

    def log(self, level: str, line: str) -> None:
        """Send one line to the node's log, or count it as dropped when too many are waiting."""
        params = {"level": _LEVELS.get(level, "info"), "message": line.replace("\n", "\\n")}
        self._push(_frame({"jsonrpc": "2.0", "method": "log", "params": params}), is_log=True)

    def close(self, timeout: float) -> None:
        """Write out what is waiting, for at most ``timeout`` seconds. Later messages are discarded."""
        with self._state:
            self._closing = True
            self._state.notify_all()
            self._state.wait_for(lambda: self._gone or not (self._queue or self._writing), timeout)
            self._gone = True
            self._state.notify_all()

    def _push(self, data: bytes, *, is_log: bool) -> None:
        with self._state:
            if self._gone:
                return
            idle = not self._queue and not self._writing
            # The kernel may give our processor to lightningd as soon as a line has woken it. Whoever logs in
            # the middle of a transaction must not wait for that: log lines go by the thread.
            if not is_log and idle and len(data) <= _AT_ONCE and self._poll.poll(0):
                self._write(data)
                return
            if is_log:
                if self._logs_queued >= self._max_log_lines:
                    self._logs_dropped += 1
                    return
                self._logs_queued += 1
            self._queue.append((data, is_log))
            if self._thread is None:
                self._thread = threading.Thread(target=self._drain, name="hive-output", daemon=True)
                self._thread.start()
            self._state.notify_all()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            # lightningd is gone; the end of stdin says so to the main thread, which stops the plugin.
            self._gone = True
            self._queue.clear()

    def _drain(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(lambda: self._queue or self._gone)
                if self._gone:
                    return
                data, is_log = self._queue.popleft()
                self._logs_queued -= is_log
                self._writing = True
            self._write(data)
            with self._state:
                self._writing = False
                if not self._queue and self._logs_dropped:
                    dropped, self._logs_dropped = self._logs_dropped, 0
                    params = {"level": "warn", "message": f"log_dropped count={dropped}"}
                    self._queue.append((_frame({"jsonrpc": "2.0", "method": "log", "params": params}), False))
                self._state.notify_all()


def _frame(message: Mapping[str, Any]) -> bytes:
    # The C encoder takes a tenth of the time, but also writes what is no JSON value (NaN, sets, dataclasses)
    # and what an answer must not hold by mistake: only the plain gets there.
    if is_plain(message):
        with contextlib.suppress(UnicodeEncodeError):
            return _ENCODE(message) + b"\n\n"
    # A lone surrogate cannot be UTF-8; escaped, it is still the same JSON text.
    text = _GENERAL.encode(message)
    return text.encode("utf-8", "backslashreplace") + b"\n\n"
