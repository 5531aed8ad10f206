"""A file past 600 lines is two files, a function past 60 lines is two functions."""

from __future__ import annotations

import ast

from architecture.sources import Source, of_shared, shipped

FILE_LINES = 600
FUNCTION_LINES = 60


def code() -> tuple[Source, ...]:
    """What these rules are about. Not read where pytest only collects: every worker does that."""
    return shipped() + of_shared("hive_devnet")


def test_no_file_is_longer_than_600_lines() -> None:
    found = [
        f"{source.name}: {lines}" for source in code() if (lines := source.text.count("\n")) > FILE_LINES
    ]
    assert not found, "\n".join(found)


def test_no_function_is_longer_than_60_lines() -> None:
    found = [
        f"{source.name}:{node.lineno} {node.name}: {lines}"
        for source in code()
        for node in source.nodes
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    ]
    assert not found, "\n".join(found)


def test_no_module_is_a_grab_bag() -> None:
    names = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
    found = [source.name for source in code() if names & set(source.path.stem.split("_"))]
    assert not found, "\n".join(found)


def test_every_module_says_what_it_is() -> None:
    found = [s.name for s in code() if not ast.get_docstring(s.tree) and s.path.stem != "__init__"]
    assert not found, "\n".join(found)
