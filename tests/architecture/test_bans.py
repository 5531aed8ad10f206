"""What shipped code must not contain: prints, floating-point money, hidden clocks, swallowed errors."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from architecture.sources import (
    Source,
    called,
    dotted,
    of_plugins,
    of_shared,
    of_tests,
    shipped,
)

MONEY = re.compile(r"(^|_)(m?sats?|msats|ppm|ppb)(_|$)", re.IGNORECASE)
HIDDEN_INPUT = re.compile(
    r"(^|\.)(datetime\.(now|utcnow|today)|date\.today|time\.(time|time_ns|monotonic|perf_counter)"
    r"|os\.urandom|uuid\.uuid[14]|open|input|print|random\.\w+|secrets\.\w+)$"
)
OWNS_STDOUT = ("runtime_output", "runtime_pyln", "runtime")
"""Modules that speak CLN's protocol on stdout."""


def walk(sources: tuple[Source, ...]) -> Iterator[tuple[Source, ast.AST]]:
    for source in sources:
        for node in source.nodes:
            yield source, node


def place(source: Source, node: ast.AST) -> str:
    return f"{source.name}:{getattr(node, 'lineno', 0)}"


def test_nothing_shipped_prints() -> None:
    found = [
        place(source, node)
        for source, node in walk(shipped())
        if isinstance(node, ast.Call) and called(node) in ("print", "pprint", "pprint.pprint")
    ]
    assert not found, "\n".join(found)


def test_only_the_runtime_touches_stdout() -> None:
    found = [
        place(source, node)
        for source, node in walk(of_plugins() + of_shared("hive_shared"))
        if isinstance(node, ast.Attribute)
        and dotted(node) in ("sys.stdout", "sys.__stdout__")
        and source.path.stem not in OWNS_STDOUT
    ]
    assert not found, "\n".join(found)


def money_statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Simple statements, and the heads of compound ones, that name an amount or a rate."""
    for node in ast.walk(tree):
        if isinstance(
            node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.Expr, ast.Raise)
        ) and any(MONEY.search(name) for name in names(node)):
            yield node


def names(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            yield inner.id
        elif isinstance(inner, ast.Attribute):
            yield inner.attr
        elif isinstance(inner, (ast.keyword, ast.arg)) and inner.arg:
            yield inner.arg


def is_float(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, float)
    if isinstance(node, ast.Call):
        return called(node) == "float"
    if isinstance(node, ast.BinOp):
        # Fraction(a) / b is exact; a plain quotient of integers is a float.
        exact = "Fraction" in ast.dump(node)
        return isinstance(node.op, ast.Div) and not exact
    return False


def test_money_is_never_floating_point() -> None:
    found = [
        f"{place(source, statement)}: {ast.unparse(statement)[:80]}"
        for source in shipped()
        for statement in money_statements(source.tree)
        if any(is_float(node) for node in ast.walk(statement))
    ]
    assert not found, "\n".join(found)


def test_no_amount_is_annotated_as_float() -> None:
    found = [
        f"{place(source, node)} {name}"
        for source, node in walk(shipped())
        if isinstance(node, (ast.AnnAssign, ast.arg)) and node.annotation is not None
        for name in [node.arg if isinstance(node, ast.arg) else dotted(node.target)]
        if MONEY.search(name) and "float" in ast.unparse(node.annotation)
    ]
    assert not found, "\n".join(found)


def test_domain_takes_clock_and_randomness_as_arguments() -> None:
    found = [
        f"{place(source, node)} calls {called(node)}"
        for source, node in walk(tuple(s for s in of_plugins() if s.layer == "domain"))
        if isinstance(node, ast.Call) and HIDDEN_INPUT.search(called(node))
    ]
    assert not found, "\n".join(found)


def test_no_error_is_swallowed_wholesale() -> None:
    wide = {"Exception", "BaseException"}
    found = []
    for source, node in walk(shipped()):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            silent = all(isinstance(line, (ast.Pass, ast.Continue)) for line in node.body)
            if node.type is None or (silent and any(kind and dotted(kind) in wide for kind in kinds)):
                found.append(place(source, node))
        elif isinstance(node, ast.Call) and called(node).split(".")[-1] == "suppress":
            found += [place(source, node) for kind in node.args if dotted(kind) in wide]
    assert not found, "\n".join(found)


def test_nothing_shipped_blocks_the_loop_with_a_sleep() -> None:
    found = [
        place(source, node)
        for source, node in walk(shipped())
        if isinstance(node, ast.Call) and called(node) == "time.sleep"
    ]
    assert not found, "\n".join(found)


def test_nothing_is_left_to_do() -> None:
    mark = re.compile(r"#.*\b(TODO|FIXME|XXX|HACK)\b|\bNotImplementedError\b")
    found = [
        f"{source.name}:{number}"
        for source in shipped() + of_shared("hive_devnet")
        for number, line in enumerate(source.text.splitlines(), 1)
        if mark.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("kind", ["skip", "skipif", "xfail"])
def test_a_test_that_is_not_run_says_why(kind: str) -> None:
    found = []
    for source in of_tests():
        if f".{kind}" not in source.text:
            continue
        explained = {
            id(node.func)
            for node in source.nodes
            if isinstance(node, ast.Call)
            and (
                any(word.arg in ("reason", "msg") for word in node.keywords)
                or (node.args and called(node) == f"pytest.{kind}")
            )
        }
        for node in source.nodes:
            marks = isinstance(node, ast.Attribute) and dotted(node) in (
                f"pytest.mark.{kind}",
                f"pytest.{kind}",
            )
            if marks and id(node) not in explained:
                found.append(place(source, node))
    assert not found, "\n".join(found)


def money_as_float(code: str) -> bool:
    return any(is_float(node) for line in money_statements(ast.parse(code)) for node in ast.walk(line))


@pytest.mark.parametrize(
    "code",
    ["fee_ppm = 1.5", "x = amount_sat / 2", "return_sats(float(text), amount_msat=1)", "a.total_sats *= 0.9"],
)
def test_the_money_rule_sees_floats(code: str) -> None:
    assert money_as_float(code)


@pytest.mark.parametrize(
    "code",
    [
        "fee_ppm = base * 3 // 2",
        "share = Fraction(amount_sat) / 3",
        "timeout = 1.5",
        "path = satellite / 'x'",
    ],
)
def test_the_money_rule_leaves_the_rest_alone(code: str) -> None:
    assert not money_as_float(code)
