"""What holds for every test: which inputs properties are tried on, and that figures which acceptance tests
measured stand at the end of a run, whatever its verbosity.

HIVE_FUZZ_EXAMPLES inputs per property (100 ordinarily; `make fuzz` asks for many). The long run draws new
ones every time; the short one, which comes with every change, draws the same, so that it judges the change
and not the day."""

from __future__ import annotations

import asyncio
import gc
import os
import runpy
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hive_devnet import forks
from hive_devnet.mint import MintProcess, mint_environment, mint_installed
from hypothesis import HealthCheck, settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's job in the background ignores Ctrl-C, and what it starts inherits that; tests press it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

QUICK = Path(__file__).with_name("quick_scrypt")
if str(QUICK) not in (given := os.environ.get("PYTHONPATH", "").split(os.pathsep)):
    # The workers of this run inherit it, as does what tests start.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(QUICK), *given)))
    runpy.run_path(str(QUICK / "sitecustomize.py"))

# Programs that tests start are forked from one that has imported what they import (docs/decisions/0672).
if os.environ.get("HIVE_FORKS") != "no":
    forks.enable()
EXECUTED = (
    "compat/",
    "e2e/test_acceptance_02_hostile.py",
    "e2e/test_acceptance_08_archon_credentials.py",
    "e2e/test_acceptance_08_first_start.py",
    "e2e/test_acceptance_08_hostile.py",
    "e2e/test_acceptance_08_options.py",
    "e2e/test_emergency_disk_and_siblings.py",
    "e2e/test_fleet_ticket_on_a_node.py",
    "e2e/test_plugin_stdout.py",
    "integration/test_always_use_proxy.py",
    "integration/test_archon_and_hive_plugins.py",
    "integration/test_comms_channel.py",
    "integration/test_comms_identity.py",
    "integration/test_comms_messages.py",
    "integration/test_runtime_process.py",
    "integration/test_too_old_cln.py",
    "slow/",
)
"""Tests of how programs start, of their options, output, sockets, memory and time, and of all three together:
the shipped files, executed."""

# Thousands of tests are collected and stay, in every worker: to look for garbage among them took a fifth of
# the collection and a good second at every full look during the tests.
gc.disable()

EXAMPLES = int(os.environ.get("HIVE_FUZZ_EXAMPLES", "100"))

settings.register_profile(
    "hive",
    max_examples=EXAMPLES,
    derandomize=EXAMPLES <= 200,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("hive")


@pytest.fixture(scope="module", autouse=True)
def starts(request: pytest.FixtureRequest) -> Iterator[None]:
    """How this module's programs are started."""
    where = request.path.relative_to(Path(__file__).parent).as_posix()
    with forks.executing() if where.startswith(EXECUTED) else nullcontext():
        yield


@pytest.fixture(scope="session")
def mint_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real mint, one per test process: 100 ppk of input fee, quotes that pay themselves. A test that
    stops it or counts what it holds starts its own."""
    if not mint_installed():
        pytest.skip(f"no mint in {mint_environment()}: `make setup` puts nutshell there")
    with asyncio.Runner() as runner:
        mint = runner.run(MintProcess.start(tmp_path_factory.mktemp("mint")))
        try:
            yield mint.url
        finally:
            runner.run(mint.stop())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Work is handed out by file, the rules about the source as one: each file would read all of it anew."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            scope: str = super()._split_scope(nodeid)
            return "tests/architecture" if scope.startswith("tests/architecture/") else scope

    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    """What is collected is no garbage; from here on it is looked for as usual."""
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests recorded with `record_property("figure", ..)`."""
    figures = [
        str(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == "figure"
    ]
    if figures:
        terminalreporter.section("figures")
        for line in figures:
            terminalreporter.write_line(line)
