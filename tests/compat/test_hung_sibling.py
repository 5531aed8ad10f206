"""A sibling that stops answering costs nobody else time. docs/protocol/08-client-and-plugins.md section
13.24."""

from __future__ import annotations

import os
import signal
import statistics
import time
from typing import TYPE_CHECKING

from compat.conftest import wait_until

if TYPE_CHECKING:
    from compat.conftest import Suite


async def test_acceptance_08_24_hung_sibling_leaves_other_calls_fast_and_opens_the_breaker(
    suite: Suite,
) -> None:
    await suite.start("archon")
    await suite.start("hive")
    await suite.settle("archon+hive", "archon", "hive")
    pid = await suite.node.plugin_pid("cl-hive-archon.py")
    os.kill(pid, signal.SIGSTOP)
    try:
        times: list[float] = []

        async def opened() -> bool:
            began = time.perf_counter()
            rows = await suite.siblings("hive")
            times.append(time.perf_counter() - began)
            return bool(rows["cl-hive-archon"]["breaker"] == "open")

        # The scheduled probes notice it: three answers that do not come within 5 s each.
        await wait_until(opened, 60)
        row = (await suite.siblings("hive"))["cl-hive-archon"]
        assert row["present"] and "no answer within 5 s" in row["error"]
        assert statistics.median(times) < 0.1
    finally:
        os.kill(pid, signal.SIGCONT)
    await suite.stop("archon")
    await suite.settle("hive", "hive")
    await suite.start("archon")
    await suite.settle("archon+hive", "archon", "hive")
    row = (await suite.siblings("hive"))["cl-hive-archon"]
    assert row["breaker"] == "closed" and "error" not in row
