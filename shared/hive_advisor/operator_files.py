"""mcp-allow.json of a profile, read and written (docs/protocol/11-advisor-kit.md §11, §13)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from hive_advisor.domain.allow_list import READ_ONLY, AllowList, read_allow_list
from hive_advisor.private_files import replace_file


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
