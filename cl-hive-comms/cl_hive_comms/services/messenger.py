"""Durable outgoing direct messages: a row in the caller's transaction, sent after the commit.

docs/protocol/02-fleet-management.md §6.2 and docs/protocol/04-marketplace-and-nostr.md §6. Delivery is at
least once; a repeated send has the same rumor id, so the receiver recognises it. One relay that accepts
is enough; until then retries go on at 2 .. 300 s until the message expires, also after a restart.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from hive_shared.crypto import Secret
from hive_shared.errors import Capacity, TransportUnavailable
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from cl_hive_comms.domain.outbox import KEPT_S, MAX_QUEUED, MessageKind, Outgoing, Queued, retry_delay
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.ports_identity import Clock, Log
from cl_hive_comms.services.ports_transport import Delivery, DirectMessages, FurtherWays, OutboxStore, Routes

MAX_CONTENT_BYTES = 1_048_576
OWN_WAY_S = 600
"""How long a response waits for the transport of its command, as messages wait for a plugin that is away."""
MAX_QUEUED_EACH = 400
"""Of these, messages for one recipient: one agent with dead relays must not push out those of others."""
_BATCH = 64
_BATCH_EACH = 8
_FEW = 4
_DISK_PAUSE_S = 30.0
_IDLE_S = 60.0
_AFTER_OUTAGES_S = 60.0
"""A relay that comes and goes has everything that waits sent no more often than this."""
_RECIPIENTS_AT_ONCE = 16


class Messenger:
    """Owns comms_outbox. `enqueue` inside a transaction, `kick` after its commit, `run` in a loop."""

    def __init__(
        self,
        db: Db,
        store: OutboxStore,
        identity: IdentityService,
        direct_messages: DirectMessages,
        routes: Routes,
        *,
        now: Clock,
        log: Log,
        further: FurtherWays | None = None,
    ) -> None:
        self._db, self._store, self._identity = db, store, identity
        self._direct_messages, self._routes, self._further = direct_messages, routes, further
        self._now, self._log = now, log
        self._wake = asyncio.Event()
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._batches_done = 0
        self._relays_back = False
        self._last_outage = -_AFTER_OUTAGES_S
        self._last_ok: int | None = None

    def enqueue(
        self,
        tx: Tx,
        *,
        recipient: str,
        content: str,
        kind: str,
        idempotency_key: str,
        expires_at: int,
        reply_relays: Sequence[str] = (),
        reply_to: str | None = None,
        sender: str | None = None,
        transport: str = "",
    ) -> None:
        """Stores a message in the caller's transaction; a known idempotency key changes nothing.

        `kind` is response, push, message or event; `transport` the registered one it has to take. A full
        queue gives up older messages for a response or a push,
        those of a recipient who has too many waiting first, and refuses a message with Capacity.
        Raises TransportUnavailable when the text exceeds 1 MiB.
        """
        size = len(content.encode())
        if size > MAX_CONTENT_BYTES:
            raise TransportUnavailable(
                f"the message has {size} bytes; {MAX_CONTENT_BYTES} is the most that is sent",
                reason="message_too_large",
            )
        self._make_room(tx, MessageKind(kind), recipient)
        message = Outgoing(
            idempotency_key=idempotency_key,
            sender=sender or self._identity.pubkey,
            recipient=recipient,
            kind=MessageKind(kind),
            content=content,
            created_at=self._now(),
            expires_at=expires_at,
            reply_relays=tuple(reply_relays[:3]),
            reply_to=reply_to,
            transport=transport,
        )
        self._store.add(tx, message)

    def find(self, tx: Tx, idempotency_key: str) -> tuple[Outgoing, str] | None:
        """A message by its key with its state (queued, sent, expired, dropped), None when there is none."""
        return self._store.find(tx, idempotency_key)

    def queued(self, tx: Tx, recipient: str) -> tuple[int, int]:
        """How many messages wait, and how many of them for one recipient."""
        return self._store.queued_count(tx), self._store.queued_for(tx, recipient)

    def kick(self) -> None:
        """Looks at the outbox now; call after the commit."""
        self._wake.set()

    async def retry_now(self) -> int:
        """Try what waits for its next turn at once; how many messages."""
        count = await self._db.write(lambda tx: self._store.retry_now(tx, self._now()))
        self.kick()
        return count

    def relays_back(self) -> None:
        """A relay is there again and none was: what waits for its next turn is tried soon."""
        self._relays_back = True
        self.kick()

    async def retry_over(self, transport: str) -> None:
        """Try what waits for a registered transport at once: it is there again."""
        if await self._db.write(lambda tx: self._store.retry_over(tx, transport, self._now()), durable=False):
            self.kick()

    async def run(self) -> None:
        """Sends what is due until cancelled."""
        try:
            while True:
                self._wake.clear()
                await self._after_outage()
                next_at = await self._start_due()
                pause = _IDLE_S if next_at is None else max(0.05, min(_IDLE_S, next_at - self._now()))
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            tasks = list(self._sending.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def sweep(self) -> None:
        """Expires and prunes; run every minute."""
        now = self._now()
        counts = await self._db.read(self._store.counts)
        if not counts:
            return

        def body(tx: Tx) -> int:
            self._store.prune(tx, now - KEPT_S)
            return self._store.expire(tx, now)

        if expired := await self._db.write(body):
            self._log("warning", "messages_expired", count=expired)

    async def status(self) -> dict[str, Any]:
        """How many messages wait and when a relay last took one, for status and selfcheck; `by_transport`
        counts what waits for a registered transport."""
        if self._last_ok is None:
            self._last_ok = await self._db.read(self._store.last_sent) or 0
        # By the index of what is due: as many rows as wait, whatever was sent in a week.
        return {
            "queue": self._db.peek(self._store.queued_count),
            "last_ok": self._last_ok or None,
            "by_transport": self._db.peek(self._store.waiting),
        }

    # -- inside --------------------------------------------------------------------------------------

    def _make_room(self, tx: Tx, kind: MessageKind, recipient: str) -> None:
        if self._store.queued_for(tx, recipient) >= MAX_QUEUED_EACH:
            # Its responses first: they can be asked for again, a push only where it is polled.
            own = [MessageKind.RESPONSE, MessageKind.PUSH, MessageKind.MESSAGE]
            self._store.drop_oldest(tx, own, self._now(), recipient)
        if self._store.queued_count(tx) < MAX_QUEUED:
            return
        # A response proves what was executed, a push may be part of a revocation: neither may fail the
        # transaction that records them, whatever an agent has made us queue.
        victims = [MessageKind.EVENT, MessageKind.PUSH, MessageKind.MESSAGE, MessageKind.RESPONSE]
        if kind in (MessageKind.MESSAGE, MessageKind.EVENT) or not self._store.drop_oldest(
            tx, victims, self._now()
        ):
            raise Capacity(
                f"{MAX_QUEUED} messages wait to be sent; relays may be down, see hive-comms-transports"
            )

    async def _after_outage(self) -> None:
        # By the loop's clock: the wall clock may have been set while the relays were away.
        uptime = asyncio.get_running_loop().time()
        if not self._relays_back or uptime < self._last_outage + _AFTER_OUTAGES_S:
            return
        self._relays_back, self._last_outage = False, uptime
        if self._db.peek(self._store.queued_count):
            await self._db.write(lambda tx: self._store.retry_now(tx, self._now()), durable=False)

    async def _start_due(self) -> int | None:
        now = self._now()
        done_before = self._batches_done
        busy = tuple(self._sending)
        rows = self._db.peek(lambda tx: self._due_of_few(tx, now, busy))
        if rows is None:
            rows = await self._db.read(
                lambda tx: self._store.due(tx, now, _BATCH, each=_BATCH_EACH, but=busy)
            )
        if self._batches_done != done_before:
            # What was read may show messages as waiting that were sent meanwhile: look again.
            return now
        batches: dict[str, list[Queued]] = {}
        for row in rows:
            batches.setdefault(row.message.recipient, []).append(row)
        for recipient, batch in batches.items():
            if recipient in self._sending or len(self._sending) >= _RECIPIENTS_AT_ONCE:
                continue
            task = asyncio.create_task(self._send_batch(batch))
            self._sending[recipient] = task
            task.add_done_callback(partial(self._finished, recipient))
        if any(recipient not in self._sending for recipient in batches):
            return now + 1
        later = self._db.peek(self._store.next_due)
        # What is due now is being sent; others may become due before it is done.
        return None if later is None else max(later, now + 1)

    def _due_of_few(self, tx: Tx, now: int, busy: tuple[str, ...]) -> list[Queued] | None:
        """What is due when little is waiting, as after a single command; None when a thread should look."""
        if self._store.queued_count(tx) > _FEW:
            return None
        return self._store.due(tx, now, _FEW, but=busy)

    def _finished(self, recipient: str, _task: asyncio.Task[None]) -> None:
        self._sending.pop(recipient, None)
        self._batches_done += 1
        self._wake.set()

    async def _send_batch(self, batch: list[Queued]) -> None:
        try:
            for row in batch:
                await self._send(row)
        except Exception as error:
            # It may be out, but that could not be noted (a full disk, a fault of ours): sending it again at
            # once, and again, would flood the relays.
            self._log("error", "outbox_not_updated", kind=type(error).__name__)
            await asyncio.sleep(_DISK_PAUSE_S)

    async def _send(self, row: Queued) -> None:
        message = row.message
        if message.expires_at <= self._now():
            await self._db.write(lambda tx: self._store.expire(tx, self._now()))
            return
        try:
            delivery = await self._deliver(row)
        except ValueError as error:
            await self._failed(row, f"cannot be sent: {error}")
            return
        if not delivery.ok:
            await self._failed(row, delivery.why())
            return
        # Forgotten in a power cut, it is sent again: the same rumor, which its receiver knows.
        await self._db.write(lambda tx: self._store.mark_sent(tx, row.outbox_id, self._now()), durable=False)
        if delivery.way == "nostr_dm":
            self._last_ok = self._now()
        self._log(
            "debug", "message_sent", kind=message.kind.value, way=delivery.way, taken=len(delivery.accepted)
        )

    async def _deliver(self, row: Queued) -> Delivery:
        message, further, refused = row.message, self._further, dict[str, str]()
        if further is not None and further.takes(message):
            own = await further.send(message)
            waited = self._now() - message.created_at >= OWN_WAY_S
            if own.ok or message.kind is MessageKind.EVENT or not (own.for_good or waited):
                return own
            refused |= own.refused
        relays = await self._routes.relays_for(message, row.attempts)
        delivery = await self._direct_messages.send(self._key(message), message, relays)
        if delivery.ok or further is None:
            return delivery
        return await further.instead(message, replace(delivery, refused={**refused, **delivery.refused}))

    async def _failed(self, row: Queued, why: str) -> None:
        attempts = row.attempts + 1
        next_at = self._now() + retry_delay(attempts)
        await self._db.write(
            lambda tx: self._store.mark_failed(
                tx, row.outbox_id, attempts=attempts, next_at=next_at, error=why
            ),
            durable=False,
        )
        if attempts == 1:
            self._log("warning", "message_not_sent", kind=row.message.kind.value, why=why)

    def _key(self, message: Outgoing) -> Secret:
        # A key that ran out since may no longer sign: the current one is who we are now.
        return self._identity.secret_of(message.sender) or self._identity.secret()
