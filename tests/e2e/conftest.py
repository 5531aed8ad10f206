"""A world per test: relay, two nodes with a channel, cl-hive-comms on alice, an advisor's command line."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from agent import Agent
from hive_devnet.world import World


@pytest_asyncio.fixture
async def agent(world: World) -> AsyncIterator[Agent]:
    """An agent hired for fees, its credential offer received."""
    async with Agent(world.alice, world.relay.url) as made:
        yield await made.hired("fees")


@pytest_asyncio.fixture
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Fresh for every test; the node's log is printed when the test failed."""
    made = await World.start(tmp_path / "world")
    yield made
    report = getattr(request.node, "report_call", None)
    if report is not None and report.failed:
        sys.stderr.write(made.alice.log_text()[-8000:])
    await made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """Keep the outcome on the item so that fixtures can look at it."""
    report = yield
    setattr(item, f"report_{report.when}", report)
    return report
