"""The policy document in a file (docs/protocol/08-client-and-plugins.md §5.4,
docs/decisions/0082-policy-file-is-the-document.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hive_shared.canonical import decode
from hive_shared.errors import HiveError, InvalidParams

from cl_hive_comms.domain.policy_document import PolicyDocument, parse_document

MAX_BYTES: Final = 1_048_576
_MAX_NODES: Final = 50_000

Stamp = tuple[int, int]
"""Time of change (ns) and size."""


class PolicyFile:
    """A path, empty for none, and what was last seen there."""

    def __init__(self) -> None:
        self.path = ""
        self._seen: Stamp | None = None

    def changed(self) -> bool:
        """Whether there is something that `seen` was not told of."""
        return bool(self.path) and _stamp(self.path) != self._seen

    def seen(self, stamp: Stamp | None) -> None:
        """What was there has been dealt with, well or badly."""
        self._seen = stamp

    def stamp(self) -> Stamp | None:
        """What is there now; taken before reading, so that a change meanwhile is seen later."""
        return _stamp(self.path)


def read_document(path: str) -> PolicyDocument:
    """The document of a file. Raises InvalidParams, OSError, ValueError."""
    data = Path(path).read_bytes()
    if len(data) > MAX_BYTES:
        raise InvalidParams(f"{path} has {len(data)} bytes; {MAX_BYTES} is the most")
    return document_of(data)


def document_of(text: str | bytes) -> PolicyDocument:
    """A document from its text. Raises InvalidParams, ValueError."""
    return parse_document(decode(text, max_bytes=MAX_BYTES, max_nodes=_MAX_NODES))


def why(error: Exception) -> str:
    """The sentence without slug, errno and path: the caller names the file."""
    if isinstance(error, HiveError):
        return error.detail
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _stamp(path: str) -> Stamp | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
