"""Locks that are redeemed, taken back, or spent by the other side (docs/protocol/03-escrow-and-payments.md
§4.2, §6.7, §10).

The mint is asked before every swap, and its witness says who spent what is gone. A swap that it does not
carry out is halved, so that one bad lock does not hold up the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

import msgspec
from hive_shared.alerts import Level
from hive_shared.cashu.curve import y_of
from hive_shared.cashu.derive import EscrowKeys, public_key
from hive_shared.cashu.journal import Op, OpKind
from hive_shared.cashu.keysets import Keyset, expand, fee_sats, listed
from hive_shared.cashu.lock_machine import FINAL, STANDING, LockEvent, LockState
from hive_shared.cashu.reasons import MintNonconformant
from hive_shared.cashu.secrets import SigFlag
from hive_shared.cashu.token import decode_token
from hive_shared.cashu.wire import Proof, ProofState
from hive_shared.cashu.witness import all_digest, build, inputs_digest, preimage_matches, sign
from hive_shared.crypto import Secret
from hive_shared.errors import Conflict, HiveError, InvalidParams, PaymentFailed
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.cashu_lock import Evidence, LockRow, Role, Spent, evidence, poll_after
from .lock_books import LockBooks
from .ports_commands import Alerts, Database, Log
from .ports_locks import LockMints, LockRows, LockWallet

MOST_PROOFS: Final = 500
"""Proofs of one swap, and of one question about their states (03 §6.7)."""
_MOST_DUE: Final = 2_000
_STEP_S: Final = 60.0
_AGAIN_S: Final = 30
_UNLISTED_S: Final = 1_800
"""Between two tries to spend a lock of a keyset that its mint does not list and refused."""

Held: TypeAlias = tuple[LockRow, tuple[Proof, ...]]
"""A lock with those of its proofs that nobody has spent."""
Announce = Callable[[LockRow], None]
"""Tells the node's other plugins of a lock whose state changed."""


class LockSwaps:
    """Spends locks of ours and follows those of others. `announce` is told of every change once it is
    committed."""

    def __init__(
        self,
        db: Database,
        rows: LockRows,
        books: LockBooks,
        wallet: LockWallet,
        mints: LockMints,
        keys: EscrowKeys,
        alerts: Alerts,
        *,
        tell: Announce,
        now: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        log: Log,
    ) -> None:
        self._db, self._rows, self._books, self._wallet, self._mints = db, rows, books, wallet, mints
        self._keys, self._alerts, self._tell = keys, alerts, tell
        self._now, self._random_bytes, self._log = now, random_bytes, log
        self.alone = RowByRow(log)
        self._turns: dict[str, asyncio.Lock] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._told: dict[str, LockState] = {}
        self._changed: set[str] = set()
        books.follow(lambda tx, row: self._changed.add(row.lock_id))

    # -- what callers ask for --------------------------------------------------------------------------

    async def redeem(self, preimages: Mapping[str, str], timeout: float) -> tuple[LockRow, ...]:
        """Take what is locked for us: a preimage (64 hex) by lock id, "" for a lock without hash.

        Returns the locks as they are after at most `timeout` seconds. Raises, with nothing changed, NotFound,
        PaymentFailed `preimage_mismatch`, `lock_mismatch` for a lock that is not ours to redeem.
        """
        ids = tuple(preimages)

        def body(tx: Tx) -> None:
            for row in self._rows.get(tx, ids):
                self._check_redeemable(row, preimages[row.lock_id])
                if row.state is LockState.DELIVERED:
                    self._books.move(
                        tx,
                        row,
                        LockEvent.ON_REDEEM_DUE,
                        preimage=preimages[row.lock_id],
                        next_at=self._now(),
                    )
                elif row.state is LockState.REDEEMABLE:
                    self._rows.note(tx, row, next_at=self._now())

        await self._db.write(body)
        return await self._waited(ids, timeout)

    def _check_redeemable(self, row: LockRow, preimage: str) -> None:
        if row.role is not Role.PAYEE or row.lock.keys != (self._own_key(row),):
            raise PaymentFailed(
                f"lock {row.lock_id} is not locked to a key of this node alone ({row.role.value})",
                reason="lock_mismatch",
            )
        if row.lock.hash is None and preimage:
            raise InvalidParams(f"lock {row.lock_id} has no hash: it is redeemed without a preimage")
        if row.lock.hash is not None and not preimage_matches(preimage, row.lock.hash):
            raise PaymentFailed(
                f"the preimage is not that of lock {row.lock_id}, whose hash is {row.lock.hash}: it is 64"
                " lower-case hex characters, and SHA-256 of their bytes is the hash",
                reason="preimage_mismatch",
            )

    def _own_key(self, row: LockRow) -> str:
        return public_key(self._keys.lock(row.key_context))

    async def refund(self, lock_ids: Sequence[str], timeout: float) -> tuple[LockRow, ...]:
        """Take back what we locked. Raises, with nothing changed, NotFound, PaymentFailed `too_early` with
        `refundable_at` (Unix seconds), `lock_mismatch` for a lock whose refund key is not ours."""
        ids = tuple(dict.fromkeys(lock_ids))

        def body(tx: Tx) -> None:
            rows = self._rows.get(tx, ids)
            for row in rows:
                self._check_refundable(row)
            for row in rows:
                if row.state in (LockState.LOCKED, LockState.DELIVERED):
                    self._books.move(tx, row, LockEvent.ON_REFUND_DUE, next_at=self._now())
                elif row.state is LockState.REFUNDABLE:
                    self._rows.note(tx, row, next_at=self._now())

        await self._db.write(body)
        return await self._waited(ids, timeout)

    def _check_refundable(self, row: LockRow) -> None:
        if not self._ours_back(row):
            raise PaymentFailed(
                f"lock {row.lock_id} does not go back to a key of this node ({row.role.value})",
                reason="lock_mismatch",
            )
        if row.state is LockState.PLANNED:
            raise Conflict(
                f"what became of lock {row.lock_id} at {row.mint_url} is not known yet; ask again later",
                reason="unknown_state",
            )
        if row.state not in (LockState.LOCKED, LockState.DELIVERED):
            return
        if (at := row.refund_at(self.skew(row.mint_url))) > self._now():
            held = "; it was released to the payee" if at == row.refund_hold_until else ""
            raise PaymentFailed(
                f"lock {row.lock_id} goes back at {at} at the earliest{held}; nothing gives it back before",
                reason="too_early",
                data={"refundable_at": at},
            )

    def _ours_back(self, row: LockRow) -> bool:
        if row.role not in (Role.PAYER, Role.COSIGNER) or not row.key_context:
            return False
        return row.lock.refund == (public_key(self._keys.refund(row.key_context)),)

    def skew(self, mint_url: str) -> int:
        """How far a mint's clock is from ours, seconds; 0 where that is not known."""
        known = self._mints.row(mint_url)
        return 0 if known is None else known.skew_s or 0

    async def look(self, lock_ids: Sequence[str]) -> tuple[LockRow, ...]:
        """Ask the mints who spent these, and note it. Raises what the mints do."""
        rows = await self._db.read(lambda tx: self._rows.get(tx, lock_ids))
        for url in dict.fromkeys(row.mint_url for row in rows):
            async with self._turn(url):
                await self._asked(url, [row.lock_id for row in rows if row.mint_url == url])
        await self.announce()
        return await self._db.read(lambda tx: self._rows.get(tx, lock_ids))

    async def _waited(self, ids: Sequence[str], timeout: float) -> tuple[LockRow, ...]:
        rows = await self._db.read(lambda tx: self._rows.get(tx, ids))
        tasks = set()
        for url in {row.mint_url for row in rows if row.state in STANDING}:
            task = asyncio.create_task(self._at(url))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            tasks.add(task)
        if tasks:
            done, _ = await asyncio.wait(tasks, timeout=timeout)
            for task in done:
                task.result()
        await self.announce()
        return await self._db.read(lambda tx: self._rows.get(tx, ids))

    # -- the loop --------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Ask about, redeem and take back what is due, each mint by itself."""
        now = self._now()
        due = await self._db.read(lambda tx: self._rows.due(tx, now, _MOST_DUE))
        await asyncio.gather(*(self._at(url) for url in dict.fromkeys(url for _, url in due)))

    async def announce(self) -> None:
        """Tell of what changed since the last time."""
        changed, self._changed = self._changed, set()
        if not changed:
            return
        for row in await self._db.read(lambda tx: self._rows.known(tx, sorted(changed))):
            if self._told.get(row.lock_id) is not row.state:
                self._told[row.lock_id] = row.state
                self._tell(row)
            if row.state in FINAL:
                # It moves no more: nothing of it is told twice.
                del self._told[row.lock_id]

    async def _at(self, url: str) -> None:
        """Everything due at one mint; one at a time, so that what comes in meanwhile goes into one swap."""
        async with self._turn(url):
            now = self._now()
            due = await self._db.read(lambda tx: self._rows.due(tx, now, _MOST_DUE))
            ids = [lock_id for lock_id, mint_url in due if mint_url == url]
            if not ids:
                return
            try:
                standing = await self._known(url, await self._asked(url, ids))
                standing = await self._without_dust(url, standing)
                with self.alone.round(f"locks at {url}", HiveError) as alone:
                    for kind in (OpKind.REDEEM, OpKind.REFUND):
                        wanted = [each for each in standing if self._wants(each[0], kind)]
                        for some in await self._by_listing(url, wanted):
                            for group in _groups(some, min(MOST_PROOFS, self._mints.array_limit(url))):
                                with alone(group[0][0].lock_id):
                                    await self._spend(url, kind, group)
            except HiveError as error:
                # The mint is not there, or answers falsely: later.
                self._log("warning", "locks_put_off", mint=url, error=error.detail)
                await self._db.write(partial(self._later, url=url, ids=ids, why=error))

    async def _by_listing(self, url: str, due: Sequence[Held]) -> tuple[list[Held], list[Held]]:
        """Those of keysets that the mint lists, and the others, which go into no swap with them."""
        named = listed(await self._mints.keysets(url))
        first = [each for each in due if all(proof.id in named for proof in each[1])]
        return first, [each for each in due if each not in first]

    async def _known(self, url: str, standing: Sequence[Held]) -> list[Held]:
        """Those whose fee can be told. A lock of a keyset that the mint lists no more waits where we do not
        have it, and is tried twice an hour where the mint refused it; no other waits with it."""
        keysets = await self._mints.keysets(url)
        named, now = listed(keysets), self._now()
        known: list[Held] = []
        ids: list[str] = []
        for row, proofs in standing:
            unlisted = any(proof.id not in named for proof in proofs)
            refused = unlisted and row.tries > 0 and now < row.updated_at + _UNLISTED_S
            if refused or any(proof.id not in keysets for proof in proofs):
                ids.append(row.lock_id)
            else:
                known.append((row, proofs))
        if ids:
            text = f"{len(ids)} locks of ecash at {url} wait: it does not list their keyset any more"

            def body(tx: Tx) -> None:
                self._rows.put_off(tx, ids, self._now() + _AGAIN_S)
                self._alerts.raise_in(tx, Level.WARNING, "locks_wait", text, f"locks_wait:{url}")

            await self._db.write(body)
        return known

    async def _without_dust(self, url: str, standing: Sequence[Held]) -> list[Held]:
        """A lock of which its payee left less than spending it costs is redeemed: the rest is nobody's."""
        keysets = await self._mints.keysets(url)

        def is_dust(row: LockRow, proofs: Sequence[Proof]) -> bool:
            shown = bool(row.preimage) or row.lock.hash is None
            worth = sum(proof.amount for proof in proofs)
            costs = fee_sats(keysets[proof.id].input_fee_ppk for proof in proofs)
            return shown and len(proofs) < len(row.ys) and worth <= costs

        dust = [row for row, proofs in standing if self._wants(row, OpKind.REFUND) and is_dust(row, proofs)]
        if not dust:
            return list(standing)
        ids = {row.lock_id for row in dust}

        def body(tx: Tx) -> None:
            for row in self._rows.get(tx, sorted(ids)):
                if row.state in STANDING:
                    self._books.move(tx, row, LockEvent.ON_REDEEMED, error="", reason="")

        await self._db.write(body)
        return [each for each in standing if each[0].lock_id not in ids]

    def _later(self, tx: Tx, *, url: str, ids: Sequence[str], why: HiveError) -> None:
        self._rows.put_off(tx, ids, self._now() + _AGAIN_S)
        if why.reason == "mint_not_allowed":
            text = f"{len(ids)} locks of ecash at {url} wait: {why.detail}"
            self._alerts.raise_in(tx, Level.WARNING, "locks_wait", text, f"locks_wait:{url}")

    def _turn(self, url: str) -> asyncio.Lock:
        return self._turns.setdefault(url, asyncio.Lock())

    def _wants(self, row: LockRow, kind: OpKind) -> bool:
        """Whether a lock is to be redeemed, or taken back, now. What siblings locked they take back."""
        if kind is OpKind.REDEEM:
            return row.state is LockState.REDEEMABLE
        if not self._ours_back(row) or row.refund_at(self.skew(row.mint_url)) > self._now():
            return False
        return row.state is LockState.REFUNDABLE or (
            row.owner == "comms" and row.state in (LockState.LOCKED, LockState.DELIVERED)
        )

    # -- evidence --------------------------------------------------------------------------------------

    async def _asked(self, url: str, ids: Sequence[str]) -> list[Held]:
        """Ask the mint about standing locks: those that nobody spent whole, with the proofs that are left."""
        rows = await self._db.read(lambda tx: self._rows.get(tx, ids))
        keysets = await self._mints.keysets(url)
        whole: list[Held] = []
        with self.alone.round(f"ecash of locks at {url}") as alone:
            for row in rows:
                if row.state in STANDING and row.token:
                    with alone(row.lock_id):
                        whole.append((row, _proofs(row, keysets)))
        await self._unread(url, rows, whole)
        left = []
        for part in _by_proofs(whole):
            ys = [y for row, _ in part for y in row.ys]
            states = await self._mints.at(url).checkstate(ys)
            if [state.Y for state in states] != ys:
                raise MintNonconformant(f"{url} answers about other proofs than it was asked for")
            judged = await asyncio.to_thread(_judged, part, states)
            left += await self._noted(judged)
        return left

    async def _unread(self, url: str, rows: Sequence[LockRow], whole: Sequence[Held]) -> None:
        """Locks whose ecash cannot be read wait and are told of; they hold up no other."""
        read = {row.lock_id for row, _ in whole}
        ids = [row.lock_id for row in rows if row.state in STANDING and row.token and row.lock_id not in read]
        if not ids:
            return
        text = f"{len(ids)} locks of ecash at {url} cannot be read here ({ids[0]} ...): restore a backup"

        def body(tx: Tx) -> None:
            self._rows.put_off(tx, ids, self._now() + 10 * _AGAIN_S)
            self._alerts.raise_in(tx, Level.CRITICAL, "locks_unread", text, f"locks_unread:{url}")

        await self._db.write(body)

    async def _noted(self, judged: Sequence[tuple[LockRow, tuple[Proof, ...], Evidence]]) -> list[Held]:
        def body(tx: Tx) -> list[Held]:
            left = []
            current = {row.lock_id: row for row in self._rows.get(tx, [row.lock_id for row, _, _ in judged])}
            for row, proofs, told in judged:
                if current[row.lock_id].state is not row.state:
                    continue
                if told.pending or told.unspent:
                    kept = self._kept(tx, current[row.lock_id], told)
                    if not told.pending:
                        left.append((kept, tuple(p for p in proofs if y_of(p.secret) in told.unspent)))
                else:
                    self._gone(tx, current[row.lock_id], told)
            return left

        return await self._db.write(body)

    def _kept(self, tx: Tx, row: LockRow, told: Evidence) -> LockRow:
        """Not all of it is spent: when it is asked about again, and the preimage if a part was redeemed."""
        now = self._now()
        next_at = poll_after(row, now)
        if row.role is Role.PAYER and row.state is not LockState.REFUNDABLE:
            next_at = max(now + 1, min(next_at, row.refund_at(self.skew(row.mint_url))))
        elif row.state is LockState.DELIVERED:
            # Before its locktime nobody but us can spend it.
            next_at = max(next_at, row.locktime)
        changes: dict[str, Any] = {"next_at": next_at}
        if told.preimage and not row.preimage:
            changes["preimage"] = told.preimage
        return self._rows.note(tx, row, **changes)

    def _gone(self, tx: Tx, row: LockRow, told: Evidence) -> None:
        if Spent.PAYEE in told.spent:
            self._books.move(
                tx, row, LockEvent.ON_REDEEMED, preimage=told.preimage or row.preimage, error="", reason=""
            )
        elif told.spent == {Spent.REFUND} and row.role is Role.PAYER:
            self._books.move(tx, row, LockEvent.ON_REFUNDED, counted_sats=0, error="", reason="")
        else:
            how = "it was taken back" if Spent.REFUND in told.spent else "the mint does not show by whom"
            text = f"{row.amount_sats} sat of lock {row.lock_id} at {row.mint_url} are spent: {how}"
            self._books.move(tx, row, LockEvent.ON_LOST, error=text, reason="token_spent")
            self._alerts.raise_in(tx, Level.CRITICAL, "lock_lost", text, f"lock_lost:{row.lock_id}")

    # -- swaps -----------------------------------------------------------------------------------------

    async def _spend(self, url: str, kind: OpKind, group: Sequence[Held]) -> None:
        """One swap for a group; what becomes of it `LockBooks` notes."""
        if kind is OpKind.REFUND:
            group = await self._db.write(lambda tx: self._all_due(tx, group))
            if not group:
                return
        signed = await asyncio.to_thread(self._signed, kind, group)
        event = LockEvent.ON_REDEEM_STARTED if kind is OpKind.REDEEM else LockEvent.ON_REFUND_STARTED
        ids = tuple(row.lock_id for row, _ in group)

        def beside(tx: Tx, op: Op) -> Op:
            for row in self._rows.get(tx, ids):
                self._books.move(tx, row, event, op_id=op.op_id)
            return replace(self._bound(op, group[0][0], kind), lock_ids=ids)

        key = f"{kind.value}:{self._random_bytes(16).hex()}"
        owner = group[0][0].owner
        try:
            await self._wallet.swap_in(url, key, signed, kind, _STEP_S, owner=owner, beside=beside)
        except (PaymentFailed, Conflict) as error:
            # Not begun: worth less than its fee, or moved meanwhile.
            later = self._now() + 10 * _AGAIN_S
            await self._db.write(lambda tx: self._rows.put_off(tx, ids, later))
            self._log("warning", "lock_swap_not_begun", mint=url, locks=len(ids), error=error.detail)

    def _all_due(self, tx: Tx, group: Sequence[Held]) -> list[Held]:
        """Those that are still to be taken back: while the mint was asked, or another group was at it, some
        may have been released to their payee, or moved."""
        current = {row.lock_id: row for row in self._rows.get(tx, [row.lock_id for row, _ in group])}
        found = []
        for row, proofs in ((current[each.lock_id], proofs) for each, proofs in group):
            if self._wants(row, OpKind.REFUND):
                due = row.state is LockState.REFUNDABLE
                found.append((row if due else self._books.move(tx, row, LockEvent.ON_REFUND_DUE), proofs))
        return found

    def _signed(self, kind: OpKind, group: Sequence[Held]) -> list[Proof]:
        found = []
        for row, proofs in group:
            key, preimage = self._key(row, kind), row.preimage if kind is OpKind.REDEEM else ""
            for proof in proofs:
                witness = None
                if row.lock.sigflag is not SigFlag.SIG_ALL:
                    witness = build(preimage or None, [sign(key, inputs_digest(proof.secret))])
                found.append(msgspec.structs.replace(proof, witness=witness))
        return found

    def _bound(self, op: Op, row: LockRow, kind: OpKind) -> Op:
        """Under SIG_ALL the first input's signature is on all inputs and outputs as they are sent."""
        if row.lock.sigflag is not SigFlag.SIG_ALL:
            return op
        messages = [planned.output.message for planned in op.body.outputs]
        signature = sign(self._key(row, kind), all_digest(op.body.inputs, messages))
        preimage = row.preimage if kind is OpKind.REDEEM else ""
        first = msgspec.structs.replace(op.body.inputs[0], witness=build(preimage or None, [signature]))
        return replace(op, body=replace(op.body, inputs=(first, *op.body.inputs[1:])))

    def _key(self, row: LockRow, kind: OpKind) -> Secret:
        make = self._keys.lock if kind is OpKind.REDEEM else self._keys.refund
        return make(row.key_context)


def _proofs(row: LockRow, keysets: Mapping[str, Keyset]) -> tuple[Proof, ...]:
    known = {*keysets, row.keyset_id}
    return tuple(
        msgspec.structs.replace(proof, id=expand(proof.id, known)) for proof in decode_token(row.token).proofs
    )


def _judged(
    part: Sequence[Held], states: Sequence[ProofState]
) -> list[tuple[LockRow, tuple[Proof, ...], Evidence]]:
    return [(row, proofs, evidence(row.lock, proofs, states)) for row, proofs in part]


def _by_proofs(
    rows: Sequence[Held],
) -> Iterator[list[Held]]:
    part: list[Held] = []
    count = 0
    for row, proofs in rows:
        if part and count + len(proofs) > MOST_PROOFS:
            yield part
            part, count = [], 0
        part.append((row, proofs))
        count += len(proofs)
    if part:
        yield part


def _groups(rows: Sequence[Held], room: int) -> Iterator[list[Held]]:
    """What goes into one swap: at most `room` proofs, of one owner, and after a swap that failed at most so
    many locks as are to be tried together. A lock that binds its outputs goes alone."""
    ordered = sorted(
        rows, key=lambda each: (each[0].owner, each[0].batch or MOST_PROOFS, each[0].item, each[0].lock_id)
    )
    group: list[Held] = []
    for row, proofs in ordered:
        most = min([row.batch or MOST_PROOFS, *(each.batch or MOST_PROOFS for each, _ in group)])
        count = len(proofs) + sum(len(each) for _, each in group)
        alone = any(each.lock.sigflag is SigFlag.SIG_ALL for each in (row, *(r for r, _ in group)))
        other = bool(group) and group[0][0].owner != row.owner
        if group and (len(group) >= most or count > room or alone or other):
            yield group
            group = []
        group.append((row, proofs))
    if group:
        yield group
