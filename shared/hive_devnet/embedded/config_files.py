"""What `setconfig` writes: the include line in the node's config and the lines of config.setconfig."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hive_devnet.embedded.options import TRANSIENT, OptionTable, Setting


def save_settings(table: OptionTable, config: Path, name: str, arguments: Sequence[str | None]) -> None:
    """Makes `arguments` the settings of option `name`, in the files and in `table`.

    Old lines are commented out, or replaced in place when there is one on either side.
    """
    saved = config.with_name(config.name + ".setconfig")
    if not saved.exists():
        stamp = time.ctime()
        _append(config, f"# Inserted by setconfig {stamp}\ninclude {saved.name}")
        head = "# Created and update by setconfig, but you can edit this manually when node is stopped."
        _append(saved, head)
    old = [s for s in table.settings if s.name == name and s.file is not None]
    table.settings = [
        s for s in table.settings if s.name != name or (s.file is None and s.source != TRANSIENT)
    ]
    if len(arguments) == 1 and old and old[-1].file == saved:
        setting = Setting(name, arguments[0], "file", saved, old[-1].line)
        _replace_line(saved, old[-1].line, setting.text)
        table.settings.append(setting)
        return
    for setting in old:
        assert setting.file is not None
        commented = f"# setconfig commented out (see config.setconfig): {setting.text}"
        _replace_line(setting.file, setting.line, commented)
    for argument in arguments:
        text = name if argument is None else f"{name}={argument}"
        line = _append(saved, text)
        table.settings.append(Setting(name, argument, "file", saved, line))


def changed_line(setting: Setting) -> str | None:
    """Why the file no longer says what `setting` says, None if it still does."""
    if setting.file is None:
        return None
    lines = setting.file.read_text().splitlines() if setting.file.exists() else []
    if setting.line > len(lines):
        return f"Configfile {setting.file} no longer has {setting.line} lines!"
    if lines[setting.line - 1].strip() != setting.text:
        return (
            f"Configfile {setting.file} line {setting.line} changed from {setting.text}"
            f" to {lines[setting.line - 1]}!"
        )
    return None


def _append(path: Path, text: str) -> int:
    before = path.read_text() if path.exists() else ""
    if before and not before.endswith("\n"):
        before += "\n"
    _write(path, before + text + "\n")
    return (before + text).count("\n") + 1


def _replace_line(path: Path, line: int, text: str) -> None:
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    _write(path, "\n".join(lines) + "\n")


def _write(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
