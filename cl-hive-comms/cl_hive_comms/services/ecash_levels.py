"""How much ecash lies at the mints by itself: refilled from Lightning when it runs low, taken home when it is
too much (docs/protocol/03-escrow-and-payments.md §4.2, §5; docs/decisions/0556)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import msgspec
from hive_shared.alerts import Level
from hive_shared.cashu.journal import Op
from hive_shared.cashu.ports import MintBook
from hive_shared.cashu.wallet import Order
from hive_shared.errors import HiveError
from hive_shared.store import Tx

from ..domain.lightning_invoice import sats_up
from ..domain.payment import fee_limit_msat
from .payment_limits import PaymentLimits
from .ports_commands import Database, Log
from .wallet_funding import REPLENISH_KEY

APART_S: Final = 600
"""Least time between two refills, and between two tries to take ecash home from a mint."""
FAILURES: Final = 3
"""So many failures in a row end refilling until a fund succeeds."""
MELT_KEY: Final = "automelt:"
"""What the keys of ecash taken home begin with in the wallet's journal."""
_LEAST_MELT_SAT: Final = 500
_WAIT_S: Final = 30.0


class Levels(msgspec.Struct, frozen=True):
    """The operator's options, in sat; `melt_above` 0: only `most` counts."""

    refill: bool
    refill_below: int
    refill_by: int
    melt_above: int
    most: int

    def kept(self, *, primary: bool) -> int:
        """What may lie at a mint. Of the primary no less than a refill brings, so that nothing goes to and
        fro."""
        if not self.melt_above:
            return self.most
        refilled = self.refill_below + self.refill_by if primary and self.refill else 0
        return min(self.most, max(self.melt_above, refilled))


class Refills(msgspec.Struct, frozen=True):
    """What the journal says of refills: when the newest was begun and the newest fund ended well (Unix s, 0:
    never), how many failed since."""

    begun_at: int
    done_at: int
    failed: int


class LevelRows(Protocol):
    """The wallet's journal."""

    def balances(self, tx: Tx) -> dict[str, dict[str, int]]: ...
    def coming(self, tx: Tx, mint_url: str) -> int: ...
    def newest_begun(self, tx: Tx, key_prefix: str) -> int: ...
    def newest_done(self, tx: Tx, kind: str) -> int: ...
    def failed_since(self, tx: Tx, key_prefix: str, since: int) -> int: ...


class Purse(Protocol):
    """The wallet."""

    async def fund_as(self, order: Order, amount_sat: int, mint_url: str, timeout: float) -> Op: ...
    async def withdraw_as(self, order: Order, amount_sat: int, mint_url: str, timeout: float) -> Op: ...


class EcashLevels:
    """Both directions. `fit` says whether a mint is one to bring sats to."""

    def __init__(
        self,
        db: Database,
        rows: LevelRows,
        purse: Purse,
        mints: MintBook,
        limits: PaymentLimits,
        *,
        levels: Callable[[], Levels],
        fit: Callable[[str], bool],
        stopped: Callable[[], bool],
        alert: Callable[[Level, str, str], Awaitable[None]],
        now: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        log: Log,
    ) -> None:
        self._db, self._rows, self._purse, self._mints, self._limits = db, rows, purse, mints, limits
        self._levels, self._fit, self._stopped, self._alert = levels, fit, stopped, alert
        self._now, self._random_bytes, self._log = now, random_bytes, log
        self._tried: dict[str, int] = {}
        self._unbegun: list[int] = []
        self._gave_up = False

    async def tick(self) -> None:
        """Refill the primary mint's ecash, take home what is too much anywhere."""
        if self._stopped():
            return
        levels, named = self._levels(), self._mints.accepted()
        if levels.refill and named and self._fit(named[0]):
            await self._refill(named[0], levels)
        await self._take_home(named, levels)

    async def _refill(self, mint_url: str, levels: Levels) -> None:
        now = self._now()

        def look(tx: Tx) -> tuple[int, int, Refills]:
            held = self._rows.balances(tx).get(mint_url, {})
            there = held.get("unspent", 0) + held.get("pending", 0) + self._rows.coming(tx, mint_url)
            done_at = self._rows.newest_done(tx, "fund")
            failed = self._rows.failed_since(tx, REPLENISH_KEY, done_at)
            return (
                there,
                self._limits.left(tx),
                Refills(self._rows.newest_begun(tx, REPLENISH_KEY), done_at, failed),
            )

        there, left, refills = await self._db.read(look)
        self._unbegun = [at for at in self._unbegun if at > refills.done_at]
        if refills.failed + len(self._unbegun) >= FAILURES:
            await self._give_up()
            return
        self._gave_up = False
        last = max([refills.begun_at, *self._unbegun])
        if there >= levels.refill_below or now < last + APART_S:
            return
        fee = sats_up(fee_limit_msat(levels.refill_by * 1_000, self._limits.limits().max_fee_ppm, None))
        amount = min(levels.refill_by, levels.most - there, left - fee)
        if amount < 1:
            self._log("info", "wallet_refill_held_back", mint=mint_url, left_sats=left, there_sats=there)
            return
        order = Order(f"{REPLENISH_KEY}{self._random_bytes(16).hex()}")
        try:
            await self._purse.fund_as(order, amount, mint_url, _WAIT_S)
        except HiveError as error:
            if "op_id" not in error.data:
                self._unbegun.append(now)
            self._log("warning", "wallet_refill", mint=mint_url, amount_sats=amount, error=str(error))

    async def _give_up(self) -> None:
        if self._gave_up:
            return
        self._gave_up = True
        await self._alert(
            Level.CRITICAL,
            "wallet_refill",
            f"the ecash wallet could not be refilled {FAILURES} times: hive-client-wallet action=ops says"
            " why; refilling goes on once an action=fund succeeds",
        )

    async def _take_home(self, named: Sequence[str], levels: Levels) -> None:
        held, now = await self._db.read(self._rows.balances), self._now()
        for mint_url in named:
            kept = levels.kept(primary=mint_url == named[0])
            over = held.get(mint_url, {}).get("unspent", 0) - kept
            if (
                over < min(_LEAST_MELT_SAT, max(1, kept // 10))
                or now < self._tried.get(mint_url, 0) + APART_S
            ):
                continue
            self._tried[mint_url] = now
            order = Order(f"{MELT_KEY}{self._random_bytes(16).hex()}")
            try:
                await self._purse.withdraw_as(order, over, mint_url, _WAIT_S)
            except HiveError as error:
                self._log("warning", "wallet_melt", mint=mint_url, amount_sats=over, error=str(error))
