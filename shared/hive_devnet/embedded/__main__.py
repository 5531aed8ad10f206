"""`python -m hive_devnet.embedded --dir DIR`: runs the network of that directory until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

import hive_devnet.embedded.commands  # noqa: F401  registers every RPC command
from hive_devnet.embedded.control import Control
from hive_devnet.embedded.world import World


async def serve(directory: Path, synchronous: str, parent: int | None) -> None:
    """Opens the network, answers on DIR/control, and stops every node at the end."""
    world = World(directory, synchronous)
    control = Control(world, directory / "control")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, control.closing.set)
    await world.resume()
    await control.server.listen()
    if parent is not None:
        world.spawn(_follow(parent, control.closing))
    await control.closing.wait()
    await world.close()
    await control.server.close(drain=True)


async def _follow(parent: int, closing: asyncio.Event) -> None:
    """Ends the network when the process that started it is gone."""
    while os.getppid() == parent:
        try:
            await asyncio.wait_for(closing.wait(), 0.5)
        except TimeoutError:
            continue
        return
    closing.set()


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="hive_devnet.embedded", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="the network's directory")
    parser.add_argument("--synchronous", choices=("FULL", "NORMAL", "OFF"), default="FULL")
    parser.add_argument("--parent", type=int, help="stop when this parent process ends")
    arguments = parser.parse_args()
    directory = arguments.dir.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    os.chdir(directory)
    asyncio.run(serve(directory, arguments.synchronous, arguments.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
