"""Asks an advisor's HTTP API, with access that was bought before or is bought now
(docs/protocol/03-escrow-and-payments.md §7.5; docs/decisions/0661).

The token is on disk with the row of its payment, before the node is told to pay; the preimage that makes it
good is the payment's own. So a call that was killed anywhere is followed by one that finds what it paid for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from hive_shared.errors import Conflict, HiveError, PaymentFailed, TransportUnavailable
from hive_shared.public_web import WebAnswer
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.bought_access import (
    OPEN,
    PAID,
    PAYMENT_REQUIRED,
    REFUSED,
    SPENT,
    BoughtToken,
    Challenge,
    challenge_of,
    page_of,
    place_of,
)
from ..domain.lightning_invoice import sats_up
from ..domain.payment import Order, Payment
from ..domain.payment_machine import State
from .payment_service import PaymentService
from .ports_commands import Database
from .ports_payments import BoughtTokens, Web

AT_ONCE: Final = 2
"""Requests under way to all services together (08 §6)."""


class Bought(msgspec.Struct, frozen=True):
    """What came of a request: `answer` None while its payment has no end, `payment` what was paid for the
    access, now (`paid_now`) or before. `refused`: paid in this call, and the server does not take it."""

    answer: WebAnswer | None
    payment: Payment | None = None
    paid_now: bool = False
    refused: bool = False


class L402Client:
    """Buys access, once per request at most. `hosts` are those that the operator named."""

    def __init__(
        self,
        db: Database,
        tokens: BoughtTokens,
        payments: PaymentService,
        web: Web,
        *,
        hosts: Callable[[], Sequence[str]],
        now: Callable[[], int],
    ) -> None:
        self._db, self._tokens, self._payments, self._web = db, tokens, payments, web
        self._hosts, self._now = hosts, now
        self._turns: dict[tuple[str, str], asyncio.Lock] = {}
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def get(self, order: Order) -> Bought:
        """Ask the order's target. What it is sold for may be its amount at most; with an empty key the
        invoice says which payment this is.

        Raises InvalidParams for a place that is not named, TransportUnavailable, Conflict while an earlier
        payment there has no end or for a key of another payment, and what PaymentService.pay raises.
        """
        place, advisor_id = place_of(order.target, self._hosts()), order.advisor_id
        assert advisor_id is not None
        # Two calls at once would both be asked to pay.
        async with self._turns.setdefault((advisor_id, place), asyncio.Lock()):
            before = await self._under(order)
            page = page_of(order.target, place)
            for token in await self._db.read(lambda tx: self._tokens.of(tx, advisor_id, place, page)):
                payment = await self._payment_of(token)
                if payment is None or token.expires_at <= self._now():
                    continue
                answer = await self._shown(order, token, payment)
                if answer.status not in REFUSED:
                    return Bought(answer, payment)
                await self._refused(token, page_of(payment.target.text, place), page)
            answer = await self._asked(order.target)
            if answer.status != PAYMENT_REQUIRED:
                return Bought(answer)
            if before is not None:
                raise PaymentFailed(
                    "what this idempotency_key paid for is used up; to buy access anew give another one",
                    data={"payment_id": before.payment_id},
                )
            challenge = challenge_of(answer.values("www-authenticate"), self._now())
            return await self._bought(order, place, advisor_id, challenge)

    async def _under(self, order: Order) -> Payment | None:
        """The payment that the order's key stands for, paid. Raises as PaymentService.pay does for one that
        failed or is another's, Conflict for one without an end."""
        if not order.key or not await self._payments.knows(order.key):
            return None
        return _ended(await self._payments.pay(order))

    async def _payment_of(self, token: BoughtToken) -> Payment | None:
        """What paid for a token; None where nothing did, then the token is no more. Raises Conflict while
        that is not known."""
        payment = await self._payments.find(payment_hash=token.payment_hash)
        if payment.state is State.FAILED:
            await self._db.write(lambda tx: self._tokens.forget(tx, token.token_id))
            return None
        _ended(payment)
        if token.status == OPEN:
            await self._note(token, PAID)
        return payment

    async def _refused(self, token: BoughtToken, own: str, page: str) -> None:
        """The server does not take it at a page. Bought for another one, it may be good there still."""
        if own == page:
            await self._note(token, SPENT)
        else:
            await self._db.write(lambda tx: self._tokens.keep_for(tx, token.token_id, own))

    async def _bought(self, order: Order, place: str, advisor_id: str, challenge: Challenge) -> Bought:
        digest = challenge.payment_hash
        paying = replace(
            order,
            key=order.key or f"client:l402:{digest}:{self._now()}",
            invoice=challenge.invoice,
            payment_hash=digest,
        )
        made: list[BoughtToken] = []

        def beside(tx: Tx, row: Payment) -> None:
            token = BoughtToken(
                token_id=f"client:{row.payment_id}",
                place=place,
                advisor_id=advisor_id,
                payment_hash=digest,
                caveats=challenge.caveats,
                scheme=challenge.scheme,
                macaroon=challenge.macaroon,
                price_sats=sats_up(row.amount_msat),
                expires_at=challenge.expires_at,
                status=OPEN,
            )
            self._tokens.add(tx, token)
            made.append(token)

        payment = await self._payments.pay(paying, beside)
        if payment.state is not State.SETTLED or not made:
            return Bought(None, payment, paid_now=bool(made))
        (token,) = made
        await self._note(token, PAID)
        answer = await self._shown(paying, token, payment)
        # Not given up: the server may see the payment a moment later. The next call shows it once more.
        return Bought(answer, payment, paid_now=True, refused=answer.status in REFUSED)

    async def _shown(self, order: Order, token: BoughtToken, payment: Payment) -> WebAnswer:
        """The answer to a request with a token. Raises TransportUnavailable, which says that it is kept."""
        assert payment.preimage is not None
        try:
            return await self._asked(order.target, authorization=token.authorization(payment.preimage))
        except HiveError as error:
            raise TransportUnavailable(
                f"{error.detail}; the access is paid and kept (payment {payment.payment_id}): the same call"
                " again uses it",
                data={"payment_id": payment.payment_id},
            ) from None

    async def _asked(self, url: str, **headers: str) -> WebAnswer:
        async with self._at_once:
            return await self._web.ask(url, {"accept": "*/*", **headers})

    async def _note(self, token: BoughtToken, status: str) -> None:
        await self._db.write(lambda tx: self._tokens.note(tx, token.token_id, status))


def _ended(payment: Payment) -> Payment:
    if payment.state is not State.SETTLED:
        raise Conflict(
            f"payment {payment.payment_id} for this access has no end yet ({payment.state}); wait for it",
            reason="unknown_state",
            data={"payment_id": payment.payment_id},
        )
    return payment
