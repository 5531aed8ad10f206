"""Sliding windows in memory: so many uses in so many seconds (docs/protocol/02-fleet-management.md §7.5).

The clock is passed in. At most 10,000 keys are remembered, the least recently used are forgotten first: a
flood of strangers costs bounded memory, and forgetting a key only forgives it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

MAX_KEYS: Final = 10_000
WINDOW_S: Final = 60


class SlidingWindows:
    """Named windows of equal length over keys; every use takes constant time.

    A use at `t` counts until `t + window_s`. Refused uses do not count, so a caller that keeps knocking is
    served again as soon as its accepted uses age out.
    """

    def __init__(
        self, now: Callable[[], float], *, window_s: float = WINDOW_S, max_keys: int = MAX_KEYS
    ) -> None:
        self._now = now
        self._window_s = window_s
        self._max_keys = max_keys
        self._uses: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def allow(self, window: str, key: str, limit: int) -> bool:
        """Count one use of `key`; False when `limit` uses are in the window, then nothing is counted."""
        return self._take(window, key, limit) == 0

    def retry_after(self, window: str, key: str, limit: int) -> int:
        """Whole seconds until a use would be allowed; 0 when it would be now. Counts nothing."""
        uses = self._current(window, key)
        if uses is None or len(uses) < limit:
            return 0
        if limit <= 0:
            return max(1, int(self._window_s))
        # The use whose ageing out brings the count below the limit.
        left = uses[len(uses) - limit] + self._window_s - self._now()
        return max(1, int(-(-left // 1)))

    def __len__(self) -> int:
        """Keys remembered now."""
        return len(self._uses)

    def _take(self, window: str, key: str, limit: int) -> int:
        uses = self._current(window, key)
        if limit <= 0 or (uses is not None and len(uses) >= limit):
            return 1
        if uses is None:
            uses = self._uses[window, key] = deque()
            while len(self._uses) > self._max_keys:
                self._uses.popitem(last=False)
        uses.append(self._now())
        return 0

    def _current(self, window: str, key: str) -> deque[float] | None:
        """The uses still in the window, old ones dropped, the key marked as just used."""
        uses = self._uses.get((window, key))
        if uses is None:
            return None
        now = self._now()
        # A clock that was set back must not lock a key out for longer than one window.
        while uses and not now - self._window_s < uses[0] <= now:
            uses.popleft()
        self._uses.move_to_end((window, key))
        return uses
