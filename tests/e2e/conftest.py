"""A world per test: relay, two nodes with a channel, cl-hive-comms on alice, an advisor's command line."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from agent import Agent
from hive_devnet.world import World


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short directory: pytest's own, with the test's name in it, is too long for the path of a socket."""
    with tempfile.TemporaryDirectory(prefix="hive-") as directory:
        yield Path(directory)


@pytest_asyncio.fixture
async def agent(world: World) -> AsyncIterator[Agent]:
    """An agent hired for fees, its credential offer received."""
    async with Agent(world.alice, world.relay.url) as made:
        yield await made.hired("fees")


@pytest_asyncio.fixture
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Fresh for every test; the node's log is printed when the test failed."""
    # Not tmp_path: with the test's long name in it, a socket's path exceeds what AF_UNIX takes.
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    made = await World.start(directory)
    yield made
    report = getattr(request.node, "report_call", None)
    if report is not None and report.failed:
        sys.stderr.write(made.alice.log_text()[-8000:])
    await made.close()
    shutil.rmtree(directory, ignore_errors=True)


@pytest_asyncio.fixture
async def rest_world() -> AsyncIterator[World]:
    """Alice runs clnrest with TLS as well."""
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    made = await World.start(directory, with_rest=True)
    yield made
    await made.close()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """Keep the outcome on the item so that fixtures can look at it."""
    report = yield
    setattr(item, f"report_{report.when}", report)
    return report
