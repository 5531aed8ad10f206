"""Direct messages over relays (docs/protocol/04-marketplace-and-nostr.md §6-7)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr import giftwrap
from hive_shared.nostr.chunks import Completed
from hive_shared.nostr.event import Event, build
from hive_shared.nostr.giftwrap import ChunkBuffer, Message, WrapInvalid
from hive_shared.nostr.nip44 import ConversationKeys
from hive_shared.nostr.reasons import ChunkInvalid
from hive_shared.nostr.relay import RelayPool, normalise_relay_url

_INBOX = "dm"
_DM_BACKLOG = 259_200
_KIND_DM_RELAYS = 10_050
_TOPIC = ("t", "hive-mgmt")
_LOOKUP_S = 3.0
_MAX_INBOX_RELAYS = 3


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
        self._chunks = ChunkBuffer()
        self._refused = 0
        self._since = 0

    @property
    def pubkey(self) -> str:
        return xonly_pubkey(self._secret)

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

    async def deliver(self, recipient: str, content: str, relays: Sequence[str], *, expires_at: int) -> int:
        """Send ``content`` (chunked if it must be); returns how many relays took all of it."""
        accepted: int | None = None
        for part in giftwrap.split_chunks(content):
            event, _ = giftwrap.wrap(
                self._secret,
                recipient,
                part,
                tags=[list(_TOPIC)],
                now=self._now(),
                rng=self._rng,
                expiration=expires_at,
                keys=self._keys,
            )
            results = await self._pool.publish(event, relays)
            took = sum(1 for result in results.values() if result.accepted)
            accepted = took if accepted is None else min(accepted, took)
        return accepted or 0

    async def received(self, _relay: str, subscription: str, event: Event) -> None:
        """Relay pool callback: a verified, deduplicated event."""
        if subscription != _INBOX:
            return
        try:
            message = giftwrap.unwrap(self._secret, event, keys=self._keys, verified=True)
            content = self._assemble(message)
        except (WrapInvalid, ChunkInvalid):
            # Anybody can send garbage to a public key: count it, nothing else.
            self._refused += 1
            return
        if content is not None:
            await self._on_message(
                Message(
                    message.sender,
                    message.rumor_id,
                    content,
                    message.created_at,
                    message.tags,
                    message.wrap_id,
                )
            )

    def _assemble(self, message: Message) -> str | None:
        if '"hive:chunk/v1"' not in message.content:
            return message.content
        try:
            part = json.loads(message.content)
        except ValueError:
            return message.content
        if not isinstance(part, dict) or part.get("schema") != "hive:chunk/v1":
            return message.content
        if not self._trusted(message.sender):
            return None
        whole: Completed | None = self._chunks.add(message.sender, part, self._now())
        return whole.text if whole else None
