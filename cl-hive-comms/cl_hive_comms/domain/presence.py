"""Whether an agent is there: pings, answers to them, hours with a command
(docs/protocol/02-fleet-management.md §10, 04-marketplace-and-nostr.md §10 "SLA", 11-advisor-kit.md §15.8)."""

from __future__ import annotations

from typing import Final

import msgspec
from hive_shared.canonical import JsonValue

HOUR_S: Final = 3_600
PING_PERIOD_S: Final = 300
PING_ANSWER_S: Final = 120
"""An answer that takes longer does not count."""


class Presence(msgspec.Struct, frozen=True):
    """What was heard of an agent in a span. Hours are counted from its begin.

    `sent`: pings; `asked`: hours with a ping; `heard`: hours with an answered ping or command; `seconds`:
    how long each answer to a ping took, rising.
    """

    sent: int = 0
    asked: frozenset[int] = frozenset()
    heard: frozenset[int] = frozenset()
    seconds: tuple[int, ...] = ()

    def known(self, hours: int) -> int:
        """Of so many hours, those that say something. Where there were pings, an hour without one was ours:
        the plugin did not run, or the emergency stop was on."""
        return len(self._within(self.asked | self.heard, hours)) if self.sent else hours

    def uptime(self, hours: int) -> tuple[int | None, str]:
        """Hours heard as whole percent of those known (rounded down), or why that is unknown."""
        heard, known = len(self._within(self.heard, hours)), self.known(hours)
        if not self.sent and heard * 2 < hours:
            return None, (
                f"commands came in {heard} of {hours} hours; fewer than half of them say nothing about the"
                " rest"
            )
        if known * 2 < hours:
            return None, (
                f"pings went out or commands came in {known} of {hours} hours; fewer than half of them say"
                " nothing about the rest"
            )
        return heard * 100 // known, ""

    def response(self) -> tuple[dict[str, JsonValue] | None, str]:
        """{p50, p95}: seconds until a ping was answered, nearest rank; or why they are unknown."""
        if not self.sent:
            return None, "no ping was sent, so there was nothing to answer"
        if len(self.seconds) * 2 < self.sent:
            return None, (
                f"{len(self.seconds)} of {self.sent} pings were answered within {PING_ANSWER_S} s; fewer than"
                " half of them say nothing about the rest"
            )
        return {"p50": self._rank(50), "p95": self._rank(95)}, ""

    def _rank(self, percent: int) -> int:
        return self.seconds[-(-percent * len(self.seconds) // 100) - 1]

    @staticmethod
    def _within(numbers: frozenset[int], hours: int) -> frozenset[int]:
        return frozenset(number for number in numbers if 0 <= number < hours)


def hours_of(since: int, until: int) -> int:
    """How many hours a span begins, at least one."""
    return max(1, -(-(until - since) // HOUR_S))
