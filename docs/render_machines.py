"""Draws every state machine into docs/machines/, one Mermaid page per table.

A machine is a module-level table `(state, event) -> Step` in a plugin's `domain/*_machine.py`, or in a
`*_machine.py` of the library where several programs run by it. Run it with
`make machines` after changing a table; an architecture test compares the pages with the tables.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = {"cl-hive-comms": "cl_hive_comms", "cl-hive-archon": "cl_hive_archon", "cl-hive": "cl_hive"}
TARGET = ROOT / "docs" / "machines"


def tables(module: ModuleType) -> dict[str, object]:
    """The transition tables that `module` itself defines, by constant name."""
    from hive_shared.machine import Step

    return {
        name: value
        for name, value in vars(module).items()
        if name.isupper()
        and isinstance(value, Mapping)
        and value
        and all(isinstance(key, tuple) and isinstance(step, Step) for key, step in value.items())
    }


def page(plugin: str, module: ModuleType, name: str, table: object) -> str:
    """One page: where the table is, what its module says about it, the diagram."""
    from hive_shared.machine import mermaid

    title = name.removesuffix("_TABLE").replace("_", " ").capitalize()
    source = f"{plugin}/{module.__name__.replace('.', '/')}.py"
    about = inspect.cleandoc(module.__doc__ or "").split("\n\n")[0]
    return (
        f"# {title}\n\n"
        f"Drawn from `{name}` in [`{source}`](../../{source}) by `make machines`:"
        " edit the table, not this page.\n\n"
        f"{about}\n\n"
        f"```mermaid\n{mermaid(table)}```\n"  # type: ignore[arg-type]
    )


def pages() -> dict[str, str]:
    """File name -> content of every page."""
    found: dict[str, str] = {}
    folders = {plugin: f"{package}/domain" for plugin, package in PLUGINS.items()}
    for home, folder in {**folders, "shared": "hive_shared"}.items():
        for file in sorted((ROOT / home / folder).rglob("*_machine.py")):
            module = importlib.import_module(".".join(file.relative_to(ROOT / home).with_suffix("").parts))
            for name, table in tables(module).items():
                slug = f"{home}-{name.removesuffix('_TABLE').lower().replace('_', '-')}.md"
                found[slug] = page(home, module, name, table)
    return found


def main() -> None:
    """Write the pages and remove those whose table is gone."""
    TARGET.mkdir(exist_ok=True)
    drawn = pages()
    for stale in {file.name for file in TARGET.glob("*.md")} - set(drawn):
        (TARGET / stale).unlink()
    for name, text in drawn.items():
        (TARGET / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / part) for part in ("shared", *PLUGINS)]
    main()
