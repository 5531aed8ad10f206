"""The ecash wallet: what its owner asks of it, and its loop (docs/protocol/03 §5, §9).

An operation is driven in a task of its own; a caller waits for it no longer than it wants to. What is not
settled then goes on by the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from ..alerts import Level
from ..bolt11 import Invoice, read_invoice
from ..crypto import Secret, sha256
from ..errors import (
    Conflict,
    EmergencyStop,
    FeatureDisabled,
    HiveError,
    InvalidParams,
    PaymentFailed,
    Unsupported,
)
from ..store import Tx
from .advice import NODE, Advice
from .curve import y_of
from .derive import EscrowKeys, public_key
from .incoming import acceptable, own_pubkey, receive_key, refuse_spent, spent_by
from .journal import Op, OpKind, OpState, ProofStatus
from .keysets import Keyset, fee_sats, listed
from .mint_ports import Log
from .outputs import Output
from .ports import MintBook, ended_without
from .proof_cap import DROPPED_AT_ONCE
from .selection import most_alike
from .settling import Database, Settler
from .token import decode_token
from .wallet import Beside, FundQuote, MintKeys, Order, PayQuote, Wallet, mint_keys
from .wallet_ports import OwnInvoices, ServiceRows
from .wire import Proof, SpendState

KEPT_SPENT_S: Final = 30 * 86_400
"""How long spent proofs and ended operations are kept."""
_QUOTE_S: Final = 86_400
_FEE_RESERVE_SAT: Final = 10
_FEE_RESERVE_PERCENT: Final = 5
_ASKED: Final = 500
CALL: Final = "call:"
"""What the keys of the operator's own calls begin with in the journal."""


@asynccontextmanager
async def patience(seconds: float, whom: str = "the mint") -> AsyncIterator[None]:
    """For what is asked (of `whom`) before an operation is written down: giving up leaves nothing behind."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise PaymentFailed(
            f"{whom} did not answer within {seconds:g} s; nothing was begun", reason="mint_unavailable"
        ) from None


class Given(msgspec.Struct, frozen=True):
    """A token that was looked at: the names of its proofs, what is left of it (sat) after the mint's fee for
    exchanging it, that fee."""

    mint_url: str
    ys: tuple[str, ...]
    worth_sats: int
    fee_sats: int


class WalletService:
    """Operations of the wallet, begun, waited for and carried on. `invoices` makes invoices of its owner's
    own node, None where there is none. `beyond_signed` makes sure that the counters of a keyset were never
    used, whatever became of this database."""

    def __init__(
        self,
        db: Database,
        rows: ServiceRows,
        wallet: Wallet,
        settler: Settler,
        mints: MintBook,
        invoices: OwnInvoices | None,
        keys: EscrowKeys,
        beyond_signed: Callable[[str, Keyset], Awaitable[None]],
        *,
        most_sat: Callable[[], int],
        stopped: Callable[[], bool],
        alert: Callable[[Level, str, str], Awaitable[None]],
        now: Callable[[], int],
        wait: Callable[[float], Awaitable[None]],
        random_bytes: Callable[[int], bytes],
        log: Log,
        advice: Advice = NODE,
        owner: str = "comms",
    ) -> None:
        self._db, self._rows, self._wallet, self._settler = db, rows, wallet, settler
        self._advice, self._owner = advice, owner
        self._mints, self._invoices, self._keys = mints, invoices, keys
        self._most_sat, self._stopped, self._alert = most_sat, stopped, alert
        self._now, self._wait, self._random_bytes, self._log = now, wait, random_bytes, log
        self._driven: dict[str, asyncio.Task[Op]] = {}
        self._before: dict[str, asyncio.Task[None]] = {}
        self._beyond_signed, self._counted = beyond_signed, set[tuple[str, str]]()

    # -- what a caller asks for ------------------------------------------------------------------------

    async def receive(self, token: str, timeout: float, key: Secret | None = None) -> Op:
        """Take a token in: exchanged for our own ecash at once. `key` is the one of ours that it may be
        locked to, the wallet's own for None. Raises PaymentFailed `token_invalid(..)` with what is wrong,
        `mint_not_allowed` without asking that mint."""
        given = decode_token(token)
        mint_url = self._mints.at(given.mint).url
        order, op = await self._receipt_of(token)
        if op is None:
            async with patience(timeout):
                keys, proofs = await self._acceptable(mint_url, given.proofs, key)
                await refuse_spent(self._mints.at(mint_url), proofs)
            op = await self._wallet.receive(order, keys, proofs)
        return await self._driven_to(op, timeout)

    async def looked_at(self, token: str, timeout: float) -> Given:
        """What a token is worth here, by every check of `receive`; nothing is begun. Raises PaymentFailed
        `exposure_limit` for more than may lie at its mint."""
        given = decode_token(token)
        mint_url = self._mints.at(given.mint).url
        async with patience(timeout):
            keys, proofs = await self._acceptable(mint_url, given.proofs)
            await refuse_spent(self._mints.at(mint_url), proofs)
        fee = fee_sats(keys.ppk(proof.id) for proof in proofs)
        worth = sum(proof.amount for proof in proofs) - fee
        await self._refuse_beyond(mint_url, worth)
        return Given(mint_url, tuple(y_of(proof.secret) for proof in proofs), worth, fee)

    async def spent_worth(self, token: str, key: Secret, timeout: float) -> int | None:
        """What a spent token brought us after the mint's fee, where its mint shows that `key` signed it away:
        this wallet took it, whether or not its books say so (a copy that was restored). None where it does
        not. Raises PaymentFailed for one that is not spent whole, and what the mint's answer means."""
        given = decode_token(token)
        mint_url = self._mints.at(given.mint).url
        async with patience(timeout):
            keys, proofs = await self._acceptable(mint_url, given.proofs, key)
            ys = [y_of(proof.secret) for proof in proofs]
            states = {told.Y: told for told in await self._mints.at(mint_url).checkstate(ys)}
        if any(y not in states or states[y].state is not SpendState.SPENT for y in ys):
            raise PaymentFailed("the token is not spent whole, so far as its mint says", reason="token_spent")
        if not spent_by(public_key(key), proofs, states):
            return None
        return sum(proof.amount for proof in proofs) - fee_sats(keys.ppk(proof.id) for proof in proofs)

    async def take_fee(self, token: str, key: str, price_sat: int, timeout: float, beside: Beside) -> Op:
        """Begin the swap of a token of which `price_sat` are to be ours and the rest is a token again
        (`Wallet.receive`), with what `beside` writes; `driven` carries it out."""
        given = decode_token(token)
        mint_url = self._mints.at(given.mint).url
        async with patience(timeout):
            keys, proofs = await self._acceptable(mint_url, given.proofs)
        order = Order(key, self._owner)
        return await self._wallet.receive(order, keys, proofs, beside=beside, price=price_sat)

    async def take_payment(
        self, token: str, name: str, key: Secret, least_sat: int, timeout: float, beside: Beside
    ) -> Op:
        """Exchange a token locked to `key` that is worth `least_sat` or more after the mint's fee, once per
        name, with what `beside` writes; an operation of which nothing came is returned, and the same name
        again begins another.

        Raises PaymentFailed `token_invalid(..)`, `token_spent`, `too_little`, `exposure_limit`,
        `mint_not_allowed`, with nothing begun.
        """
        given = decode_token(token)
        mint_url = self._mints.at(given.mint).url
        order, op = await self._attempt(name)
        if op is None:
            async with patience(timeout):
                keys, proofs = await self._acceptable(mint_url, given.proofs, key)
                await refuse_spent(self._mints.at(mint_url), proofs)
            worth = sum(proof.amount for proof in proofs) - fee_sats(keys.ppk(proof.id) for proof in proofs)
            if worth < least_sat:
                raise PaymentFailed(
                    f"the token is worth {worth} sat after the mint's fee, {least_sat} sat are asked for; it"
                    " was not touched",
                    reason="too_little",
                )
            await self._refuse_beyond(mint_url, worth)
            op = await self._wallet.receive(order, keys, proofs, beside=beside)
        return await self._drive(op.op_id, timeout) if op.open else op

    async def newest(self, name: str) -> Op | None:
        """Of the operations that `pay` or `take_payment` began under a name the one that did not fail, else
        the one that the mint may carry out late for the longest, else the newest."""
        found, attempt = None, 0
        while (op := await self._wallet.again(Order(_nth(name, attempt), self._owner))) is not None:
            if op.state is not OpState.FAILED:
                return op
            found = op if found is None or op.watch_until >= found.watch_until else found
            attempt += 1
        return found

    async def _refuse_beyond(self, mint_url: str, more_sat: int) -> None:
        """What others bring is refused, untouched, where too much would lie at its mint."""
        free, most = await self.free_sats(mint_url), self._most_sat()
        if free + more_sat > most:
            raise PaymentFailed(
                f"{free} sat lie free at {mint_url} and at most {most} sat may: {more_sat} sat more are not"
                " taken until some are spent or taken home; the token was not touched",
                reason="exposure_limit",
            )

    async def _acceptable(
        self, mint_url: str, proofs: Sequence[Proof], key: Secret | None = None
    ) -> tuple[MintKeys, tuple[Proof, ...]]:
        keys = await self.ready(mint_url)
        return keys, await asyncio.to_thread(
            acceptable, proofs, listed(keys.every), key or receive_key(self._keys)
        )

    async def send(
        self, amount_sat: int, mint_url: str | None, pubkey: str | None, key: str | None, timeout: float
    ) -> Op:
        """A token for somebody else; the operation's body has it when it is done."""
        mint_url, order = chosen_mint(self._mints, mint_url, self._advice), self._order(key)
        old = await self._wallet.begun(order, OpKind.SEND, mint_url, amount_sat, pubkey or "")
        if old is None:
            self._refuse_when_stopped("send")
            async with patience(timeout):
                keys = await self.ready(mint_url)
            self._refuse_when_stopped("send")
            old = await self._wallet.send(order, keys, amount_sat, pubkey)
        return await self._driven_to(old, timeout)

    async def fund(self, amount_sat: int, mint_url: str | None, key: str | None, timeout: float) -> Op:
        """Pay the mint over Lightning for `amount_sat` of ecash."""
        mint_url, order = chosen_mint(self._mints, mint_url, self._advice), self._order(key)
        return await self.fund_as(order, amount_sat, mint_url, timeout)

    async def fund_as(self, order: Order, amount_sat: int, mint_url: str, timeout: float) -> Op:
        """`fund`, for whom the order names."""
        if (old := await self._wallet.begun(order, OpKind.FUND, mint_url, amount_sat)) is None:
            self._refuse_when_stopped("fund")
            async with patience(timeout):
                keys = await self.ready(mint_url)
                quote = await self._fund_quote(mint_url, amount_sat)
            self._refuse_when_stopped("fund")
            old = await self._wallet.fund(order, keys, amount_sat, quote, self._most_sat())
        return await self._driven_to(old, timeout)

    async def withdraw(
        self,
        amount_sat: int,
        mint_url: str | None,
        key: str | None,
        timeout: float,
        *,
        owner: str | None = None,
    ) -> Op:
        """Have the mint pay an invoice of this node. Raises Unsupported without one."""
        mint_url, order = chosen_mint(self._mints, mint_url, self._advice), self._order(key, owner)
        return await self.withdraw_as(order, amount_sat, mint_url, timeout)

    async def withdraw_as(self, order: Order, amount_sat: int, mint_url: str, timeout: float) -> Op:
        """`withdraw`, for whom the order names."""
        if self._invoices is None:
            raise Unsupported("no node of your own makes the invoice: name one that is to be paid")
        if (old := await self._wallet.begun(order, OpKind.MELT, mint_url, amount_sat)) is None:
            async with patience(timeout, "mint or node"):
                keys = await self.ready(mint_url)
                invoice = await self._invoices.make(amount_sat, f"withdrawal of ecash from {mint_url}")
                quote = await self._pay_quote(mint_url, invoice, amount_sat)
            old = await self._wallet.melt(order, keys, quote)
        return await self._driven_to(old, timeout)

    async def pay(self, invoice: str, mint_url: str | None, timeout: float) -> Op:
        """Have the mint pay somebody's invoice, once: its payment hash is the operation's key, so the same
        invoice again is the same operation. Raises InvalidParams (no whole amount), PaymentFailed."""
        asked = payable(invoice)
        mint_url = chosen_mint(self._mints, mint_url, self._advice)
        order, op = await self._attempt(f"pay:{asked.payment_hash}", self._refuse_while_watched)
        if op is None:
            self._refuse_when_stopped("melt")
            if asked.expires_at <= self._now():
                raise PaymentFailed("the invoice has expired; ask for another", reason="invoice_expired")
            async with patience(timeout):
                keys = await self.ready(mint_url)
                quote = await self._pay_quote(mint_url, invoice, (asked.amount_msat or 0) // 1_000)
            self._refuse_when_stopped("melt")
            op = await self._wallet.melt(order, keys, quote, invoice)
        elif op.body.invoice != invoice:
            raise Conflict("another invoice with this payment hash was paid, or is being paid")
        return await self._driven_to(op, timeout)

    async def balance(self) -> dict[str, dict[str, int]]:
        """Sats by mint and state; every configured mint is named."""
        held = await self._db.read(self._rows.balances)
        nothing = {"unspent": 0, "pending": 0, "quarantined": 0, "proofs": 0}
        return {url: held.get(url, nothing) for url in dict.fromkeys((*self._mints.accepted(), *held))}

    async def ops(self, state: str | None, before: tuple[int, str] | None, limit: int) -> list[Op]:
        """The journal, newest first."""
        return await self._db.read(lambda tx: self._rows.list_ops(tx, state, before, limit))

    async def lasting(self, seconds: int) -> list[Op]:
        """Operations without an end that were begun at least so long ago, oldest first."""
        before = self._now() - seconds

        def body(tx: Tx) -> list[Op]:
            found = (self._rows.op(tx, op_id) for op_id, _ in self._rows.open_ops(tx))
            return [op for op in found if op.created_at <= before]

        return await self._db.read(body)

    async def free_sats(self, mint_url: str) -> int:
        """What is free to spend at a mint."""
        held = await self._db.read(self._rows.balances)
        return held.get(mint_url, {}).get("unspent", 0)

    @property
    def receive_pubkey(self) -> str:
        """The key that others may lock ecash for this wallet to."""
        return own_pubkey(self._keys)

    # -- what locks ask for ----------------------------------------------------------------------------

    async def lock_out(
        self, order: Order, keys: MintKeys, outputs: Sequence[Output], *, beside: Beside
    ) -> Op:
        """Begin a lock (`Wallet.lock`) with what `beside` writes; `driven` carries it out."""
        return await self._wallet.lock(order, keys, outputs, beside)

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
    ) -> Op:
        """Swap proofs with their witnesses for our own (kind redeem or refund), as far as it goes in
        `timeout` seconds. An operation of which nothing came is returned, not raised."""
        keys = await self.ready(mint_url)
        op = await self._wallet.receive(Order(key, owner or self._owner), keys, proofs, kind, beside)
        return await self.driven(op.op_id, timeout) if op.open else op

    async def driven(self, op_id: str, timeout: float | None = None) -> Op:
        """An operation as far as it goes in `timeout` seconds; None: as far as it goes without waiting for
        a mint that is not there."""
        return await self._drive(op_id, timeout or 0.0)

    # -- the loop --------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Carry on what is due; released operations of the last day are asked about."""
        now = self._now()
        due = await self._db.read(lambda tx: [*self._rows.open_ops(tx, now), *self._rows.watched(tx, now)])
        await asyncio.gather(*(self._before_new(url) for url in {url for _, url in due}))
        tasks = [self._drive(op_id, 0.0) for op_id, _ in due]
        for outcome in await asyncio.gather(*tasks, *self._asked(), return_exceptions=True):
            if isinstance(outcome, Exception):
                self._log("error", "wallet_operation", error=repr(outcome))

    def _asked(self) -> list[Awaitable[None]]:
        return [self._ask_about(mint_url) for mint_url in self._mints.accepted()]

    async def _ask_about(self, mint_url: str) -> None:
        """Proofs that came from elsewhere count once their mint says that they are unspent."""
        ys = await self._db.read(lambda tx: self._rows.quarantined(tx, mint_url, _ASKED))
        if not ys:
            return
        states = {entry.Y: entry.state for entry in await self._mints.at(mint_url).checkstate(ys)}
        now = self._now()

        def body(tx: Tx) -> None:
            for told, meant in (
                (SpendState.UNSPENT, ProofStatus.UNSPENT),
                (SpendState.SPENT, ProofStatus.SPENT),
            ):
                self._rows.judge(tx, [y for y in ys if states.get(y) is told], meant, now)

        await self._db.write(body)

    async def tidy(self) -> None:
        """Join crowded denominations, forget what ended a month ago."""
        before = self._now() - KEPT_SPENT_S
        await self._db.write(lambda tx: self._rows.prune_ops(tx, before))
        # In portions: other writes come in between.
        forgot = DROPPED_AT_ONCE
        while forgot == DROPPED_AT_ONCE:
            forgot = await self._db.write(lambda tx: self._rows.prune_proofs(tx, before, DROPPED_AT_ONCE))
        accepted = self._mints.accepted()
        least = min((most_alike(self._mints.array_limit(url)) for url in accepted), default=0)
        for mint_url, amount, count in await self._db.read(lambda tx: self._rows.crowded(tx, least)):
            if mint_url not in accepted or count <= most_alike(self._mints.array_limit(mint_url)):
                continue
            try:
                keys = await self.ready(mint_url)
                order = Order(f"own:{self._random_bytes(16).hex()}", self._owner)
                op = await self._wallet.consolidate(order, keys, amount)
            except HiveError as error:
                self._log("warning", "wallet_consolidate", mint=mint_url, error=str(error))
                continue
            if op is not None:
                await self._drive(op.op_id, 0.0)

    async def stop(self) -> None:
        """What is under way here goes on at the next start, as the journal says."""
        tasks = (*self._driven.values(), *self._before.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- parts -----------------------------------------------------------------------------------------

    async def _receipt_of(self, token: str) -> tuple[Order, Op | None]:
        """The token's own name is its key: handed in twice it is one operation. When nothing came of the
        first, the token is still good, and handing it in again begins another."""
        return await self._attempt("token:" + sha256(token.encode()).hex())

    async def _attempt(
        self, name: str, refuse: Callable[[Op], None] = lambda _failed: None
    ) -> tuple[Order, Op | None]:
        """The order of the first attempt of that name of which nothing did not come, and its operation."""
        attempt = 0
        order = Order(_nth(name, attempt), self._owner)
        while (op := await self._wallet.again(order)) is not None and op.state is OpState.FAILED:
            refuse(op)
            attempt += 1
            order = Order(_nth(name, attempt), self._owner)
        return order, op

    def _refuse_while_watched(self, failed: Op) -> None:
        if self._now() < failed.watch_until:
            raise PaymentFailed(
                "a request to pay this invoice was given up and the mint may still carry it out for"
                f" {failed.watch_until - self._now()} s: paying again could pay twice",
                reason="unknown_state",
                data={"op_id": failed.op_id},
            )

    async def ready(self, mint_url: str) -> MintKeys:
        """A mint's keys for something new; what was open there when the plugin started is looked at first."""
        await self._before_new(mint_url)
        keys = mint_keys(mint_url, await self._mints.keysets(mint_url), self._mints.array_limit(mint_url))
        if (mint_url, keys.active.id) not in self._counted:
            await self._beyond_signed(mint_url, keys.active)
            self._counted.add((mint_url, keys.active.id))
        return keys

    async def _before_new(self, mint_url: str) -> None:
        if mint_url not in self._before:
            self._before[mint_url] = asyncio.create_task(self._resolve(mint_url))
        await asyncio.shield(self._before[mint_url])

    async def _resolve(self, mint_url: str) -> None:
        for op_id, url in await self._db.read(self._rows.open_ops):
            if url != mint_url or op_id in self._driven:
                continue
            try:
                await self._settler.give_up_unsent(op_id)
                await self._settler.advance(op_id)
            except Exception as error:  # one that cannot go on does not hold up the others for ever
                self._log("error", "wallet_operation", op_id=op_id, error=repr(error))

    async def _driven_to(self, op: Op, timeout: float) -> Op:
        """The operation when it has ended, or as it is when the time is over. Raises PaymentFailed for one of
        which nothing came."""
        after = await self._drive(op.op_id, timeout) if op.open else op
        if after.state is OpState.FAILED:
            text = after.error or "nothing came of the operation"
            raise ended_without(self._mints, after.mint_url, text, after.reason, op_id=after.op_id)
        return after

    async def _drive(self, op_id: str, timeout: float) -> Op:
        if (task := self._driven.get(op_id)) is None:
            task = self._driven[op_id] = asyncio.create_task(self._until_settled(op_id, timeout))
            task.add_done_callback(lambda _: self._driven.pop(op_id, None))
        done, _ = await asyncio.wait({task}, timeout=timeout or None)
        if done:
            return task.result()
        return await self._db.read(lambda tx: self._rows.op(tx, op_id))

    async def _until_settled(self, op_id: str, timeout: float) -> Op:
        end = self._now() + timeout
        op = await self._settler.advance(op_id)
        while op.open and op.next_retry_at <= end:
            await self._wait(max(0.0, op.next_retry_at - self._now()))
            op = await self._settler.advance(op_id)
        if op.state is OpState.DONE and op.kind is OpKind.MELT:
            await self._compare(op)
        return op

    async def _compare(self, op: Op) -> None:
        """What a mint says that it paid to this node, with what the node says."""
        if self._invoices is None or not op.idempotency_key.startswith(CALL):
            return
        if not await self._invoices.paid(op.body.invoice):
            await self._alert(
                Level.WARNING,
                "wallet_withdrawal",
                f"{op.mint_url} says that it paid {op.amount_sats} sat to this node, which has not received"
                f" them. Operation {op.op_id}: ask the mint's operator",
            )

    async def _fund_quote(self, mint_url: str, amount_sat: int) -> FundQuote:
        key = self._random_bytes(32)
        mint = self._mints.at(mint_url)
        quote = await mint.mint_quote(amount_sat, pubkey=public_key(Secret(key)))
        return FundQuote(quote.quote, quote.request, self._until(quote.expiry), key)

    async def _pay_quote(self, mint_url: str, invoice: str, amount_sat: int) -> PayQuote:
        quote = await self._mints.at(mint_url).melt_quote(invoice)
        if quote.amount != amount_sat:
            raise PaymentFailed(
                f"the mint asks {quote.amount} sat for an invoice of {amount_sat} sat; nothing was sent",
                reason="invoice_mismatch",
            )
        if quote.fee_reserve > (most := most_fee_reserve_sat(amount_sat)):
            raise PaymentFailed(
                f"the mint wants to keep up to {quote.fee_reserve} sat for paying {amount_sat} sat, at most"
                f" {most} sat are accepted; nothing was sent",
                reason="fee_too_high",
            )
        return PayQuote(quote.quote, invoice, quote.amount, quote.fee_reserve, self._until(quote.expiry))

    def _until(self, expiry: int | None) -> int:
        """A quote's end; a mint cannot keep an operation open by naming one that is far away."""
        return min(max(expiry or 0, 0), self._now() + _QUOTE_S)

    def _order(self, key: str | None, owner: str | None = None) -> Order:
        # A call without a key gets one that `ops` shows: by it the token of a send is had again.
        return Order(f"{CALL}{key or self._random_bytes(16).hex()}", owner or self._owner)

    def _refuse_when_stopped(self, action: str) -> None:
        if self._stopped():
            raise EmergencyStop(f"{self._advice.stopped}: {action} waits until that is released")


def chosen_mint(mints: MintBook, mint_url: str | None, advice: Advice = NODE) -> str:
    """A named mint in its normal form, the primary one for None. Raises FeatureDisabled without any,
    PaymentFailed `mint_not_allowed` for another; that one is not asked."""
    accepted = mints.accepted()
    if not accepted:
        raise FeatureDisabled(f"no mint is configured: {advice.first_mint}", data={"option": advice.option})
    return mints.at(mint_url or accepted[0]).url


def payable(invoice: str) -> Invoice:
    """An invoice that ecash can pay. Raises InvalidParams when it is none, or names no whole sats."""
    asked = read_invoice(invoice)
    if not asked.amount_msat or asked.amount_msat % 1_000:
        raise InvalidParams("ecash pays invoices over whole sats; this one names no such amount")
    return asked


def most_fee_reserve_sat(amount_sat: int) -> int:
    """What a mint may keep back, at most, for paying an invoice of so many sat."""
    return max(_FEE_RESERVE_SAT, amount_sat * _FEE_RESERVE_PERCENT // 100)


def _nth(name: str, attempt: int) -> str:
    """The key of an attempt of that name."""
    return f"{name}:{attempt}" if attempt else name
