"""Signed direct messages, of sibling plugins and of our own: numbered, kept until a relay takes them.

docs/protocol/08-client-and-plugins.md §3.4 (hive-comms-send-dm), docs/protocol/04-marketplace-and-nostr.md
§6.
"""

import uuid
from collections.abc import Mapping
from typing import Final

import msgspec
from hive_shared.canonical import JsonValue, decode_object
from hive_shared.errors import InvalidParams, RateLimited
from hive_shared.nostr.event import event_id
from hive_shared.nostr.giftwrap import KIND_RUMOR, split_chunks
from hive_shared.rate_limit import SlidingWindows
from hive_shared.signed_message import MAX_BYTES, Draft, sign
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from cl_hive_comms.domain.sibling_names import area_to_send
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.ports_identity import Clock, FactStore, RandomBytes

MAX_MESSAGE_BYTES: Final = 65_535
TICKET_SCHEMA: Final = "hive:escrow/ticket"
MAX_TICKET_BYTES: Final = 1_000_000
"""The tokens of a batch (03 §6.6 "Size"); they travel in chunks."""
PER_MINUTE: Final = 60
RESTORED_AT: Final = "threads_restored_at"
"""Fact: when conversations last came with a backup, Unix s."""
DEFAULT_TTL_S: Final = 86_400
MAX_TTL_S: Final = 14 * 86_400


class Sent(msgspec.Struct, frozen=True):
    """What the caller gets: the id of the (first) rumor, and the state in the outbox."""

    event_id: str
    state: str


class SignedMessages:
    """Signs and enqueues messages of siblings."""

    def __init__(
        self,
        db: Db,
        facts: FactStore,
        identity: IdentityService,
        messenger: Messenger,
        *,
        now: Clock,
        random_bytes: RandomBytes,
    ) -> None:
        self._db, self._facts, self._identity, self._messenger = db, facts, identity, messenger
        self._now, self._random_bytes = now, random_bytes
        self._windows = SlidingWindows(now)

    async def send(
        self, recipient: str, body: JsonValue, *, schema: str, key: str, expires_at: int | None
    ) -> Sent:
        """Store a message for sending; the same key sends nothing twice.

        Raises InvalidParams, RateLimited beyond 60 a minute, Capacity with a full outbox.
        """
        now = self._now()
        area = area_to_send(schema)
        until = expires_at if expires_at is not None else now + DEFAULT_TTL_S
        if not now < until <= now + MAX_TTL_S:
            raise InvalidParams(f"expires_at must be within the next {MAX_TTL_S // 86_400} days")
        name = f"dm:{key}" if key else f"dm:{self._random_bytes(16).hex()}"
        known = await self._db.read(lambda tx: self._told(tx, name)) if key else None
        if known is not None:
            return known
        if not self._windows.allow("send-dm", "siblings", PER_MINUTE):
            wait = self._windows.retry_after("send-dm", "siblings", PER_MINUTE)
            raise RateLimited(f"more than {PER_MINUTE} messages in a minute", data={"retry_after": wait})
        return await self._stored(recipient, body, schema=schema, area=area, name=name, until=until)

    async def tell_error(self, recipient: str, area: str, msg_id: str, code: str) -> None:
        """Store the verb `error` about a message, once for each message of a sender; not counted with what
        siblings send. Raises InvalidParams for an area that has no messages, Capacity with a full outbox."""
        schema = f"hive:{area}/error"
        await self._stored(
            recipient,
            {"code": code, "msg_id": msg_id},
            schema=schema,
            area=area_to_send(schema),
            name=f"dm-error:{recipient}:{msg_id}",
            until=self._now() + DEFAULT_TTL_S,
        )

    def put(self, tx: Tx, recipient: str, body: JsonValue, *, schema: str, key: str, expires_at: int) -> None:
        """Store a message of this plugin itself in the caller's transaction; the same key stores nothing
        twice. `kick` after the commit. Raises InvalidParams for an area that has no messages, Capacity with
        a full outbox."""
        self._put(
            tx, recipient, body, schema=schema, area=area_to_send(schema), name=f"dm:{key}", until=expires_at
        )

    def put_in_thread(
        self,
        tx: Tx,
        recipient: str,
        body: JsonValue,
        *,
        schema: str,
        thread_id: str,
        seq: int,
        expires_at: int,
    ) -> Draft:
        """Store a message of a conversation in the caller's transaction, under a number that its caller has
        not used there; returns it with its signature. `kick` after the commit. Raises as `put`."""
        area_to_send(schema)
        draft = Draft(schema, self._uuid(), thread_id, seq, self._now(), expires_at, body)
        signed = self._enqueue(tx, draft, recipient, f"dm:{thread_id}:{seq}")
        return replace(draft, sig=str(decode_object(signed, max_bytes=MAX_BYTES, floats=True)["sig"]))

    def least_number(self, tx: Tx, created_at: int) -> int:
        """The least number for a message of a conversation that began then. One that came with a backup may
        have gone on since: it goes on above any number that it can have used, the time of the restore."""
        restored = int(self._facts.get(tx, RESTORED_AT) or 0)
        return restored if created_at <= restored else 1

    def stored(self, tx: Tx, key: str) -> bool:
        """Whether `put` stored a message of this key."""
        return self._messenger.find(tx, f"dm:{key}") is not None

    def kick(self) -> None:
        """Send what is due; call after the commit."""
        self._messenger.kick()

    async def _stored(
        self, recipient: str, body: JsonValue, *, schema: str, area: str, name: str, until: int
    ) -> Sent:
        def body_of(tx: Tx) -> Sent:
            self._put(tx, recipient, body, schema=schema, area=area, name=name, until=until)
            told = self._told(tx, name)
            assert told is not None
            return told

        sent = await self._db.write(body_of)
        self._messenger.kick()
        return sent

    def _put(
        self, tx: Tx, recipient: str, body: JsonValue, *, schema: str, area: str, name: str, until: int
    ) -> None:
        if self._messenger.find(tx, name) is not None:
            return
        now = self._now()
        counter = f"msg_seq:{area}:{recipient}"
        # From the time on, so that a database that was lost is not followed by numbers that were used.
        seq = int(self._facts.get(tx, counter) or now) + 1
        self._facts.put(tx, counter, str(seq), now)
        self._enqueue(tx, Draft(schema, self._uuid(), area, seq, now, until, body), recipient, name)

    def _enqueue(self, tx: Tx, draft: Draft, recipient: str, name: str) -> str:
        signed = sign(draft, self._identity.secret(), recipient)
        self._messenger.enqueue(
            tx,
            recipient=recipient,
            content=signed,
            kind="message",
            idempotency_key=name,
            expires_at=draft.expires_at,
        )
        return signed

    def _uuid(self) -> str:
        return str(uuid.UUID(bytes=self._random_bytes(16), version=4))

    def _told(self, tx: Tx, name: str) -> Sent | None:
        found = self._messenger.find(tx, name)
        if found is None:
            return None
        message, state = found
        content = split_chunks(message.content)[0]
        tags = [["p", message.recipient], ["t", "hive-mkt"]]
        return Sent(event_id(message.sender, message.created_at, KIND_RUMOR, tags, content), state)


def schema_inside(message: JsonValue) -> str:
    """The schema that a JSON message names itself, or an empty text."""
    found = message.get("schema") if isinstance(message, Mapping) else None
    return found if isinstance(found, str) else ""
