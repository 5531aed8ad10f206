"""Which mints take a ticket now, and how much of it each (docs/protocol/03-escrow-and-payments.md §4.2)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
from hive_shared.cashu.escrow_ports import Database
from hive_shared.cashu.escrow_terms import divided, locked_face_sats, most_fees_sats
from hive_shared.cashu.mints import Wish
from hive_shared.cashu.terms import MAX_MINTS
from hive_shared.cashu.windows import MULTI_MINT_STEP_S
from hive_shared.errors import PaymentFailed
from hive_shared.store import Tx

from ..domain.payment_choice import ESCROW, FLAT, Case, choose

NO_MINT: Final = (
    "no mint is named: set hive-comms-escrow-mint to one you trust; without it there is no escrow"
)


class EscrowSettings(msgspec.Struct, frozen=True):
    """The operator's options: seconds left to redeem, and what may be of one ticket at one mint (sat)."""

    buffer_s: int
    most_ticket_sats: int
    most_locked_sats: int


class ChosenMints(Protocol):
    """The book of mints (hive_shared.cashu.mint_book.MintBookService)."""

    def accepted(self) -> Sequence[str]: ...
    def allowed(self, url: str) -> str: ...
    def for_lock(
        self, wish: Wish, locktime: int, locked_sats: Mapping[str, int], max_locked_sats: int
    ) -> tuple[str, Any]: ...


class TicketMints:
    """Chooses among the operator's mints."""

    def __init__(
        self,
        db: Database,
        mints: ChosenMints,
        locked_sats: Callable[[Tx], dict[str, int]],
        settings: Callable[[], EscrowSettings],
    ) -> None:
        self._db, self._mints, self._locked_sats, self._settings = db, mints, locked_sats, settings

    async def chosen(
        self,
        amounts: Sequence[int],
        last_locktime: int,
        *,
        takes: Collection[str] = (),
        among: Collection[str] | None = None,
        wanted: str | None = None,
    ) -> tuple[tuple[str, int], ...]:
        """Address and permille, as many as a ticket of items of these amounts (sat) needs, of the mints that
        are named, that the payee takes (`takes`, empty: any) and that the caller allows (`among`).

        Raises PaymentFailed (`mint_not_allowed`, `no_common_method`, `mint_unavailable`), BudgetExhausted
        (`exposure_limit`).
        """
        settings, locked = self._settings(), await self._db.read(self._locked_sats)
        if not self._mints.accepted():
            raise PaymentFailed(NO_MINT, reason="mint_not_allowed")
        accepted = set(self._mints.accepted())
        if wanted is not None:
            wanted = self._mints.allowed(wanted)
            accepted &= {wanted}
        if among is not None:
            accepted &= set(among)
        if takes:
            accepted &= set(takes)
        # Whoever told a key for tickets takes them; what is left to have in common is a mint.
        choose(Case(FLAT, conditional=True, shared_mint=bool(accepted)), (), (ESCROW,))
        found: list[str] = []
        total, fees = sum(amounts), 0
        while True:
            share = min(total, settings.most_ticket_sats)
            wish = Wish(share, frozenset(accepted - set(found)), wanted or "")
            last = last_locktime + len(found) * MULTI_MINT_STEP_S
            try:
                url, keyset = self._mints.for_lock(wish, last, locked, settings.most_locked_sats)
            except PaymentFailed:
                if not found:
                    raise
                break
            found.append(url)
            if not fees and locked_face_sats(amounts, keyset) <= settings.most_ticket_sats:
                return ((url, 1_000),)
            fees = max(fees, most_fees_sats(amounts, keyset))
            if len(found) >= MAX_MINTS:
                break
        return divided(total, len(amounts), settings.most_ticket_sats - fees, found)
