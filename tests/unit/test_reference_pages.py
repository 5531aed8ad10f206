"""docs/reference and the kit's table show the methods and the policy keys as the code has them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from cl_hive_comms.domain.policy_document import KEYS

DOCS = Path(__file__).parents[2] / "docs"


def renderer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("render_reference", DOCS / "render_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_what_the_code_declares() -> None:
    written = {file.name: file.read_text(encoding="utf-8") for file in (DOCS / "reference").glob("*.md")}
    assert written == renderer().pages(), "run `make reference`"


def test_the_kits_table_of_methods_is_what_the_code_declares() -> None:
    module = renderer()
    assert module.TABLE.read_text(encoding="utf-8") == module.method_table(), "run `make reference`"


def test_every_policy_key_has_its_row() -> None:
    page = renderer().policy_page()
    assert [key for key in KEYS if f"| `{key}" not in page] == []
