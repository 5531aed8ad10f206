"""mcp-allow.json and prompts/ of a profile (docs/protocol/11-advisor-kit.md §11, §13)."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from hive_advisor.domain.allow_list import READ_ONLY, AllowList, read_allow_list
from hive_advisor.domain.tool_prompts import MAX_FILE, Prompt
from hive_advisor.private_files import replace_file

_PROMPT_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_PROMPTS: Final = 50


def read_allow_file(path: Path) -> AllowList:
    """The operator's list. A missing file, one that others may write, or one that is damaged opens
    nothing."""
    try:
        mode = path.stat().st_mode
        if mode & 0o022:
            return AllowList(warnings=("the allow list can be written by others than its owner: read-only",))
        return read_allow_list(path.read_bytes())
    except FileNotFoundError:
        return READ_ONLY
    except OSError as error:
        return AllowList(warnings=(f"the allow list cannot be read ({error.strerror}): read-only",))


def write_allow_file(path: Path, names: Iterable[str]) -> None:
    """Replace the list as a whole, readable by its owner alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(path, (json.dumps(sorted(names), indent=1) + "\n").encode())


def read_prompts(directory: Path, taken: Collection[str]) -> tuple[dict[str, Prompt], list[str]]:
    """The human's own prompts ``NAME.md`` of at most 4,000 characters, and why the others are left out.

    A file that is not in the directory itself (a link out of it), that others may write, or whose name is
    ``taken`` counts as none.
    """
    found: dict[str, Prompt] = {}
    warnings = []
    for path in sorted(directory.glob("*.md")) if directory.is_dir() else ():
        try:
            text = _prompt_text(path, directory, taken)
        except (OSError, ValueError) as error:
            warnings.append(f"prompt {path.name[:80]!a} is left out: {error}")
            continue
        found[path.stem] = Prompt(path.stem, f"The human's own prompt {path.name}.", text)
    for name in list(found)[_MAX_PROMPTS:]:
        del found[name]
        warnings.append(f"prompt {name!a} is left out: {_MAX_PROMPTS} are taken")
    return found, warnings


def _prompt_text(path: Path, directory: Path, taken: Collection[str]) -> str:
    if not _PROMPT_NAME.fullmatch(path.stem):
        raise ValueError("its name takes letters, digits, dashes and underscores")
    if path.stem in taken:
        raise ValueError("there is one of that name already")
    whole = path.resolve(strict=True)
    if whole.parent != directory.resolve(strict=True):
        raise ValueError("it leads out of the directory")
    if whole.stat().st_mode & 0o022:
        raise ValueError("it can be written by others than its owner")
    with whole.open("rb") as handle:
        raw = handle.read(4 * MAX_FILE + 1)
    text = raw.decode()
    if not 0 < len(text) <= MAX_FILE:
        raise ValueError(f"it has {len(text)} characters; 1 to {MAX_FILE} are taken")
    return text
