"""``python -m hive_devnet.demo``: bring the world up, tell the story, print the account."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path

from hive_devnet.clock import PluginClock
from hive_devnet.demo import chapters, money
from hive_devnet.demo.story import Story
from hive_devnet.mint import MintProcess
from hive_devnet.mint_faults import MintFaultFront
from hive_devnet.world import World


async def tell(directory: Path) -> Story:
    """Every chapter in order; the first step that fails ends the story, the account is still printed."""
    story = Story()
    world: World | None = None
    mint: MintProcess | None = None
    clock = PluginClock(directory / "clock")
    os.environ |= clock.environment
    try:
        async with story.step("development network: relay, two nodes, a channel, cl-hive-comms") as step:
            world = await World.start(directory, with_witness=True, say=step.say)
            step.result(f"{world.network.kind} nodes, channel {world.scid}")
        async with story.step("mint of the development network") as step:
            mint = await MintProcess.start(directory / "mint", environment=clock.environment)
            step.check(await mint.healthy(), f"nutshell answers on {mint.url}")
            step.result("nutshell, health checked (its ecash comes in chapter 13)")
        await chapters.authorise(story, world)
        await chapters.raise_a_fee(story, world)
        await chapters.ask_too_much(story, world)
        await chapters.needs_approval(story, world)
        await chapters.killed_in_the_act(story, world)
        await chapters.verify_receipts(story, world)
        await chapters.siblings_come_and_go(story, world)
        async with MintFaultFront.before(mint.url) as front:
            await money.fund(story, world, front)
            await money.paid_work(story, world, clock)
            await money.lying_mint(story, world, front, clock)
            await money.refund(story, world, clock)
    except Exception:
        # The step has printed what happened; what is left is the account and the exit code.
        story.broken = True
    finally:
        if mint is not None:
            await mint.stop()
        if world is not None:
            if story.broken:
                keep = Path(os.environ.get("HIVE_DEMO_LOGS", str(directory.parent / "hive-demo-logs")))
                for node in (world.alice, world.bob):
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{node.name}.log").write_text(node.log_text())
                print(f"     logs of both nodes: {keep}", flush=True)
            await world.close()
    return story


def main() -> int:
    """Exit code 0 only if every step held."""
    directory = Path(tempfile.mkdtemp(prefix="hive-demo-"))
    try:
        story = asyncio.run(tell(directory / "world"))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(story.account(), flush=True)
    return 1 if story.broken else 0


if __name__ == "__main__":
    sys.exit(main())
