"""Every place where a crash test can stop a plugin is used by one (docs/protocol/02 §7.1)."""

from __future__ import annotations

import ast
from pathlib import Path

from architecture.sources import of_plugins, of_tests


def fault_points() -> set[str]:
    """Names of the fault points in the shipped code; of one per channel what stands before the channel."""
    found = set()
    for source in of_plugins():
        for node in source.nodes:
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr == "_fault":
                found.add(_name(node.args[0], source.path))
    return found


def _name(argument: ast.expr, path: Path) -> str:
    if isinstance(argument, ast.JoinedStr):
        argument = argument.values[0]
    assert isinstance(argument, ast.Constant) and isinstance(argument.value, str), f"{path}:{argument.lineno}"
    return argument.value.rstrip("_")


def _texts(node: ast.AST) -> set[str]:
    return {
        each.value.rstrip("_")
        for each in ast.walk(node)
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    }


def test_every_fault_point_is_met_by_a_crash_test() -> None:
    points = fault_points()
    assert {"after_received", "after_executing", "after_cln", "after_outcome", "channel_set"} <= points
    met: set[str] = set()
    for source in of_tests():
        if source.layer in ("integration", "e2e"):
            met |= _texts(source.tree)
    assert points <= met, f"no test kills a plugin at {sorted(points - met)}"
