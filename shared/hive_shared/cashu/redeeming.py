"""Making earned tickets one's own: released items are redeemed at once and together, what the mint refuses is
halved until the bad one is alone, and what the payer took back is known from the mint
(docs/protocol/03-escrow-and-payments.md §6.6, §6.7).

A redemption is named in the rows of its proofs before the wallet begins it under that name, so killed
anywhere it is found again, never begun twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Final, Protocol

import msgspec
from msgspec.structs import replace

from ..errors import HiveError, NotFound
from ..store import Tx
from .derive import EscrowKeys, public_key
from .incoming import spent_by
from .journal import Op, OpKind, OpState
from .payee import CHECKSTATE_YS, PayeeEngine, TicketMints
from .payee_rows import LOCK_ENDS, HeldItem, HeldLock, Outgoing, Share, ShareRows, Told
from .reasons import TokenSpent
from .settling import Database
from .ticket_machine import PayeeEvent
from .ticket_messages import Redeemed
from .wire import Proof, ProofState, SpendState
from .witness import build, inputs_digest, preimage_in, sign

GATHER_S: Final = 60
"""How long released items wait for others to be redeemed with."""
GATHER_PROOFS: Final = 100
"""How many proofs do not wait for more."""
MAX_PROOFS: Final = 500
"""The most proofs in one redemption."""
URGENT_S: Final = 900
"""So near its locktime an item waits for no other."""
_MOST_WAIT_S: Final = 30
_AFTER_LOCKTIME_S: Final = 120
_LOOK_EVERY_S: Final = 900
_LOOK_S: Final = 7 * 86_400


class RedeemingWallet(Protocol):
    """The wallet that takes what is redeemed (`wallet_service.WalletService`)."""

    async def swap_in(self, mint_url: str, key: str, proofs: Sequence[Proof], kind: OpKind) -> Op:
        """Swap proofs with their witnesses for our own, once per key; the operation as far as it went.
        Raises PaymentFailed where it cannot be begun."""
        ...


class Redeemer:
    """Owns locked proofs from their release to their end."""

    def __init__(
        self,
        db: Database,
        rows: ShareRows,
        engine: PayeeEngine,
        mints: TicketMints,
        wallet: RedeemingWallet,
        keys: EscrowKeys,
        out: Outgoing,
        *,
        told: Told,
        now: Callable[[], int],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._db, self._rows, self._engine, self._mints = db, rows, engine, mints
        self._wallet, self._keys, self._out, self._told = wallet, keys, out, told
        self._now, self._random_bytes = now, random_bytes
        self._one_at_a_time = asyncio.Lock()

    async def due_at(self) -> int | None:
        """When the next redemption is due, Unix seconds; None while nothing is released."""
        shares = await self._db.read(
            lambda tx: self._rows.shares_in(tx, (HeldLock.REDEEMABLE, HeldLock.REDEEMING))
        )
        if not shares:
            return None
        now = self._now()
        more = await self._db.read(lambda tx: self._rows.mints_at_work(tx, now))
        return min(_due_at(list(group), url in more, now) for url, group in _by_mint(shares))

    async def redeem(self, *, at_once: bool = False) -> int:
        """Begin what is due (`at_once`: whatever is released) and carry on what was begun; how many shares
        came to an end."""
        async with self._one_at_a_time:
            await self._gather(at_once)
            ended = 0
            under_way = await self._db.read(lambda tx: self._rows.shares_in(tx, (HeldLock.REDEEMING,)))
            by_batch: dict[str, list[Share]] = {}
            for share in under_way:
                by_batch.setdefault(share.batch, []).append(share)
            waiting = [
                (batch, tuple(shares))
                for batch, shares in by_batch.items()
                if at_once or max(_next_at(share, self._now()) for share in shares) <= self._now()
            ]
            while waiting:
                batch, shares = waiting.pop(0)
                try:
                    done, halves = await self._redeem(batch, shares)
                except Exception as error:
                    # Its operation may have begun: it goes on under its name, and the others do not wait.
                    await self._keep_for_later(shares, error)
                    continue
                ended += done
                waiting += halves
            return ended

    async def look_back(self) -> int:
        """After a locktime the payer may take back what was not redeemed: how many shares it took."""
        now = self._now()
        ended = (now - _LOOK_S, now - _AFTER_LOCKTIME_S)
        late = await self._db.read(lambda tx: self._rows.late_shares(tx, ended, now))
        gone = 0
        for url, group in _by_mint(late):
            few = list(group)
            try:
                states = await self._states(url, [y for share in few for y in share.ys])
                gone += await self._back(few, states)
            except HiveError:
                continue  # the mint is asked again at the next look
        return gone

    async def _back(self, shares: Sequence[Share], states: Mapping[str, ProofState]) -> int:
        pubkeys = {each.context: public_key(self._keys.lock(each.context)) for each in shares}
        ours = {s.place for s in shares if _spent(s, states) and _by_us(s, states, pubkeys[s.context])}
        return await self._db.write(lambda tx: self._taken_back(tx, shares, states, ours))

    async def check_held(self, shares: Sequence[Share]) -> None:
        """Whether the mints still hold what was not redeemed. Raises TokenSpent, and what a call raises."""
        for url, group in _by_mint([share for share in shares if share.state not in LOCK_ENDS]):
            few = list(group)
            states = await self._states(url, [y for share in few for y in share.ys])
            for share in few:
                if _spent(share, states):
                    raise TokenSpent(f"item {share.item} is spent at {url}: the payer took it back")

    # -- batches -----------------------------------------------------------------------------------------

    async def _gather(self, at_once: bool) -> None:
        if await self._db.read(lambda tx: self._rows.shares_in(tx, (HeldLock.REDEEMABLE,))):
            await self._db.write(lambda tx: self._gathered(tx, at_once))

    def _gathered(self, tx: Tx, at_once: bool) -> None:
        now = self._now()
        # Where an item may still be released and then be redeemed together with others.
        more = self._rows.mints_at_work(tx, now)
        for url, group in _by_mint(self._rows.shares_in(tx, (HeldLock.REDEEMABLE,))):
            few, most = list(group), min(MAX_PROOFS, self._mints.array_limit(url))
            if not at_once and now < _due_at(few, url in more, now):
                continue
            for batch in _batches([share for share in few if at_once or _next_at(share, now) <= now], most):
                self._begin(tx, batch)

    def _begin(self, tx: Tx, shares: Sequence[Share]) -> tuple[str, tuple[Share, ...]]:
        name = f"ticket-redeem:{self._random_bytes(16).hex()}"
        begun = tuple(replace(share, state=HeldLock.REDEEMING, batch=name) for share in shares)
        for before, share in zip(shares, begun, strict=True):
            self._rows.put_share(tx, share, before.state)
        return name, begun

    async def _redeem(
        self, batch: str, shares: tuple[Share, ...]
    ) -> tuple[int, list[tuple[str, tuple[Share, ...]]]]:
        """One batch as far as it goes; how many shares ended, and what is to be tried apart."""
        url = shares[0].mint_url
        preimages = await self._db.read(lambda tx: self._preimages(tx, shares))
        proofs = await asyncio.to_thread(self._witnessed, shares, preimages)
        try:
            op = await self._wallet.swap_in(url, batch, proofs, OpKind.REDEEM)
        except HiveError as error:
            text = error.detail
            await self._db.write(lambda tx: self._put_off(tx, shares, text))
            return 0, []
        if op.state is OpState.DONE:
            return await self._db.write(lambda tx: self._ended(tx, shares, HeldLock.REDEEMED)), []
        if op.open:
            return 0, []
        return await self._refused(shares, op)

    async def _refused(
        self, shares: tuple[Share, ...], op: Op
    ) -> tuple[int, list[tuple[str, tuple[Share, ...]]]]:
        """Nothing came of a batch: the mint says which of it is gone; the rest is tried in halves."""
        try:
            states = await self._states(shares[0].mint_url, [y for share in shares for y in share.ys])
        except HiveError as error:
            text = error.detail
            await self._db.write(lambda tx: self._put_off(tx, shares, text))
            return 0, []
        pubkeys = {each.context: public_key(self._keys.lock(each.context)) for each in shares}
        ours = [s for s in shares if _spent(s, states) and _by_us(s, states, pubkeys[s.context])]
        lost = [s for s in shares if _spent(s, states) and s not in ours]
        left = [s for s in shares if not _spent(s, states)]

        def body(tx: Tx) -> tuple[int, list[tuple[str, tuple[Share, ...]]]]:
            ended = self._ended(tx, ours, HeldLock.REDEEMED) + self._ended(tx, lost, HeldLock.LOST)
            if ended:
                return ended, [self._begin(tx, left)] if left else []
            if len(left) > 1 and op.reason != "mint_unavailable":
                half = len(left) // 2
                return 0, [self._begin(tx, left[:half]), self._begin(tx, left[half:])]
            self._put_off(tx, left, op.error)
            return 0, []

        return await self._db.write(body)

    async def _keep_for_later(self, shares: Sequence[Share], error: Exception) -> None:
        def body(tx: Tx) -> None:
            for share in shares:
                later = replace(share, tries=share.tries + 1, next_at=self._now() + _pause_s(share.tries))
                self._rows.put_share(tx, later, HeldLock.REDEEMING)
            self._tell_of_waiting(tx, shares[0], repr(error))

        await self._db.write(body)

    def _put_off(self, tx: Tx, shares: Sequence[Share], why: str) -> None:
        """Again in 1, 2, 4 .. 30 s, apart from those that come meanwhile."""
        now = self._now()
        for share in shares:
            at = now + _pause_s(share.tries)
            again = replace(share, state=HeldLock.REDEEMABLE, batch="", tries=share.tries + 1, next_at=at)
            self._rows.put_share(tx, again, HeldLock.REDEEMING)
        self._tell_of_waiting(tx, shares[0], why)

    def _tell_of_waiting(self, tx: Tx, first: Share, why: str) -> None:
        if first.tries == 0:
            self._told(tx, "ticket_redeem_waits", first.ticket_id, why[:500])

    # -- ends --------------------------------------------------------------------------------------------

    def _ended(self, tx: Tx, shares: Sequence[Share], end: HeldLock) -> int:
        for share in shares:
            self._rows.put_share(tx, replace(share, state=end), share.state)
        for ticket_id, number in dict.fromkeys((share.ticket_id, share.item) for share in shares):
            self._settle_item(tx, ticket_id, number)
        return len(shares)

    def _settle_item(self, tx: Tx, ticket_id: str, number: int) -> None:
        """An item ends with the last of its shares: redeemed where one of them was."""
        shares, item = self._rows.shares(tx, ticket_id, number), self._rows.item(tx, ticket_id, number)
        if item is None or any(share.state not in LOCK_ENDS for share in shares):
            return
        got = sum(share.net_sats for share in shares if share.state is HeldLock.REDEEMED)
        item = replace(item, ended_at=self._now())
        if got:
            self._engine.move(tx, item, PayeeEvent.ON_REDEEMED)
            ticket = self._rows.ticket(tx, ticket_id)
            if ticket is not None:
                key = f"ticket_redeemed:{ticket_id}:{number}"
                with suppress(
                    NotFound
                ):  # whoever paid may be forgotten since: the money is ours all the same
                    self._out.put(tx, ticket.peer, Redeemed(ticket_id, number), key)
            self._told(tx, "ticket_redeemed", ticket_id, f"item {number}, {got} sat")
        else:
            self._engine.move(tx, item, PayeeEvent.ON_LOST)
            kind = "ticket_lost" if item.preimage is not None else "ticket_taken_back"
            self._told(tx, kind, ticket_id, f"item {number}, {item.amount_sats} sat")

    def _taken_back(
        self,
        tx: Tx,
        shares: Sequence[Share],
        states: Mapping[str, ProofState],
        ours: Collection[tuple[str, int, int]],
    ) -> int:
        now, gone, redeemed = self._now(), list[Share](), 0
        for share in shares:
            item = self._rows.item(tx, share.ticket_id, share.item)
            current = next(
                (s for s in self._rows.shares(tx, share.ticket_id, share.item) if s.place == share.place),
                None,
            )
            if item is None or current is None or current.state is not HeldLock.DELIVERED:
                continue
            if share.place in ours:
                # Of an older copy of the database: this key redeemed it after the copy was made.
                redeemed += self._redeemed_before(tx, item, current, states)
            elif _spent(share, states):
                gone.append(current)
            else:
                self._rows.put_share(tx, replace(current, next_at=now + _LOOK_EVERY_S), HeldLock.DELIVERED)
        return redeemed + self._ended(tx, gone, HeldLock.LOST)

    def _redeemed_before(self, tx: Tx, item: HeldItem, share: Share, states: Mapping[str, ProofState]) -> int:
        preimage = preimage_in(states[share.ys[0]].witness, item.hash) if item.hash else None
        if preimage is not None:
            self._engine.release(tx, item, preimage)
        else:
            self._engine.take_without_hash(tx, item)
        now_is = next(s for s in self._rows.shares(tx, *share.place[:2]) if s.place == share.place)
        return self._ended(tx, [now_is], HeldLock.REDEEMED)

    # -- parts -------------------------------------------------------------------------------------------

    def _preimages(self, tx: Tx, shares: Sequence[Share]) -> dict[tuple[str, int], str]:
        items: list[HeldItem] = [
            item for share in shares if (item := self._rows.item(tx, share.ticket_id, share.item)) is not None
        ]
        return {(item.ticket_id, item.i): item.preimage for item in items if item.preimage is not None}

    def _witnessed(self, shares: Sequence[Share], preimages: Mapping[tuple[str, int], str]) -> list[Proof]:
        found = []
        for share in shares:
            key = self._keys.lock(share.context)
            preimage = preimages.get((share.ticket_id, share.item))
            for proof in share.proofs:
                text = build(preimage, [sign(key, inputs_digest(proof.secret))])
                found.append(msgspec.structs.replace(proof, witness=text))
        return found

    async def _states(self, url: str, ys: Sequence[str]) -> dict[str, ProofState]:
        mint = self._mints.at(url)
        found: dict[str, ProofState] = {}
        for start in range(0, len(ys), CHECKSTATE_YS):
            found |= {each.Y: each for each in await mint.checkstate(ys[start : start + CHECKSTATE_YS])}
        return found


def _pause_s(tries: int) -> int:
    return min(_MOST_WAIT_S, 1 << min(tries, 5))


def _by_mint(shares: Sequence[Share]) -> groupby[str, Share]:
    return groupby(sorted(shares, key=lambda share: (share.mint_url, share.place)), lambda s: s.mint_url)


def _next_at(share: Share, now: int) -> int:
    """When it is tried: at once where a clock that was set back since would have it wait longer than any."""
    at = max(share.released_at, share.next_at)
    return at if at <= now + _LOOK_EVERY_S else now - GATHER_S


def _due_at(shares: Sequence[Share], more_may_come: bool, now: int) -> int:
    """When these of one mint are redeemed together."""
    first = min(_next_at(share, now) for share in shares)
    if not more_may_come or sum(len(share.proofs) for share in shares) >= GATHER_PROOFS:
        return first
    urgent = min(share.locktime for share in shares) - URGENT_S
    return max(first, min(first + GATHER_S, urgent))


def _batches(shares: Sequence[Share], most: int) -> list[list[Share]]:
    """Those that were never refused together; one that was goes alone."""
    found: list[list[Share]] = []
    room = 0
    for share in shares:
        if share.tries or len(share.proofs) > room or not found or found[-1][-1].tries:
            found.append([])
            room = most
        found[-1].append(share)
        room -= len(share.proofs)
    return found


def _spent(share: Share, states: Mapping[str, ProofState]) -> bool:
    """Whether the mint says that any of its proofs is gone: they are spent together or not at all."""
    return any((told := states.get(y)) is not None and told.state is SpendState.SPENT for y in share.ys)


def _by_us(share: Share, states: Mapping[str, ProofState], pubkey: str) -> bool:
    """Whether our own key signed the spend: then an earlier redemption of ours was carried out late, and the
    wallet, which watches it, has the ecash."""
    return spent_by(pubkey, share.proofs, states)
