"""docs/options.md shows the options as the plugins declare them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_what_the_plugins_declare() -> None:
    spec = importlib.util.spec_from_file_location("render_options", DOCS / "render_options.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "options.md").read_text(encoding="utf-8") == module.page(), (
        "run `python docs/render_options.py`"
    )
