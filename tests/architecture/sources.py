"""The shipped Python files as syntax trees, for the tests of this directory."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLUGINS = {"cl-hive-comms": "cl_hive_comms", "cl-hive-archon": "cl_hive_archon", "cl-hive": "cl_hive"}
ADAPTERS = ("storage", "transport", "payments", "gateway", "gossip", "provision")
"""Layers that touch the world; built only in plugin.py."""


@dataclass(frozen=True)
class Source:
    """One file. `layer` is the directory below the package, or the file's own name at its top."""

    path: Path
    package: str
    layer: str
    module: str
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """Path inside the repository, for messages."""
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """Every node of the tree; the tree is walked once, however many rules look at it."""
        return tuple(ast.walk(self.tree))


@cache
def _read(base: Path, package: str) -> tuple[Source, ...]:
    found = []
    # A million nodes that stay until the end: to look for garbage among them took longer than to read them.
    gc.disable()
    for path in sorted((base / package).rglob("*.py")):
        inside = path.relative_to(base / package)
        parts = [package, *inside.with_suffix("").parts]
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        layer = inside.parts[0] if len(inside.parts) > 1 else inside.stem
        text = path.read_text(encoding="utf-8")
        found.append(Source(path, package, layer, module, text, ast.parse(text, path.name)))
    gc.freeze()
    gc.enable()
    return tuple(found)


def of_plugins() -> tuple[Source, ...]:
    """Every module of the three plugins."""
    return tuple(source for name, package in PLUGINS.items() for source in _read(ROOT / name, package))


def of_shared(package: str) -> tuple[Source, ...]:
    """Every module of hive_shared, hive_advisor or hive_devnet."""
    return _read(ROOT / "shared", package)


def shipped() -> tuple[Source, ...]:
    """What a user installs: the plugins, their library, the advisor kit; not the development network."""
    return of_plugins() + of_shared("hive_shared") + of_shared("hive_advisor")


def of_tests() -> tuple[Source, ...]:
    """Every file of the tests, with the suite as its layer."""
    return _read(ROOT, "tests")


def imports(source: Source) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything a file imports, wherever in the file it does."""
    package = source.module.split(".") if source.path.stem == "__init__" else source.module.split(".")[:-1]
    for node in source.nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{prefix}.{alias.name}"


def is_in(module: str, package: str) -> bool:
    """Whether a dotted name is `package` or lies below it."""
    return module == package or module.startswith(package + ".")


def called(node: ast.Call) -> str:
    """The dotted text of what a call calls: `datetime.now`, `self.clock.now`; empty for anything else."""
    return dotted(node.func)


def dotted(node: ast.expr) -> str:
    """`a.b.c` for a chain of names, the last attributes alone when the chain starts with an expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def docstrings(tree: ast.Module) -> set[int]:
    """Ids of the constant nodes that are docstrings or bare strings: prose, not data."""
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }
