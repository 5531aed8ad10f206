"""The ways `nwc`: a wallet over relays, by NIP-47 (docs/protocol/11-advisor-kit.md §8).

A socket and a key of its own; NIP-44 version 2 only. An answer counts once, and only one that the wallet
signed to the request it is about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from hive_shared.errors import HiveError, PaymentFailed, TransportUnavailable
from hive_shared.nostr import nip44
from hive_shared.nostr.event import Event, build
from hive_shared.nostr.reasons import Nip44Error
from hive_shared.nostr.relay import RelayPool

from hive_advisor.domain import nwc
from hive_advisor.domain.earning import Made, Order, Sight
from hive_advisor.domain.nwc import Answer, Connection
from hive_advisor.domain.outgoing import Outgoing, Result, max_fee_msat

CONNECT_S: Final = 10.0
ANSWER_S: Final = 20.0
_GOOD_S: Final = 60
"""How long a wallet may act on a request."""
_BACK_S: Final = 600
_SILENT_S: Final = (30, 60, 120, 300, 600)
"""How long nothing is asked after the wallet did not answer once, twice and so on: many questions in a row
would each wait."""


class Silence(msgspec.Struct, frozen=True):
    """How often in a row the wallet did not answer, and until when (Unix seconds) it is not asked again."""

    times: int = 0
    until: int = 0
    why: str = ""


Silent = Callable[[Silence], Awaitable[None]]
"""`silent(silence)`: keeps it for the next process."""
Heard = Callable[[str], None]
"""`heard(payment_hash)`: the wallet says that something was received. Returns at once: what comes of it may
ask the wallet, whose answer comes by the same way."""


class NwcWallet:
    """One connection to a wallet. Connects with the first question."""

    name = "nwc"
    most_fee_msat = staticmethod(max_fee_msat)

    def __init__(
        self,
        connection: Connection,
        *,
        heard: Heard,
        now: Callable[[], int],
        rng: Callable[[int], bytes],
        proxy: str | None,
        silence: Silence,
        silent: Silent,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._at, self._heard, self._now, self._answer_s = connection, heard, now, answer_s
        self._key = nip44.conversation_key(connection.secret, connection.wallet)
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self._info: Event | None = None
        self._opening = asyncio.Lock()
        self._open, self.silence, self._silent = False, silence, silent
        self.repeats = 0
        """Answers that came again, or to nothing we asked; they have no effect."""
        self._pool = RelayPool(
            on_event=self._event,
            secret_provider=lambda: connection.secret,
            now=now,
            rng=rng,
            proxy=proxy,
        )

    async def close(self) -> None:
        """Close the socket; questions under way end without an answer."""
        if self._open:
            self._open = False
            await self._pool.stop()

    async def check(self, needed: tuple[str, ...]) -> None:
        """Whether the wallet serves what is needed. Raises Unsupported, TransportUnavailable."""
        info = await self._connected()
        nwc.check_info(info.content, info.tags, needed)

    # -- in and out ------------------------------------------------------------------------------------

    async def make(self, order: Order) -> Made:
        """`make_invoice`."""
        await self.check((nwc.MAKE, nwc.LOOKUP))
        answer = await self._ask(
            nwc.MAKE,
            {
                "amount": order.amount_sats * 1_000,
                "description": order.description,
                "expiry": order.expiry_s,
            },
        )
        if answer.error:
            raise _refused(nwc.MAKE, answer)
        return Made(str(answer.result.get("invoice", "")))

    async def look(self, payment_hash: str, invoice: str, look_at: str) -> Sight:
        """`lookup_invoice`: paid is what has a preimage, or is settled by its own word."""
        await self.check((nwc.LOOKUP,))
        answer = await self._ask(nwc.LOOKUP, {"payment_hash": payment_hash})
        if answer.error == "NOT_FOUND":
            return Sight(False)
        if answer.error:
            raise _refused(nwc.LOOKUP, answer)
        said = answer.result
        if said.get("payment_hash", payment_hash) != payment_hash or said.get("type") == "outgoing":
            raise PaymentFailed("the wallet speaks of another payment than asked", reason="wallet_failed")
        settled = said.get("state") == "settled" or isinstance(said.get("settled_at"), int)
        return Sight(settled, str(said.get("preimage") or "") if settled else "")

    async def pay(self, payment: Outgoing) -> Result:
        """One `pay_invoice`, which the wallet is not to act on after a minute."""
        await self.check((nwc.PAY, nwc.LOOKUP))
        try:
            answer = await self._ask(nwc.PAY, {"invoice": payment.invoice})
        except HiveError as error:
            return Result(why=error.detail[:200])
        return Result(str(answer.result.get("preimage") or ""), why=_why(answer))

    async def settled(self, payment: Outgoing) -> Result:
        """`lookup_invoice` of a payment of ours: only what it says of the payment itself decides."""
        try:
            await self.check((nwc.LOOKUP,))
            answer = await self._ask(nwc.LOOKUP, {"payment_hash": payment.payment_hash})
        except HiveError as error:
            return Result(why=error.detail[:200])
        said = answer.result
        if answer.error or said.get("payment_hash", payment.payment_hash) != payment.payment_hash:
            return Result(why=_why(answer) or "the wallet speaks of another payment than asked")
        if preimage := said.get("preimage"):
            return Result(str(preimage))
        # A request that came late is not acted on; before that a failure may be that of an earlier try.
        over = self._now() >= payment.created + _GOOD_S + 120
        return Result(failed=over and said.get("state") == "failed", why="the wallet has not ended it")

    # -- the wire ----------------------------------------------------------------------------------------

    async def _connected(self) -> Event:
        async with self._opening:
            left = self.silence.until - self._now()
            if 0 < left <= _SILENT_S[-1]:
                raise TransportUnavailable(f"{self.silence.why}; it is asked again in {left} s")
            try:
                return await self._reached()
            except TransportUnavailable as error:
                await self._no_answer(error.detail)
                raise

    async def _no_answer(self, why: str) -> None:
        times = self.silence.times + 1
        pause = _SILENT_S[min(times, len(_SILENT_S)) - 1]
        self.silence = Silence(times, self._now() + pause, why)
        await self._silent(self.silence)

    async def _answers(self) -> None:
        if self.silence.times:
            self.silence = Silence()
            await self._silent(self.silence)

    async def _reached(self) -> Event:
        if not self._open:
            relays = list(self._at.relays)
            await self._pool.set_relays(relays, relays, relays)
            mine = {"authors": [self._at.wallet], "#p": [self._at.pubkey]}
            for name, kind in (("answers", nwc.RESPONSE), ("notices", nwc.NOTICE)):
                self._pool.subscribe(name, [{"kinds": [kind], **mine}], lambda _relay: self._now() - _BACK_S)
            await self._pool.start()
            self._open = True
        if not await self._pool.wait_for(lambda: self._pool.connected() > 0, CONNECT_S):
            raise TransportUnavailable("no relay of the wallet connection answers")
        if self._info is None:
            asked = [{"kinds": [nwc.INFO], "authors": [self._at.wallet], "limit": 1}]
            found = await self._pool.query(asked, timeout=CONNECT_S)
            if not found.events:
                raise TransportUnavailable("the wallet has said nothing about itself on its relays")
            self._info = found.events[0]
        return self._info

    async def _ask(self, method: str, params: dict[str, Any]) -> Answer:
        now = self._now()
        content = nip44.encrypt(self._key, nwc.request(method, params))
        tags = [["p", self._at.wallet], ["encryption", nwc.ENCRYPTION], ["expiration", str(now + _GOOD_S)]]
        event = build(self._at.secret, nwc.REQUEST, tags, content, now)
        answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[event.id] = answered
        try:
            async with asyncio.timeout(self._answer_s):
                await self._pool.publish(event, self._at.relays, timeout=self._answer_s)
                text = await answered
        except TimeoutError:
            why = f"the wallet did not answer in {self._answer_s:g} s"
            await self._no_answer(why)
            raise TransportUnavailable(why) from None
        finally:
            del self._waiting[event.id]
        await self._answers()
        return nwc.read_answer(text, method)

    async def _event(self, _relay: str, _name: str, event: Event) -> None:
        if event.pubkey != self._at.wallet:
            return
        asked = next(
            (self._waiting[name] for name in event.tag_values("e") if name in self._waiting),
            None,
        )
        if event.kind == nwc.RESPONSE and (asked is None or asked.done()):
            self.repeats += 1
            return
        try:
            text = nip44.decrypt(self._key, event.content)
        except Nip44Error:
            # Not in the encryption we asked for: as good as no answer.
            return
        if event.kind == nwc.NOTICE:
            if payment_hash := nwc.paid_hash(text):
                self._heard(payment_hash)
        elif asked is not None:
            asked.set_result(text)


def _refused(method: str, answer: Answer) -> HiveError:
    return PaymentFailed(f"the wallet refuses {method}: {_why(answer)}", reason="wallet_failed")


def _why(answer: Answer) -> str:
    return f"{answer.error}, {answer.message}" if answer.error else ""
