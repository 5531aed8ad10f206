"""Ecash under a condition: locked for the items of a ticket, known by the terms and nothing else
(docs/protocol/03-escrow-and-payments.md §2.4, §4.2, §7.2, §8).

The locks of a call, what limits count of them and the journal's row of their swap are committed together
before the mint is asked for anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

import msgspec
from hive_shared.cashu.advice import NODE
from hive_shared.cashu.curve import y_of
from hive_shared.cashu.derive import EscrowKeys, public_key
from hive_shared.cashu.journal import Op, OpState
from hive_shared.cashu.keysets import Keyset, listed
from hive_shared.cashu.lock_machine import LockEvent, LockState, lock_id_of
from hive_shared.cashu.mints import Wish
from hive_shared.cashu.outputs import Output
from hive_shared.cashu.ports import ended_without
from hive_shared.cashu.secrets import Lock, SigFlag
from hive_shared.cashu.terms import Terms, share_sats, terms_hash
from hive_shared.cashu.ticket import CheckedTicket, lock_of, lock_outputs
from hive_shared.cashu.token import Token, encode_token
from hive_shared.cashu.wallet import MintKeys
from hive_shared.cashu.wallet import Order as WalletOrder
from hive_shared.cashu.wallet_service import patience
from hive_shared.crypto import sha256
from hive_shared.errors import (
    BudgetExhausted,
    Conflict,
    EmergencyStop,
    HiveError,
    InvalidParams,
    PaymentFailed,
)
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.cashu_lock import MARGIN_S, POLL_LEAST_S, LockRow, Role
from ..domain.payment import ADVISOR
from .lock_books import LockBooks
from .lock_swaps import LockSwaps
from .ports_commands import Database
from .ports_locks import LockLimits, LockMints, LockRows, LockWallet, OnChange

MOST_OUTPUTS: Final = 900
"""Locked outputs of one swap (03 §6.3)."""
_CHANGE: Final = 40
"""Room for change beside them where a mint takes fewer elements."""
_ASKED: Final = 400
"""Outputs of one question whether a mint signed them."""
_STEP_S: Final = 60.0
KEPT_S: Final = 90 * 86_400
"""How long after its locktime and its end a lock is kept (03 §8)."""


class LockOrder(msgspec.Struct, frozen=True):
    """Who asks for locks. The same key with the same content is the same call; what is locked counts in
    `budget` (None: in none, 03 §7.2) and for the advisor."""

    key: str
    owner: str = "comms"
    budget: str | None = ADVISOR
    advisor_id: str | None = None


class Piece(msgspec.Struct, frozen=True):
    """One lock that is wanted: `outputs` makes its proofs of a keyset."""

    item: int
    share: int
    mint_url: str
    amount_sats: int
    lock: Lock
    outputs: Callable[[Keyset], tuple[Output, ...]]


class Wanted(msgspec.Struct, frozen=True):
    """What a call asks for. `terms_hash` (64 hex) is what nonces are derived from; `key_context` names the
    refund key if it is ours; `fits_ticket`: whether mint-max-ticket bounds it."""

    ref: str
    terms_hash: str
    key_context: str
    pieces: tuple[Piece, ...]
    fits_ticket: bool = True

    def content(self, order: LockOrder) -> str:
        """What an idempotency key stands for."""
        parts = [f"{piece.item}.{piece.share}.{piece.mint_url}" for piece in self.pieces]
        whose = [self.terms_hash, order.owner, order.budget or "", order.advisor_id or ""]
        return sha256("\n".join((*whose, *parts)).encode()).hex()


class _Batch(msgspec.Struct, frozen=True):
    """What one swap locks."""

    keys: MintKeys
    rows: tuple[LockRow, ...]
    outputs: tuple[Output, ...]


class LockSettings(msgspec.Struct, frozen=True):
    """The operator's options: what may be locked at one mint, and of one ticket there (sat); how long after
    its locktime a released lock is left to the payee (seconds)."""

    most_locked: int
    most_ticket: int
    grace_s: int


class LockService:
    """Locks of this node, as payer and as payee. `stopped`: the emergency stop is on."""

    def __init__(
        self,
        db: Database,
        rows: LockRows,
        books: LockBooks,
        swaps: LockSwaps,
        wallet: LockWallet,
        mints: LockMints,
        limits: LockLimits,
        keys: EscrowKeys,
        *,
        settings: Callable[[], LockSettings],
        stopped: Callable[[], bool],
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._books, self.swaps = db, rows, books, swaps
        self._wallet, self._mints, self._limits, self._keys = wallet, mints, limits, keys
        self._settings, self._stopped, self._now = settings, stopped, now
        self._running: dict[str, asyncio.Task[None]] = {}
        self._beginning = set[str]()
        self._turns = WeakValueDictionary[str, asyncio.Lock]()

    # -- locking ---------------------------------------------------------------------------------------

    async def lock(
        self,
        order: LockOrder,
        terms: Terms,
        shares: Sequence[tuple[int, int]] | None = None,
        timeout: float = 30,
    ) -> tuple[LockRow, ...]:
        """Lock these (item, share)s of a ticket, all for None.

        Returns the locks by item and share, `planned` where the mint has not answered within `timeout`
        seconds; some may have `failed` when it took several swaps. Raises, with nothing locked,
        PaymentFailed, BudgetExhausted (a limit, `exposure_limit`), EmergencyStop, InvalidParams, Conflict
        (another content under this key, terms that are locked already).
        """
        return await self.lock_wanted(order, self.wanted(terms, shares), timeout)

    def wanted(self, terms: Terms, shares: Sequence[tuple[int, int]] | None = None) -> Wanted:
        """What locking a ticket means. Raises InvalidParams where we could not take it back, or for an item
        or share that the terms do not have."""
        if terms.payer.refund_pubkey != public_key(self._keys.refund(terms.ticket_id)):
            raise InvalidParams(
                "payer.refund_pubkey is not this node's key for the ticket: nobody here could take the money"
                " back",
                data={"param": "terms"},
            )
        every = [(item, share) for item in range(len(terms.items)) for share in range(len(terms.mints))]
        chosen = every if shares is None else sorted(set(shares))
        for item, share in chosen:
            if not (0 <= item < len(terms.items) and 0 <= share < len(terms.mints)):
                raise InvalidParams(
                    f"the terms have {len(terms.items)} items at {len(terms.mints)} mints: there is no item"
                    f" {item}, share {share}"
                )
        seed = self._keys.lock_seed()

        def outputs_of(item: int, share: int) -> Callable[[Keyset], tuple[Output, ...]]:
            return lambda keyset: lock_outputs(terms, item, share, keyset, seed)

        pieces = tuple(
            Piece(
                item,
                share,
                terms.mints[share].url,
                share_sats(terms, item, share),
                lock_of(terms, item, share),
                outputs_of(item, share),
            )
            for item, share in chosen
        )
        return Wanted(terms.ticket_id, terms_hash(terms).hex(), terms.ticket_id, pieces)

    async def lock_wanted(self, order: LockOrder, wanted: Wanted, timeout: float) -> tuple[LockRow, ...]:
        """The same for any conditions."""
        key, content = f"{order.owner}:{order.key}", wanted.content(order)
        turn = self._turns.setdefault(key, asyncio.Lock())
        async with turn:
            begun = await self._begun(order, key, content, wanted, timeout)
        return begun or await self._waited(key, timeout)

    async def _begun(
        self, order: LockOrder, key: str, content: str, wanted: Wanted, timeout: float
    ) -> tuple[LockRow, ...] | None:
        """Begin a call; what became of the same one before, if there was one."""
        if known := await self._db.read(lambda tx: self._rows.of_request(tx, key)):
            return await self._again(key, content, known, timeout)
        self._refuse_when_stopped()
        async with patience(timeout):
            batches = await self._prepared(order, key, content, wanted)
        # Before the rows are there, so that the loop does not take them for what a stop left behind.
        self._beginning.add(key)
        try:
            first = await self._begin(order, key, batches)
            task = self._running[key] = asyncio.create_task(self._carry_out(order, key, batches, first))
            task.add_done_callback(lambda _: self._running.pop(key, None))
        except BudgetExhausted as error:
            if "limit" in error.data:
                await self._limits.tell_hit(error)
            raise
        finally:
            self._beginning.discard(key)
        return None

    async def _again(
        self, key: str, content: str, known: Sequence[LockRow], timeout: float
    ) -> tuple[LockRow, ...]:
        if known[0].content != content:
            raise Conflict(
                "this idempotency_key stands for other locks; take a new key for new ones",
                reason="idempotency_conflict",
            )
        if key not in self._running:
            for op_id in {row.op_id for row in known if row.state is LockState.PLANNED and row.op_id}:
                await self._wallet.driven(op_id, timeout)
        return await self._waited(key, timeout)

    async def _waited(self, key: str, timeout: float) -> tuple[LockRow, ...]:
        if (task := self._running.get(key)) is not None:
            done, _ = await asyncio.wait({task}, timeout=timeout)
            for each in done:
                each.result()
        await self.swaps.announce()
        rows = await self._db.read(lambda tx: self._rows.of_request(tx, key))
        if all(row.state is LockState.FAILED for row in rows):
            why, text = rows[0].reason or "mint_unavailable", rows[0].error or "nothing was locked"
            raise ended_without(self._mints, rows[0].mint_url, text, why)
        return rows

    async def _prepared(self, order: LockOrder, key: str, content: str, wanted: Wanted) -> tuple[_Batch, ...]:
        locked = await self._db.read(self._rows.locked_sats)
        batches: list[_Batch] = []
        for url in dict.fromkeys(piece.mint_url for piece in wanted.pieces):
            pieces = [piece for piece in wanted.pieces if piece.mint_url == url]
            least = sum(piece.amount_sats for piece in pieces)
            wish = Wish(
                least,
                frozenset({url}),
                multisig=any((piece.lock.n_sigs or 1) > 1 for piece in pieces),
                sigall=any(piece.lock.sigflag is SigFlag.SIG_ALL for piece in pieces),
            )
            last = max(piece.lock.locktime or 0 for piece in pieces)
            _, keyset = self._mints.for_lock(wish, last, locked, self._settings().most_locked)
            keys = await self._wallet.ready(url)
            rows = await asyncio.to_thread(self._planned, order, key, content, wanted, pieces, keyset)
            self._check_ticket(url, sum(row.face_sats for row, _ in rows), wanted)
            await self._refuse_signed(url, [outputs[0] for _, outputs in rows], pieces, keyset.id)
            await self._check_free(url, [row for row, _ in rows])
            batches += _batches(keys, rows, self._most_outputs(url))
        return tuple(batches)

    def _check_ticket(self, url: str, sats: int, wanted: Wanted) -> None:
        most = self._settings().most_ticket
        if wanted.fits_ticket and sats > most:
            raise BudgetExhausted(
                f"the ticket locks {sats} sat at {url} with the fees of its payee, at most {most} sat may be"
                " of one ticket at one mint (hive-comms-mint-max-ticket): divide it among more mints, or"
                " raise the option",
                reason="exposure_limit",
            )

    def _planned(
        self,
        order: LockOrder,
        key: str,
        content: str,
        wanted: Wanted,
        pieces: Sequence[Piece],
        keyset: Keyset,
    ) -> list[tuple[LockRow, tuple[Output, ...]]]:
        now, found = self._now(), []
        for piece in pieces:
            try:
                outputs = piece.outputs(keyset)
            except ValueError as error:
                raise InvalidParams(str(error)) from None
            face = sum(each.amount for each in outputs)
            row = LockRow(
                lock_id=lock_id_of(wanted.terms_hash, piece.item, piece.share, Role.PAYER),
                owner=order.owner,
                ref=wanted.ref,
                role=Role.PAYER,
                mint_url=piece.mint_url,
                keyset_id=keyset.id,
                amount_sats=piece.amount_sats,
                face_sats=face,
                lock=piece.lock,
                key_context=wanted.key_context,
                terms_hash=wanted.terms_hash,
                item=piece.item,
                share=piece.share,
                ys=tuple(y_of(each.secret) for each in outputs),
                state=LockState.PLANNED,
                request_key=key,
                content=content,
                created_at=now,
                updated_at=now,
                next_at=now + POLL_LEAST_S,
                budget=order.budget,
                advisor_id=order.advisor_id,
                counted_sats=0 if order.budget is None else face,
            )
            found.append((row, outputs))
        return found

    async def _refuse_signed(
        self, url: str, first: Sequence[Output], pieces: Sequence[Piece], keyset_id: str
    ) -> None:
        """What a mint signed once it does not sign again, but with another of its keysets it would: these
        terms were locked by a database that is lost, and must be brought back instead."""
        named = listed(await self._mints.keysets(url))
        others = [each for each in named.values() if each.id != keyset_id]
        outputs = [*first, *await asyncio.to_thread(_first_outputs, pieces, others)]
        for start in range(0, len(outputs), _ASKED):
            asked = [each.message for each in outputs[start : start + _ASKED]]
            if not (await self._mints.at(url).restore(asked)).outputs:
                continue
            raise Conflict(
                f"the mint {url} has signed a lock of these terms before; hive-client-wallet action=restore"
                " with the terms brings it back",
                reason="lock_exists",
            )

    async def _check_free(self, url: str, rows: Sequence[LockRow]) -> None:
        """Swaps are begun one after the other: the last one must not lack what the first ones took."""
        wanted = sum(row.face_sats for row in rows)
        free = await self._wallet.free_sats(url)
        if free < wanted:
            raise PaymentFailed(
                f"{wanted} sat and the mint's fee are to be locked at {url}, {free} sat are free there;"
                " hive-client-wallet action=fund brings more",
                reason="insufficient_ecash",
                data={"free_sats": free},
            )

    def _most_outputs(self, url: str) -> int:
        return max(1, min(MOST_OUTPUTS, self._mints.array_limit(url) - _CHANGE))

    async def _begin(self, order: LockOrder, key: str, batches: Sequence[_Batch]) -> Op:
        """Everything of the call in the transaction that begins its first swap."""
        every = [row for batch in batches for row in batch.rows]
        ids = tuple(row.lock_id for row in batches[0].rows)

        def beside(tx: Tx, op: Op) -> Op:
            # Asked last, where it begins: the stop may have come while the mint was asked.
            self._refuse_when_stopped()
            self._check_exposure(tx, every)
            counted = sum(row.counted_sats for row in every)
            if order.budget is not None:
                self._limits.reserve(tx, order.budget, order.advisor_id, counted)
            for row in every:
                self._books.add(tx, replace(row, op_id=op.op_id if row.lock_id in ids else ""))
            return replace(op, lock_ids=ids)

        batch = batches[0]
        return await self._wallet.lock_out(_order(order, key, 0), batch.keys, batch.outputs, beside=beside)

    def _refuse_when_stopped(self) -> None:
        if self._stopped():
            raise EmergencyStop(f"{NODE.stopped}: nothing is locked until that is released")

    def _check_exposure(self, tx: Tx, rows: Sequence[LockRow]) -> None:
        locked, most = self._rows.locked_sats(tx), self._settings().most_locked
        for url in {row.mint_url for row in rows}:
            more, there = sum(row.face_sats for row in rows if row.mint_url == url), locked.get(url, 0)
            if there + more > most:
                raise BudgetExhausted(
                    f"{there} sat are locked at {url} and at most {most} sat may be"
                    f" (hive-comms-mint-max-locked): {more} sat more are refused",
                    reason="exposure_limit",
                )

    async def _carry_out(self, order: LockOrder, key: str, batches: Sequence[_Batch], op: Op) -> None:
        """Drive the swaps of a call, the next one begun when the one before has ended or hangs."""
        for number, batch in enumerate(batches):
            if number:
                ids = tuple(row.lock_id for row in batch.rows)

                def attach(tx: Tx, begun: Op, ids: tuple[str, ...] = ids) -> Op:
                    self._refuse_when_stopped()
                    for row in self._rows.get(tx, ids):
                        self._rows.note(tx, row, op_id=begun.op_id)
                    return replace(begun, lock_ids=ids)

                try:
                    op = await self._wallet.lock_out(
                        _order(order, key, number), batch.keys, batch.outputs, beside=attach
                    )
                except HiveError as error:
                    await self._give_up(key, error.symbol, error.detail)
                    return
            ended = await self._wallet.driven(op.op_id, _STEP_S)
            if ended.state is OpState.FAILED:
                await self._give_up(key, ended.reason, ended.error)
                return

    async def _give_up(self, key: str, reason: str, error: str) -> None:
        def body(tx: Tx) -> None:
            for row in self._rows.of_request(tx, key):
                if row.state is LockState.PLANNED and not row.op_id:
                    self._books.move(tx, row, LockEvent.ON_FAILED, counted_sats=0, reason=reason, error=error)

        await self._db.write(body)

    # -- what callers say of locks ---------------------------------------------------------------------
    # Of a copy of the database some may not be there: it was made before they were funded.

    def on_change(self, follower: OnChange) -> None:
        """Tell `follower` of every lock that is new or moved, inside the transaction that does it."""
        self._books.follow(follower)

    def delivered(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """The payee was sent these tokens."""
        for row in self._rows.known(tx, lock_ids):
            if row.state is LockState.LOCKED:
                self._books.move(tx, row, LockEvent.ON_DELIVERED, next_at=self._now() + POLL_LEAST_S)

    def released(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """The payee may have the preimage: the money is left to it for a while after the locktime."""
        now = self._now()
        for row in self._rows.known(tx, lock_ids):
            if row.released_at is None:
                until = row.locktime + self._settings().grace_s
                soon = now + POLL_LEAST_S
                self._rows.note(tx, row, released_at=now, refund_hold_until=until, next_at=soon)

    def held(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """Work for these goes on: nothing is taken back under it, as if they were released."""
        for row in self._rows.known(tx, lock_ids):
            until = row.locktime + self._settings().grace_s
            self._rows.note(tx, row, refund_hold_until=until)

    def unheld(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """The work came to nothing: what was not released goes back at its locktime."""
        for row in self._rows.known(tx, lock_ids):
            if row.released_at is None:
                at = row.locktime + abs(self.swaps.skew(row.mint_url)) + MARGIN_S
                self._rows.note(tx, row, refund_hold_until=0, next_at=min(row.next_at, at))

    def tell_again(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """Tell those who follow locks once more where these stand: it may have been told while they could
        not take it."""
        self._books.tell_again(tx, self._rows.known(tx, lock_ids))

    def take_in(
        self,
        tx: Tx,
        checked: CheckedTicket,
        key_context: str,
        *,
        owner: str = "comms",
        ref: str = "",
    ) -> tuple[LockRow, ...]:
        """Note what a checked ticket locks for us, for our key `lock/<key_context>`; again is the same."""
        hash_, now, found = checked.terms_hash.hex(), self._now(), []
        known = {(row.item, row.share, row.role): row for row in self._rows.of_terms(tx, hash_)}
        for share in checked.shares:
            if (row := known.get((share.item, share.mint, Role.PAYEE))) is None:
                url = checked.terms.mints[share.mint].url
                row = LockRow(
                    lock_id=lock_id_of(hash_, share.item, share.mint, Role.PAYEE),
                    owner=owner,
                    ref=ref or checked.terms.ticket_id,
                    role=Role.PAYEE,
                    mint_url=url,
                    keyset_id=share.proofs[0].id,
                    amount_sats=share_sats(checked.terms, share.item, share.mint),
                    face_sats=sum(proof.amount for proof in share.proofs),
                    lock=share.lock,
                    key_context=key_context,
                    terms_hash=hash_,
                    item=share.item,
                    share=share.mint,
                    ys=share.ys,
                    state=LockState.DELIVERED,
                    request_key=f"{owner}:received:{hash_}",
                    content=hash_,
                    created_at=now,
                    updated_at=now,
                    next_at=share.lock.locktime or now,
                    token=encode_token(Token(url, share.proofs)),
                )
                self._books.add(tx, row)
            found.append(row)
        return tuple(found)

    def of_terms(self, tx: Tx, terms_hash: str) -> tuple[LockRow, ...]:
        """What we locked for a ticket, by item and share."""
        return tuple(row for row in self._rows.of_terms(tx, terms_hash) if row.role is Role.PAYER)

    def get(self, tx: Tx, lock_ids: Sequence[str]) -> tuple[LockRow, ...]:
        """These locks inside a transaction. Raises NotFound."""
        return self._rows.get(tx, lock_ids)

    async def rows(self, lock_ids: Sequence[str]) -> tuple[LockRow, ...]:
        """These locks as they are now. Raises NotFound."""
        return await self._db.read(lambda tx: self._rows.get(tx, lock_ids))

    async def redeem(self, preimages: Mapping[str, str], timeout: float = 30) -> tuple[LockRow, ...]:
        """Take what is locked for us: a preimage (64 hex) by lock, "" for a lock without hash."""
        return await self.swaps.redeem(preimages, timeout)

    async def refund(self, lock_ids: Sequence[str], timeout: float = 30) -> tuple[LockRow, ...]:
        """Take back what we locked."""
        return await self.swaps.refund(lock_ids, timeout)

    # -- the loop --------------------------------------------------------------------------------------

    async def tidy(self) -> None:
        """Forget locks that ended long ago, with their preimages; look at those that a clock which was ahead
        put off."""
        now = self._now()
        await self._db.write(lambda tx: self._rows.prune(tx, now - KEPT_S))
        await self._db.write(lambda tx: self._rows.wake(tx, now))

    async def tick(self) -> None:
        """Give up what a stop left unbegun; ask, redeem and take back what is due."""

        def body(tx: Tx, row: LockRow) -> None:
            if row.request_key not in self._running and row.request_key not in self._beginning:
                self._books.move(
                    tx,
                    row,
                    LockEvent.ON_FAILED,
                    counted_sats=0,
                    reason="interrupted",
                    error="the plugin stopped before this part was sent to the mint",
                )

        with self.swaps.alone.round("locks not begun") as alone:
            for row in await self._db.read(self._rows.unbegun):
                if row.request_key not in self._running and row.request_key not in self._beginning:
                    with alone(row.lock_id), suppress(Conflict):  # begun since it was read
                        await self._db.write(partial(body, row=row))
        await self.swaps.tick()
        await self.swaps.announce()


def _first_outputs(pieces: Sequence[Piece], keysets: Sequence[Keyset]) -> list[Output]:
    """The first output of every piece in every keyset that can make it."""
    found = []
    for piece in pieces:
        for keyset in keysets:
            with suppress(ValueError):
                found.append(piece.outputs(keyset)[0])
    return found


def _order(order: LockOrder, key: str, number: int) -> WalletOrder:
    return WalletOrder(f"lock:{key}:{number}", order.owner)


def _batches(
    keys: MintKeys, rows: Sequence[tuple[LockRow, tuple[Output, ...]]], most: int
) -> Iterator[_Batch]:
    batch: list[LockRow] = []
    outputs: list[Output] = []
    for row, made in rows:
        if batch and len(outputs) + len(made) > most:
            yield _Batch(keys, tuple(batch), tuple(outputs))
            batch, outputs = [], []
        batch.append(row)
        outputs += made
    if batch:
        yield _Batch(keys, tuple(batch), tuple(outputs))
