"""The file of a plugin that the operator approved: whether it is still the one, and whether others could
change it (docs/protocol/08-client-and-plugins.md §5.4 `approved_plugins`; docs/decisions/0421).

What is looked at is the file that the path leads to in the end, and that one is started: a link that is moved
afterwards changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

import msgspec

MAX_BYTES: Final = 268_435_456
_NOBODY_ELSE: Final = stat.S_IWGRP | stat.S_IWOTH


class FileRefused(Exception):
    """Why a file is not started; the sentence names no path."""


class ApprovedFile(msgspec.Struct, frozen=True):
    """A file as it was looked at: its real path and the SHA-256 of its content, hex."""

    path: str
    sha256: str


def look_at(path: str) -> ApprovedFile:
    """Follow links, make sure that nobody but root and our own user may change the file, and hash it.

    Reads the whole file: not for the event loop. Raises FileRefused.
    """
    try:
        real = Path(path).resolve(strict=True)
        for place in (real, *real.parents):
            _check_owner(place.stat())
        # Not blocking: whatever lies there may be no file that ends.
        handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode) or not os.access(real, os.X_OK):
                raise FileRefused("its file cannot be run")
            if found.st_size > MAX_BYTES:
                raise FileRefused(f"its file is larger than {MAX_BYTES} bytes")
            _check_owner(found)
            return ApprovedFile(str(real), hashlib.file_digest(file, "sha256").hexdigest())
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise FileRefused(f"its file cannot be read: {why}") from error


def _check_owner(found: os.stat_result) -> None:
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    if found.st_uid not in (0, os.geteuid()) or (found.st_mode & _NOBODY_ELSE and not sticky):
        raise FileRefused(
            "other users of the machine may change its file or a directory above it;"
            " the operator can take that away with chmod go-w"
        )
