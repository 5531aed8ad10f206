"""Direct messages over relays (docs/protocol/04-marketplace-and-nostr.md §6-7)."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr import giftwrap
from hive_shared.nostr.chunks import (
    CHUNK_SCHEMA,
    KEEP_SECONDS,
    RESEND_SCHEMA,
    Missing,
)
from hive_shared.nostr.event import Event, build
from hive_shared.nostr.giftwrap import Message, WrapInvalid
from hive_shared.nostr.long_messages import LongMessages
from hive_shared.nostr.nip44 import ConversationKeys
from hive_shared.nostr.reasons import ChunkInvalid
from hive_shared.nostr.relay import RelayPool, normalise_relay_url

from hive_advisor.services.ports import COMMANDS, RELAY_PATIENCE_S
from hive_advisor.transport.sent_parts import SentMessage, SentParts

_INBOX = "dm"
_DM_BACKLOG = 259_200
_KIND_DM_RELAYS = 10_050
_LOOKUP_S = 3.0
_MAX_INBOX_RELAYS = 3
_MAX_PART_IDS = 5_000


class NostrLink:
    """One identity on its relays: sends gift wraps, hands over verified messages.

    ``on_message`` gets every message that passed all checks of §6 "Verify", whoever sent it.
    ``trusted`` says whose chunked messages may take memory, ``own_relays`` the
    configured ones: only they may have private addresses.
    """

    def __init__(
        self,
        secret: Secret,
        pool: RelayPool,
        *,
        on_message: Callable[[Message], Awaitable[None]],
        trusted: Callable[[str], bool],
        own_relays: Sequence[str],
        now: Callable[[], int],
        rng: Callable[[int], bytes],
        say: Callable[[str], None],
    ) -> None:
        self._secret, self._pool = secret, pool
        self._on_message, self._trusted = on_message, trusted
        self._now, self._rng, self._say = now, rng, say
        self._own = tuple(own_relays)
        self._keys = ConversationKeys()
        self._long = LongMessages(self._ask, now=now)
        self._sent = SentParts(now)
        # Ids of the parts that came: a part asked for may come beside the one that was thought lost.
        self._part_ids: OrderedDict[str, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused = 0
        self._since = 0

    @property
    def pubkey(self) -> str:
        return xonly_pubkey(self._secret)

    async def close(self) -> None:
        """Ask for nothing more, and send nothing again."""
        await self._long.stop()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def watch(self, last_seen: int | None) -> None:
        """Subscribe to our messages. Wraps are backdated up to two days, hence the three days before."""
        self._since = max(0, (last_seen or self._now()) - _DM_BACKLOG)
        self._pool.subscribe(_INBOX, [self._filter()], lambda _url: self._since)

    async def catch_up(self, timeout: float) -> int:
        """Ask the relays once for everything that waits; returns how many answered to the end."""
        found = await self._pool.query([{**self._filter(), "since": self._since}], timeout=timeout)
        for event in reversed(found.events):
            await self.received("", _INBOX, event)
        return found.answered

    def _filter(self) -> dict[str, Any]:
        return {"kinds": [giftwrap.KIND_WRAP], "#p": [self.pubkey]}

    async def announce(self, relays: Sequence[str], timeout: float) -> None:
        """Publish kind 10050: where we read messages, so that nodes find us."""
        event = build(self._secret, _KIND_DM_RELAYS, [["relay", url] for url in relays], "", self._now())
        await self._pool.publish(event, relays, timeout=timeout)

    async def inbox_relays(self, key: str) -> tuple[str, ...]:
        """Where the owner of a key reads messages, by its newest kind 10050; empty when no relay knows."""
        found = await self._pool.query(
            [{"kinds": [_KIND_DM_RELAYS], "authors": [key], "limit": 1}], timeout=_LOOKUP_S
        )
        lists = [event for event in found.events if event.pubkey == key]
        newest = max(lists, key=lambda event: event.created_at, default=None)
        named = [tag[1] for tag in newest.tags if len(tag) > 1 and tag[0] == "relay"] if newest else []
        return tuple(url for given in named[:_MAX_INBOX_RELAYS] if (url := self._foreign(given)) is not None)

    def _foreign(self, given: str) -> str | None:
        """An address from outside; a private one counts only if it is one of ours."""
        try:
            url = normalise_relay_url(given)
            return url if url in self._own else normalise_relay_url(given, foreign=True)
        except ValueError:
            return None

    async def deliver(
        self,
        recipient: str,
        content: str,
        relays: Sequence[str],
        *,
        expires_at: int,
        patience_s: float = RELAY_PATIENCE_S,
        topic: str = COMMANDS,
    ) -> int:
        """Send ``content`` (chunked if it must be); returns how many relays took all of it, each part within
        ``patience_s``."""
        message = SentMessage(recipient, content, tuple(relays), self._now(), expires_at, topic)
        self._sent.keep(message)
        return await self._publish(message, giftwrap.split_chunks(content), patience_s)

    async def _publish(
        self, message: SentMessage, parts: Sequence[str], patience_s: float = RELAY_PATIENCE_S
    ) -> int:
        accepted: int | None = None
        for part in parts:
            event, _ = giftwrap.wrap(
                self._secret,
                message.recipient,
                part,
                tags=[["t", message.topic]],
                # The time of the message: a part sent again is the same rumor, which its receiver knows.
                now=message.sent_at,
                rng=self._rng,
                expiration=message.expires_at,
                keys=self._keys,
            )
            results = await self._pool.publish(event, message.relays, timeout=patience_s)
            took = sum(1 for result in results.values() if result.accepted)
            accepted = took if accepted is None else min(accepted, took)
        return accepted or 0

    async def received(self, _relay: str, subscription: str, event: Event) -> None:
        """Relay pool callback: a verified, deduplicated event."""
        if subscription != _INBOX:
            return
        try:
            message = giftwrap.unwrap(self._secret, event, keys=self._keys, verified=True)
            whole = self._whole(message)
        except (WrapInvalid, ChunkInvalid):
            # Anybody can send garbage to a public key: count it, nothing else.
            self._refused += 1
            return
        if whole is not None:
            await self._on_message(whole)

    def _whole(self, message: Message) -> Message | None:
        """The message, put together if it came in parts; None for a part while others are missing, and for
        what parts are asked for with. Raises ChunkInvalid."""
        content = message.content
        if CHUNK_SCHEMA not in content and RESEND_SCHEMA not in content:
            return message
        try:
            part = json.loads(content)
        except (ValueError, RecursionError):
            return message
        schema = part.get("schema") if isinstance(part, dict) else None
        if schema == RESEND_SCHEMA:
            self._asked(message)
            return None
        if schema != CHUNK_SCHEMA:
            return message
        if not self._trusted(message.sender) or message.rumor_id in self._part_ids:
            return None
        whole = self._long.take(message.sender, part)
        self._part_ids[message.rumor_id] = None
        if len(self._part_ids) > _MAX_PART_IDS:
            self._part_ids.popitem(last=False)
        if whole is None:
            return None
        # Named by what it says: the part that completes it is another one at the next look at the relays.
        name = hashlib.sha256(f"{message.sender}:{whole.sha256}".encode()).hexdigest()
        return Message(message.sender, name, whole.text, message.created_at, message.tags, message.wrap_id)

    # Lost parts ----------------------------------------------------------------------------------

    async def _ask(self, missing: Missing) -> bool:
        """Ask for parts; whether a relay took the request."""
        relays = (*await self.inbox_relays(missing.sender), *self._own)
        now = self._now()
        request = SentMessage(
            missing.sender, missing.content(), tuple(dict.fromkeys(relays)), now, now + KEEP_SECONDS
        )
        return await self._publish(request, [request.content]) > 0

    def _asked(self, message: Message) -> None:
        again = self._sent.asked(message.sender, message.content, message.created_at)
        if again is None:
            return

        async def send() -> None:
            await self._publish(again.message, again.parts)

        # Not awaited: the relays' answers come by the way this message came.
        task = asyncio.create_task(send())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
