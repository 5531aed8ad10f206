"""Incoming direct messages: opened, recognised when repeated, and routed by their content.

docs/protocol/04-marketplace-and-nostr.md §6 (Verify, Subscribe, Larger, Routing) and
docs/protocol/02-fleet-management.md §6.2. Relays send what anybody put there, so the order is from cheap to
dear, and what a stranger sends never reaches the database from here.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from hive_shared.nostr import nip44
from hive_shared.nostr.chunks import CHUNK_SCHEMA, RESEND_SCHEMA, ChunkBuffer
from hive_shared.nostr.event import Event
from hive_shared.nostr.giftwrap import Message, WrapInvalid, unwrap
from hive_shared.nostr.reasons import ChunkInvalid
from hive_shared.store import Db, StoreError

from cl_hive_comms.domain.outbox import KEPT_S, Seen
from cl_hive_comms.domain.rate_limit import SlidingWindows
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.ports_identity import Clock, Log
from cl_hive_comms.services.ports_transport import InboxStore

MAX_IN_FLIGHT: Final = 2_000
"""Messages being handled at once; more than this is a flood, and strangers are dropped first."""
MAX_STRANGERS: Final = 50
"""Of these, messages of unknown senders."""
KNOWN_PER_MINUTE: Final = 300
"""Messages of one known sender: 60 commands a minute in up to three parts, and room for other words. More
would cost rows and time that other senders need."""
KNOWN_IDS: Final = 50_000
STRANGER_IDS: Final = 20_000
_MAX_AHEAD_S: Final = 900

CommandHandler = Callable[[str, Message], Awaitable[None]]
"""Takes the raw text of a management command and the message it came in; replies on its own."""
SchemaHandler = Callable[[Mapping[str, Any], Message], Awaitable[None]]


class _Head(msgspec.Struct):
    """The two fields that decide where a message goes."""

    schema_type: Any = None
    schema: Any = None


class _Ids:
    """The newest ids of a bounded number of messages."""

    def __init__(self, limit: int) -> None:
        self._limit, self._ids = limit, OrderedDict[str, None]()

    def __contains__(self, name: str) -> bool:
        return name in self._ids

    def add(self, name: str) -> None:
        self._ids[name] = None
        if len(self._ids) > self._limit:
            self._ids.popitem(last=False)


class InboundService:
    """Takes verified gift wraps from the relay pool and hands their content on."""

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
    ) -> None:
        self._db, self._store, self._identity = db, store, identity
        self._knows, self._handle_command = knows, handle_command
        self._now, self._log = now, log
        self._schemas: dict[str, SchemaHandler] = {}
        self._fallback: SchemaHandler | None = None
        self._known_ids, self._stranger_ids = _Ids(KNOWN_IDS), _Ids(STRANGER_IDS)
        self._chunks = ChunkBuffer()
        self._keys = nip44.ConversationKeys()
        self._unsaved: list[Seen] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._strangers = 0
        self._stopping = False
        self._windows = SlidingWindows(now)
        self.counters: Counter[str] = Counter()
        """What happened to messages, by outcome; for status."""
        self.arrived_from: OrderedDict[str, str] = OrderedDict()
        """The relay over which a known sender last reached us."""

    def on_schema(self, prefix: str, handler: SchemaHandler) -> None:
        """Routes messages whose `schema` starts with `prefix` to a handler."""
        self._schemas[prefix] = handler

    def on_other(self, handler: SchemaHandler) -> None:
        """Routes messages of known senders that nobody else takes."""
        self._fallback = handler

    async def load(self) -> None:
        """Reads the ids of the last seven days; call once before the first message."""
        since = self._now() - KEPT_S
        for name in await self._db.read(lambda tx: self._store.recent_ids(tx, since, KNOWN_IDS // 2)):
            self._known_ids.add(name)

    async def on_wrap(self, relay_url: str, event: Event) -> None:
        """One gift wrap whose id and signature the pool has verified. Never raises; returns at once."""
        if event.id in self._known_ids or event.id in self._stranger_ids:
            self.counters["repeated"] += 1
            return
        message = self._open(event)
        if message is None:
            self._stranger_ids.add(event.id)
            return
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
        task = asyncio.create_task(self._handle(message, known))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def flush(self) -> None:
        """Stores the ids of handled messages; run every few seconds, writes only when there are any."""
        rows, self._unsaved = self._unsaved, []
        if not rows:
            return
        try:
            await self._db.write(lambda tx: self._store.remember(tx, rows))
        except StoreError:
            self._unsaved = [*rows, *self._unsaved][-KNOWN_IDS:]
            raise

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
        try:
            await self.flush()
        except StoreError:
            # Repeats are recognised by their nonce too; the rest of the stop must not be skipped for this.
            self._log("error", "seen_ids_not_stored", count=len(self._unsaved))

    # -- inside --------------------------------------------------------------------------------------

    def _open(self, event: Event) -> Message | None:
        for pubkey, secret in self._identity.readable_secrets().items():
            if pubkey not in event.tag_values("p"):
                continue
            try:
                message = unwrap(secret, event, keys=self._keys, verified=True)
            except WrapInvalid as error:
                self.counters[f"invalid_{error.reason}"] += 1
                return None
            if message.created_at > self._now() + _MAX_AHEAD_S:
                self.counters["from_the_future"] += 1
                return None
            return message
        self.counters["not_for_us"] += 1
        return None

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

    async def _handle(self, message: Message, known: bool) -> None:
        self._strangers += not known
        try:
            schema = await self._route(message.content, message, known)
        except Exception as error:
            # One bad message must not end the intake of all others.
            self.counters["failed"] += 1
            self._log("error", "message_failed", error=type(error).__name__)
            return
        finally:
            self._strangers -= not known
        self.counters["handled" if schema else "ignored"] += 1
        if known:
            self._unsaved.append(
                Seen(message.sender, message.rumor_id, message.wrap_id, schema[:64], self._now())
            )

    async def _route(self, text: str, message: Message, known: bool) -> str:
        """The schema it was handled as, or an empty string."""
        try:
            head = msgspec.json.decode(text, type=_Head)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            # Known senders get the pipeline's own precise refusal; others learn nothing.
            head = _Head(schema_type="malformed") if known else _Head()
        if head.schema_type is not None:
            await self._handle_command(text, message)
            return str(head.schema_type)
        if not isinstance(head.schema, str):
            return ""
        if head.schema in (CHUNK_SCHEMA, RESEND_SCHEMA):
            return await self._part(text, message, known, head.schema)
        return await self._hand_over(text, message, known, head.schema)

    async def _part(self, text: str, message: Message, known: bool, schema: str) -> str:
        if not known or schema == RESEND_SCHEMA:
            return ""
        try:
            whole = self._chunks.add(message.sender, msgspec.json.decode(text), self._now())
        except (ChunkInvalid, msgspec.DecodeError) as error:
            self.counters["invalid_chunk"] += 1
            self._log("debug", "chunk_refused", why=str(error))
            return ""
        if whole is None:
            return schema
        # One level only: a chunk inside reassembled chunks would be a way to grow without bound.
        if f'"{CHUNK_SCHEMA}"' in whole.text[:200]:
            return ""
        return await self._route(whole.text, message, known)

    async def _hand_over(self, text: str, message: Message, known: bool, schema: str) -> str:
        handler = next(
            (
                self._schemas[prefix]
                for prefix in sorted(self._schemas, key=len, reverse=True)
                if schema.startswith(prefix)
            ),
            self._fallback if known else None,
        )
        if handler is None:
            return ""
        body = msgspec.json.decode(text)
        await handler(body, message)
        return schema
