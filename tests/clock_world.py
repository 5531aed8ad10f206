"""A world whose plugins have a clock of their own, which the test sets ahead."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from unittest import mock

from hive_devnet.clock import PluginClock
from hive_devnet.world import World

DAY = 86_400
ROUND_S = 70
"""What every loop of the plugin that has to do with days has its turn in."""


@asynccontextmanager
async def world_at(
    directory: Path, starts: Callable[[int], int] = lambda real: real, *, with_rest: bool = False
) -> AsyncIterator[tuple[World, PluginClock]]:
    """A world and the clock of its plugins; `starts` makes of the real time the one they begin with."""
    clock = PluginClock(directory / "clock")
    clock.pass_to(starts(clock.now()))
    with mock.patch.dict(os.environ, clock.environment):
        world = await World.start(directory / "w", with_rest=with_rest)
        try:
            yield world, clock
        finally:
            await world.close()
