"""Writes docs/options.md: every option of the three plugins, from their own declarations.

Run `python docs/render_options.py` after changing an option; a test compares the page with the declarations.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "options.md"
PLUGINS = {"cl-hive-comms": "cl_hive_comms", "cl-hive-archon": "cl_hive_archon", "cl-hive": "cl_hive"}
_NOT_SERVED = " Not served by this version:"

_HEAD = """# Options

Written by `python docs/render_options.py` from what the plugins declare: edit that, not this page.

Options go into CLN's `config` (`hive-comms-policy-preset=conservative`), or behind `plugin start`. Those
marked *now* also change while the node runs: `lightning-cli setconfig hive-comms-policy-preset conservative`.
The others need a restart of the plugin. A value that cannot be used is refused with the reason, and the old
one stays.

Options of features that this version does not serve are declared already, so that a configuration stays
valid: their values are checked and kept, nothing reads them, and the plugin's status says so when one is set.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_section(plugin) for plugin in PLUGINS)])


def _section(plugin: str) -> str:
    specs = _specs(PLUGINS[plugin])
    served = [spec for spec in specs if _NOT_SERVED not in spec.description and not spec.deprecated]
    later = [spec for spec in specs if _NOT_SERVED in spec.description and not spec.deprecated]
    old = [spec.name for spec in specs if spec.deprecated]
    lines = [f"## {plugin}", "", "| option | default | changes | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{spec.name}` | {_default(spec.default)} | {'now' if spec.dynamic else 'restart'} |"
        f" {spec.description} |"
        for spec in served
    ]
    lines += ["", "Not served yet:", "", "| option | default | meaning |", "|---|---|---|"]
    lines += [
        f"| `{spec.name}` | {_default(spec.default)} | {_waiting(spec.description)} |" for spec in later
    ]
    if old:
        lines += [
            "",
            f"Without effect, kept for old configurations: {', '.join(f'`{name}`' for name in old)}.",
        ]
    return "\n".join([*lines, ""])


def _waiting(description: str) -> str:
    meaning, _, note = description.partition(_NOT_SERVED)
    reason = note.partition("it waits for ")[2]
    return f"{meaning} Waits for {reason}" if reason else meaning


def _default(value: object) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"`{value}`"


def _specs(package: str) -> Sequence[Any]:
    module = importlib.import_module(f"{package}.options")
    specs: Sequence[Any] = module.option_specs() if hasattr(module, "option_specs") else module.TABLE.specs
    return specs


def main() -> None:
    """Write the page."""
    TARGET.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / part) for part in ("shared", *PLUGINS)]
    main()
