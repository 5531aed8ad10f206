"""Carrying out what the wallet's journal says, and finding out what became of it (docs/protocol/03 §5).

An answer that is right ends an operation. After anything else the mint is asked: what did it sign (restore),
what became of the inputs (checkstate), how does the quote stand. An error code never decides.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol, TypeAlias, TypeVar

from msgspec.structs import replace

from ..crypto import Secret, schnorr_sign
from ..errors import HiveError, PaymentFailed
from ..store import Tx
from .curve import y_of
from .journal import (
    INCOMING,
    LONGEST_WAIT_S,
    PROBE_KEY,
    Op,
    OpKind,
    OpState,
    OwnProof,
    PlannedOutput,
    ProofStatus,
    in_time,
)
from .keysets import Keyset, fee_sats
from .mint_quote import legacy_quote_digest, quote_digest
from .outputs import Output, beside, finish, restored
from .ports import MintBook, MintRefused, MintUnavailable, lasting, request_seconds
from .reasons import MintNonconformant
from .wire import BlindSignature, MeltAnswer, MeltQuote, MintQuote, Proof, QuoteState, SpendState, as_inputs

T = TypeVar("T")


Signed: TypeAlias = list[tuple[PlannedOutput, Proof]]
"""Outputs of ours and the proofs that the mint's signatures made of them, each checked."""

SENDS: Final = 3
"""How often a request that the mint did not carry out is sent, the same each time."""
WATCH_S: Final = 86_400
"""How long the mint may carry out a released operation late, and is asked about it."""
CHANGE_S: Final = 600
"""How long after a melt was sent the change that is owed at least may still be signed."""
QUOTE_GRACE_S: Final = 3_600
"""How long after its expiry a quote that was paid late is still looked for."""
_PAYABLE_S: Final = 366 * 86_400
"""Nobody is asked for longer about an invoice that its mint lets run for ever."""
_UNPAID: Final = "the mint's invoice was not paid in time"
_MOST_WAIT_S: Final = 60
_WATCH_EVERY_S: Final = LONGEST_WAIT_S
_REDEEM_WAIT_S: Final = 30
_KEPT: Final = frozenset({OpKind.FUND, OpKind.REDEEM, OpKind.REFUND})
"""Nothing of ours is held by these: they wait for a mint that cannot be reached."""


class Database(Protocol):
    """Transactions."""

    async def write(self, body: Callable[[Tx], T]) -> T:
        """In one write transaction."""
        ...

    async def read(self, body: Callable[[Tx], T]) -> T:
        """On a snapshot."""
        ...


class JournalRows(Protocol):
    """Rows that settling reads and writes (storage of the plugin or of the kit)."""

    def op(self, tx: Tx, op_id: str) -> Op: ...
    def move(self, tx: Tx, op: Op, was: OpState) -> None: ...
    def settle(self, tx: Tx, op_id: str, ys: Sequence[str], state: ProofStatus, now: int) -> None: ...
    def add_proofs(
        self, tx: Tx, mint_url: str, proofs: Sequence[OwnProof], state: ProofStatus, op_id: str, now: int
    ) -> int: ...


class Paid(StrEnum):
    """What became of a payment: it has no end yet, it went through, it certainly did not and never will."""

    OPEN = "open"
    SETTLED = "settled"
    FAILED = "failed"


class Payer(Protocol):
    """Pays the invoice of a fund operation."""

    async def pay(self, op: Op) -> str:
        """Have `op.body.invoice` paid, once per operation: the payment's id. Whether it went through says the
        mint. Raises HiveError when it cannot be paid."""
        ...

    async def became(self, op: Op) -> Paid | None:
        """What became of that payment; None when nothing is known of one."""
        ...


class Ends(Protocol):
    """What else an end means, inside its transaction."""

    def done(self, tx: Tx, op: Op, given: Sequence[Proof]) -> Op:
        """`given`: the outputs that are not ours to keep. The operation as it is to be stored."""
        ...

    def failed(self, tx: Tx, op: Op) -> None:
        """Nothing came of it."""
        ...


class Settler:
    """Brings operations to their end, one request at a time each."""

    def __init__(
        self,
        db: Database,
        rows: JournalRows,
        mints: MintBook,
        payer: Payer,
        ends: Ends,
        *,
        now: Callable[[], int],
        alert: Callable[[Op], Awaitable[None]],
    ) -> None:
        self._db, self._rows, self._mints, self._payer, self._ends = db, rows, mints, payer, ends
        self._now, self._alert = now, alert
        self._busy: set[str] = set()

    async def advance(self, op_id: str) -> Op:
        """As far as it goes now. An operation that somebody else is at is left to them."""
        if op_id in self._busy:
            return await self._read(op_id)
        self._busy.add(op_id)
        try:
            op = await self._read(op_id)
            if (known := in_time(op, self._now())) is not op:
                op = await self._move(known, op.state)
            while (op.open or op.watch_until > self._now()) and op.next_retry_at <= self._now():
                op = await self._step(op)
            return op
        finally:
            self._busy.discard(op_id)

    async def give_up_unsent(self, op_id: str) -> Op:
        """At a start: what a crash left unsent is given up, unless it brings money to us."""
        op = await self._read(op_id)
        if op.state is not OpState.PREPARED or op.kind in INCOMING:
            return op
        return await self._fail(op, "interrupted", "it was interrupted before anything was sent to the mint")

    async def offer(self, op: Op, inputs: Sequence[Proof]) -> Op | None:
        """Try once whether the mint gives a prepared operation's outputs for `inputs`, whatever its own are:
        the operation, done, or None when the mint refused. Raises MintUnavailable, MintNonconformant; what
        the mint may have done then, the operation finds out."""
        messages = [planned.output.message for planned in op.body.outputs]
        try:
            signed = await self._checked(
                op, await self._mints.at(op.mint_url).swap(as_inputs(inputs), messages)
            )
        except MintRefused:
            return None
        except PaymentFailed as error:
            await self._noted(op, error)
            if not isinstance(error, MintUnavailable) or error.sent:
                await self._doubt(await self._move(_sent(op, self._now()), op.state), lasting(error))
            raise
        return await self._finish(await self._move(_sent(op, self._now()), op.state), signed, "")

    async def drop(self, op: Op, reason: str, text: str) -> Op:
        """End a prepared operation whose outputs the mint does not give, once it says that it signed none."""
        try:
            signed = await self._restored(op)
        except MintRefused:
            # A mint that restores nothing cannot be asked.
            signed = []
        if signed:
            return await self._finish(await self._move(_sent(op, self._now()), op.state), signed, "")
        return await self._fail(op, reason, text)

    # -- steps -----------------------------------------------------------------------------------------

    async def _step(self, op: Op) -> Op:
        try:
            if op.state is OpState.FAILED:
                return await self._watch(op)
            if op.state is OpState.SENT:
                # Only after a crash: a request under way is in `_busy`.
                return await self._doubt(op, "it was interrupted before the mint's answer was stored")
            if op.state is OpState.RECOVERING:
                return await self._recover(op)
            return await (self._until_paid(op) if op.kind is OpKind.FUND else self._send(op))
        except PaymentFailed as error:
            await self._noted(op, error)
            return await self._wait(op, lasting(error), error.symbol)

    async def _send(self, op: Op) -> Op:
        op = await self._move(_sent(op, self._now()), op.state)
        try:
            signed = await self._request(op)
        except MintUnavailable as error:
            if not error.sent and op.attempts == 1 and not _waits(op):
                # It is certain that nothing reached the mint.
                return await self._fail(op, error.symbol, error.lasting)
            return await self._doubt(op, error.lasting, error.symbol)
        except PaymentFailed as error:
            await self._noted(op, error)
            return await self._doubt(op, error.detail, error.symbol)
        if signed is None:
            return await self._doubt(op, "the mint is still paying")
        return await self._finish(op, *signed)

    async def _request(self, op: Op) -> tuple[Signed, str] | None:
        """Signed outputs and, for a melt, the preimage; None while the mint has not decided."""
        mint, inputs = self._mints.at(op.mint_url), as_inputs(op.body.inputs)
        messages = [planned.output.message for planned in op.body.outputs]
        if op.kind is OpKind.MELT:
            return await self._melted(op, await mint.melt(op.quote_id, inputs, messages))
        if op.kind is OpKind.FUND:
            return await self._checked(op, await self._mint_tokens(op)), ""
        return await self._checked(op, await mint.swap(inputs, messages)), ""

    async def _mint_tokens(self, op: Op) -> Sequence[BlindSignature]:
        mint, messages = self._mints.at(op.mint_url), [o.output.message for o in op.body.outputs]
        key = Secret(op.quote_key)
        try:
            return await mint.mint(
                op.quote_id, messages, signature=schnorr_sign(key, quote_digest(op.quote_id, messages))
            )
        except MintRefused:
            # Mints up to nutshell 0.20.1 know the older message only. Whatever the first request did, the
            # second cannot do it again: what the mint signed, it does not sign twice.
            legacy = legacy_quote_digest(op.quote_id, messages)
            return await mint.mint(op.quote_id, messages, signature=schnorr_sign(key, legacy))

    async def _melted(self, op: Op, quote: MeltAnswer | MeltQuote) -> tuple[Signed, str] | None:
        if quote.status is not QuoteState.PAID:
            return None
        preimage = quote.payment_preimage or ""
        # 0.16 does not repeat the change, and an answer may have lost it.
        signed = (
            await self._checked(op, quote.change, fewer=True) if quote.change else await self._restored(op)
        )
        if _kept_by_mint(op, signed) > await self._most_kept(op) and self._now() < op.sent_at + CHANGE_S:
            raise PaymentFailed(
                "the mint has paid and owes change that it has not signed yet", reason="mint_unavailable"
            )
        return signed, preimage

    async def _most_kept(self, op: Op) -> int:
        """What a mint may keep of a melt beside the amount: the reserve that its quote named, input fees."""
        keysets = await self._mints.keysets(op.mint_url)
        ppks = (keysets[each.id].input_fee_ppk for each in op.body.inputs if each.id in keysets)
        return op.fee_sats + fee_sats(ppks)

    async def _until_paid(self, op: Op) -> Op:
        now = self._now()
        quote = await self._mints.at(op.mint_url).mint_quote_state(op.quote_id)
        if quote.status is QuoteState.PAID:
            return await self._send(op)
        if quote.status is QuoteState.ISSUED:
            sent = await self._move(replace(op, state=OpState.SENT, sent_at=now), op.state)
            return await self._doubt(sent, "the mint has issued this quote")
        became = await self._payer.became(op)
        if became is Paid.FAILED:
            return await self._unpaid(op, quote, op.reason or "payment_failed", op.error or _UNPAID)
        if now > op.expires_at + QUOTE_GRACE_S:
            if became is Paid.OPEN:
                # Nobody can take it back: the mint may have it as late as the payment ends.
                return await self._wait(op, "the payment of the mint's invoice has no end yet", "")
            end = await self._unpaid(op, quote, "invoice_expired", op.error or _UNPAID)
            if became is Paid.SETTLED:
                text = f"{op.amount_sats} sat were paid to the mint, and it does not say so"
                await self._alert(replace(end, error=text))
            return end
        if not op.payment_id and now < op.expires_at:
            try:
                op = await self._move(replace(op, payment_id=await self._payer.pay(op)), op.state)
                return await self._wait(op, "waiting for the mint to see the payment", "")
            except HiveError as error:
                # The mint's word decides, not the payment's; a later look tries to pay again.
                return await self._wait(
                    op, f"the mint's invoice could not be paid: {error.detail}", error.symbol
                )
        return await self._wait(op, op.error, op.reason)

    async def _unpaid(self, op: Op, quote: MintQuote, reason: str, text: str) -> Op:
        """Given up; the mint is asked about it for another day, and while its invoice can be paid."""
        now = self._now()
        payable = min(quote.expiry or 0, now + _PAYABLE_S) + QUOTE_GRACE_S
        watched = replace(op, watch_until=max(now + WATCH_S, payable), next_retry_at=now + _WATCH_EVERY_S)
        return await self._fail(watched, reason, text)

    # -- doubt -----------------------------------------------------------------------------------------

    async def _recover(self, op: Op) -> Op:
        if op.kind is OpKind.MELT:
            quote = await self._mints.at(op.mint_url).melt_quote_state(op.quote_id)
            if (melted := await self._melted(op, quote)) is not None:
                return await self._finish(op, *melted)
            if quote.status is QuoteState.PENDING:
                return await self._wait(op, "the mint is still paying", "")
        elif signed := await self._restored(op):
            if len(signed) != len(op.body.outputs):
                return await self._in_part(op, signed)
            # An operation of an old backup: what it made may have been spent long since.
            return await self._finish(op, signed, "", await self._spent(op, signed))
        elif op.kind is OpKind.FUND:
            return await self._unminted(op)
        return await self._unsigned(op)

    async def _unminted(self, op: Op) -> Op:
        quote = await self._mints.at(op.mint_url).mint_quote_state(op.quote_id)
        if quote.status is QuoteState.ISSUED:
            if signed := await self._restored(op):
                return await self._finish(op, signed, "")
            return await self._lost(op, "the mint says it issued this quote's ecash, but not to this wallet")
        return await self._again_or_release(op)

    async def _unsigned(self, op: Op) -> Op:
        states = await self._states(op)
        if SpendState.PENDING in states.values():
            return await self._wait(op, "the mint holds the inputs for another request", "")
        spent = [y for y, state in states.items() if state is SpendState.SPENT]
        if not spent:
            return await self._again_or_release(op)
        # The mint may have carried it out between the two questions.
        if op.kind is OpKind.MELT:
            quote = await self._mints.at(op.mint_url).melt_quote_state(op.quote_id)
            if (melted := await self._melted(op, quote)) is not None:
                return await self._finish(op, *melted)
        elif signed := await self._restored(op):
            return await self._finish(op, signed, "")
        return await self._spent_elsewhere(op, spent)

    async def _again_or_release(self, op: Op) -> Op:
        now = self._now()
        expired = op.kind is OpKind.MELT and now >= op.expires_at
        if op.attempts < SENDS and not expired:
            return await self._send(op)
        late_s = 2 * request_seconds(len(op.inputs) + len(op.body.outputs))
        free_at = op.sent_at + math.ceil(late_s)
        if now < free_at:
            return await self._move(replace(op, next_retry_at=free_at), op.state)
        if op.kind is OpKind.FUND:
            return await self._ask_for_what_was_paid(op)
        return await self._fail(
            replace(op, watch_until=now + WATCH_S, next_retry_at=now + _WATCH_EVERY_S),
            op.reason or "mint_refused",
            op.error or "the mint does not carry it out",
        )

    async def _ask_for_what_was_paid(self, op: Op) -> Op:
        """Nothing of ours is held, and a paid quote stays ours until it is minted: the same request again,
        ever later, and the operator is told once."""
        now, further = self._now(), op.attempts - SENDS
        again_at = op.sent_at + min(_WATCH_EVERY_S, _MOST_WAIT_S << min(further, 8))
        if now < again_at:
            return await self._move(replace(op, next_retry_at=again_at), op.state)
        if further == 0:
            await self._alert(op)
        return await self._send(op)

    async def _watch(self, op: Op) -> Op:
        """A released operation: carried out late after all?"""
        if op.kind is OpKind.FUND:
            return await self._watch_quote(op)
        states = await self._states(op)
        if SpendState.SPENT in states.values() and (signed := await self._late(op)):
            return await self._finish(op, *signed)
        again = min(self._now() + _WATCH_EVERY_S, op.watch_until)
        return await self._move(replace(op, next_retry_at=again), op.state)

    async def _watch_quote(self, op: Op) -> Op:
        """A quote that was given up and paid later is still ours."""
        quote = await self._mints.at(op.mint_url).mint_quote_state(op.quote_id)
        signed: Signed = []
        if quote.status is QuoteState.PAID:
            signed = await self._checked(op, await self._mint_tokens(op))
        elif quote.status is QuoteState.ISSUED:
            signed = await self._restored(op)
        if signed:
            return await self._finish(op, signed, "")
        again = min(self._now() + _WATCH_EVERY_S, op.watch_until)
        return await self._move(replace(op, next_retry_at=again), op.state)

    async def _late(self, op: Op) -> tuple[Signed, str] | None:
        if op.kind is OpKind.MELT:
            return await self._melted(op, await self._mints.at(op.mint_url).melt_quote_state(op.quote_id))
        signed = await self._restored(op)
        return (signed, "") if signed else None

    async def _states(self, op: Op) -> dict[str, SpendState]:
        answer = await self._mints.at(op.mint_url).checkstate(list(op.inputs))
        found = {entry.Y: entry.state for entry in answer if entry.Y in op.inputs}
        if len(found) != len(op.inputs):
            raise MintNonconformant("the mint did not tell the state of every input it was asked about")
        return found

    async def _spent(self, op: Op, signed: Signed) -> set[str]:
        """Those of an operation's own outputs that are not unspent any more."""
        ys = [y_of(proof.secret) for planned, proof in signed if planned.use == "keep"]
        if op.kind not in INCOMING or not ys:
            return set()
        told = {entry.Y: entry.state for entry in await self._mints.at(op.mint_url).checkstate(ys)}
        return {y for y in ys if told.get(y) is not SpendState.UNSPENT}

    async def _restored(self, op: Op) -> Signed:
        """What the mint signed of this operation's outputs."""
        planned = {each.output.blinded: each for each in op.body.outputs}
        if not planned:
            return []
        messages = [each.output.message for each in op.body.outputs]
        answer = await self._mints.at(op.mint_url).restore(messages)
        outputs = [each.output for each in op.body.outputs]
        keysets = await self._keysets(op, outputs)
        found = await beside(
            len(answer.outputs), lambda: restored(outputs, answer.outputs, answer.signatures, keysets)
        )
        return [(planned[blinded], proof) for blinded, proof in found.items()]

    async def _checked(self, op: Op, signatures: Sequence[BlindSignature], *, fewer: bool = False) -> Signed:
        outputs = [each.output for each in op.body.outputs]
        keysets = await self._keysets(op, outputs)
        proofs = await beside(len(outputs), lambda: finish(outputs, signatures, keysets, fewer=fewer))
        return list(zip(op.body.outputs, proofs, strict=False))

    async def _keysets(self, op: Op, outputs: Sequence[Output]) -> Mapping[str, Keyset]:
        return await self._mints.keysets(op.mint_url) if outputs else {}

    # -- ends ------------------------------------------------------------------------------------------

    async def _finish(self, op: Op, signed: Signed, preimage: str, gone: Collection[str] = frozenset()) -> Op:
        """Done; outputs of ours that are `gone` were spent since."""
        if op.kind is not OpKind.MELT and len(signed) != len(op.body.outputs):
            raise MintNonconformant("the mint signed only a part of the outputs")
        now = self._now()
        kept, held = await beside(len(signed), lambda: (_own(signed, "keep"), _own(signed, "hold")))
        kept = [own for own in kept if own.proof.amount]
        given = [proof for planned, proof in signed if planned.use not in ("keep", "hold")]
        fee = most = op.fee_sats
        if op.kind is OpKind.MELT:
            # A mint that gave more than it had to only gave it away.
            fee, most = max(0, _kept_by_mint(op, signed)), await self._most_kept(op)
        was = op.state
        end = replace(
            op,
            state=OpState.DONE,
            fee_sats=fee,
            body=replace(op.body, preimage=preimage),
            next_retry_at=0,
            watch_until=0,
            error="",
            reason="",
            updated_at=now,
        )

        def body(tx: Tx) -> Op:
            self._rows.settle(tx, op.op_id, op.inputs, ProofStatus.SPENT, now)
            for state, some in (
                (ProofStatus.UNSPENT, [own for own in kept if own.y not in gone]),
                (ProofStatus.QUARANTINED, [own for own in kept if own.y in gone]),
                (ProofStatus.PENDING, held),
            ):
                self._rows.add_proofs(tx, op.mint_url, some, state, op.op_id, now)
            stored = self._ends.done(tx, end, given)
            self._rows.move(tx, stored, was)
            return stored

        stored = await self._db.write(body)
        if fee > most:
            # A mint that kept more of a melt than it had said is told of.
            text = f"the mint kept {fee} sat, it had said {most} sat at most"
            await self._mints.nonconformant(op.mint_url, text)
            await self._alert(replace(stored, error=text))
        return stored

    async def _in_part(self, op: Op, signed: Signed) -> Op:
        """The mint signed only some of the outputs: waited for as for change, then what is there is taken."""
        text = f"the mint signed {len(signed)} of {len(op.body.outputs)} outputs"
        if self._now() < op.sent_at + CHANGE_S:
            raise MintNonconformant(text)
        gone = await self._spent(op, signed)
        states = await self._states(op) if op.inputs else {}
        now, was = self._now(), op.state
        end = replace(op, state=OpState.FAILED, error=text, reason="mint_nonconformant", updated_at=now)
        end = replace(end, next_retry_at=0)
        kept = await beside(len(signed), lambda: _own(signed, "keep", "hold"))

        def body(tx: Tx) -> None:
            free = [y for y in op.inputs if states[y] is SpendState.UNSPENT]
            self._rows.settle(tx, op.op_id, free, ProofStatus.UNSPENT, now)
            self._rows.settle(tx, op.op_id, [y for y in op.inputs if y not in free], ProofStatus.SPENT, now)
            for state, some in (
                (ProofStatus.UNSPENT, [own for own in kept if own.y not in gone]),
                (ProofStatus.QUARANTINED, [own for own in kept if own.y in gone]),
            ):
                self._rows.add_proofs(tx, op.mint_url, some, state, op.op_id, now)
            self._rows.move(tx, end, was)
            self._ends.failed(tx, end)

        await self._db.write(body)
        await self._mints.nonconformant(op.mint_url, text)
        missing = sum(o.output.amount for o in op.body.outputs) - sum(own.proof.amount for own in kept)
        await self._alert(replace(end, error=f"{text}: {missing} sat are missing"))
        return end

    async def _spent_elsewhere(self, op: Op, spent: Sequence[str]) -> Op:
        now, was = self._now(), op.state
        text = f"the mint says that {len(spent)} of {len(op.inputs)} inputs were spent before"
        end = replace(
            op, state=OpState.FAILED, error=text, reason="token_spent", next_retry_at=0, updated_at=now
        )
        free = [y for y in op.inputs if y not in set(spent)]

        def body(tx: Tx) -> None:
            self._rows.settle(tx, op.op_id, spent, ProofStatus.SPENT, now)
            # One spent input makes the whole request impossible: the others are free at once.
            self._rows.settle(tx, op.op_id, free, ProofStatus.UNSPENT, now)
            self._rows.move(tx, end, was)
            self._ends.failed(tx, end)

        await self._db.write(body)
        if op.kind not in (OpKind.RECEIVE, OpKind.REDEEM, OpKind.REFUND):
            # A lock may be spent by either side after its locktime: who did it says the witness.
            await self._alert(end)
        return end

    async def _lost(self, op: Op, text: str) -> Op:
        end = await self._fail(op, "unknown_state", text)
        await self._alert(end)
        return end

    async def _fail(self, op: Op, reason: str, text: str) -> Op:
        now, was = self._now(), op.state
        end = replace(op, state=OpState.FAILED, reason=reason, error=text, updated_at=now)
        if end.watch_until == 0:
            end = replace(end, next_retry_at=0)

        def body(tx: Tx) -> None:
            self._rows.settle(tx, op.op_id, op.inputs, ProofStatus.UNSPENT, now)
            self._rows.move(tx, end, was)
            self._ends.failed(tx, end)

        await self._db.write(body)
        return end

    async def _noted(self, op: Op, error: PaymentFailed) -> None:
        """A mint that answers what no correct mint does is told to those who trust it."""
        if isinstance(error, MintNonconformant):
            await self._mints.nonconformant(op.mint_url, error.detail)

    async def _doubt(self, op: Op, text: str, reason: str = "") -> Op:
        now = self._now()
        return await self._move(
            replace(op, state=OpState.RECOVERING, error=text, reason=reason, next_retry_at=now), op.state
        )

    async def _wait(self, op: Op, text: str, reason: str) -> Op:
        """1, 2, 4 .. 60 s, 900 s once it was given up: each time as long as it has lasted."""
        now, most = self._now(), _REDEEM_WAIT_S if op.kind is OpKind.REDEEM else _MOST_WAIT_S
        most = most if op.open else _WATCH_EVERY_S
        wait = min(most, max(1, now - max(op.sent_at, op.created_at)))
        return await self._move(replace(op, error=text, reason=reason, next_retry_at=now + wait), op.state)

    async def _move(self, op: Op, was: OpState) -> Op:
        op = replace(op, updated_at=self._now())
        await self._db.write(lambda tx: self._rows.move(tx, op, was))
        return op

    async def _read(self, op_id: str) -> Op:
        return await self._db.read(lambda tx: self._rows.op(tx, op_id))


def _waits(op: Op) -> bool:
    """Whether an operation that could not be sent is not given up: also what opens a lock of a probe, which
    has no other way back."""
    return op.kind in _KEPT or (op.kind is OpKind.RECEIVE and op.idempotency_key.startswith(PROBE_KEY))


def _sent(op: Op, now: int) -> Op:
    return replace(op, state=OpState.SENT, sent_at=now, attempts=op.attempts + 1, error="", reason="")


def _own(signed: Signed, *uses: str) -> list[OwnProof]:
    return [OwnProof(y_of(proof.secret), proof, each.counter) for each, proof in signed if each.use in uses]


def _kept_by_mint(op: Op, signed: Signed) -> int:
    """Sats of a melt's inputs that were neither paid out nor given back; less than 0 when it gave more."""
    return sum(each.amount for each in op.body.inputs) - sum(p.amount for _, p in signed) - op.amount_sats
