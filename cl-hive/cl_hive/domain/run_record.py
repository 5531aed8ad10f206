"""When this plugin ran on this node, kept across restarts."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace


class RunRecord(msgspec.Struct, frozen=True):
    """First start and latest start (unix seconds), number of starts, version of the latest."""

    first_started: int
    last_started: int
    starts: int
    version: str

    def again(self, now: int, version: str) -> RunRecord:
        """The record after one more start."""
        return replace(self, last_started=now, starts=self.starts + 1, version=version)
