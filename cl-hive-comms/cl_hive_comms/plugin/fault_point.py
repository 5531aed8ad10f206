"""Places where a crash test stops the plugin (development only).

With `HIVE_FAULT_DIR=<dir>` in the environment, and only on regtest, the plugin waits for ever at a point
for which `<dir>/<point>` exists, after creating `<dir>/<point>.reached`; the test then kills it. A running
plugin is armed by creating the file.
"""

import asyncio
import os
from pathlib import Path

from cl_hive_comms.services.ports_commands import Fault, no_fault

VARIABLE = "HIVE_FAULT_DIR"


def fault_point(network: str) -> Fault:
    """The fault point of this run: one that does nothing, except in a crash test on regtest."""
    directory = os.environ.get(VARIABLE)
    if not directory or network != "regtest":
        return no_fault
    return _FileFault(Path(directory)).reached


class _FileFault:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def reached(self, point: str) -> None:
        if (self._directory / point).exists():
            (self._directory / f"{point}.reached").touch()
            await asyncio.Event().wait()
