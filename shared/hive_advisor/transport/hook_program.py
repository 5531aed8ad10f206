"""Runs the operator's program for an event: no shell, nothing of ours but the event
(docs/protocol/11-advisor-kit.md §13).
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

TIMEOUT_S: Final = 10.0
_KEPT: Final = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "TZ", "USER")
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


class HookProgram:
    """One program with its arguments. ``environ`` is what its few variables are taken from."""

    def __init__(
        self, argv: Sequence[str], profile: str, environ: Mapping[str, str], timeout_s: float = TIMEOUT_S
    ) -> None:
        self._argv, self._timeout_s = tuple(argv), timeout_s
        # Ours names files with secrets; what a program needs beyond this, it has of its own.
        self._environ = {name: environ[name] for name in _KEPT if name in environ}
        self._environ |= {"PATH": _PATH, "HIVE_ADVISOR_PROFILE": profile}

    async def run(self, body: bytes) -> str | None:
        """Run it once with `body` on standard input; None when it ended with 0, else what went wrong."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=self._environ,
                cwd="/",
                # With all that it starts it can be ended, and Ctrl-C at our terminal is not for it.
                start_new_session=True,
            )
        except OSError as error:
            return f"{self._argv[0]} cannot be started: {error.strerror}"
        try:
            async with asyncio.timeout(self._timeout_s):
                await process.communicate(body)
        except TimeoutError:
            return f"{self._argv[0]} did not end within {self._timeout_s:g} s"
        finally:
            if process.returncode is None:
                # Out of time, or we are ending: what it started goes with it.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            how = "was ended by signal" if process.returncode < 0 else "ended with"
            return f"{self._argv[0]} {how} {abs(process.returncode)}"
        return None
