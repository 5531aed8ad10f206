"""A clock that tests set ahead, for the plugins of a network alone: midnight comes when a test wants it.

The node, the relay and the tests keep the real time. In a plugin both clocks are set ahead, the time of day
and the one that waits go by, as on a machine that slept: what is due runs at the next message to the plugin.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["PluginClock"]

# Python runs a file of this name at its start: the plugins need no switch for it.
_PATCH = """\
import os
import sys
import time

if any(os.path.basename(argument).startswith("cl-hive") for argument in sys.orig_argv):
    def set_ahead(clock, unit):
        def told():
            with open({file!r}) as file:
                return clock() + int(file.read()) * unit
        return told

    time.time = set_ahead(time.time, 1)
    time.monotonic = set_ahead(time.monotonic, 1)
    time.time_ns = set_ahead(time.time_ns, 1_000_000_000)
"""


class PluginClock:
    """The time of the plugins that are started with `environment` in theirs; at first the real one."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._file, self._ahead = directory, directory / "ahead_s", 0
        self._write(0)
        (directory / "sitecustomize.py").write_text(_PATCH.format(file=str(self._file)))

    @property
    def environment(self) -> dict[str, str]:
        """What the node hands on to its plugins."""
        return {"PYTHONPATH": str(self._directory)}

    def now(self) -> int:
        """Unix seconds as the plugins read them."""
        return int(time.time()) + self._ahead

    def pass_to(self, moment: int) -> None:
        """Make it `moment` (Unix seconds). Raises ValueError for one that is over: clocks go one way."""
        if moment < self.now():
            raise ValueError(f"{moment} is before {self.now()}, which the plugins have seen already")
        self.wait(moment - self.now())

    def wait(self, seconds: int) -> None:
        """Let so many seconds have gone by."""
        self._ahead += seconds
        self._write(self._ahead)

    def _write(self, ahead: int) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(str(ahead))
        os.replace(new, self._file)
