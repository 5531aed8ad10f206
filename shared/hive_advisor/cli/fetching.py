"""Rounds beside a subcommand that goes on: what it shows has to come in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hive_advisor.advisor import Advisor
    from hive_advisor.cli.context import Settings

_ROUND_S: Final = 15


@asynccontextmanager
async def fetching(settings: Settings, kit: Advisor) -> AsyncIterator[None]:
    """Fetch, answer and send again while the block runs. A defect of a round ends the block with it.

    In a process that holds the profile for others there are rounds already.
    """
    if settings.engine is not None:
        yield
        return
    owner = asyncio.current_task()

    async def rounds() -> None:
        while True:
            await kit.pump()
            await asyncio.sleep(_ROUND_S)

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and owner is not None:
            owner.cancel()

    task = asyncio.create_task(rounds())
    task.add_done_callback(ended)
    try:
        yield
    finally:
        failed = task.done() and not task.cancelled()
        task.remove_done_callback(ended)
        task.cancel()
        if failed:
            await task
        await asyncio.wait([task])
