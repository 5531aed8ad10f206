"""Signed messages from and to nodes: what is no command, answer or push (docs/protocol/04 §6).

Handlers are registered by schema. What one answers is put in its own transaction, and leaves after that: once
per name, again until a relay took it, and again where the node repeats its question.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from hive_shared import signed_message
from hive_shared.errors import HiveError, InvalidParams, RateLimited, Unsupported
from hive_shared.nostr.giftwrap import Message
from hive_shared.rate_limit import SlidingWindows
from hive_shared.signed_message import Draft, OtherVersion
from hive_shared.store import Db, Tx

from hive_advisor.domain.keyring import Keyring
from hive_advisor.domain.mail import GOOD_S, Addressee, OutMessage, Stranger, pause_s
from hive_advisor.domain.rows import Client
from hive_advisor.services.ports import SIGNED, ClientRows, Link, RecordRows

_AT_ONCE: Final = 200
_CLIENTS_AT_ONCE: Final = 16
_KEY: Final = re.compile(r"[0-9a-f]{64}")
Handler = Callable[[Client, Draft, str], Awaitable[None]]
"""`handler(client, message, agent_key)`: takes a message that `client` signed for `agent_key`, a key of ours.
Idempotent: it is called again when the process ended before its end was noted. A HiveError refuses the
message; the node is told its reason."""
AnyHandler = Callable[[Draft, str, str, str], Awaitable[None]]
"""`handler(message, content, sender, agent_key)`: the same for messages of any key. `content` is the signed
text as it came."""
_STRANGERS_PER_MIN: Final = 30


class OutboxRows(Protocol):
    """storage.outbox_store.OutboxStore, where the methods are described."""

    def find(self, tx: Tx, client_id: str, name: str) -> OutMessage | None: ...
    def next_seq(self, tx: Tx, client_id: str, area: str, least: int) -> int: ...
    def add(self, tx: Tx, message: OutMessage, now: int) -> None: ...
    def waiting(self, tx: Tx, now: int) -> list[str]: ...
    def due(self, tx: Tx, client_id: str, now: int, limit: int) -> list[OutMessage]: ...
    def tried(self, tx: Tx, msg_id: str, *, taken: bool, next_send: int) -> None: ...
    def again(self, tx: Tx, client_id: str, answers: str, now: int) -> int: ...


class MailLink(Link, Protocol):
    """Finds also those who are no clients."""

    async def inbox_relays(self, key: str) -> tuple[str, ...]: ...


class SignedMail:
    """Takes and sends signed messages. `relays` are our own; `spawn` runs a coroutine beside this. Nothing is
    sent while `shared` says that somebody else uses our key."""

    def __init__(
        self,
        db: Db,
        rows: OutboxRows,
        clients: ClientRows,
        records: RecordRows,
        keyring: Keyring,
        link: MailLink,
        *,
        relays: Sequence[str],
        shared: Callable[[Tx], bool],
        now: Callable[[], int],
        new_id: Callable[[], str],
        spawn: Callable[[Coroutine[Any, Any, int]], None],
    ) -> None:
        self._db, self._rows, self._clients, self._records = db, rows, clients, records
        self._keyring, self._link, self._relays = keyring, link, relays
        self._now, self._new_id, self._spawn = now, new_id, spawn
        self._shared, self._turns = shared, dict[str, asyncio.Lock]()
        self._queued, self._in_flight = set[str](), asyncio.Semaphore(_CLIENTS_AT_ONCE)
        self._handlers: dict[str, Handler] = {}
        self._open: dict[str, AnyHandler] = {}
        self._windows = SlidingWindows(now)
        self._known: Callable[[Tx, str], bool] = lambda _tx, _key: False

    def handle(self, schema: str, handler: Handler) -> None:
        """Have `handler` take the messages of a schema such as ``hive:escrow/ticket``."""
        self._free(schema)
        self._handlers[schema] = handler

    def handle_any(self, schema: str, handler: AnyHandler) -> None:
        """The same for messages that also a key that is none of our clients' may send."""
        self._free(schema)
        self._open[schema] = handler

    def also_known(self, known: Callable[[Tx, str], bool]) -> None:
        """Who is no client and is told why a message of his was refused; nobody else is."""
        self._known = known

    def _free(self, schema: str) -> None:
        if schema in self._handlers or schema in self._open:
            raise ValueError(f"{schema} has a handler already")

    # -- what comes in -------------------------------------------------------------------------------

    async def take(self, message: Message, schema: str, agent_key: str) -> None:
        """A message that says it is of `schema`, to `agent_key`. Raises InvalidParams, Unsupported, and what
        its handler raises; nothing came of it then."""
        client = await self._db.read(lambda tx: self._clients.by_node_key(tx, message.sender))
        if client is None:
            if schema not in self._open:
                raise InvalidParams("a signed message from a key that is none of our clients'")
            if not self._windows.allow("strangers", "", _STRANGERS_PER_MIN):
                raise RateLimited("more messages of strangers came within a minute than are read")
        draft = signed_message.parse(message.content, message.sender, (agent_key,))
        peer: Addressee = client or Stranger(message.sender)
        if isinstance(draft, OtherVersion):
            await self._tell(peer, schema, draft.msg_id, "unsupported", agent_key)
            raise Unsupported(f"version {draft.version} of {schema[:60]!r}", reason="unsupported_schema")
        number = f"msg:{message.sender}:{draft.msg_id}"
        if await self._db.read(lambda tx: self._records.seen(tx, number)):
            await self._db.write(lambda tx: self._repeated(tx, peer, draft.msg_id))
        else:
            await self._taken(client, draft, message, agent_key)
            await self._db.write(
                lambda tx: self._records.add_message(tx, number, message.sender, {}, self._now())
            )
        self.kick()

    def _repeated(self, tx: Tx, peer: Addressee, msg_id: str) -> None:
        for client_id in {peer.client_id, peer.node_key}:
            self._rows.again(tx, client_id, msg_id, self._now())

    async def _taken(self, client: Client | None, draft: Draft, message: Message, agent_key: str) -> None:
        peer: Addressee = client or Stranger(message.sender)
        handler, anybody = self._handlers.get(draft.schema), self._open.get(draft.schema)
        if anybody is None and (handler is None or client is None):
            await self._tell(peer, draft.schema, draft.msg_id, "unsupported", agent_key)
            raise Unsupported(f"nothing here takes {draft.schema[:60]!r}", reason="unsupported_schema")
        try:
            signed_message.check_times(draft, self._now())
            if anybody is not None:
                await anybody(draft, message.content, message.sender, agent_key)
            elif handler is not None and client is not None:
                await handler(client, draft, agent_key)
        except HiveError as error:
            await self._tell(peer, draft.schema, draft.msg_id, error.symbol, agent_key)
            raise

    async def _tell(self, peer: Addressee, schema: str, msg_id: str, code: str, agent_key: str) -> None:
        if schema.rpartition("/")[2].startswith("error"):
            return  # an error is never answered
        body = {"code": code, "msg_id": msg_id}
        area = schema.partition("/")[0]

        def body_of(tx: Tx) -> None:
            if isinstance(peer, Stranger) and not self._known(tx, peer.node_key):
                return
            name = f"error:{msg_id}"
            self.put(tx, peer, f"{area}/error", body, name=name, sender=agent_key, answers=msg_id)

        await self._db.write(body_of)
        self.kick()

    # -- what goes out -------------------------------------------------------------------------------

    def put(
        self,
        tx: Tx,
        client: Addressee,
        schema: str,
        body: dict[str, Any],
        *,
        name: str,
        sender: str | None = None,
        answers: str = "",
        good_s: int = GOOD_S,
        thread_id: str | None = None,
        least: int = 1,
    ) -> OutMessage | None:
        """Sign a message and keep it for sending, in the caller's transaction; nothing new for a `name` that
        this node was sent before (None is returned then). `flush` sends it; `sender` is the key of ours that
        signs, the current one when None. Messages of a thread have numbers of their own without gaps, from
        `least` on. Raises CredentialInvalid for a key that is ours no more."""
        if self._rows.find(tx, client.client_id, name) is not None:
            return None
        now, key = self._now(), sender or self._keyring.current
        area = thread_id or schema.removeprefix("hive:").partition("/")[0]
        # Microseconds where gaps are allowed: also a restored copy of the profile goes on above what it sent.
        seq = self._rows.next_seq(tx, client.client_id, area, least if thread_id else now * 1_000_000)
        draft = Draft(schema, self._new_id(), area, seq, now + client.offset_s, now + good_s, body)
        content = signed_message.sign(draft, self._keyring.secret(key), client.node_key)
        message = OutMessage(
            draft.msg_id, client.client_id, name, area, seq, key, content, answers, draft.expires_at
        )
        self._rows.add(tx, message, now)
        return message

    def has(self, tx: Tx, client: Addressee, name: str) -> bool:
        """Whether a message of this name was put for a client before."""
        return self._rows.find(tx, client.client_id, name) is not None

    def kick(self) -> None:
        """Send what is due, without waiting for it."""
        self._spawn(self.flush())

    async def flush(self) -> int:
        """Send what is due; how many messages a relay took. Of one client one after the other; no client
        waits for the relays of another."""
        clients = await self._db.read(self._waiting)
        return sum(await asyncio.gather(*(self._flush_to(each) for each in clients)))

    async def _flush_to(self, client_id: str) -> int:
        if client_id in self._queued:
            return 0  # whoever waits for its turn sends this too
        self._queued.add(client_id)
        try:
            await self._turns.setdefault(client_id, asyncio.Lock()).acquire()
        finally:
            self._queued.discard(client_id)
        try:
            async with self._in_flight:
                due = await self._db.read(lambda tx: self._due(tx, client_id))
                return sum([await self._send(message) for message in due])
        finally:
            self._turns[client_id].release()

    def _waiting(self, tx: Tx) -> list[str]:
        return [] if self._shared(tx) else self._rows.waiting(tx, self._now())

    def _due(self, tx: Tx, client_id: str) -> list[OutMessage]:
        return [] if self._shared(tx) else self._rows.due(tx, client_id, self._now(), _AT_ONCE)

    async def _send(self, message: OutMessage) -> bool:
        if message.sender not in self._keyring:
            return False
        client = await self._db.read(lambda tx: self._recipient(tx, message.client_id))
        key = message.client_id if client is None else client.node_key
        if client is None and not _KEY.fullmatch(key):
            return False
        named = await self._link.inbox_relays(key) if client is None else client.relays
        taken = await self._link.deliver(
            key,
            message.content,
            tuple(dict.fromkeys((*named, *self._relays))),
            expires_at=message.expires_at,
            sender=message.sender,
            topic=SIGNED,
        )
        again = self._now() + pause_s(message.sends)
        await self._db.write(
            lambda tx: self._rows.tried(tx, message.msg_id, taken=taken > 0, next_send=again)
        )
        return taken > 0

    def _recipient(self, tx: Tx, name: str) -> Client | None:
        return self._clients.by_id(tx, name) or self._clients.by_node_key(tx, name)
