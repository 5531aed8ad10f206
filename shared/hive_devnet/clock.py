"""A clock that tests set ahead, for plugins and mint alone: midnight and locktimes come when a test wants it.

The node, the relay and the tests keep the real time. In a plugin both clocks are set ahead, the time of day
and the one that waits go by, as on a machine that slept: what is due runs at the next message to the plugin.
So are those of a mint that was started with the same `environment`, and of an advisor's command line.
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

names = [os.path.basename(argument) for argument in sys.orig_argv]
if "mint" in names or "hive_advisor" in names or any(name.startswith("cl-hive") for name in names):
    def set_ahead(clock, unit):
        def told():
            with open({file!r}) as file:
                return clock() + int(file.read()) * unit
        return told

    time.time = set_ahead(time.time, 1)
    time.monotonic = set_ahead(time.monotonic, 1)
    time.time_ns = set_ahead(time.time_ns, 1_000_000_000)

# Python runs one file of this name: the next on the path is run from here.
for place in os.environ.get("PYTHONPATH", "").split(os.pathsep):
    beside = os.path.join(place, "sitecustomize.py")
    if place != {directory!r} and os.path.isfile(beside):
        with open(beside) as source:
            exec(compile(source.read(), beside, "exec"), {{"__name__": "sitecustomize"}})
        break
"""


class PluginClock:
    """The time of those who are started with `environment` in theirs; at first the real one."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._file, self._ahead = directory, directory / "ahead_s", 0
        self._write(0)
        (directory / "sitecustomize.py").write_text(
            _PATCH.format(file=str(self._file), directory=str(directory))
        )

    @property
    def environment(self) -> dict[str, str]:
        """What the node hands on to its plugins; a mint and a command line get it beside their own."""
        before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        places = [str(self._directory), *(place for place in before if place != str(self._directory))]
        return {"PYTHONPATH": os.pathsep.join(filter(None, places))}

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
