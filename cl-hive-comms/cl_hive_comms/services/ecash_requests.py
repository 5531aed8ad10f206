"""Ecash that this node asks for: locked to a key of the request's own, swapped when it is presented, for whom
presented it first (docs/protocol/03-escrow-and-payments.md §4.1, §4.2, §9; docs/decisions/0596).

A payment is settled once its swap is done, whoever notices: the call, the same call again, the sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from hive_shared.cashu.curve import y_of
from hive_shared.cashu.derive import EscrowKeys, public_key
from hive_shared.cashu.journal import Op, OpState
from hive_shared.cashu.reasons import TokenInvalid
from hive_shared.cashu.secrets import Kind, is_plain, parse_secret
from hive_shared.cashu.terms import lock_key_text, sign_text
from hive_shared.cashu.token import Token, decode_token
from hive_shared.cashu.wallet import Beside
from hive_shared.crypto import Secret
from hive_shared.errors import Busy, Conflict, PaymentFailed
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.payment import Payment
from ..domain.payment_machine import Event, State
from .payer_book import LockKey, OwnKeys
from .ports_commands import Database
from .ports_payments import PaymentRows

_TIMEOUT_S: Final = 30.0
_OVER: Final = ("token_spent", "invoice_expired")
"""What is said of a token that the mint has exchanged late, or may."""


class PaidWallet(Protocol):
    """The ecash wallet (hive_shared.cashu.wallet_service.WalletService)."""

    async def take_payment(
        self, token: str, name: str, key: Secret, least_sat: int, timeout: float, beside: Beside
    ) -> Op: ...
    async def newest(self, name: str) -> Op | None: ...


class Payers(Protocol):
    """Who may pay by tickets (services.payer_book.PayerBook)."""

    def keep(self, tx: Tx, key: LockKey) -> None: ...
    def let_in(self, payer: str) -> None: ...


class EcashRequests:
    """Keys for payments in ecash, and what came to them. `most_sat` is what one mint may hold free."""

    def __init__(
        self,
        db: Database,
        rows: PaymentRows,
        wallet: PaidWallet,
        keys: EscrowKeys,
        identity: OwnKeys,
        payers: Payers,
        *,
        mints: Callable[[], Sequence[str]],
        most_sat: Callable[[], int],
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._wallet, self._keys = db, rows, wallet, keys
        self._identity, self._payers, self._mints = identity, payers, mints
        self._most_sat, self._now = most_sat, now

    # -- asking ------------------------------------------------------------------------------------------

    def asked(self, tx: Tx, row: Payment, payer: str | None) -> Payment:
        """A request with the key that its ecash is to be locked to; `payer` (x-only hex) may lock tickets to
        it as well. Raises PaymentFailed `mint_not_allowed`, `exposure_limit`, Capacity."""
        if not self._mints():
            raise PaymentFailed(
                "no mint is named: set hive-comms-escrow-mint to one you trust; without one no ecash is"
                " taken",
                reason="mint_not_allowed",
            )
        if row.amount_msat > self._most_sat() * 1_000:
            raise PaymentFailed(
                f"at most {self._most_sat()} sat may lie free at one mint (hive-comms-mint-max-balance):"
                " ask for less, or for an invoice",
                reason="exposure_limit",
            )
        if payer is not None:
            assert row.expires_at is not None
            self._payers.keep(tx, LockKey(payer, row.payment_id, row.created_at, row.expires_at))
        return replace(row, offer_id=self._pubkey(row))

    def told(self, row: Payment, payer: str | None) -> dict[str, object]:
        """What whoever is to pay is told: the key, our signature that it is ours, the mints."""
        if payer is not None:
            self._payers.let_in(payer)
        pubkey = self._pubkey(row)
        text = lock_key_text(row.payment_id, pubkey)
        return {
            "context": row.payment_id,
            "lock_pubkey": pubkey,
            "binding": sign_text(self._identity.secret(), text),
            "mints": [*self._mints()],
        }

    def _pubkey(self, row: Payment) -> str:
        return public_key(self._keys.lock(row.payment_id))

    # -- what came ---------------------------------------------------------------------------------------

    async def verify(self, token: str, price_sats: int, agent: str) -> str:
        """Take a token for the request that its key is of; the payment's id. Whoever presented it first may
        ask again.

        Raises PaymentFailed with the reason `not_found`, `invoice_expired`, `too_little`, `payment_replayed`,
        `exposure_limit`, those of the token, with nothing taken; Busy while the mint has not answered.
        """
        given = decode_token(token)
        pubkey = _locked_to(given)
        row = await self._db.read(lambda tx: self._rows.by_offer(tx, pubkey))
        if row is None or self._pubkey(row) != pubkey:
            raise _refused("no request of this node has the key that the token is locked to", "not_found")
        if row.amount_msat < price_sats * 1_000:
            raise _refused(
                f"{row.amount_msat // 1_000} sat were asked for, the price is {price_sats}", "too_little"
            )
        ys = {y_of(proof.secret) for proof in given.proofs}
        op = await self._wallet.newest(_name(row))
        if op is None or op.state is OpState.FAILED:
            if late := op is not None and self._now() < op.watch_until:
                assert op is not None
                self._check_same(row, op, ys, agent)
            try:
                op = await self._take(row, token, agent)
            except PaymentFailed as error:
                if late and error.symbol in _OVER:
                    raise _unanswered() from None
                raise
        payment_id = row.payment_id
        row = await self._db.read(lambda tx: self._rows.get(tx, payment_id)) or row
        if row.bound_to != agent or set(op.inputs) != ys:
            raise _replayed()
        if op.open:
            raise _unanswered()
        row = await self.look(row)
        if row.state is not State.SETTLED:
            newest = await self._wallet.newest(_name(row))
            if newest is not None and self._now() < newest.watch_until:
                raise _unanswered()
            raise _refused(f"the mint did not exchange the token: {op.error}", op.reason or "token_spent")
        return row.payment_id

    def _check_same(self, row: Payment, late: Op, ys: set[str], agent: str) -> None:
        """The mint may still carry out what was given up: whoever presents another token could pay twice."""
        if row.bound_to != agent:
            raise _replayed()
        if set(late.inputs) != ys:
            raise Busy(
                "the mint may still exchange the token that was presented for this request before, until"
                f" {late.watch_until}: present that one again; this one was not touched"
            )

    async def _take(self, row: Payment, token: str, agent: str) -> Op:
        if row.state is State.EXPIRED or self._now() > (row.expires_at or 0):
            raise _refused(
                "the time to pay this request is over; the token was not touched", "invoice_expired"
            )

        def beside(tx: Tx, op: Op) -> Op:
            if not self._rows.claim(tx, row.payment_id, agent, self._now()):
                raise _replayed()
            return op

        key, least = self._keys.lock(row.payment_id), row.amount_msat // 1_000
        try:
            return await self._wallet.take_payment(token, _name(row), key, least, _TIMEOUT_S, beside)
        except Conflict:
            raise _replayed() from None

    async def look(self, row: Payment) -> Payment:
        """A request as its swap says it is: settled once that is done, expired where none is under way."""
        op = await self._wallet.newest(_name(row))
        event = None
        if row.state in (State.AWAITING, State.EXPIRED) and op is not None and op.state is OpState.DONE:
            event = Event.ON_PAID
        elif row.state is State.AWAITING and self._now() > (row.expires_at or 0) and not (op and op.open):
            event = Event.ON_EXPIRED
        if event is None:
            return row
        step = event

        def body(tx: Tx) -> Payment:
            current = self._rows.get(tx, row.payment_id)
            assert current is not None
            if current.state is not row.state:
                return current
            return self._rows.move(tx, current, step, self._now())

        return await self._db.write(body)


def _name(row: Payment) -> str:
    return f"request:{row.payment_id}"


def _locked_to(token: Token) -> str:
    """The one key that every proof of a token is locked to."""
    keys: set[tuple[str, ...]] = set()
    for proof in token.proofs:
        lock = None if is_plain(proof.secret) else parse_secret(proof.secret).lock
        if lock is None or lock.kind is not Kind.P2PK:
            raise TokenInvalid("kind", "the token is not locked to the key of a request")
        keys.add(lock.keys)
    found = keys.pop()
    if keys or len(found) != 1:
        raise TokenInvalid("pubkeys", "the token is locked to several keys")
    return found[0]


def _unanswered() -> Busy:
    return Busy("the mint has not answered yet; present the same token again")


def _replayed() -> PaymentFailed:
    return _refused("this request was paid before, or by another", "payment_replayed")


def _refused(sentence: str, reason: str) -> PaymentFailed:
    return PaymentFailed(sentence, reason=reason)
