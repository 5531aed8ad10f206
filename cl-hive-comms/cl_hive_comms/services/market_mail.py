"""Messages of negotiations and contracts: numbered by conversation, kept as they were signed, taken in the
order they were written (docs/protocol/04-marketplace-and-nostr.md §6).

What a message does and that it was taken are one transaction, so after a crash it is taken again or not at
all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from hive_shared.errors import Capacity, Conflict, InvalidParams, NotFound, Unauthorized
from hive_shared.market.messages import (
    GAP_S,
    Message,
    MessageError,
    body_of,
    contract_of,
    decode_message,
    schema_of,
    verb_of,
)
from hive_shared.row_by_row import RowByRow
from hive_shared.signed_message import Draft
from hive_shared.store import Db, Tx

from ..domain.engagement import (
    FOR_OUR_OWN,
    FOR_THE_OPERATOR,
    MAX_MESSAGES,
    MAX_THREAD_MESSAGES,
    NOTHING,
    Engagement,
    Left,
    MarketMessage,
)
from .messenger_signed import SignedMessages
from .ports_engagements import EngagementRows
from .ports_identity import Clock, Log

LATE_S: Final = 86_400
"""How far back a sender's word counts of when something was said."""
_ERROR_TTL_S: Final = 86_400

Handler = Callable[[Tx, Engagement, Message, int], None]
"""`handler(tx, row, message, at)`: applies what was said at `at` (Unix s). Raises HiveError before it writes
anything."""


class TryAgain(Exception):
    """There is no room to answer now: the message comes again."""


class MarketMail:
    """Sends and takes the messages of engagements. `verbs` are filled by the services that handle them."""

    def __init__(
        self, db: Db, rows: EngagementRows, letters: SignedMessages, *, now: Clock, log: Log
    ) -> None:
        self._db, self._rows, self._letters = db, rows, letters
        self._now, self._log, self._alone = now, log, RowByRow(log)
        self.verbs: dict[type[Message], Handler] = {}
        self.committed: Callable[[], None] = lambda: None
        """Called after every transaction that took a message."""

    def send(self, tx: Tx, row: Engagement, message: Message, expires_at: int) -> None:
        """Store a message to the other side in the caller's transaction; `kick` after the commit.

        Raises Capacity with a full outbox, or where the operator's own acts have filled the conversation.
        """
        self._check_room(tx, row.thread_id, NOTHING)
        last = self._rows.last_seq(tx, row.thread_id, "out")
        seq = max(last + 1, self._letters.least_number(tx, row.created_at))
        body = body_of(message)
        draft = self._letters.put_in_thread(
            tx,
            row.peer_pubkey,
            body,
            schema=schema_of(message),
            thread_id=row.thread_id,
            seq=seq,
            expires_at=expires_at,
        )
        self._rows.add_message(
            tx,
            MarketMessage(
                msg_id=draft.msg_id,
                thread_id=row.thread_id,
                direction="out",
                seq=seq,
                verb=verb_of(message),
                body=body,
                sig=draft.sig,
                sent_at=draft.sent_at,
                expires_at=draft.expires_at,
                state="sent",
            ),
        )

    def answer(self, tx: Tx, row: Engagement, message: Message, expires_at: int) -> None:
        """Send what nothing depends on, unless the conversation is so full that only the operator's own acts
        still have room. Raises Capacity with a full outbox."""
        if self._room(tx, row.thread_id, FOR_THE_OPERATOR):
            self.send(tx, row, message, expires_at)

    def kick(self) -> None:
        """Send what is due; call after the commit."""
        self._letters.kick()

    async def take(self, message: Draft, sender: str) -> None:
        """A message of somebody with whom something is under way.

        Raises InvalidParams for a body that is none, NotFound for a conversation that is none of ours,
        TryAgain where there is no room for it now.
        """
        body = decode_message(message.schema, message.body)
        try:
            await self._db.write(lambda tx: self._keep(tx, message, body, sender))
        except Capacity as full:
            raise TryAgain(full.detail) from full
        self.kick()
        self.committed()

    async def release(self) -> None:
        """Take what waited in vain for an earlier message."""
        late = self._now() - GAP_S
        with self._alone.round("conversations") as alone:
            for thread_id in await self._db.read(lambda tx: self._rows.threads_held_since(tx, late)):
                with alone(thread_id):
                    try:
                        await self._db.write(partial(self._drain, thread_id=thread_id))
                    except Capacity as full:
                        # One conversation that is full holds up no other.
                        self._log("warning", "market_message_waits", thread=thread_id, why=full.detail[:200])
                self.kick()
                self.committed()

    # -- inside --------------------------------------------------------------------------------------

    def _keep(self, tx: Tx, message: Draft, body: Message, sender: str) -> None:
        if self._rows.has_message(tx, message.msg_id):
            return
        row = self._rows.of_thread(tx, message.thread_id)
        about = contract_of(body)
        if row is None or row.peer_pubkey != sender or about not in (None, row.contract_id):
            raise NotFound(f"conversation {message.thread_id} is none with this sender")
        self._check_room(tx, row.thread_id, FOR_OUR_OWN)
        new = self._rows.add_message(
            tx,
            MarketMessage(
                msg_id=message.msg_id,
                thread_id=row.thread_id,
                direction="in",
                seq=message.seq,
                verb=verb_of(body),
                body=message.body,
                sig=message.sig,
                sent_at=message.sent_at,
                expires_at=message.expires_at,
                received_at=self._now(),
                state="held",
            ),
        )
        if not new:
            raise Conflict(f"number {message.seq} was used in this conversation", reason="duplicate")
        self._drain(tx, row.thread_id)

    def _drain(self, tx: Tx, thread_id: str) -> None:
        while (held := self._rows.next_held(tx, thread_id)) is not None:
            waited = self._now() - (held.received_at or 0)
            if held.seq > self._rows.last_seq(tx, thread_id, "in") + 1 and waited < GAP_S:
                return
            code = self._apply(tx, held)
            self._rows.settle_message(tx, held.msg_id, "done" if code is None else "refused", code)

    def _apply(self, tx: Tx, held: MarketMessage) -> str | None:
        """Why a message was refused, None when it did what it says."""
        row = self._rows.of_thread(tx, held.thread_id)
        message = decode_message(f"hive:marketplace/{held.verb}", held.body)
        handler = self.verbs.get(type(message))
        if row is None or isinstance(message, MessageError):
            return None  # kept: it tells the operator what became of what we said
        if handler is None:
            self._refuse(tx, row, held, "unsupported")
            return "unsupported"
        at = min(self._now(), max(held.sent_at, (held.received_at or 0) - LATE_S))
        try:
            handler(tx, row, message, at)
        except (Conflict, InvalidParams, NotFound, Unauthorized) as refused:
            self._log("info", "market_message_refused", verb=held.verb, why=refused.detail[:200])
            self._refuse(tx, row, held, refused.symbol)
            return refused.symbol
        return None

    def _refuse(self, tx: Tx, row: Engagement, held: MarketMessage, code: str) -> None:
        self.answer(tx, row, MessageError(code[:64], held.msg_id), self._now() + _ERROR_TTL_S)

    def _room(self, tx: Tx, thread_id: str, left: Left) -> bool:
        own, every = self._rows.count_messages(tx, thread_id)
        return own < MAX_THREAD_MESSAGES - left.thread and every < MAX_MESSAGES - left.every

    def _check_room(self, tx: Tx, thread_id: str, left: Left) -> None:
        if not self._room(tx, thread_id, left):
            raise Capacity(
                f"the conversation is full: {MAX_THREAD_MESSAGES} messages of one and {MAX_MESSAGES} of all"
                f" are kept, the last {left.thread} and {left.every} not for this"
            )
