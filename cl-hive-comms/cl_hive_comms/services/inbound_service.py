"""Incoming messages: opened, recognised when repeated, and routed by their content.

docs/protocol/04-marketplace-and-nostr.md §6 (Verify, Subscribe, Larger, Routing) and
docs/protocol/02-fleet-management.md §6.2. Relays send what anybody put there, so the order is from cheap to
dear, and what a stranger sends never reaches the database from here.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import msgspec
from hive_shared.errors import Busy, RateLimited
from hive_shared.nostr.chunks import CHUNK_SCHEMA, RESEND_SCHEMA
from hive_shared.nostr.event import Event
from hive_shared.nostr.reasons import ChunkInvalid
from hive_shared.rate_limit import SlidingWindows
from hive_shared.store import Db, StoreError, Tx

from cl_hive_comms.domain.arrival import WRAPS_ONLY, Arrival, Forms
from cl_hive_comms.domain.outbox import KEPT_S, Kept, Seen
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.inbound_ids import EitherIds, MessageIds
from cl_hive_comms.services.inbound_open import Opener
from cl_hive_comms.services.inbound_parts import InboundParts
from cl_hive_comms.services.inbound_signed import Repeats, Settled
from cl_hive_comms.services.ports_commands import Fault, no_fault
from cl_hive_comms.services.ports_identity import Clock, Log
from cl_hive_comms.services.ports_transport import InboxStore
from cl_hive_comms.services.sibling_delivery import Outcome

MAX_IN_FLIGHT: Final = 2_000
"""Messages being handled at once; more than this is a flood, and strangers are dropped first."""
MAX_STRANGERS: Final = 50
"""Of these, messages of unknown senders."""
KNOWN_PER_MINUTE: Final = 300
"""Messages of one known sender: 60 commands a minute in up to three parts, and room for other words. More
would cost rows and time that other senders need."""
KNOWN_IDS: Final = 50_000
STRANGER_IDS: Final = 20_000

CommandHandler = Callable[[str, Arrival], Awaitable[bool]]
"""Takes the raw text of a management command and how it came; replies on its own. False: it was dropped
without a word, and nothing was stored for it."""
_Ended = tuple[str, Outcome]
"""The schema a message was handled as, empty for none, and how it ended."""


class Schemas(Protocol):
    """Takes messages with a `schema` (services.inbound_signed)."""

    async def take(
        self, text: str, arrival: Arrival, schema: str, repeats: Repeats, settled: Settled
    ) -> Outcome | None: ...


class _Head(msgspec.Struct):
    """The two fields that decide where a message goes."""

    schema_type: Any = None
    schema: Any = None


_UNREADABLE: Final = _Head(schema_type="malformed")
_IGNORED: Final[_Ended] = ("", "dropped")


class InboundService:
    """Takes verified gift wraps from the relay pool, and what transports hand in, and hands it on."""

    def __init__(
        self,
        db: Db,
        store: InboxStore,
        identity: IdentityService,
        *,
        knows: Callable[[str], bool],
        handle_command: CommandHandler,
        now: Clock,
        log: Log,
        fault: Fault = no_fault,
        forms: Forms = WRAPS_ONLY,
        note_form: Callable[[str, bool], None] = lambda sender, legacy: None,
    ) -> None:
        self._db, self._store, self._note_form = db, store, note_form
        self._knows, self._handle_command = knows, handle_command
        self._now, self._log, self._fault = now, log, fault
        self._schemas: Schemas | None = None
        self._known_ids, self._stranger_ids = MessageIds(KNOWN_IDS), MessageIds(STRANGER_IDS)
        self.parts = InboundParts(given_up=self._given_up, now=now, log=log)
        """Long messages that are not whole yet."""
        self._unsaved: list[Seen] = []
        self._ended: list[tuple[str, str, str, str]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._keeping = asyncio.Lock()
        # Kept messages that are in work, or whose end is not stored yet.
        self._unended: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._strangers = 0
        self._stopping = False
        self._windows = SlidingWindows(now)
        self.counters: Counter[str] = Counter()
        """What happened to messages, by outcome; for status."""
        self._opener = Opener(identity, forms, self.counters, now)
        self.arrived_from: OrderedDict[str, str] = OrderedDict()
        """The relay over which a known sender last reached us."""

    def on_schema(self, schemas: Schemas) -> None:
        """Who takes messages with a `schema`; without one they are dropped."""
        self._schemas = schemas

    async def load(self) -> None:
        """Reads the ids of the last seven days; call once before the first message."""
        since = self._now() - KEPT_S
        for name in await self._db.read(lambda tx: self._store.recent_ids(tx, since, KNOWN_IDS // 2)):
            self._known_ids.add(name)

    async def on_wrap(self, relay_url: str, event: Event) -> None:
        """One message event whose id and signature the pool has verified. Never raises; returns at once."""
        if event.id in self._known_ids or event.id in self._stranger_ids:
            self.counters["repeated"] += 1
            return
        opened = self._opener.open(event)
        if opened is None:
            self._stranger_ids.add(event.id)
            return
        message = opened.message
        known = self._knows(message.sender)
        if not self._admit(message.sender, known):
            return
        # Remembered before it is handled: the same message may come over another relay meanwhile.
        ids = self._known_ids if known else self._stranger_ids
        if message.rumor_id in ids:
            self.counters["repeated"] += 1
            return
        ids.add(event.id)
        ids.add(message.rumor_id)
        if known:
            self._note_route(message.sender, relay_url)
            self._note_form(message.sender, opened.legacy)
        arrival = Arrival(
            "nostr_dm",
            message.sender,
            message.rumor_id,
            self._now(),
            known,
            wrap_id=message.wrap_id,
            recipient=opened.recipient,
            sent_at=message.created_at,
        )
        self._begin(message.content, arrival)

    async def ingest(self, text: str, transport: str, sender: str, did: str | None, message_id: str) -> None:
        """One message that a registered transport hands in; when this returns, it is kept until handled.

        Of a sender we do not know nothing is stored. A repeat changes nothing. Raises RateLimited, Busy.
        """
        known = self._knows(sender)
        arrival = Arrival(transport, sender, message_id, self._now(), known, sender_did=did)
        if not known:
            if arrival.name in self._stranger_ids:
                self.counters["repeated"] += 1
                return
            self._check_room(sender, known)
            self._stranger_ids.add(arrival.name)
            self._begin(text, arrival)
            return
        # One after the other: of two calls with one message the second finds it stored.
        async with self._keeping:
            if arrival.name in self._known_ids or arrival.name in self._unended:
                self.counters["repeated"] += 1
                return
            self._check_room(sender, known)
            fresh = await self._keep(text, arrival)
            self._known_ids.add(arrival.name)
        if not fresh:
            # It was handled, or it waits for `resume`.
            self.counters["repeated"] += 1
            return
        await self._fault("after_ingested")
        if not self._stopping:
            self._begin(text, arrival)

    def _check_room(self, sender: str, known: bool) -> None:
        if known and self._windows.retry_after("messages", sender, KNOWN_PER_MINUTE):
            raise RateLimited(
                f"more than {KNOWN_PER_MINUTE} messages of this sender in a minute", data={"retry_after": 60}
            )
        if not self._admit(sender, known):
            raise Busy("too many messages are in work; hand this one in again later")

    async def _keep(self, text: str, arrival: Arrival) -> bool:
        kept = Kept(
            arrival.sender, arrival.name, arrival.transport, arrival.sender_did, text, arrival.received_at
        )
        # Claimed before it is written: `resume` must not take it up beside the call that hands it in.
        self._unended.add(arrival.name)
        fresh = False
        try:
            fresh = await self._db.write(lambda tx: self._store.keep(tx, kept))
        finally:
            if not fresh:
                self._unended.discard(arrival.name)
        return fresh

    async def resume(self) -> None:
        """Handle what was handed in and is not in work: before the last stop, or while the disk took nothing.
        Run at start, once the pipeline stands, and every minute."""
        if self._stopping:
            return
        # What was in work before the look may have ended since: its row as seen is then an old one.
        before = frozenset(self._unended)
        for row in await self._db.read(lambda tx: self._store.kept(tx, MAX_IN_FLIGHT + len(before))):
            if row.msg_id in before or row.msg_id in self._unended or len(self._tasks) >= MAX_IN_FLIGHT:
                continue
            self._unended.add(row.msg_id)
            message_id = row.msg_id.removeprefix(f"{row.transport}:{row.sender_key}:")
            arrival = Arrival(
                row.transport,
                row.sender_key,
                message_id,
                row.received_at,
                self._knows(row.sender_key),
                sender_did=row.sender_did,
            )
            self._begin(row.content, arrival)

    def _begin(self, text: str, arrival: Arrival) -> None:
        task = asyncio.create_task(self._handle(text, arrival))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def flush(self) -> None:
        """Stores the ids of handled messages; run every few seconds, writes only when there are any."""
        rows, self._unsaved = self._unsaved, []
        ended, self._ended = self._ended, []
        if not rows and not ended:
            return

        def body(tx: Tx) -> None:
            self._store.remember(tx, rows)
            for sender, name, schema, state in ended:
                self._store.settle(tx, sender, name, schema, state)

        try:
            await self._db.write(body)
        except StoreError:
            self._unsaved = [*rows, *self._unsaved][-KNOWN_IDS:]
            self._ended = [*ended, *self._ended]
            raise
        self._unended.difference_update(name for _, name, _, _ in ended)

    async def prune(self) -> None:
        """Forgets ids after seven days; run daily."""
        before = self._now() - KEPT_S
        await self._db.write(lambda tx: self._store.prune_seen(tx, before))

    async def stop(self) -> None:
        """Waits up to 2 s for messages in work, then stores what was handled."""
        self._stopping = True
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=2.0)
        for task in list(self._tasks):
            task.cancel()
        await self.parts.stop()
        if self._flushing is not None:
            await self._flushing
        try:
            await self.flush()
        except StoreError:
            # Repeats are recognised by their nonce too; the rest of the stop must not be skipped for this.
            self._log("error", "seen_ids_not_stored", count=len(self._unsaved))

    # -- inside --------------------------------------------------------------------------------------

    def _admit(self, sender: str, known: bool) -> bool:
        if self._stopping:
            # Handled at the next start: the subscription looks back, and the id is not remembered.
            return False
        if known and not self._windows.allow("messages", sender, KNOWN_PER_MINUTE):
            self.counters["dropped_rate"] += 1
            return False
        if len(self._tasks) >= MAX_IN_FLIGHT or (not known and self._strangers >= MAX_STRANGERS):
            self.counters["dropped_busy"] += 1
            return False
        return True

    def _note_route(self, sender: str, relay_url: str) -> None:
        self.arrived_from[sender] = relay_url
        self.arrived_from.move_to_end(sender)
        if len(self.arrived_from) > 2_000:
            self.arrived_from.popitem(last=False)

    async def _handle(self, text: str, arrival: Arrival) -> None:
        self._strangers += not arrival.known
        try:
            whole = self._joined(text, arrival)
            if whole is None:
                return
            text, arrival = whole
            ended = await self._route(text, arrival)
        except Exception as error:
            # One bad message must not end the intake of all others.
            self.counters["failed"] += 1
            self._log("error", "message_failed", error=type(error).__name__)
            if isinstance(error, StoreError):
                # Still kept: `resume` tries again.
                self._unended.difference_update(one.name for one in (arrival, *arrival.parts))
            else:
                self._settled(arrival, "", "dropped", "")
            return
        finally:
            self._strangers -= not arrival.known
        if ended is not None:
            self.counters["ignored" if ended[1] == "dropped" else "handled"] += 1
            self._settled(arrival, *ended, "")

    def _joined(self, text: str, arrival: Arrival) -> tuple[str, Arrival] | None:
        """A message with the arrivals of all its parts; None for a part while others are missing, and for one
        that is of no use."""
        if CHUNK_SCHEMA not in text or _head(text).schema != CHUNK_SCHEMA:
            return text, arrival
        counted = "ignored"
        try:
            joined = self.parts.take(text, arrival) if arrival.known else None
        except ChunkInvalid as error:
            self._log("debug", "chunk_refused", why=str(error))
            joined, counted = None, "invalid_chunk"
            if error.reason == "too_large":
                # There may be room for it when it comes again.
                self._forget_ids(arrival)
        if isinstance(joined, Arrival):
            self.counters["parts"] += 1
            return None
        if joined is None:
            self.counters[counted] += 1
            self._settled(arrival, "", "dropped", "")
        return joined

    def _given_up(self, arrivals: tuple[Arrival, ...]) -> None:
        """Parts of a message that never became whole: they may come again, and are not remembered."""
        for arrival in arrivals:
            self._forget_ids(arrival)
            self._settled(arrival, "", "dropped", "")

    def _forget_ids(self, arrival: Arrival) -> None:
        if arrival.transport == "nostr_dm":
            self._known_ids.discard(arrival.message_id)
            self._known_ids.discard(arrival.wrap_id)

    def _settled(self, arrival: Arrival, schema: str, outcome: Outcome, name: str) -> None:
        """Note the end of a message, so that a repeat is recognised after a restart too.

        Of a stranger only once a sibling took it: nobody else gets rows written here. What was dropped
        without an answer leaves no row either and comes again from its relay after a restart; a transport has
        handed it over for good.
        """
        for part in arrival.parts:
            self._settled(part, schema, outcome, "")
        now, stored = self._now(), schema[:64]
        remembered = outcome == "delivered" or (outcome == "refused" and arrival.known)
        if arrival.name in self._unended:
            # Kept, whatever became of its sender meanwhile: the row must not wait for ever.
            state = "dropped" if outcome == "dropped" else "handled"
            self._ended.append((arrival.sender, arrival.name, stored, state))
            self._flush_soon()
        elif remembered and arrival.transport == "nostr_dm":
            self._unsaved.append(Seen(arrival.sender, arrival.message_id, arrival.wrap_id, stored, now))
        if name and remembered:
            self._unsaved.append(Seen(arrival.sender, name, None, stored, now))

    def _flush_soon(self) -> None:
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush_quietly())

    async def _flush_quietly(self) -> None:
        try:
            await self.flush()
        except StoreError:
            # The loop tries again; until then a restart handles the message once more.
            self._log("error", "handled_messages_not_noted", count=len(self._ended))

    async def _route(self, text: str, arrival: Arrival) -> _Ended | None:
        """How it ended, None while it is under way."""
        head = _head(text)
        if head is _UNREADABLE and not arrival.known:
            # Known senders get the pipeline's own precise refusal; others learn nothing.
            return _IGNORED
        if head.schema_type is not None:
            taken = await self._handle_command(text, arrival)
            return str(head.schema_type), "refused" if taken else "dropped"
        if not isinstance(head.schema, str):
            return _IGNORED
        if head.schema == RESEND_SCHEMA:
            return RESEND_SCHEMA, "refused" if await self.parts.answer(text, arrival) else "dropped"
        if head.schema == CHUNK_SCHEMA:
            # One level only: parts inside parts would be a way to grow without bound.
            return _IGNORED
        return await self._hand_over(text, arrival, head.schema)

    async def _hand_over(self, text: str, arrival: Arrival, schema: str) -> _Ended | None:
        if self._schemas is None:
            return _IGNORED

        def settled(name: str, outcome: Outcome) -> None:
            self.counters[outcome] += 1
            self._settled(arrival, schema, outcome, name)

        ids = EitherIds(self._known_ids, self._stranger_ids, arrival.known)
        outcome = await self._schemas.take(text, arrival, schema, ids, settled)
        if outcome is not None:
            settled("", outcome)
        return None


def _head(text: str) -> _Head:
    try:
        return msgspec.json.decode(text, type=_Head)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return _UNREADABLE
