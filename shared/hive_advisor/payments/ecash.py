"""The way out `cashu`: a mint pays the invoice for ecash of the kit (docs/protocol/11-advisor-kit.md §8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hive_shared.cashu.journal import Op, OpState
from hive_shared.cashu.wallet_service import most_fee_reserve_sat
from hive_shared.errors import HiveError, InvalidParams

from hive_advisor.domain.outgoing import Outgoing, Result
from hive_advisor.ecash import Ecash

_WAIT_S: Final = 60.0
"""For how long each of quote and payment is waited for."""
_BEGUN_AFTER_S: Final = 2 * int(_WAIT_S) + 60
"""When no call that began before can begin anything any more."""


class EcashMoney:
    """Pays from the wallet's primary mint. The wallet journals a payment under its hash before the mint is
    asked, so it is found again whatever died."""

    name = "cashu"

    def __init__(self, ecash: Ecash, now: Callable[[], int]) -> None:
        self._ecash, self._now = ecash, now

    async def check(self) -> None:
        """Whether there is ecash to pay with. Raises InvalidParams where there is none."""
        if not any(row["named"] and row["free_sats"] for row in await self._ecash.balances()):
            raise InvalidParams("there is no ecash at the mints of config.toml: see 'hive-advisor wallet'")

    def most_fee_msat(self, amount_sats: int) -> int:
        """What a mint may keep for paying so much."""
        return most_fee_reserve_sat(amount_sats) * 1_000

    async def pay(self, payment: Outgoing) -> Result:
        """One operation of the wallet. Raises what kept it from being begun."""
        await self._ecash.ready()
        try:
            return self._told(await self._ecash.service.pay(payment.invoice, None, _WAIT_S))
        except HiveError:
            begun = await self._begun(payment)
            if begun is None:
                raise
            return self._told(begun)

    async def settled(self, payment: Outgoing) -> Result:
        """What the wallet's journal says. In an older copy that says of nothing under way that it failed: it
        may have been paid since, and the fee would be paid twice."""
        begun = await self._begun(payment)
        told = None if begun is None else self._told(begun)
        if (told is None or told.failed) and payment.created <= await self._ecash.restored_at():
            return Result(why="this is an older copy of the profile: the mint may have paid it since")
        if told is not None:
            return told
        over = self._now() >= payment.created + _BEGUN_AFTER_S
        return Result(failed=over, why="the wallet has not asked its mint to pay it")

    async def _begun(self, payment: Outgoing) -> Op | None:
        return await self._ecash.service.newest(f"pay:{payment.payment_hash}")

    def _told(self, op: Op) -> Result:
        if op.state is OpState.DONE:
            return Result(op.body.preimage, why="the mint paid it and does not show the preimage")
        if op.open:
            return Result(why=f"the mint has not ended it: {op.error}"[:200])
        if self._now() < op.watch_until:
            return Result(why=f"it was given up and may be paid late: {op.error}"[:200])
        return Result(failed=True, why=op.error[:200])
