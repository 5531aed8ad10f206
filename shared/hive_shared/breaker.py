"""The circuit breaker of calls to one peer: a sibling plugin (docs/protocol/08-client-and-plugins.md §3.4), a
mint (docs/protocol/03-escrow-and-payments.md §4.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

__all__ = ["Breaker", "BreakerState"]

BreakerState = Literal["closed", "open", "half-open"]

FAILURES_TO_OPEN: Final = 3
SUCCESSES_TO_CLOSE: Final = 3
OPEN_SECONDS: Final = 60.0


class Breaker:
    """Failures in a row (three, unless told) open it for 60 s; then one call at a time is let through; three
    successes close it.

    ``monotonic`` is the clock, in seconds.
    """

    def __init__(
        self,
        monotonic: Callable[[], float],
        *,
        failures_to_open: int = FAILURES_TO_OPEN,
        open_seconds: float = OPEN_SECONDS,
    ) -> None:
        self._monotonic = monotonic
        self._failures_to_open = failures_to_open
        self._open_seconds = open_seconds
        self._failures = 0
        self._successes = 0
        self._opened_at: float | None = None
        self._trial = False

    @property
    def state(self) -> BreakerState:
        """Where it stands now; an open breaker turns half-open by the passing of time."""
        if self._opened_at is None:
            return "closed"
        return "open" if self.open_for > 0 else "half-open"

    @property
    def open_for(self) -> float:
        """Seconds until calls are tried again; 0 when they are not held back."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._open_seconds - self._monotonic())

    def admit(self) -> bool:
        """Whether a call may be made now. An admitted call must end in ``succeeded`` or ``failed`` or
        ``abandoned``."""
        match self.state:
            case "closed":
                return True
            case "open":
                return False
            case "half-open":
                if self._trial:
                    return False
                self._trial = True
                return True

    def succeeded(self) -> None:
        """The peer answered (a refusal is an answer)."""
        self._trial = False
        self._failures = 0
        if self._opened_at is None:
            return
        self._successes += 1
        if self._successes >= SUCCESSES_TO_CLOSE:
            self.reset()

    def failed(self) -> None:
        """The peer did not answer, or broke."""
        self._trial = False
        self._successes = 0
        self._failures += 1
        # In half-open one failure is enough: it has not recovered.
        if self._opened_at is not None or self._failures >= self._failures_to_open:
            self._opened_at = self._monotonic()

    def abandoned(self) -> None:
        """The caller gave up before the outcome was known; says nothing about the peer."""
        self._trial = False

    def reset(self) -> None:
        """Closed and without memory: a new session of the peer begins."""
        self._failures = self._successes = 0
        self._opened_at = None
        self._trial = False
