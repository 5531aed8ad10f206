"""What locks need of the outside: rows, the wallet, mints, limits (docs/protocol/03 §2, §4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from hive_shared.cashu.journal import Op, OpKind
from hive_shared.cashu.keysets import Keyset
from hive_shared.cashu.lock_machine import LockEvent
from hive_shared.cashu.mints import MintRow, Wish
from hive_shared.cashu.outputs import Output
from hive_shared.cashu.ports import Mint
from hive_shared.cashu.wallet import Beside, MintKeys, Order
from hive_shared.cashu.wire import Proof
from hive_shared.errors import BudgetExhausted
from hive_shared.store import Tx

from ..domain.cashu_lock import LockRow

OnChange = Callable[[Tx, LockRow], None]
"""Told of every lock that is new or moved, inside the transaction that does it."""


class LockRows(Protocol):
    """Rows (storage.lock_store.LockStore, where the methods are described)."""

    def insert(self, tx: Tx, row: LockRow) -> None: ...
    def move(self, tx: Tx, before: LockRow, event: LockEvent, now: int, **changes: Any) -> LockRow: ...
    def note(self, tx: Tx, before: LockRow, **changes: Any) -> LockRow: ...
    def put_off(self, tx: Tx, lock_ids: Sequence[str], next_at: int) -> None: ...
    def known(self, tx: Tx, lock_ids: Sequence[str]) -> tuple[LockRow, ...]: ...
    def get(self, tx: Tx, lock_ids: Sequence[str]) -> tuple[LockRow, ...]: ...
    def of_request(self, tx: Tx, request_key: str) -> tuple[LockRow, ...]: ...
    def of_terms(self, tx: Tx, terms_hash: str) -> tuple[LockRow, ...]: ...
    def due(self, tx: Tx, now: int, limit: int) -> list[tuple[str, str]]: ...
    def unbegun(self, tx: Tx) -> tuple[LockRow, ...]: ...
    def prune(self, tx: Tx, before: int) -> int: ...
    def wake(self, tx: Tx, now: int) -> None: ...
    def locked_sats(self, tx: Tx) -> dict[str, int]: ...


class LockWallet(Protocol):
    """The wallet (hive_shared.cashu.wallet_service.WalletService)."""

    async def ready(self, mint_url: str) -> MintKeys: ...
    async def lock_out(
        self,
        order: Order,
        keys: MintKeys,
        outputs: Sequence[Output],
        *,
        beside: Beside,
    ) -> Op: ...
    async def swap_in(
        self,
        mint_url: str,
        key: str,
        proofs: Sequence[Proof],
        kind: OpKind,
        timeout: float | None = None,
        *,
        owner: str | None = None,
        beside: Beside | None = None,
    ) -> Op: ...
    async def free_sats(self, mint_url: str) -> int: ...
    async def driven(self, op_id: str, timeout: float | None = None) -> Op: ...


class LockMints(Protocol):
    """The book of mints (hive_shared.cashu.mint_book.MintBookService)."""

    def at(self, url: str) -> Mint: ...
    def row(self, url: str) -> MintRow | None: ...
    def array_limit(self, url: str) -> int: ...
    def away_for_s(self, url: str) -> float: ...
    def for_lock(
        self, wish: Wish, locktime: int, locked_sats: Mapping[str, int], max_locked_sats: int
    ) -> tuple[str, Keyset]: ...
    async def keysets(self, url: str) -> Mapping[str, Keyset]: ...


class LockLimits(Protocol):
    """What may be spent (services.payment_limits.PaymentLimits)."""

    def reserve(self, tx: Tx, budget: str, advisor_id: str | None, sats: int) -> None: ...
    async def tell_hit(self, error: BudgetExhausted) -> None: ...
