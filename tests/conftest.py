"""What holds for every test: which inputs properties are tried on, and that figures which acceptance tests
measured stand at the end of a run, whatever its verbosity.

HIVE_FUZZ_EXAMPLES inputs per property (100 ordinarily; `make fuzz` asks for many). The long run draws new
ones every time; the short one, which comes with every change, draws the same, so that it judges the change
and not the day."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Iterator

import pytest
from hive_devnet.mint import MintProcess, mint_environment, mint_installed
from hypothesis import HealthCheck, settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's job in the background ignores Ctrl-C, and what it starts inherits that; tests press it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

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
