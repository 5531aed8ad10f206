"""What hive-client-status shows: the truth from memory and the local database, no network.

docs/protocol/08-client-and-plugins.md §5.2 and §14 (<= 100 ms).
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Section = Callable[[bool], Awaitable[object]]
"""Builds one part of the answer; the argument is `verbose`: keys and ids in full."""


class StatusService:
    """Collects the sections that the composition root registered, in their order."""

    def __init__(self) -> None:
        self._sections: dict[str, Section] = {}

    def register(self, name: str, section: Section) -> None:
        """Adds a part; the last registration of a name counts."""
        self._sections[name] = section

    async def collect(self, verbose: bool) -> Mapping[str, Any]:
        """All parts."""
        return {name: await section(verbose) for name, section in self._sections.items()}
