"""What a command earned, paid by ecash that its agent alone can take (docs/protocol/03 §6.4, §7.1; 02 §8;
docs/decisions/0600-pay-by-ecash.md).

The ecash is locked to the key that the agent announced and goes back to this node after a locktime: it is a
lock like any other, journaled, asked about and taken back by `LockService`. The payment's row says which.
Its ecash is begun under the payment's own name, so a kill finds the same lock again and makes no second one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue, encode
from hive_shared.cashu.derive import EscrowKeys, public_key
from hive_shared.cashu.keysets import Keyset, listed
from hive_shared.cashu.lock_machine import LockState, lock_id_of
from hive_shared.cashu.mints import Wish
from hive_shared.cashu.outputs import Output
from hive_shared.cashu.secrets import Lock, p2pk
from hive_shared.cashu.ticket import outputs_under
from hive_shared.cashu.wire import BlindedMessage
from hive_shared.crypto import sha256
from hive_shared.errors import Conflict, HiveError
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.cashu_lock import LockRow, Role
from ..domain.lightning_invoice import sats_up
from ..domain.payment import CASHU, Payment, Target
from ..domain.payment_machine import Event, State
from .lock_service import LockOrder, Piece, Wanted
from .payee_keys import PayeeKey
from .ports_commands import Alerts, Database
from .ports_locks import LockMints
from .ports_payments import PaymentRows

OWNER: Final = "comms"
KEY: Final = "pay:"
"""What the requests of these locks begin with."""
TAKE_S: Final = 7 * 86_400
"""How long an agent has at least to take what it was sent: as long as a push is kept (11 §15.1)."""
LOCK_EXISTS: Final = "lock_exists"
_ROUND_S: Final = 2 * TAKE_S
_TRIES: Final = 64
"""Attempts of a payment at each locktime that a copy of the database which was restored asks about: more than
a mint can fail in ten hours."""
_ASKED: Final = 400
"""Outputs of one question whether a mint signed them."""
_WAIT_S: Final = 30.0
_UNDER_WAY: Final = (State.SENDING, State.UNKNOWN)
_CALLED: Final = f"{OWNER}:{KEY}"


class BearerLocks(Protocol):
    """Locks (services.lock_service.LockService)."""

    async def lock_wanted(self, order: LockOrder, wanted: Wanted, timeout: float) -> tuple[LockRow, ...]: ...
    def delivered(self, tx: Tx, lock_ids: Sequence[str]) -> None: ...


class LockedRows(Protocol):
    """Locks as they are stored (storage.lock_store.LockStore)."""

    def known(self, tx: Tx, lock_ids: Sequence[str]) -> tuple[LockRow, ...]: ...
    def locked_sats(self, tx: Tx) -> dict[str, int]: ...


class BearerMints(LockMints, Protocol):
    """The book of mints, and which of them the operator takes."""

    def accepted(self) -> Sequence[str]: ...


class Keys(Protocol):
    """Keys that agents announced (services.payee_keys.PayeeKeys)."""

    def of(self, tx: Tx, agent_key: str, contexts: Sequence[str]) -> PayeeKey | None: ...


class Pushes(Protocol):
    """Pushes to agents (services.command_push.CommandPush)."""

    def push(self, tx: Tx, recipient: str, action: str, payload: Mapping[str, JsonValue]) -> int: ...
    def kick(self) -> None: ...


class BearerPay:
    """Pays debts of kind cashu. `most_locked` is what may be locked at one mint (sat); `restored` says
    whether an older copy of the database was put back here."""

    def __init__(
        self,
        db: Database,
        rows: PaymentRows,
        locked: LockedRows,
        locks: BearerLocks,
        mints: BearerMints,
        keys: EscrowKeys,
        announced: Keys,
        push: Pushes,
        alerts: Alerts,
        *,
        most_locked: Callable[[], int],
        restored: Callable[[Tx], bool],
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._locked, self._locks = db, rows, locked, locks
        self._mints, self._keys, self._announced = mints, keys, announced
        self._push, self._alerts = push, alerts
        self._most_locked, self._restored, self._now = most_locked, restored, now
        self._under_way: set[str] = set()

    def shared(self, tx: Tx, agent_key: str, credential_id: str) -> tuple[str, Sequence[str]] | None:
        """The key that an agent announced for a credential, and the mints that both sides take; None where
        there is no key or no mint."""
        key = self._announced.of(tx, agent_key, (credential_id,))
        if key is None:
            return None
        mints = [url for url in self._mints.accepted() if url in key.mints]
        return (key.lock_pubkey, mints) if mints else None

    # -- paying -------------------------------------------------------------------------------------------

    async def pay(self, row: Payment) -> None:
        """Carry a debt as far as it goes: lock what is owed, hand it over once it is locked. Again is the
        same. Raises HiveError where nothing could be locked: it is owed as before then."""
        if row.payment_id in self._under_way or not row.target.mints:
            return
        self._under_way.add(row.payment_id)
        try:
            await self._carried_on(await self._begun(row) if row.state is State.OWED else row)
        finally:
            self._under_way.discard(row.payment_id)
        self._push.kick()

    async def _begun(self, row: Payment) -> Payment:
        sats, locktime = sats_up(row.amount_msat), _locktime(row, self._now())
        locked = await self._db.read(self._locked.locked_sats)
        try:
            if await self._db.read(self._restored) and await self._signed_before(row):
                raise _paid_before()
            wish = Wish(sats, frozenset(row.target.mints))
            url, _ = self._mints.for_lock(wish, locktime, locked, self._most_locked())
        except HiveError as error:
            await self._not_locked(row, error)
            raise
        mints = (url, *(each for each in row.target.mints if each != url))
        return await self._db.write(
            lambda tx: self._rows.move(
                tx,
                replace(row, target=replace(row.target, mints=mints)),
                Event.ON_SENT,
                self._now(),
                expires_at=locktime,
                sent_index=0 if row.sent_index is None else row.sent_index + 1,
                sent_at=self._now(),
                error=None,
            )
        )

    async def _carried_on(self, row: Payment) -> None:
        order = LockOrder(f"{KEY}{row.payment_id}:{row.sent_index}", OWNER, None, row.advisor_id)
        try:
            (lock,) = await self._locks.lock_wanted(order, self._wanted(row), _WAIT_S)
        except HiveError as error:
            await self._not_locked(row, error)
            raise
        if lock.state is LockState.LOCKED:
            await self._db.write(lambda tx: self._handed_over(tx, row.payment_id, lock.lock_id))

    def _wanted(self, row: Payment) -> Wanted:
        assert row.sent_index is not None and row.expires_at is not None
        url, hash_, lock = row.target.mints[0], _hash(row, row.expires_at), self._lock(row, row.expires_at)
        sats, seed, item = sats_up(row.amount_msat), self._keys.lock_seed(), row.sent_index

        def outputs(keyset: Keyset) -> tuple[Output, ...]:
            return outputs_under(lock, hash_, sats, keyset, seed, item=item)

        piece = Piece(item, 0, url, sats, lock, outputs)
        return Wanted(row.payment_id, hash_.hex(), row.payment_id, (piece,), fits_ticket=False)

    def _lock(self, row: Payment, locktime: int) -> Lock:
        assert row.target.payee is not None
        return p2pk(row.target.payee, locktime=locktime, refund=public_key(self._keys.refund(row.payment_id)))

    def _handed_over(self, tx: Tx, payment_id: str, lock_id: str) -> None:
        row, (lock,) = self._rows.get(tx, payment_id), self._locked.known(tx, (lock_id,))
        if row is None or row.state not in _UNDER_WAY or lock.state is not LockState.LOCKED:
            return
        assert row.bound_to is not None and row.command_id is not None
        notice: dict[str, JsonValue] = {
            "payment_id": row.payment_id,
            "purpose": row.purpose,
            "command_id": row.command_id,
            "method": CASHU,
            "amount_sats": sats_up(row.amount_msat),
            "state": State.SENDING.value,
            "token": lock.token,
        }
        self._push.push(tx, row.bound_to, "payment_notice", notice)
        self._locks.delivered(tx, (lock_id,))
        if row.state is State.SENDING:
            self._rows.move(tx, row, Event.ON_LOST, self._now())

    # -- ends ---------------------------------------------------------------------------------------------

    async def _not_locked(self, row: Payment, error: HiveError) -> None:
        """Nothing was locked: it stays owed, and counted."""

        def body(tx: Tx) -> None:
            current = self._rows.get(tx, row.payment_id)
            if current is None or current.state is not row.state:
                return
            sent_index = current.sent_index
            if row.expires_at is not None and row.state is not State.OWED:
                name = lock_id_of(_hash(row, row.expires_at).hex(), row.sent_index or 0, 0, Role.PAYER)
                locks = self._locked.known(tx, (name,))
                if any(lock.state is not LockState.FAILED for lock in locks):
                    return
                if not locks:
                    # It was not even begun: the next attempt has its number, so that a copy of this database
                    # finds the attempt that paid among the first.
                    sent_index = row.sent_index - 1 if row.sent_index else None
            text, target = f"{error.symbol}: {error.detail}"[:500], current.target
            if error.reason == LOCK_EXISTS:
                # A database that is lost has locked it, and may have handed it over.
                target = replace(target, mints=())
                self._tell(
                    tx, row, "may have been paid by ecash before this copy of the database was restored"
                )
            self._rows.move(
                *(tx, replace(current, target=target), Event.ON_UNPAID, self._now()),
                error=text,
                sent_index=sent_index,
            )

        await self._db.write(body)

    def on_lock(self, tx: Tx, lock: LockRow) -> None:
        """A lock has moved: what it says of the debt that it pays, inside the transaction that moved it."""
        if lock.role is not Role.PAYER or not lock.request_key.startswith(_CALLED):
            return
        row = self._rows.get(tx, lock.ref)
        if row is None or row.state not in _UNDER_WAY or row.sent_index != lock.item:
            # An attempt that was given up and was carried out late: nobody has it, it comes back by itself.
            return
        if lock.state in (LockState.REDEEMED, LockState.LOST):
            # Before its locktime nobody but its agent can have spent it, whatever the mint shows.
            error = lock.error or None if lock.state is LockState.LOST else None
            fee = (lock.face_sats - lock.amount_sats) * 1_000
            self._rows.move(tx, row, Event.ON_PAID, self._now(), fee_msat=fee, error=error)
            self._rows.count(tx, row, lock.face_sats)
        elif lock.state is LockState.REFUNDED:
            self._returned(tx, row)

    def _returned(self, tx: Tx, row: Payment) -> None:
        """Its agent did not take it: it is owed still, and paid by the other way both sides take, if any."""
        then = row.target.then
        self._tell(
            tx,
            row,
            "was sent as ecash and not taken in time: the ecash is back and it is owed still; "
            + (
                f"its agent is asked for a {then} invoice" if then else "pay it by hive-client-pay when asked"
            ),
        )
        after = replace(row, kind=then or row.kind, target=Target("", asked_since=self._now()))
        error = "not_taken: the ecash was not taken in time and is back"
        self._rows.move(
            tx, after, Event.ON_UNPAID, self._now(), error=error, expires_at=None, payment_hash=None
        )

    def _tell(self, tx: Tx, row: Payment, what: str) -> None:
        text = f"the {sats_up(row.amount_msat)} sat owed for command {row.command_id} {what}"
        self._alerts.raise_in(tx, Level.WARNING, "debt_unclaimed", text, f"debt_unclaimed:{row.payment_id}")

    # -- a copy of the database that was restored ---------------------------------------------------------

    async def _signed_before(self, row: Payment) -> bool:
        """Whether a mint has signed a lock for this payment that this copy of the database knows nothing of.
        Raises what a call to a mint raises."""
        for url in row.target.mints:
            asked = []
            for keyset in listed(await self._mints.keysets(url)).values():
                asked += await asyncio.to_thread(self._may_have_signed, row, url, keyset)
            for start in range(0, len(asked), _ASKED):
                if (await self._mints.at(url).restore(asked[start : start + _ASKED])).outputs:
                    return True
        return False

    def _may_have_signed(self, row: Payment, url: str, keyset: Keyset) -> list[BlindedMessage]:
        """The first output of every attempt at every locktime until now."""
        seed, sats = self._keys.lock_seed(), sats_up(row.amount_msat)
        at, found = replace(row, target=replace(row.target, mints=(url,))), []
        for locktime in range(row.created_at + _ROUND_S, _locktime(row, self._now()) + 1, _ROUND_S):
            hash_, lock = _hash(at, locktime), self._lock(row, locktime)
            for item in range(_TRIES):
                first = outputs_under(lock, hash_, sats, keyset, seed, item=item)[0]
                found.append(first.message)
        return found


def _locktime(row: Payment, now: int) -> int:
    """When it goes back: the same for every try of the same days, so that a copy of the database asks the
    mint about the lock that the lost one made."""
    return row.created_at + max(1, -(-(now + TAKE_S - row.created_at) // _ROUND_S)) * _ROUND_S


def _hash(row: Payment, locktime: int) -> bytes:
    """What stands for the terms of such a lock."""
    return sha256(
        encode(
            {
                "v": 1,
                "payment_id": row.payment_id,
                "lock_pubkey": row.target.payee,
                "mint": row.target.mints[0],
                "locktime": locktime,
            }
        )
    )


def _paid_before() -> HiveError:
    return Conflict(
        "a mint has signed a lock for this payment that this copy of the database does not know",
        reason=LOCK_EXISTS,
    )
