"""The Nostr transport: our relay connections, our relay lists, and direct messages over them.

docs/protocol/04-marketplace-and-nostr.md §6 and §7; docs/protocol/02-fleet-management.md §6.2. The relay
engine is `hive_shared.nostr.relay`; here it gets our relays, our key and what to subscribe to.
"""

import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from hive_shared.crypto import Secret
from hive_shared.nostr import nip44
from hive_shared.nostr.event import Event, build, parse_event
from hive_shared.nostr.giftwrap import KIND_WRAP, split_chunks, wrap
from hive_shared.nostr.relay import PublishResult, RelayPool
from hive_shared.store import Db, Tx

from cl_hive_comms.domain.outbox import MessageKind, Outgoing
from cl_hive_comms.domain.published_kinds import PROFILE_KINDS, relays_needed
from cl_hive_comms.domain.relay_list import KIND_INBOX, KIND_READ_WRITE
from cl_hive_comms.services.ports_identity import Clock, KeyStore, Log, NodeKeys
from cl_hive_comms.services.ports_transport import Delivery

LOOK_BACK_S: Final = 259_200
"""Wraps are dated up to two days back, so the subscription starts three days before the last contact."""
MAX_CONNECTIONS: Final = 8
_LOOKUP_S: Final = 2.0
_DM: Final = "dm"
_DAY_S: Final = 86_400

OnWrap = Callable[[str, Event], Awaitable[None]]
OnAsked = Callable[[str, Event], Awaitable[None]]


class NostrTransport:
    """Owns the relay pool. `start` connects; afterwards `apply` follows changes of options and key."""

    def __init__(
        self,
        db: Db,
        store: KeyStore,
        identity: NodeKeys,
        *,
        on_wrap: OnWrap,
        now: Clock,
        log: Log,
        proxy: str | None,
        private_relays: bool,
    ) -> None:
        self._db, self._store, self._identity = db, store, identity
        self._on_wrap, self._now, self._log = on_wrap, now, log
        self._keys = nip44.ConversationKeys()
        self._primary: tuple[str, ...] = ()
        self._profile: tuple[str, ...] = ()
        self._seen: dict[str, int] = {}
        self._listed_at: set[tuple[str, str]] = set()
        self.last_ok: int | None = None
        self.on_asked: OnAsked | None = None
        """Gets the events of `ask` with its name."""
        self.pool = RelayPool(
            on_event=self._on_event,
            secret_provider=identity.secret,
            now=now,
            rng=os.urandom,
            proxy=proxy,
            log=log,
            private_relays=private_relays,
        )

    # -- life ----------------------------------------------------------------------------------------

    async def start(self, primary: Sequence[str], profile: Sequence[str]) -> None:
        """Begin connecting and subscribing."""
        stored = await self._db.read(lambda tx: self._store.with_prefix(tx, "relay:"))
        self._seen = {key.removeprefix("relay:"): int(value) for key, value in stored.items()}
        await self.apply(primary, profile)
        await self.pool.start()

    async def apply(self, primary: Sequence[str], profile: Sequence[str]) -> None:
        """Follow a change of relays or of our keys; connections that stay are not interrupted.

        Raises ValueError when there are more than eight relays together, changing nothing.
        """
        others = [url for url in profile if url not in primary][: MAX_CONNECTIONS - len(primary)]
        await self.pool.set_relays(primary, [*primary, *others], primary)
        self._primary, self._profile = tuple(primary), tuple(others)
        keys = list(self._identity.readable_secrets())
        self.pool.subscribe(_DM, [{"kinds": [KIND_WRAP], "#p": keys}], self._since)

    async def stop(self) -> None:
        """Close every socket within five seconds and remember when each relay was last heard."""
        self._note_contact()
        await self.pool.stop()
        await self.save_cursors()

    # -- reading -------------------------------------------------------------------------------------

    def _since(self, relay_url: str) -> int:
        return self._seen.get(relay_url, self._now()) - LOOK_BACK_S

    async def _on_event(self, relay_url: str, name: str, event: Event) -> None:
        if name == _DM:
            await self._on_wrap(relay_url, event)
        elif self.on_asked is not None:
            await self.on_asked(name, event)

    def ask(self, name: str, filters: Sequence[Mapping[str, Any]]) -> None:
        """Subscribe to events besides messages; they go to `on_asked`. Raises ValueError for bad filters."""
        self.pool.subscribe(name, [dict(one) for one in filters], lambda url: None)

    def stop_asking(self, name: str) -> None:
        """End such a subscription."""
        self.pool.unsubscribe(name)

    async def save_cursors(self) -> None:
        """Store when each relay was last heard; run every ten minutes."""
        self._note_contact()
        seen, now = dict(self._seen), self._now()

        def body(tx: Tx) -> None:
            for url, at in seen.items():
                self._store.put(tx, f"relay:{url}", str(at).encode(), now)

        if seen:
            await self._db.write(body)

    def _note_contact(self) -> None:
        # The time of contact, not of events: event times are random, and only contact proves completeness.
        for row in self.pool.status():
            if row.get("connected") and row.get("url") in self._primary:
                self._seen[row["url"]] = self._now()
        self._seen = {url: at for url, at in self._seen.items() if url in self._primary}

    async def lookup(self, pubkey: str) -> Sequence[Event]:
        """A peer's relay lists, newest first, as far as our relays have them."""
        asked = [*self._primary, *self._profile]
        if not asked:
            return ()
        filters: list[dict[str, Any]] = [
            {"kinds": [KIND_INBOX, KIND_READ_WRITE], "authors": [pubkey], "limit": 4}
        ]
        return (await self.pool.query(filters, asked, timeout=_LOOKUP_S)).events

    # -- writing -------------------------------------------------------------------------------------

    async def send(self, secret: Secret, message: Outgoing, relays: Sequence[str]) -> Delivery:
        """Wrap one message, in parts when it is large, and publish it.

        The rumor carries the time of the outbox row, so that a repeat is the same rumor. Raises ValueError
        when it can never be sent (too large, bad key).
        """
        topic = "hive-mkt" if message.kind is MessageKind.MESSAGE else "hive-mgmt"
        tags = [["t", topic]]
        if message.reply_to:
            tags.append(["e", message.reply_to])
        late = _DAY_S if message.kind is MessageKind.MESSAGE else 0
        delivery = Delivery((), {})
        for part in split_chunks(message.content):
            event, _ = wrap(
                secret,
                message.recipient,
                part,
                tags=tags,
                now=message.created_at,
                rng=os.urandom,
                expiration=message.expires_at + late,
                keys=self._keys,
            )
            delivery = self._delivery(await self.pool.publish(event, relays))
            if not delivery.ok:
                return delivery
        self.last_ok = self._now()
        return delivery

    def _delivery(self, results: Mapping[str, PublishResult]) -> Delivery:
        accepted = tuple(url for url, result in results.items() if result.accepted)
        refused = {
            url: " ".join(part for part in (result.state, result.prefix, result.message) if part)
            for url, result in results.items()
            if not result.accepted
        }
        return Delivery(accepted, refused)

    async def publish_event(self, text: str) -> Delivery:
        """Publish a signed event; accepted when as many relays took it as its kind needs, or all we have
        (docs/protocol/04-marketplace-and-nostr.md §4.1). Raises ValueError when the text is no event."""
        event = parse_event(json.loads(text))
        relays = [*self._primary, *(self._profile if event.kind in PROFILE_KINDS else ())]
        delivery = self._delivery(await self.pool.publish(event, relays))
        if delivery.ok and len(delivery.accepted) < min(relays_needed(event.kind), len(relays)):
            taken = dict.fromkeys(delivery.accepted, "took it")
            return Delivery((), {**taken, **delivery.refused})
        if delivery.ok:
            self.last_ok = self._now()
        return delivery

    async def publish_lists(self) -> bool:
        """Tell the world where we read (kinds 10050 and 10002); True when every relay has both lists.

        The same signed event goes out again until the relays or the key change (docs/protocol/04 §4.1).
        """
        if not self._primary:
            return True
        lists = (
            (KIND_INBOX, [["relay", url] for url in self._primary]),
            (KIND_READ_WRITE, [["r", url] for url in self._primary]),
        )
        complete = True
        for kind, tags in lists:
            event = await self._list_event(kind, tags)
            missing = [
                url for url in (*self._primary, *self._profile) if (event.id, url) not in self._listed_at
            ]
            results = await self.pool.publish(event, missing, timeout=5)
            self._listed_at |= {(event.id, url) for url, result in results.items() if result.accepted}
            complete = complete and all(result.accepted for result in results.values())
        return complete

    def forget_published(self) -> None:
        """Makes `publish_lists` tell every relay again."""
        self._listed_at.clear()

    async def _list_event(self, kind: int, tags: list[list[str]]) -> Event:
        row = f"event:{kind}"
        stored = await self._db.read(lambda tx: self._store.get(tx, row))
        previous = parse_event(json.loads(stored)) if stored is not None else None
        same = previous is not None and previous.pubkey == self._identity.pubkey
        if previous is not None and same and [list(tag) for tag in previous.tags] == tags:
            return previous
        now = self._now()
        created_at = max(now, previous.created_at + 1) if previous is not None and same else now
        event = build(self._identity.secret(), kind, tags, "", created_at)
        text = json.dumps(event.to_json()).encode()
        await self._db.write(lambda tx: self._store.put(tx, row, text, now))
        return event

    # -- looking -------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """For hive-comms-transports and status."""
        rows = self.pool.status()
        return {
            "state": "up" if self.pool.connected() else ("off" if not rows else "down"),
            "connected": self.pool.connected(),
            "relays": rows,
        }
