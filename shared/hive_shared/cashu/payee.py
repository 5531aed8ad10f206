"""The payee of escrow tickets: takes them in, checks all of it before any work, learns what was earned
(docs/protocol/03-escrow-and-payments.md §6.6, §6.7). `redeeming.Redeemer` makes the money its own.

A message only ever writes rows; what needs a mint is done by `look`, which may be killed anywhere and begins
again. Nothing is contacted for a mint that is not accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

import msgspec
from msgspec.structs import replace

from ..errors import Capacity, Conflict, HiveError, NotFound, PaymentFailed
from ..store import Tx
from .derive import EscrowKeys, public_key
from .keysets import Keyset, listed
from .mint_caps import Caps
from .payee_parts import missing, part_of, tokens_of
from .payee_rows import (
    HeldItem,
    HeldTicket,
    Intake,
    Outgoing,
    OwnHashes,
    Part,
    PayeeRows,
    Peer,
    Peers,
    Told,
)
from .ports import Mint, MintRefused, MintUnavailable
from .reasons import MintNonconformant, TokenInvalid
from .settling import Database
from .terms import Item, Mode, Terms, decode_terms, terms_hash
from .ticket import MIN_TIME_LEFT_S, CheckedTicket, check_states, check_ticket
from .ticket_machine import PAYEE_ITEMS, PayeeEvent, PayeeItem
from .ticket_messages import Failure, Metric, Owed, Release, Ticket, TicketAck, TicketReject, TicketResend
from .wire import ProofState
from .witness import preimage_matches

MAX_COLLECTED: Final = 64
"""Tickets of one peer that are neither accepted nor refused yet."""
MAX_LIVE_OF_A_PAYER: Final = 100
"""Accepted tickets of one payer that have not ended, where all payers share one cap of 500."""
MAX_PARTS: Final = 64
"""Messages that one ticket may come in."""
UNPROBED_SATS: Final = 1_000
"""What tickets at a mint that was never probed may be worth in all (11 §8)."""
RESEND_AFTER_S: Final = (30, 120, 600)
"""How long after the last message of an incomplete ticket what misses is asked for, each time."""
INCOMPLETE_S: Final = 3_600
"""How long an incomplete ticket is waited for."""
CHECKSTATE_YS: Final = 500
_REFUSED_KEPT_S: Final = 30 * 86_400
_LONGEST_WAIT_S: Final = 30
_OF_THE_MINT: Final = (MintUnavailable, MintRefused, MintNonconformant)
"""What a mint's answer, or none, says of the mint and not of a ticket."""


class TicketMints(Protocol):
    """What a payee asks about mints (`cashu.ports.MintBook`, and what a probe saw)."""

    def accepted(self) -> Sequence[str]:
        """Addresses in normal form."""
        ...

    def at(self, url: str) -> Mint:
        """Raises PaymentFailed(`mint_not_allowed`), with no connection made, for one that is not accepted."""
        ...

    async def keysets(self, url: str) -> Mapping[str, Keyset]:
        """Its keysets by id. Raises MintUnavailable where none are known."""
        ...

    def array_limit(self, url: str) -> int:
        """Most elements of one array that it reads."""
        ...

    async def keysets_now(self, url: str) -> Mapping[str, Keyset]:
        """The same, asked of the mint anew. Raises MintUnavailable."""
        ...

    def probed(self, url: str) -> Caps | None:
        """What a probe saw it do; None for a mint that was never probed. Raises PaymentFailed for one that is
        disabled."""
        ...


class PayeeEngine:
    """Owns what is known of tickets in our favour. Of one payer at most `most_live` that were accepted and
    have not ended: more are refused, so that no payer takes the room of the others."""

    def __init__(
        self,
        db: Database,
        rows: PayeeRows,
        mints: TicketMints,
        keys: EscrowKeys,
        peers: Peers,
        out: Outgoing,
        own: OwnHashes,
        *,
        told: Told,
        now: Callable[[], int],
        most_live: int = MAX_LIVE_OF_A_PAYER,
    ) -> None:
        self._db, self._rows, self._mints, self._keys = db, rows, mints, keys
        self._peers, self._out, self._own, self._told, self._now = peers, out, own, told, now
        self._one_at_a_time, self._most_live = asyncio.Lock(), most_live

    def lock_pubkey(self, context: str) -> str:
        """The key that tickets of a contract or credential are locked to, 66 hex."""
        return public_key(self._keys.lock(context))

    # -- what the payer says -----------------------------------------------------------------------------

    async def ticket(self, peer: Peer, message: Ticket, msg_id: str) -> None:
        """Tokens, and with the first message the terms. What is complete is checked by `look`.

        Raises Conflict for other terms or another sender than before, Capacity for a peer that leaves too
        many unfinished.
        """
        if isinstance(message.terms, dict) and isinstance(message.sig, str):
            try:
                terms = await asyncio.to_thread(decode_terms, message.terms)
            except TokenInvalid as error:
                await self._refuse_unread(peer, message, error)
                return
            await self._db.write(lambda tx: self._take(tx, peer, message, terms, msg_id))
            return
        await self._db.write(lambda tx: self._take(tx, peer, message, None, msg_id))

    async def released(self, peer: Peer, message: Release) -> None:
        """An item was earned: what its preimage opens is ours. Raises PaymentFailed(`preimage_mismatch`),
        NotFound, Conflict."""

        def body(tx: Tx) -> None:
            item = _named(self._item(tx, peer, message.ticket_id, message.item), message)
            self.release(tx, item, message.preimage)

        await self._db.write(body)

    async def opens(self, peer: Peer, message: Release) -> bool:
        """Whether a release makes money ours that was not before."""

        def body(tx: Tx) -> bool:
            item = self._item(tx, peer, message.ticket_id, message.item)
            return item.preimage is None and preimage_matches(message.preimage, item.hash)

        try:
            return await self._db.read(body)
        except NotFound:
            return False

    async def failed(self, peer: Peer, message: Failure) -> None:
        """The payer says an item was not earned. A preimage that comes after all still counts."""

        def body(tx: Tx) -> None:
            item = _named(self._item(tx, peer, message.ticket_id, message.item), message)
            if item.state in (PayeeItem.ACCEPTED, PayeeItem.EXECUTING, PayeeItem.UNKNOWN):
                self.move(tx, replace(item, note=message.reason), PayeeEvent.ON_FAILED)

        await self._db.write(body)

    async def noted(self, peer: Peer, message: Metric | Owed) -> None:
        """What the payer measured, or says that it owes: kept beside the item, shown, believed by nobody."""
        if isinstance(message, Metric):
            text = f"{message.metric} {message.value}, needed {message.threshold}: " + (
                "reached" if message.met else "not reached"
            )
        else:
            text = f"the payer owes {message.amount_sats} sat: {message.reason}"

        def body(tx: Tx) -> None:
            item = self._item(tx, peer, message.ticket_id, message.item)
            self._rows.put_item(tx, replace(item, note=text), item.state)
            kind = "ticket_metric" if isinstance(message, Metric) else "ticket_owed"
            self._told(tx, kind, item.ticket_id, f"item {item.i}: {text}")

        await self._db.write(body)

    # -- what our own side knows -------------------------------------------------------------------------

    def release(self, tx: Tx, item: HeldItem, preimage: str) -> None:
        """Its preimage came. Raises PaymentFailed(`preimage_mismatch`), Conflict where it is past that."""
        if not preimage_matches(preimage, item.hash):
            raise PaymentFailed(
                f"that is not the preimage of item {item.i} of ticket {item.ticket_id}",
                reason="preimage_mismatch",
            )
        if item.preimage == preimage:
            return
        now = self._now()
        item = self.move(tx, replace(item, preimage=preimage, released_at=now), PayeeEvent.ON_RELEASED)
        self._rows.redeemable(tx, item, now)
        self._told(tx, "ticket_released", item.ticket_id, f"item {item.i}, {item.amount_sats} sat")

    def take_without_hash(self, tx: Tx, item: HeldItem) -> None:
        """An item of a ticket in mode p2pk was worked for: nothing else is needed to redeem it."""
        now = self._now()
        item = self.move(tx, replace(item, released_at=now), PayeeEvent.ON_RELEASED)
        self._rows.redeemable(tx, item, now)

    def take_with_own_hash(self, tx: Tx, item: HeldItem) -> None:
        """An item of a ticket in mode receipt was earned: redeeming it shows its payer our preimage. Raises
        NotFound where that is gone, Conflict."""
        ticket = self._rows.ticket(tx, item.ticket_id)
        peer = "" if ticket is None else ticket.peer
        preimage = self._own.preimage(tx, peer, item.hash, item.ticket_id)
        if preimage is None:
            raise NotFound(f"our preimage of item {item.i} of ticket {item.ticket_id} is gone")
        self.release(tx, item, preimage)

    def move(self, tx: Tx, item: HeldItem, event: PayeeEvent) -> HeldItem:
        """One step of an item, stored with what else the caller changed of it. Raises Conflict where its
        state does not take the event."""
        step = PAYEE_ITEMS.get((item.state, event))
        if step is None:
            raise Conflict(
                f"item {item.i} of ticket {item.ticket_id} is {item.state}: it does not take {event.value!r}",
                reason="stale_state",
            )
        moved = replace(item, state=step.to)
        self._rows.put_item(tx, moved, item.state)
        return moved

    def usable(self, tx: Tx, item: HeldItem) -> bool:
        """Whether work may be begun on it: free, before its deadline, 900 s from its locktime, and nothing
        of it is at a mint that we accept no more: there it could not be redeemed."""
        now, mints = self._now(), self._mints.accepted()
        ticket = self._rows.ticket(tx, item.ticket_id)
        return (
            item.state is PayeeItem.ACCEPTED
            and now < item.deadline
            and now + MIN_TIME_LEFT_S <= item.locktime
            and ticket is not None
            and ticket.terms is not None
            and all(mint.url in mints for mint in ticket.terms.mints)
        )

    # -- looking -----------------------------------------------------------------------------------------

    async def look(self) -> int:
        """Check what is complete, ask for what misses. How many tickets were decided."""
        async with self._one_at_a_time:
            now = self._now()
            decided = 0
            for ticket in await self._db.read(lambda tx: self._rows.waiting(tx, now)):
                try:
                    if ticket.intake is Intake.COLLECTING:
                        await self._ask_for_the_rest(ticket.ticket_id)
                    else:
                        decided += await self._decide(ticket)
                except Exception as error:
                    # No ticket holds up another, whatever is wrong with it.
                    reason, detail = "internal", repr(error)[:500]
                    if isinstance(error, HiveError):
                        reason, detail = error.symbol, error.detail
                    decided += await self._db.write(
                        partial(self._later, ticket=ticket, reason=reason, detail=detail)
                    )
            return decided

    async def check(self, ticket_id: str) -> CheckedTicket:
        """Every check of a complete ticket that was not accepted yet. Raises NotFound, Conflict while it is
        incomplete, TokenInvalid and what else speaks against it, MintUnavailable."""
        ticket, parts = await self._db.read(
            lambda tx: (self._rows.ticket(tx, ticket_id), self._rows.parts(tx, ticket_id))
        )
        if ticket is None or ticket.terms is None:
            raise NotFound(f"no ticket {ticket_id} with terms is here")
        if ticket.intake is not Intake.CHECKING:
            raise Conflict(f"ticket {ticket_id} is {ticket.intake}", reason="stale_state")
        return (await self._checked(ticket, ticket.terms, parts))[0]

    # -- intake ------------------------------------------------------------------------------------------

    def _take(self, tx: Tx, peer: Peer, message: Ticket, terms: Terms | None, msg_id: str) -> None:
        now = self._now()
        held = self._rows.ticket(tx, message.ticket_id)
        if held is None:
            if self._rows.open_of_peer(tx, peer.key) >= MAX_COLLECTED:
                raise Capacity(f"{peer.name} left {MAX_COLLECTED} tickets unfinished: no more are taken")
            held = HeldTicket(message.ticket_id, peer.key, Intake.COLLECTING, now, now)
            if full := self._no_room(tx, peer.key):
                self._refuse(tx, held, *full)
                return
        self._same(held, peer, terms)
        if held.intake in (Intake.ACCEPTED, Intake.REFUSED):
            self._answer(tx, held, msg_id)
            return
        if held.intake is Intake.CHECKING:
            return
        if terms is not None and held.terms is None:
            held = replace(held, terms=terms, terms_hash=terms_hash(terms).hex(), payer_sig=str(message.sig))
        self._rows.put_ticket(tx, replace(held, updated_at=now, tries=0, next_at=now + RESEND_AFTER_S[0]))
        if message.tokens:
            if len(self._rows.parts(tx, held.ticket_id)) >= MAX_PARTS:
                raise Capacity(f"ticket {held.ticket_id} came in more than {MAX_PARTS} parts")
            self._rows.add_part(tx, held.ticket_id, part_of(message, terms))
        self._complete(tx, held.ticket_id)

    def _same(self, held: HeldTicket, peer: Peer, terms: Terms | None) -> None:
        if held.peer != peer.key:
            raise Conflict(f"ticket {held.ticket_id} is another payer's", reason="token_invalid(party)")
        if terms is not None and held.terms is not None and held.terms_hash != terms_hash(terms).hex():
            raise Conflict(
                f"ticket {held.ticket_id} is known with other terms: those it came with first hold",
                reason="token_invalid(terms_rule)",
            )

    def _answer(self, tx: Tx, held: HeldTicket, cause: str) -> None:
        """What was decided, said again for every message that asks for it."""
        key = f"{held.ticket_id}:{cause}"
        if held.intake is Intake.ACCEPTED:
            self._out.put(tx, held.peer, TicketAck(held.ticket_id, held.terms_hash), f"ticket_ack:{key}")
        else:
            hash_ = held.terms_hash or msgspec.UNSET
            reject = TicketReject(held.ticket_id, held.reason, held.detail[:500], terms_hash=hash_)
            self._out.put(tx, held.peer, reject, f"ticket_reject:{key}")

    def _complete(self, tx: Tx, ticket_id: str) -> None:
        """On to checking where terms and the tokens of every item are here."""
        held = self._rows.ticket(tx, ticket_id)
        if (
            held is not None
            and held.terms is not None
            and not missing(held.terms, self._rows.parts(tx, ticket_id))
        ):
            self._rows.put_ticket(tx, replace(held, intake=Intake.CHECKING, tries=0, next_at=self._now()))

    async def _ask_for_the_rest(self, ticket_id: str) -> None:
        await self._db.write(lambda tx: self._collect(tx, ticket_id))

    def _collect(self, tx: Tx, ticket_id: str) -> None:
        held = self._rows.ticket(tx, ticket_id)
        if held is None or held.intake is not Intake.COLLECTING:
            return
        now = self._now()
        if now >= held.created_at + INCOMPLETE_S:
            self._refuse(tx, held, "token_invalid(amount_short)", "the rest of the ticket never came")
            return
        first, last = (
            (0, 0) if held.terms is None else missing(held.terms, self._rows.parts(tx, ticket_id))[0]
        )
        resend = TicketResend(held.ticket_id, first, last)
        self._out.put(tx, held.peer, resend, f"ticket_resend:{held.ticket_id}:{held.tries}:{now}")
        tries = held.tries + 1
        wait = RESEND_AFTER_S[min(tries, len(RESEND_AFTER_S) - 1)]
        self._rows.put_ticket(tx, replace(held, tries=tries, next_at=now + wait, updated_at=now))

    async def _refuse_unread(self, peer: Peer, message: Ticket, error: TokenInvalid) -> None:
        now = self._now()

        def body(tx: Tx) -> None:
            held = self._rows.ticket(tx, message.ticket_id)
            if held is not None and (held.peer != peer.key or held.terms is not None):
                raise Conflict(f"ticket {message.ticket_id} is known with other terms", reason=error.symbol)
            fresh = HeldTicket(message.ticket_id, peer.key, Intake.COLLECTING, now, now)
            self._refuse(tx, held or fresh, error.symbol, error.detail)

        await self._db.write(body)

    # -- decision ----------------------------------------------------------------------------------------

    async def _decide(self, ticket: HeldTicket) -> int:
        assert ticket.terms is not None
        if ticket.tries and _over(ticket.terms, self._now()):
            reason, detail = ticket.reason, ticket.detail
            return await self._db.write(lambda tx: self._later(tx, ticket, reason, detail))
        parts = await self._db.read(lambda tx: self._rows.parts(tx, ticket.ticket_id))
        try:
            checked, context = await self._checked(ticket, ticket.terms, parts)
        except HiveError as error:
            reason, detail = error.symbol, error.detail
            if isinstance(error, _OF_THE_MINT) or not isinstance(error, PaymentFailed):
                # It is not the ticket's fault, and the payer may not take the money back yet: later again.
                return await self._db.write(lambda tx: self._later(tx, ticket, reason, detail))
            await self._db.write(lambda tx: self._refuse(tx, ticket, reason, detail))
            return 1
        return await self._db.write(lambda tx: self._accept(tx, ticket, checked, context))

    async def _checked(
        self, ticket: HeldTicket, terms: Terms, parts: Sequence[Part]
    ) -> tuple[CheckedTicket, str]:
        peer = await self._peers.peer(ticket.peer)
        if peer is None or not peer.working:
            raise TokenInvalid("party", "the payer is none of those we work for")
        _check_place(terms, peer)
        await self._db.read(lambda tx: self._check_hashes(tx, ticket.peer, terms))
        known: dict[str, Mapping[str, Keyset]] = {}
        for mint in terms.mints:
            if mint.url not in self._mints.accepted():
                raise PaymentFailed(
                    f"the ticket is at mint {mint.url}, which is none of those we accept",
                    reason="token_invalid(mint)",
                    data={"check": "mint"},
                )
            known[mint.url] = listed(await self._mints.keysets(mint.url))
            await self._check_mint(terms, mint.url)
        try:
            checked = await asyncio.to_thread(self._check_tokens, ticket, terms, parts, peer, known)
        except TokenInvalid as error:
            if error.check != "keyset":
                raise
            # The mint may have made a keyset since it was last looked at.
            known = {mint.url: listed(await self._mints.keysets_now(mint.url)) for mint in terms.mints}
            checked = await asyncio.to_thread(self._check_tokens, ticket, terms, parts, peer, known)
        ys = [y for share in checked.shares for y in share.ys]
        if await self._db.read(lambda tx: self._rows.seen(tx, ys)):
            raise TokenInvalid("repeated_secret", "a proof of the ticket was received before")
        for number, mint in enumerate(terms.mints):
            check_states(checked, number, await self._states(mint.url, checked.ys_at(number)))
        return checked, peer.lock_keys[terms.payee.lock_pubkey]

    def _check_tokens(
        self,
        ticket: HeldTicket,
        terms: Terms,
        parts: Sequence[Part],
        peer: Peer,
        known: Mapping[str, Mapping[str, Keyset]],
    ) -> CheckedTicket:
        return check_ticket(
            terms,
            ticket.payer_sig,
            tokens_of(parts),
            payer_id=terms.payer.id if terms.payer.id in peer.ids else peer.key,
            payee_id=terms.payee.id if terms.payee.id in peer.ours else "",
            lock_pubkey=terms.payee.lock_pubkey if terms.payee.lock_pubkey in peer.lock_keys else "",
            mints=known,
            seen_ys=(),
            now_s=self._now(),
        )

    def _check_hashes(self, tx: Tx, peer: str, terms: Terms) -> None:
        """In mode receipt only who has the preimage redeems: it has to be one of ours, made for this peer."""
        for item in terms.items if terms.mode is Mode.RECEIPT else ():
            if self._own.preimage(tx, peer, str(item.hash), terms.ticket_id) is None:
                raise TokenInvalid(
                    "hash", f"item {item.i} is no hash that we made for this payer, or was used"
                )

    async def _check_mint(self, terms: Terms, url: str) -> None:
        caps = self._mints.probed(url)
        if caps is not None:
            if not caps.tickets:
                raise PaymentFailed(
                    f"the mint {url} failed its probe: locks there do not hold", reason="mint_nonconformant"
                )
            return
        live = await self._db.read(lambda tx: self._rows.live_sats(tx, url))
        if live + terms.amount_sats > UNPROBED_SATS:
            raise PaymentFailed(
                f"the mint {url} was not probed yet: tickets there may be worth {UNPROBED_SATS} sat in all,"
                f" {live} sat are held and this one is of {terms.amount_sats} sat",
                reason="exposure_limit",
            )

    async def _states(self, url: str, ys: Sequence[str]) -> list[ProofState]:
        mint = self._mints.at(url)
        found: list[ProofState] = []
        for start in range(0, len(ys), CHECKSTATE_YS):
            found += await mint.checkstate(ys[start : start + CHECKSTATE_YS])
        return found

    def _accept(self, tx: Tx, ticket: HeldTicket, checked: CheckedTicket, context: str) -> int:
        current = self._rows.ticket(tx, ticket.ticket_id)
        if current is None or current.intake is not Intake.CHECKING:
            return 0
        terms, now = checked.terms, self._now()
        ys = [y for share in checked.shares for y in share.ys]
        if self._rows.seen(tx, ys):
            self._refuse(tx, current, "token_invalid(repeated_secret)", "a proof was received before")
            return 1
        try:
            self._check_hashes(tx, ticket.peer, terms)
        except TokenInvalid as error:
            self._refuse(tx, current, error.symbol, error.detail)
            return 1
        if full := self._no_room(tx, ticket.peer):
            self._refuse(tx, current, *full)
            return 1
        accepted = replace(
            current, intake=Intake.ACCEPTED, context=context, updated_at=now, next_at=0, tries=0
        )
        if terms.mode is Mode.RECEIPT:
            for item in terms.items:
                self._own.bind(tx, str(item.hash), ticket.ticket_id, item.i)
        items = [
            HeldItem(
                ticket.ticket_id,
                item.i,
                PAYEE_ITEMS[PayeeItem.DELIVERED, PayeeEvent.ON_ACCEPTED].to,
                item.amount_sats,
                item.hash if isinstance(item.hash, str) else "",
                item.deadline,
                item.locktime,
                item.label,
                item_task(terms, item),
            )
            for item in terms.items
        ]
        self._rows.accept(tx, accepted, items, checked)
        self._rows.drop_parts(tx, ticket.ticket_id)
        self._answer(tx, accepted, "decided")
        self._told(tx, "ticket_accepted", ticket.ticket_id, f"{terms.amount_sats} sat")
        return 1

    def _no_room(self, tx: Tx, peer: str) -> tuple[str, str] | None:
        """Why a payer is given no room for one more; None where it has some."""
        live = self._rows.live_of_peer(tx, peer)
        if live < self._most_live:
            return None
        return Capacity.slug, (
            f"{live} tickets of this payer are under way, at most {self._most_live} may be: the next is taken"
            " when one of them has ended"
        )

    def _refuse(self, tx: Tx, ticket: HeldTicket, reason: str, detail: str) -> None:
        refused = replace(
            ticket, intake=Intake.REFUSED, reason=reason, detail=detail, updated_at=self._now(), next_at=0
        )
        self._rows.put_ticket(tx, refused)
        self._rows.forget_refused(tx, refused.updated_at - _REFUSED_KEPT_S)
        self._rows.drop_parts(tx, ticket.ticket_id)
        self._answer(tx, refused, "decided")
        self._told(tx, "ticket_refused", ticket.ticket_id, f"{reason}: {detail}"[:500])

    def _later(self, tx: Tx, ticket: HeldTicket, reason: str, detail: str) -> int:
        """To be looked at again, or refused (1) once nothing could be earned by it any more: its payer knows
        then, and has the money back at the locktime."""
        now, tries = self._now(), ticket.tries + 1
        if ticket.terms is not None and _over(ticket.terms, now):
            self._refuse(tx, ticket, reason, f"until its time was over: {detail}")
            return 1
        wait = min(_LONGEST_WAIT_S, 1 << min(ticket.tries, 5))
        self._rows.put_ticket(
            tx, replace(ticket, tries=tries, next_at=now + wait, reason=reason, detail=detail, updated_at=now)
        )
        return 0

    # -- parts -------------------------------------------------------------------------------------------

    def _item(self, tx: Tx, peer: Peer, ticket_id: str, number: int) -> HeldItem:
        ticket = self._rows.ticket(tx, ticket_id)
        found = None if ticket is None or ticket.peer != peer.key else self._rows.item(tx, ticket_id, number)
        if found is None:
            raise NotFound(f"{peer.name} gave no ticket {ticket_id} with an item {number} that was accepted")
        return found


def item_task(terms: Terms, item: Item) -> str:
    """The hash of an item's task: its own where its `cond` names one, else that of the ticket."""
    own = item.cond.get("task_params_hash")
    return own if isinstance(own, str) else terms.task_params_hash


def _named(item: HeldItem, message: Release | Failure) -> HeldItem:
    """With the receipt that a message names."""
    if isinstance(message.receipt_id, str) and isinstance(message.receipt_hash, str):
        return replace(item, receipt_id=message.receipt_id, receipt_hash=message.receipt_hash)
    return item


def _check_place(terms: Terms, peer: Peer) -> None:
    """Whether the terms are about work for this peer, and about ecash that we could redeem."""
    if peer.node_ids is not None and terms.node_id not in peer.node_ids:
        raise TokenInvalid("party", f"the work is on a node that is not {peer.name}'s")
    ours = peer.credentials
    if ours is not None and isinstance(terms.credential_ref, str) and terms.credential_ref not in ours:
        raise TokenInvalid("party", "the terms name a credential that we have not")


def _over(terms: Terms, now: int) -> bool:
    """Whether no work is begun on any item any more, or one has too little time left to be accepted."""
    return all(now >= item.deadline for item in terms.items) or any(
        now + MIN_TIME_LEFT_S > item.locktime for item in terms.items
    )
