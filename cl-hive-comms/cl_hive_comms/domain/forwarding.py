"""Channels that advisors disabled, and how several reasons for it compose
(docs/protocol/02-fleet-management.md §4 item 4; 08-client-and-plugins.md §6 "Kill switch").

A channel may be disabled on its own, by `disable_all` and by the operator's stop at the same time. Every
hold keeps the bounds from before the first of them; the channel forwards again when the last one ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from .emergency import Limits, SavedChannel, frozen

INDIVIDUAL: Final = "individual"
"""Held by `disable_channel`."""
ALL: Final = "all"
"""Held by `disable_all` and what means the same."""
BY_ADVISORS: Final = frozenset({INDIVIDUAL, ALL})


class Hold(msgspec.Struct, frozen=True):
    """One reason for which a channel does not forward, and the bounds it gets back afterwards."""

    reason: str
    channel: SavedChannel

    def stands(self, shown: Limits) -> bool:
        """Whether the node still shows what this hold made of the channel; else somebody set other bounds
        by hand, and the hold means nothing any more."""
        return shown == frozen(self.channel.limits)


def original(shown: Limits, holds: Iterable[Hold]) -> Limits:
    """The bounds of a channel without its holds."""
    return next((hold.channel.limits for hold in holds if hold.stands(shown)), shown)
