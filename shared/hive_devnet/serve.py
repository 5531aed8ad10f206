"""``make devnet``: a development network that stays up until Ctrl-C, for hands and ``hive-cli``."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from hive_devnet.mint import MintProcess, mint_installed
from hive_devnet.mint_faults import MintFaultFront
from hive_devnet.world import World

DEFAULT_DIRECTORY = Path(".devnet")
_ALL = ("cl-hive-comms", "cl-hive-archon", "cl-hive")


async def serve(directory: Path) -> None:
    """Bring everything up, say how to talk to it, wait for a signal, take everything down."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)
    plugins = tuple(os.environ.get("HIVE_PLUGINS", ",".join(_ALL)).split(","))
    world = await World.start(directory, plugins=plugins, say=print)
    async with AsyncExitStack() as running:
        running.push_async_callback(world.close)
        if mint_installed():
            mint = await MintProcess.start(directory / "mint")
            running.push_async_callback(mint.stop)
            front = await running.enter_async_context(MintFaultFront.before(mint.url))
            print(f"mint {mint.url}, and with faults {front.url}: POST {front.url}/devnet/faults")
        advisor = world.advisor.directory
        print(
            "\nup. In another terminal, from the repository:\n"
            "  .venv/bin/hive-cli alice hive-client-status format=text\n"
            "  .venv/bin/hive-cli alice help\n"
            "  .venv/bin/hive-cli bob listpeerchannels\n"
            "and as an advisor of its own:\n"
            f"  export XDG_CONFIG_HOME={advisor}/config XDG_DATA_HOME={advisor}/data\n"
            f"  export HIVE_ADVISOR_PASSPHRASE_FILE={advisor}/passphrase\n"
            f"  export HIVE_ADVISOR_RELAYS={world.relay.url}\n"
            "  .venv/bin/hive-advisor identity create\n"
            "Ctrl-C stops it.",
            flush=True,
        )
        await stop.wait()
        print("stopping", flush=True)


def main() -> int:
    """A fresh network in ``.devnet`` of the current directory (or HIVE_DEVNET_ROOT)."""
    directory = Path(os.environ.get("HIVE_DEVNET_ROOT", DEFAULT_DIRECTORY)).resolve()
    shutil.rmtree(directory, ignore_errors=True)
    try:
        asyncio.run(serve(directory))
    except (RuntimeError, TimeoutError, OSError) as error:
        print(f"the development network did not start: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
