"""Probes of the operator's mints: asked for, and when they are due
(docs/protocol/03-escrow-and-payments.md §4.2).

Before the first lock, after another version, every thirty days: as soon as there are enough sats at the mint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec

from hive_shared.row_by_row import RowByRow

from ..errors import EmergencyStop, HiveError, PaymentFailed
from ..store import Tx
from .advice import NODE, Advice
from .journal import Op
from .mint_caps import Caps
from .probe import PROBE_S, Probe, Probed, probe_sats
from .settling import Database
from .wallet import MintKeys

AGAIN_S: Final = 600
"""How long after a probe that did not come to an end the next is tried."""
_NEVER: Final = 1 << 62


class KnownMint(Protocol):
    """What decides whether a mint is probed."""

    @property
    def version(self) -> str: ...
    @property
    def failures(self) -> int: ...
    @property
    def disabled(self) -> bool: ...
    @property
    def checked_at(self) -> int: ...
    def probe_due(self, now: int) -> bool: ...


class Book(Protocol):
    """The operator's mints."""

    def accepted(self) -> Sequence[str]: ...
    def allowed(self, url: str) -> str: ...
    def row(self, url: str) -> KnownMint | None: ...
    async def check(self, url: str) -> KnownMint: ...
    async def probed(self, url: str, caps: Caps, version: str) -> KnownMint: ...


class Holdings(Protocol):
    """The wallet."""

    async def ready(self, mint_url: str) -> MintKeys: ...
    async def balance(self) -> dict[str, dict[str, int]]: ...


class ProbeRows(Protocol):
    """The journal."""

    def unopened_probes(self, tx: Tx) -> list[Op]: ...


class ProbeState(msgspec.Struct, frozen=True):
    """How a probe that was asked for stands; `result` None: it goes on."""

    mint_url: str
    result: Probed | None


class ProbeService:
    """One probe of a mint at a time."""

    def __init__(
        self,
        db: Database,
        rows: ProbeRows,
        book: Book,
        wallet: Holdings,
        probe: Probe,
        *,
        stopped: Callable[[], bool],
        now: Callable[[], int],
        log: Callable[..., None],
        advice: Advice = NODE,
        leisurely: bool = True,
    ) -> None:
        """`leisurely`: a probe that comes by itself gives way to other calls; not where nobody waits for
        them and the process may end soon."""
        self._db, self._rows, self._book, self._wallet, self._probe = db, rows, book, wallet, probe
        self._stopped, self._now, self._log, self._advice = stopped, now, log, advice
        self._leisurely, self._alone = leisurely, RowByRow(log)
        self._running: dict[str, asyncio.Task[Probed]] = {}
        self._not_before: dict[str, int] = {}
        self._look_at: dict[str, int] = {}

    async def probe(self, mint_url: str, timeout: float) -> ProbeState:
        """Probe a mint of the operator's now, also one that is not due. Raises PaymentFailed for a mint that
        does not answer rightly or where too few sats are free, EmergencyStop."""
        url = self._book.allowed(mint_url)
        if self._stopped():
            raise EmergencyStop(f"{self._advice.stopped}: probes wait until that is released")
        task = self._begun(url)
        done, _ = await asyncio.wait({task}, timeout=timeout)
        return ProbeState(url, task.result() if done else None)

    async def tick(self) -> None:
        """Probe what is due and can be paid for; open what a crash left locked."""
        await self.open_what_is_left()
        if self._stopped():
            return
        held = await self._wallet.balance()
        now = self._now()
        with self._alone.round("mints to probe") as alone:
            for url in self._book.accepted():
                row = self._book.row(url)
                free = held.get(url, {}).get("unspent", 0)
                if (
                    row is None
                    or url in self._running
                    or now < self._not_before.get(url, 0)
                    or not _due(row, now)
                    or not free
                ):
                    continue
                self._not_before[url] = now + AGAIN_S
                with alone(url):
                    if free >= probe_sats((await self._wallet.ready(url)).active):
                        self._begun(url, leisurely=self._leisurely)

    async def ended(self) -> None:
        """Wait for the probes that run."""
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def stop(self) -> None:
        """Break off what runs; what is left of it the next process opens."""
        for task in self._running.values():
            task.cancel()
        await self.ended()

    def _begun(self, url: str, *, leisurely: bool = False) -> asyncio.Task[Probed]:
        if (task := self._running.get(url)) is None:
            task = self._running[url] = asyncio.create_task(self._run(url, leisurely))
            task.add_done_callback(lambda ended: self._ended(url, ended))
        return task

    def _ended(self, url: str, task: asyncio.Task[Probed]) -> None:
        del self._running[url]
        if not task.cancelled() and (error := task.exception()) is not None:
            level = "warning" if isinstance(error, HiveError) else "error"
            self._log(level, "mint_probe", mint=url, error=str(error) or repr(error))

    async def _run(self, url: str, leisurely: bool) -> Probed:
        self._not_before[url] = self._now() + AGAIN_S
        row = await self._book.check(url)
        keys = await self._wallet.ready(url)
        free = (await self._wallet.balance()).get(url, {}).get("unspent", 0)
        if free < (needed := probe_sats(keys.active)):
            raise PaymentFailed(
                f"a probe needs {needed} sat at {url}, {free} sat are free there; {self._advice.fund}",
                reason="insufficient_ecash",
                data={"free_sats": free},
            )
        try:
            async with asyncio.timeout(PROBE_S - 60):
                result = await self._probe.run(keys, leisurely=leisurely)
        except TimeoutError:
            raise PaymentFailed(f"the probe of {url} took too long", reason="mint_unavailable") from None
        await self._book.probed(url, result.caps, row.version)
        return result

    async def open_what_is_left(self) -> None:
        """Open what a crash of a probe left locked."""
        for op in await self._db.read(self._rows.unopened_probes):
            if self._now() < self._look_at.get(op.op_id, 0) or op.mint_url in self._running:
                continue
            if op.mint_url not in self._book.accepted():
                continue
            try:
                again = await self._probe.open_again(op, await self._wallet.ready(op.mint_url))
                # Where nothing else can be tried, its mint was asked once in this process: that is enough.
                self._look_at[op.op_id] = _NEVER if again is None else again
            except Exception as error:  # one probe that cannot be opened holds up neither others nor mints
                self._log("warning", "mint_probe", mint=op.mint_url, error=str(error) or repr(error))


def _due(row: KnownMint, now: int) -> bool:
    """Whether a mint that was found healthy lacks a probe."""
    return not row.disabled and not row.failures and bool(row.checked_at) and row.probe_due(now)
