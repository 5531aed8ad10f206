"""Tells the operator of a sibling plugin that is lost (docs/protocol/08-client-and-plugins.md §6 "Alerts").

Not at once: a plugin that is upgraded, or a node that shuts down, goes for a moment.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from hive_shared.alerts import Level
from hive_shared.siblings import PLUGIN, Sibling

from cl_hive_comms.services.ports_identity import Clock

GRACE_S: Final = 60
"""How long a sibling may be away before it counts as lost."""


class SiblingWatch:
    """Listens to the hub. `alert` stores an alert: level, code, text."""

    def __init__(self, alert: Callable[[Level, str, str], Awaitable[None]], *, now: Clock) -> None:
        self._alert, self._now = alert, now
        self._gone: dict[Sibling, int] = {}
        self._told: set[Sibling] = set()

    def changed(self, who: Sibling, present: bool) -> None:
        """A sibling came or went."""
        if present:
            self._gone.pop(who, None)
        else:
            self._gone.setdefault(who, self._now())

    async def tick(self) -> None:
        """Raise what is due; run every few seconds."""
        for who, since in list(self._gone.items()):
            if who not in self._told and self._now() - since >= GRACE_S:
                self._told.add(who)
                await self._alert(
                    Level.WARNING,
                    "sibling_lost",
                    f"{PLUGIN[who]} is gone: what needs it answers sibling_unavailable until it is back"
                    " (hive-client-status tells what there is)",
                )
        for who in self._told.difference(self._gone):
            self._told.discard(who)
            await self._alert(Level.INFO, "sibling_back", f"{PLUGIN[who]} is back")
