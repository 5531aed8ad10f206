"""The ecash wallet: what begins an operation (docs/protocol/03-escrow-and-payments.md §5).

Each begins with one transaction: coins are chosen and held, counters of the seed taken, the whole request
written down. `Settler` then carries it out. Amounts in sat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias

import msgspec
from msgspec.structs import replace

from ..crypto import sha256
from ..errors import BudgetExhausted, Conflict, PaymentFailed
from ..store import Tx
from .advice import NODE, Advice
from .curve import ORDER, y_of
from .derive import EscrowKeys, UnlockedSecrets
from .journal import MAX_ELEMENTS, Coin, Op, OpBody, OpKind, OpState, OwnProof, PlannedOutput, ProofStatus
from .keysets import Keyset, expand, fee_sats, listed, split
from .outputs import Output, output
from .proof_cap import MAX_PROOFS, CapRows, ProofCap
from .secrets import Kind, Lock, build_secret
from .selection import KEEP, MAX_INPUTS, covering, exact, fee_of, largest, most_alike
from .settling import Database, JournalRows
from .token import Token, encode_token
from .wire import BlindedMessage, Proof

MAX_AMOUNT_SAT: Final = 10_000_000
"""The most that one operation moves (docs/protocol/03 §9)."""
_NO_EXPIRY_S: Final = 3_600


Beside: TypeAlias = Callable[[Tx, Op], Op]
"""What else is written in the transaction that begins an operation; the operation as it is to be stored."""


class WalletRows(JournalRows, CapRows, Protocol):
    """Rows that beginning an operation reads and writes."""

    def op_by_key(self, tx: Tx, idempotency_key: str) -> Op | None: ...
    def add_op(self, tx: Tx, op: Op) -> None: ...
    def available(self, tx: Tx, mint_url: str, limit: int) -> dict[int, list[Coin]]: ...
    def reserve(self, tx: Tx, ys: Sequence[str], op_id: str) -> None: ...
    def proofs(self, tx: Tx, ys: Sequence[str]) -> tuple[OwnProof, ...]: ...
    def known(self, tx: Tx, ys: Sequence[str]) -> dict[str, ProofStatus]: ...
    def take_counters(self, tx: Tx, mint_url: str, keyset_id: str, count: int) -> int: ...
    def balances(self, tx: Tx) -> dict[str, dict[str, int]]: ...
    def coming(self, tx: Tx, mint_url: str) -> int: ...


class Order(msgspec.Struct, frozen=True):
    """What a caller asks for: the same key with the same content is the same operation."""

    key: str
    owner: str = "comms"


class MintKeys(msgspec.Struct, frozen=True):
    """A mint's keysets, ids recomputed, and the one that new outputs are of."""

    mint_url: str
    active: Keyset
    every: Mapping[str, Keyset]
    most: int = MAX_ELEMENTS
    """Elements of one array that the mint reads."""

    @property
    def most_inputs(self) -> int:
        """Proofs of ours in one request to it."""
        return min(MAX_INPUTS, self.most)

    def ppk(self, keyset_id: str) -> int:
        """A keyset's input fee, sat per thousand inputs. Raises TokenInvalid(`keyset`) for one that the mint
        does not name (any more)."""
        return self.every[expand(keyset_id, self.every)].input_fee_ppk


def mint_keys(mint_url: str, every: Mapping[str, Keyset], most: int = MAX_ELEMENTS) -> MintKeys:
    """A mint's keysets with the active one that costs least. Raises PaymentFailed when none is active."""
    # Without a key for 1 sat most amounts cannot be made.
    active = [each for each in every.values() if each.active and 1 in each.denominations]
    if not active:
        raise PaymentFailed(f"{mint_url} has no active keyset in sat", reason="mint_unavailable")
    return MintKeys(mint_url, min(active, key=lambda each: (each.input_fee_ppk, each.id)), every, most)


class Opening(msgspec.Struct, frozen=True):
    """Locked proofs to be swapped together under an idempotency key; `signed` gives them the witness, which
    may cover the outputs."""

    key: str
    proofs: Sequence[Proof]
    signed: Callable[[Sequence[BlindedMessage]], Sequence[Proof]]


class FundQuote(msgspec.Struct, frozen=True):
    """What the mint wants to be paid before it issues `amount` sat."""

    quote_id: str
    invoice: str
    expires_at: int
    key: bytes


class PayQuote(msgspec.Struct, frozen=True):
    """What the mint takes for paying an invoice of `amount` sat, at most."""

    quote_id: str
    invoice: str
    amount: int
    fee_reserve: int
    expires_at: int


class Wallet:
    """Begins operations; none of its methods talks to a mint."""

    def __init__(
        self,
        db: Database,
        rows: WalletRows,
        keys: EscrowKeys,
        *,
        now: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        advice: Advice = NODE,
        most_proofs: int = MAX_PROOFS,
    ) -> None:
        self._db, self._rows, self._secrets = db, rows, UnlockedSecrets(keys.seed())
        self._advice = advice
        self.cap = ProofCap(rows, advice, most_proofs)
        self._now, self._random_bytes = now, random_bytes

    async def receive(
        self,
        order: Order,
        keys: MintKeys,
        proofs: Sequence[Proof],
        kind: OpKind = OpKind.RECEIVE,
        beside: Beside | None = None,
        price: int | None = None,
    ) -> Op:
        """Swap proofs with their witnesses for our own at once: a token's, a lock's in our favour (redeem),
        our own lock's after its locktime (refund). With `price` only so much is for us, held by the operation
        until its owner decides, and the rest is a token for the payer."""
        total = sum(proof.amount for proof in proofs)
        fee = fee_sats(keys.ppk(proof.id) for proof in proofs)
        ys = [y_of(proof.secret) for proof in proofs]
        if total <= fee:
            raise PaymentFailed(
                f"the ecash is worth {total} sat and the mint takes {fee} sat for exchanging it",
                reason="token_invalid(fee)",
                data={"check": "fee"},
            )

        def plan(tx: Tx, op_id: str) -> Op:
            known = self._rows.known(tx, ys)
            if any(state is not ProofStatus.SPENT for state in known.values()):
                raise Conflict("this ecash is in this wallet already", reason="token_invalid")
            if price is None:
                outputs = self._own(tx, keys, total - fee)
            else:
                held = self._own(tx, keys, price, use="hold")
                outputs = (*held, *self._own(tx, keys, total - fee - price, use="give"))
            return self._op(op_id, order, kind, keys, "", total - fee, fee, proofs, outputs)

        return await self._begin(order, _content(kind.value, *ys), plan, beside)

    async def exchange(
        self, keys: MintKeys, openings: Sequence[Opening], owner: str, not_before: int
    ) -> list[Op]:
        """Operations, all begun in one transaction, that swap locked proofs of ours for ecash without a lock;
        the loop carries them on from `not_before` (Unix s). One that was begun before is left as it is."""

        def begin(tx: Tx, opening: Opening) -> Op:
            if (old := self._rows.op_by_key(tx, opening.key)) is not None:
                return old
            total = sum(proof.amount for proof in opening.proofs)
            fee = fee_sats(keys.ppk(proof.id) for proof in opening.proofs)
            outputs = self._own(tx, keys, total - fee)
            # What is locked is ours already: it comes back also where nothing new is begun.
            self.cap.make_room(tx, len(outputs))
            proofs = opening.signed([each.output.message for each in outputs])
            order, op_id = Order(opening.key, owner), self._random_bytes(16).hex()
            op = self._op(op_id, order, OpKind.RECEIVE, keys, "", total - fee, fee, proofs, outputs)
            op = replace(op, content=_content("exchange", *op.inputs), next_retry_at=not_before)
            self._rows.add_op(tx, op)
            return op

        return await self._db.write(lambda tx: [begin(tx, each) for each in openings])

    async def lock(
        self,
        order: Order,
        keys: MintKeys,
        locked: Sequence[Output],
        beside: Beside | None = None,
        kind: OpKind = OpKind.LOCK,
    ) -> Op:
        """Put ecash under the conditions of these outputs (`ticket.lock_outputs`: the seed and the terms make
        them again); the operation keeps the token."""
        amount = sum(each.amount for each in locked)
        content = _content(kind.value, keys.mint_url, *(each.blinded for each in locked))

        def plan(tx: Tx, op_id: str) -> Op:
            coins = self._covering(self._available(tx, keys), amount, keys)
            fee = fee_of(coins, keys.ppk)
            change = sum(coin.amount for coin in coins) - fee - amount
            outputs = [*(PlannedOutput(each, "lock") for each in locked), *self._own(tx, keys, change)]
            return self._spending(tx, op_id, order, kind, keys, content, amount, fee, coins, outputs)

        return await self._begin(order, content, plan, beside)

    async def send(self, order: Order, keys: MintKeys, amount: int, pubkey: str | None) -> Op:
        """Ecash worth `amount` for somebody else: for whoever holds it, or for the owner of `pubkey`."""
        content = _content("send", keys.mint_url, str(amount), pubkey or "")

        def plan(tx: Tx, op_id: str) -> Op:
            available = self._available(tx, keys)
            if pubkey is None and (coins := exact(available, amount, keys.most_inputs)):
                return self._handed_over(tx, op_id, order, content, keys, amount, coins)
            coins = self._covering(available, amount, keys)
            fee = fee_of(coins, keys.ppk)
            change = sum(coin.amount for coin in coins) - fee - amount
            if pubkey is None:
                give = self._own(tx, keys, amount, use="give")
            else:
                give = self._to_pubkey(keys, amount, pubkey)
            outputs = (*give, *self._own(tx, keys, change))
            return self._spending(tx, op_id, order, OpKind.SEND, keys, content, amount, fee, coins, outputs)

        return await self._begin(order, content, plan)

    async def fund(self, order: Order, keys: MintKeys, amount: int, quote: FundQuote, most: int) -> Op:
        """`amount` from outside, by a quote of the mint; refused where it would hold more than `most`."""
        content = _content("fund", keys.mint_url, str(amount))

        def plan(tx: Tx, op_id: str) -> Op:
            held = self._rows.balances(tx).get(keys.mint_url, {})
            there = held.get("unspent", 0) + held.get("pending", 0) + self._rows.coming(tx, keys.mint_url)
            if there + amount > most:
                raise BudgetExhausted(
                    f"{there} sat are at or on their way to {keys.mint_url} and {most} sat may be"
                    f" ({self._advice.most}): {amount} sat more are refused",
                    reason="exposure_limit",
                )
            outputs = self._own(tx, keys, amount)
            op = self._op(op_id, order, OpKind.FUND, keys, content, amount, 0, (), outputs)
            return replace(
                op,
                body=replace(op.body, invoice=quote.invoice),
                quote_id=quote.quote_id,
                quote_key=quote.key,
                expires_at=quote.expires_at or self._now() + _NO_EXPIRY_S,
            )

        return await self._begin(order, content, plan)

    async def melt(self, order: Order, keys: MintKeys, quote: PayQuote, *more: str) -> Op:
        """Have the mint pay an invoice; what it does not take comes back as change. `more` is what else makes
        two calls the same: the invoice, where the caller brought it."""
        content = _content("melt", keys.mint_url, str(quote.amount), *more)

        def plan(tx: Tx, op_id: str) -> Op:
            coins = self._covering(self._available(tx, keys), quote.amount + quote.fee_reserve, keys)
            over = sum(coin.amount for coin in coins) - quote.amount
            # Every sat above the amount may come back, not the fee reserve alone.
            count = max(1, (over - 1).bit_length()) if over > 0 else 0
            blanks = self._blank(tx, keys, count)
            op = self._spending(
                tx, op_id, order, OpKind.MELT, keys, content, quote.amount, quote.fee_reserve, coins, blanks
            )
            return replace(
                op,
                body=replace(op.body, invoice=quote.invoice),
                quote_id=quote.quote_id,
                expires_at=quote.expires_at or self._now() + _NO_EXPIRY_S,
            )

        return await self._begin(order, content, plan)

    async def consolidate(self, order: Order, keys: MintKeys, amount: int) -> Op | None:
        """Join proofs of one denomination but three; None when there are not too many."""
        content = _content("consolidate", order.key)

        def enough(tx: Tx) -> list[Coin]:
            return self._available(tx, keys).get(amount, [])

        if len(await self._db.read(enough)) <= most_alike(keys.most_inputs):
            return None

        def plan(tx: Tx, op_id: str) -> Op:
            coins = enough(tx)[KEEP : KEEP + keys.most_inputs]
            fee = fee_of(coins, keys.ppk)
            total = sum(coin.amount for coin in coins)
            if total <= fee:
                raise Conflict(f"joining proofs of {amount} sat would cost more than they are worth")
            outputs = self._own(tx, keys, total - fee)
            return self._spending(
                tx, op_id, order, OpKind.CONSOLIDATE, keys, content, total - fee, fee, coins, outputs
            )

        return await self._begin(order, content, plan)

    async def again(self, order: Order) -> Op | None:
        """The operation that this key stands for already."""
        return await self._db.read(lambda tx: self._rows.op_by_key(tx, order.key))

    async def begun(self, order: Order, kind: OpKind, mint_url: str, amount: int, *more: str) -> Op | None:
        """The operation that this key stands for already; `more` is what else the kind is asked (a send's
        pubkey or ""). Raises Conflict when it is another one."""
        old = await self.again(order)
        content = _content(kind.value, mint_url, str(amount), *more)
        if old is not None and (old.content, old.owner) != (content, order.owner):
            raise self._other(old)
        return old

    def _other(self, old: Op) -> Conflict:
        """A key that stands for something else."""
        return Conflict(
            f"this {self._advice.key} stands for another wallet operation: {old.kind.value} of"
            f" {old.amount_sats} sat at {old.mint_url}, {old.state.value}; take a new one",
            reason="idempotency_key",
            data={"op_id": old.op_id},
        )

    # -- parts of an operation -------------------------------------------------------------------------

    async def _begin(
        self, order: Order, content: str, plan: Callable[[Tx, str], Op], beside: Beside | None = None
    ) -> Op:
        op_id = self._random_bytes(16).hex()

        def body(tx: Tx) -> Op:
            old = self._rows.op_by_key(tx, order.key)
            if old is not None:
                if old.content != content or old.owner != order.owner:
                    raise self._other(old)
                return old
            op = replace(plan(tx, op_id), content=content)
            self.cap.admit(tx, op)
            if beside is not None:
                op = beside(tx, op)
            self._rows.add_op(tx, op)
            return op

        return await self._db.write(body)

    def _available(self, tx: Tx, keys: MintKeys) -> dict[int, list[Coin]]:
        found = self._rows.available(tx, keys.mint_url, MAX_INPUTS + KEEP)
        # Of a keyset that the mint does not name any more it may take nothing: such proofs wait.
        named = listed(keys.every)
        return {
            amount: [coin for coin in coins if coin.keyset_id in named] for amount, coins in found.items()
        }

    def _covering(self, available: dict[int, list[Coin]], amount: int, keys: MintKeys) -> tuple[Coin, ...]:
        coins = covering(available, amount, keys.ppk, keys.most_inputs)
        if coins is None:
            have = sum(coin.amount for group in available.values() for coin in group)
            best = largest(available, keys.most_inputs)
            at_once = max(0, sum(coin.amount for coin in best) - fee_of(best, keys.ppk))
            if at_once < amount < have:
                raise PaymentFailed(
                    f"{amount} sat and the mint's fee are needed at {keys.mint_url}; {have} sat are free"
                    f" there, but it reads {keys.most_inputs} proofs at once, and the largest are worth"
                    f" {at_once} sat: take less at once, or wait, small proofs are joined once an hour",
                    reason="insufficient_ecash",
                    data={"free_sats": have, "at_once_sats": at_once},
                )
            raise PaymentFailed(
                f"{amount} sat and the mint's fee are needed at {keys.mint_url}, {have} sat are free there;"
                f" {self._advice.fund}",
                reason="insufficient_ecash",
                data={"free_sats": have},
            )
        return coins

    def _own(self, tx: Tx, keys: MintKeys, amount: int, use: str = "keep") -> tuple[PlannedOutput, ...]:
        amounts = _parts(keys, amount)
        first = self._rows.take_counters(tx, keys.mint_url, keys.active.id, len(amounts)) if amounts else 0
        return tuple(
            self._output(keys.active.id, first + number, each, use) for number, each in enumerate(amounts)
        )

    def _blank(self, tx: Tx, keys: MintKeys, count: int) -> tuple[PlannedOutput, ...]:
        if count == 0:
            return ()
        first = self._rows.take_counters(tx, keys.mint_url, keys.active.id, count)
        return tuple(self._output(keys.active.id, first + number, 0, "keep") for number in range(count))

    def _to_pubkey(self, keys: MintKeys, amount: int, pubkey: str) -> tuple[PlannedOutput, ...]:
        # Not from the seed: what another's key spends, no restore brings back.
        lock = Lock(Kind.P2PK, None, (pubkey,), None, ())
        found = []
        for each in _parts(keys, amount):
            secret = build_secret(lock, self._random_bytes(16).hex())
            r = (int.from_bytes(self._random_bytes(32)) % (ORDER - 1) + 1).to_bytes(32)
            found.append(PlannedOutput(output(each, keys.active.id, secret, r), "give"))
        return tuple(found)

    def _output(self, keyset_id: str, counter: int, amount: int, use: str) -> PlannedOutput:
        derived = self._secrets.derive(keyset_id, counter)
        return PlannedOutput(output(amount, keyset_id, derived.secret, derived.r), use, counter)

    def _spending(
        self,
        tx: Tx,
        op_id: str,
        order: Order,
        kind: OpKind,
        keys: MintKeys,
        content: str,
        amount: int,
        fee: int,
        coins: Sequence[Coin],
        outputs: Sequence[PlannedOutput],
    ) -> Op:
        ys = [coin.y for coin in coins]
        self._rows.reserve(tx, ys, op_id)
        return self._op(
            op_id,
            order,
            kind,
            keys,
            content,
            amount,
            fee,
            [own.proof for own in self._rows.proofs(tx, ys)],
            outputs,
        )

    def _handed_over(
        self,
        tx: Tx,
        op_id: str,
        order: Order,
        content: str,
        keys: MintKeys,
        amount: int,
        coins: Sequence[Coin],
    ) -> Op:
        op = self._spending(tx, op_id, order, OpKind.SEND, keys, content, amount, 0, coins, ())
        self._rows.settle(tx, op_id, op.inputs, ProofStatus.SPENT, self._now())
        token = encode_token(Token(keys.mint_url, op.body.inputs))
        return replace(op, state=OpState.DONE, body=OpBody(token=token), inputs=())

    def _op(
        self,
        op_id: str,
        order: Order,
        kind: OpKind,
        keys: MintKeys,
        content: str,
        amount: int,
        fee: int,
        inputs: Sequence[Proof],
        outputs: Sequence[PlannedOutput],
    ) -> Op:
        if len(inputs) > keys.most or len(outputs) > keys.most:
            raise PaymentFailed(
                f"this takes {len(inputs)} inputs and {len(outputs)} outputs, {keys.mint_url} reads"
                f" {keys.most} of each at once: take a smaller amount",
                reason="mint_nonconformant",
            )
        now = self._now()
        # Ascending, so that the mint does not see which of them are change.
        ordered = tuple(sorted(outputs, key=lambda planned: planned.output.amount))
        return Op(
            op_id=op_id,
            idempotency_key=order.key,
            content=content,
            owner=order.owner,
            kind=kind,
            mint_url=keys.mint_url,
            state=OpState.PREPARED,
            inputs=tuple(y_of(proof.secret) for proof in inputs),
            amount_sats=amount,
            fee_sats=fee,
            created_at=now,
            updated_at=now,
            body=OpBody(tuple(inputs), ordered),
        )


def _parts(keys: MintKeys, amount: int) -> tuple[int, ...]:
    """An amount in what the mint signs. Raises PaymentFailed for a keyset that no amount can be paid in."""
    try:
        return split(amount, keys.active.denominations)
    except ValueError as error:
        raise PaymentFailed(
            f"{keys.mint_url}: {error} (keyset {keys.active.id})", reason="mint_nonconformant"
        ) from None


def _content(*parts: str) -> str:
    return sha256("\n".join(parts).encode()).hex()
