"""A sibling that stops answering costs nobody else time. docs/protocol/08-client-and-plugins.md section
13.24."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from compat.conftest import wait_until
from hive_devnet.world import PATIENCE_S
from outside import Stopwatch, parent

if TYPE_CHECKING:
    from compat.conftest import Suite


async def test_acceptance_08_24_hung_sibling_leaves_other_calls_fast_and_opens_the_breaker(
    suite: Suite,
) -> None:
    for name in ("comms", "archon", "hive"):
        await suite.start(name)
    await suite.settle("all", "comms", "archon", "hive")
    pid = await suite.node.plugin_pid("cl-hive-archon.py")
    os.kill(pid, signal.SIGSTOP)
    try:
        # On the plugin's own time: other programs of the machine may have the processor (0341, 0402).
        asked = {"comms": "cl-hive-comms.py", "hive": "cl-hive.py"}
        pids = {name: await suite.node.plugin_pid(file) for name, file in asked.items()}
        times: dict[str, list[float]] = {"comms": [], "hive": []}

        async def opened() -> bool:
            breakers = []
            for name, took in times.items():
                watch = Stopwatch(pids[name], parent(pids[name]), os.getpid())
                rows = await suite.siblings(name)
                took.append(watch.stop().own)
                breakers.append(rows["cl-hive-archon"]["breaker"])
            return breakers == ["open", "open"]

        # The scheduled probes notice it: three answers that do not come within 5 s each.
        await wait_until(opened, PATIENCE_S)
        for name, took in times.items():
            row = (await suite.siblings(name))["cl-hive-archon"]
            assert row["present"] and "no answer within 5 s" in row["error"]
            # Every one of some hundred, and not only most of them.
            assert max(took) < 0.1, (name, sorted(took)[-5:])
    finally:
        os.kill(pid, signal.SIGCONT)
    await suite.stop("archon")
    await suite.settle("comms+hive", "comms", "hive")
    await suite.start("archon")
    await suite.settle("all", "comms", "archon", "hive")
    for name in ("comms", "hive"):
        row = (await suite.siblings(name))["cl-hive-archon"]
        assert row["breaker"] == "closed" and "error" not in row
