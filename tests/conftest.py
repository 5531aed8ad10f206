"""What holds for every test: which inputs properties are tried on, and that figures which acceptance tests
measured stand at the end of a run, whatever its verbosity.

HIVE_FUZZ_EXAMPLES inputs per property (100 ordinarily; `make fuzz` asks for many). The long run draws new
ones every time; the short one, which comes with every change, draws the same, so that it judges the change
and not the day."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("HIVE_FUZZ_EXAMPLES", "100"))

settings.register_profile(
    "hive",
    max_examples=EXAMPLES,
    derandomize=EXAMPLES <= 200,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("hive")


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
