"""Killing a pipeline at every point where it touches disk or node, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.domain.command_machine import State
from cl_hive_comms.services.decision_facts import channels_of
from cl_hive_comms.storage.command_store import CommandStore
from pipeline_world import Crash, World

MOST_POINTS = 80
"""A command that touches disk and node more often than this is more than a command."""
NODE_CALLS = ("listpeerchannels", "setchannel", "call", "plugin_list", "plugin_start", "listconfigs")


class Countdown:
    """Ends the process at the n-th point: points lie before and after each call that is watched."""

    def __init__(self, at: int) -> None:
        self.left = at

    def watched(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def watched(*args: Any, **named: Any) -> Any:
            self.point()
            answer = await call(*args, **named)
            self.point()
            return answer

        return watched

    def watch(self, owner: object, *names: str) -> None:
        """Watch these methods of an object."""
        for name in names:
            setattr(owner, name, self.watched(getattr(owner, name)))

    def point(self) -> None:
        if self.left == 0:
            raise Crash
        self.left -= 1


class Killer(Countdown):
    """Watches every database and node call of a pipeline."""

    def __init__(self, world: World, at: int) -> None:
        super().__init__(at)
        for owner, names in (
            (world.db, ("write", "read")),
            (world.revoking, ("revoke_all",)),
            (world.backups, ("make", "_write_own")),
            (world.node, NODE_CALLS),
        ):
            self.watch(owner, *names)


async def killed(
    directory: Path,
    at: int,
    order: Callable[[World], Awaitable[Any]],
    make: Callable[[Path], World] = World,
    before: Callable[[World], Awaitable[Any]] | None = None,
) -> tuple[World, bool]:
    """A world whose command was killed at a point and which is up again; False when it outlived the point.
    `make` builds the world, `before` is what happens in it before the killer is there."""
    world = make(directory)
    if before is not None:
        await before(world)
    killer = Killer(world, at)
    died = True
    try:
        await order(world)
        died = False
    except Crash:
        pass
    killer.left = -1
    for name in NODE_CALLS:
        # The node lives on; only the watching ends.
        world.node.__dict__.pop(name, None)
    world.restart()
    for row in await world.db.read(lambda tx: CommandStore().in_states(tx, [State.EXECUTING])):
        # What everybody else's command looks at meanwhile.
        channels_of(row)
    await world.pipeline.timers.tick()
    await world.pipeline.timers.tick()
    return world, died


async def under_way(world: World) -> int:
    """How many commands have no end yet."""
    sql = (
        "SELECT COUNT(*) FROM comms_commands"
        " WHERE state IN ('received', 'executing', 'approved', 'pending_external')"
    )
    return int(await world.db.read(lambda tx: tx.execute(sql).fetchone()[0]))


async def killed_everywhere(
    directory: Path,
    order: Callable[[World], Awaitable[Any]],
    make: Callable[[Path], World] = World,
    before: Callable[[World], Awaitable[Any]] | None = None,
) -> AsyncIterator[tuple[int, World, bool]]:
    """For each point, until a command outlives its own: the point, the world that is up again, and whether
    the command died. When the test has looked, no command may be under way and the receipts must verify."""
    for at in range(MOST_POINTS):
        world, died = await killed(directory / str(at), at, order, make, before)
        yield at, world, died
        assert await under_way(world) == 0, at
        assert (await world.receipts.verify()).ok, at
        world.close()
        if not died:
            return
    pytest.fail(f"disk and node are touched at more than {MOST_POINTS} points")
