"""docs/machines shows the transition tables as they are, and every table is sound enough to draw."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from architecture.sources import ROOT, of_plugins


def renderer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("render_machines", ROOT / "docs" / "render_machines.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_what_the_tables_say() -> None:
    drawn = renderer().pages()
    committed = {
        file.name: file.read_text(encoding="utf-8") for file in (ROOT / "docs" / "machines").glob("*.md")
    }
    assert committed == drawn, "run `make machines`"


def test_every_table_lives_where_it_is_drawn_from() -> None:
    users = {
        source.name
        for source in of_plugins()
        if "hive_shared.machine import" in source.text and "Step(" in source.text
    }
    misplaced = {name for name in users if "/domain/" not in name or not name.endswith("_machine.py")}
    assert not misplaced, misplaced
