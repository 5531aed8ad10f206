"""Locks of ecash on a wallet, a database of its own and a real mint; time is the test's own."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cashu_tickets import PAYEE, PAYER, document, item
from cl_hive_comms.domain.cashu_lock import LockRow
from cl_hive_comms.domain.payment_limits import Limits
from cl_hive_comms.services.lock_books import LockBooks
from cl_hive_comms.services.lock_restore import LockRestore
from cl_hive_comms.services.lock_service import LockOrder, LockService, LockSettings
from cl_hive_comms.services.lock_swaps import LockSwaps
from cl_hive_comms.services.payment_limits import PaymentLimits
from cl_hive_comms.storage.lock_store import LockStore
from cl_hive_comms.storage.payment_store import PaymentStore
from ecash_world import EcashWorld, OneMint
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.keysets import Keyset
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.mints import MintRole, MintRow, MintStatus, Wish
from hive_shared.cashu.terms import Terms, decode_terms, sign_text, terms_hash, terms_text
from hive_shared.cashu.ticket import CheckedTicket, check_ticket
from hive_shared.cashu.token import decode_token
from hive_shared.cashu.wallet_ends import Locks
from hive_shared.crypto import Sealer, Secret, xonly_pubkey
from hive_shared.store import Tx

ADA = "adv-ada"
LIMITS = Limits(
    *(50_000, 200_000, 25_000, 0, 10_000),
    siblings={"fleet": (100_000, 500_000)},
)


class BookOfOne:
    """The one mint of a world, whatever a ticket calls it, probed and trusted."""

    def __init__(self, one: OneMint) -> None:
        self._one, self.skew_s = one, 0
        self.most_elements: int | None = None

    def at(self, url: str) -> Any:
        return self._one.at(url)

    def row(self, url: str) -> MintRow:
        info = "{}" if self.most_elements is None else f'{{"max_array_length": {self.most_elements}}}'
        return MintRow(url, MintRole.PRIMARY, MintStatus.TRUSTED, 0, info_json=info, skew_s=self.skew_s)

    def array_limit(self, url: str) -> int:
        return self.most_elements or 1_000

    def away_for_s(self, url: str) -> float:
        return self._one.away_for_s(url)

    def for_lock(
        self, wish: Wish, locktime: int, locked_sats: Mapping[str, int], max_locked_sats: int
    ) -> tuple[str, Keyset]:
        from ecash_world import _KEYSETS

        (url,) = wish.accepted or ()
        self.at(url)
        active = [each for each in _KEYSETS[url].values() if each.active]
        return url, min(active, key=lambda each: each.input_fee_ppk)

    async def keysets(self, url: str) -> Mapping[str, Keyset]:
        return await self._one.keysets(url)


class NoAlerts:
    """Alerts that a transaction raised."""

    def __init__(self) -> None:
        self.raised: list[str] = []

    def raise_in(self, tx: Tx, level: object, code: str, text: str, key: str = "") -> None:
        self.raised.append(code)


class LockWorld(EcashWorld):
    """A node that locks, redeems and takes back."""

    settings = LockSettings(most_locked=250_000, most_ticket=25_000, grace_s=86_400)

    def open(self) -> None:
        sealer = Sealer({1: Secret(b"k" * 32)}, 1)
        self.rows = LockStore(sealer)
        self.books = LockBooks(self.rows, lambda: self.now)
        self.told: list[tuple[str, str]] = []
        self.moved: list[tuple[str, str]] = []
        self.books.follow(lambda tx, row: self.moved.append((row.lock_id, row.state.value)))
        super().open()
        self.book = BookOfOne(self.mints)
        self.most_outputs = getattr(self, "_most_outputs", None)
        self.lock_alerts = NoAlerts()
        self.limits_now = getattr(self, "limits_now", LIMITS)
        limits = PaymentLimits(
            self.db,
            PaymentStore(sealer),
            self.rows,
            self.lock_alerts,
            limits=lambda: self.limits_now,
            advisor_daily=lambda _: None,
            now=lambda: self.now,
        )
        self.limits = limits
        swaps = LockSwaps(
            self.db,
            self.rows,
            self.books,
            self.service,
            self.book,
            self.keys,
            self.lock_alerts,
            tell=lambda row: self.told.append((row.lock_id, row.state.value)),
            now=lambda: self.now,
            random_bytes=os.urandom,
            log=lambda *_, **__: None,
        )
        self.locks = LockService(
            self.db,
            self.rows,
            self.books,
            swaps,
            self.service,
            self.book,
            limits,
            self.keys,
            settings=lambda: self.settings,
            stopped=lambda: self.stopped,
            now=lambda: self.now,
        )

    @property
    def most_outputs(self) -> int | None:
        """How many outputs the mint says it takes in one swap beside change."""
        return self._most_outputs

    @most_outputs.setter
    def most_outputs(self, most: int | None) -> None:
        self._most_outputs = most
        self.book.most_elements = None if most is None else most + 40

    def lock_restore(self) -> LockRestore:
        """What the operator's `restore` runs for locks; no ticket is in this database."""
        return LockRestore(
            *(self.db, self.rows, self.books, self.book, self.keys),
            stored=lambda _: (),
            grace_s=lambda: self.settings.grace_s,
            now=lambda: self.now,
        )

    def locks_of_wallet(self) -> Locks:
        return self.books

    async def sweep(self) -> None:
        await super().sweep()
        await self.locks.tick()

    def terms(
        self, payee: EcashWorld, amounts: Sequence[int], *, locktime: int | None = None, **changes: Any
    ) -> Terms:
        """A ticket for another node, whose key is that of context `t`; the mint's clock is real."""
        end = locktime or int(time.time()) + 90_000
        ticket_id = os.urandom(16).hex()
        parts = [
            item(number, amount, deadline=end - 3_600, locktime=end) for number, amount in enumerate(amounts)
        ]
        return decode_terms(
            {
                **document(parts),
                "ticket_id": ticket_id,
                "issued_at": end - 7_200,
                "salt": os.urandom(16).hex(),
                "mints": [{"url": self.mint_url, "permille": 1_000}],
                "payer": {
                    **document(parts)["payer"],
                    "refund_pubkey": public_key(self.keys.refund(ticket_id)),
                },
                "payee": {
                    **document(parts)["payee"],
                    "lock_pubkey": public_key(payee.keys.lock("t")),
                },
                **changes,
            }
        )

    async def locked(self, terms: Terms, key: str = "k", **changes: Any) -> tuple[LockRow, ...]:
        return await self.locks.lock(LockOrder(key, advisor_id=ADA, **changes), terms)

    async def every(self) -> list[LockRow]:
        """All locks of this node."""
        return await self.db.read(lambda tx: self.rows.page(tx, "comms", None, 10_000))

    async def states(self) -> list[LockState]:
        return [row.state for row in sorted(await self.every(), key=lambda row: row.item)]

    async def counted(self) -> int:
        """What the daily limit counts."""
        usage, _ = await self.limits.usage()
        return next(each.used for each in usage if each.bound.name == "daily-limit")


async def checked(terms: Terms, rows: Sequence[LockRow], payee: LockWorld) -> CheckedTicket:
    """What the payee of a ticket makes of its tokens."""
    return check_ticket(
        terms,
        sign_text(PAYER, terms_text(terms_hash(terms))),
        [decode_token(row.token) for row in rows],
        payer_id=xonly_pubkey(PAYER),
        payee_id=xonly_pubkey(PAYEE),
        lock_pubkey=public_key(payee.keys.lock("t")),
        mints={terms.mints[0].url: await payee.mints.keysets(payee.mint_url)},
        seen_ys=frozenset(),
        now_s=terms.issued_at,
    )


async def taken_in(terms: Terms, rows: Sequence[LockRow], payee: LockWorld) -> tuple[LockRow, ...]:
    """The locks of a ticket in the payee's books."""
    ticket = await checked(terms, rows, payee)
    return await payee.db.write(lambda tx: payee.locks.take_in(tx, ticket, "t"))
