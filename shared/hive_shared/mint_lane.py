"""How much we ask of one mint at a time, and when we leave it alone
(docs/protocol/03-escrow-and-payments.md §4.2).

Two requests at once (eight over all mints), money calls one after the other in the order they came, at most
60 requests and 20 money calls a minute, no request before a `Retry-After` is over, none while the breaker is
open.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import msgspec

from hive_shared.breaker import Breaker, BreakerState
from hive_shared.cashu.ports import QUEUE_SECONDS, MintUnavailable

__all__ = ["MintLane", "MintTraffic"]

ALL_MINTS_AT_ONCE: Final = 8
ONE_MINT_AT_ONCE: Final = 2
REQUESTS_A_MINUTE: Final = 60
MONEY_CALLS_A_MINUTE: Final = 20
LEISURELY_A_MINUTE: Final = MONEY_CALLS_A_MINUTE // 2
FAILURES_TO_OPEN: Final = 5
LONGEST_RETRY_AFTER_S: Final = 3_600.0
_MINUTE: Final = 60.0


class MintTraffic(msgspec.Struct, frozen=True):
    """Where a lane stands: the breaker, the seconds until it or a `Retry-After` lets calls through again, and
    what was sent in the last minute."""

    breaker: BreakerState
    held_for_s: float
    requests: int
    money_calls: int
    leisure_in_s: float
    """When what nobody waits for may be sent: half of a minute's money calls are left to the others."""
    money_in_s: float = 0.0
    """When a money call may be sent: what holds calls back is over, and the minute's are not used up."""


class MintLane:
    """The way to one mint. `monotonic` and `sleep` are the clock, in seconds; `everywhere` is shared by all
    mints of a process."""

    def __init__(
        self,
        url: str,
        everywhere: asyncio.Semaphore,
        *,
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._url = url
        self._everywhere = everywhere
        self._here = asyncio.Semaphore(ONE_MINT_AT_ONCE)
        self._order = asyncio.Lock()
        self._monotonic, self._sleep = monotonic, sleep
        self._breaker = Breaker(monotonic, failures_to_open=FAILURES_TO_OPEN)
        self._sent: deque[float] = deque()
        self._money: deque[float] = deque()
        self._not_before = 0.0

    @property
    def traffic(self) -> MintTraffic:
        """Where it stands now."""
        now = self._monotonic()
        self._forget(now)
        held = max(self._breaker.open_for, self._not_before - now, 0.0)
        leisure = 0.0
        if (over := len(self._money) - LEISURELY_A_MINUTE) >= 0:
            leisure = self._money[over] + _MINUTE - now
        money = max(held, self._wait(now, True)[0])
        return MintTraffic(self._breaker.state, held, len(self._sent), len(self._money), leisure, money)

    @asynccontextmanager
    async def turn(self, *, money: bool) -> AsyncIterator[None]:
        """Waits for the moment to send, at most QUEUE_SECONDS, and holds the way while the body runs.

        The body ends with `answered` or `failed`; when it is left without either, the outcome says nothing
        about the mint. Raises MintUnavailable, nothing sent.
        """
        self._refuse_while_open()
        until = self._monotonic() + QUEUE_SECONDS
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(QUEUE_SECONDS):
                    if money:
                        await held.enter_async_context(self._order)
                    await self._budget(money, until)
                    await held.enter_async_context(self._here)
                    await held.enter_async_context(self._everywhere)
            except TimeoutError:
                raise self._held_back(f"no turn within {QUEUE_SECONDS:g} seconds", 0.0) from None
            if not self._breaker.admit():
                self._refuse_while_open()
                raise self._held_back("it is being tried with one call at a time after failures", 1.0)
            try:
                yield
            finally:
                self._breaker.abandoned()

    def answered(self) -> None:
        """The mint gave an answer; a refusal is one."""
        self._breaker.succeeded()

    def failed(self, retry_after_s: float = 0.0) -> None:
        """No answer, or 5xx, or 429; until `retry_after_s` is over nothing more is sent."""
        self._breaker.failed()
        wait = min(retry_after_s, LONGEST_RETRY_AFTER_S)
        self._not_before = max(self._not_before, self._monotonic() + wait)

    def _refuse_while_open(self) -> None:
        if self._breaker.state == "open":
            wait = self._breaker.open_for
            raise self._held_back(f"it failed {FAILURES_TO_OPEN} times in a row and is left alone", wait)

    async def _budget(self, money: bool, until: float) -> None:
        while True:
            now = self._monotonic()
            self._forget(now)
            wait, why = self._wait(now, money)
            if wait <= 0:
                self._sent.append(now)
                if money:
                    self._money.append(now)
                return
            if now + wait > until:
                raise self._held_back(why, wait)
            await self._sleep(wait)

    def _wait(self, now: float, money: bool) -> tuple[float, str]:
        waits = [(self._not_before - now, "it asked to be left alone (Retry-After)")]
        if len(self._sent) >= REQUESTS_A_MINUTE:
            waits.append(
                (self._sent[0] + _MINUTE - now, f"{REQUESTS_A_MINUTE} requests were sent in a minute")
            )
        if money and len(self._money) >= MONEY_CALLS_A_MINUTE:
            waits.append(
                (self._money[0] + _MINUTE - now, f"{MONEY_CALLS_A_MINUTE} money calls were sent in a minute")
            )
        return max(waits)

    def _forget(self, now: float) -> None:
        for times in (self._sent, self._money):
            while times and times[0] <= now - _MINUTE:
                times.popleft()

    def _held_back(self, why: str, retry_after_s: float) -> MintUnavailable:
        return MintUnavailable(self._url, why, sent=False, retry_after_s=retry_after_s)
