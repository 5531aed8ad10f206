"""Files that only their owner may read, and their replacement as a whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from hive_shared.errors import InvalidParams

_LIMIT: Final = 65_536


def read_private(path: Path, name: str) -> str:
    """The text of a file of mode 0600 or stricter; ``name`` says in errors what it is.

    Raises InvalidParams: missing, open to others, no text, too long.
    """
    try:
        with path.open("rb") as handle:
            # The mode of what was opened, not of what may have been put in its place.
            mode = os.fstat(handle.fileno()).st_mode
            if mode & 0o077:
                raise InvalidParams(f"{path} can be read by others; run: chmod 600 {path}")
            raw = handle.read(_LIMIT + 1)
    except OSError as error:
        raise InvalidParams(f"{name} {path} cannot be read: {error.strerror}") from error
    if len(raw) > _LIMIT:
        raise InvalidParams(f"{name} {path} has more than {_LIMIT} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidParams(f"{name} {path} is not text") from error


def first_line(text: str, name: str) -> str:
    """The first line without its end. Raises InvalidParams when there is none."""
    lines = text.splitlines()
    if not lines:
        raise InvalidParams(f"{name} is empty")
    return lines[0]


def replace_file(path: Path, body: bytes) -> None:
    """Write ``body`` with mode 0600 so that after any crash ``path`` is whole: the old text or the new."""
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(body)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
