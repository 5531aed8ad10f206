"""The Nostr transport: our relay connections, our relay lists, and direct messages over them.

docs/protocol/04-marketplace-and-nostr.md §6 and §7; docs/protocol/02-fleet-management.md §6.2. The relay
engine is `hive_shared.nostr.relay`; here it gets our relays, our key and what to subscribe to.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Collection, Container, Mapping, Sequence
from typing import Any, Final

from hive_shared.crypto import Secret
from hive_shared.nostr import nip44
from hive_shared.nostr.event import Event, build, parse_event
from hive_shared.nostr.giftwrap import split_chunks, wrap
from hive_shared.nostr.legacy_dm import build_legacy
from hive_shared.nostr.relay import PublishResult, QueryResult, RelayPool
from hive_shared.store import Db, Tx

from cl_hive_comms.domain.arrival import Forms
from cl_hive_comms.domain.outbox import MessageKind, Outgoing
from cl_hive_comms.domain.published_kinds import KIND_OFFER, relays_needed
from cl_hive_comms.domain.relay_list import KIND_INBOX, KIND_READ_WRITE
from cl_hive_comms.domain.relay_sets import RelaySets, is_advert_filter
from cl_hive_comms.services.ports_identity import Clock, KeyStore, Log, NodeKeys
from cl_hive_comms.services.ports_transport import Delivery
from cl_hive_comms.transport.nostr_browse import IsolatedReader

LOOK_BACK_S: Final = 259_200
"""Wraps are dated up to two days back, so the subscription starts three days before the last contact."""
_SEARCH_S: Final = 5.0
"""How long an advert waits for a search relay: its failure is no error, and must not hold up others."""
_LOOKUP_S: Final = 2.0
_DIAL_S: Final = 1.0
_DM: Final = "dm"
_ADVERTS: Final = "~adverts"
_DAY_S: Final = 86_400

_NO_PROXY: Final = (
    "no relay is used: privacy is strict, or the node always uses its proxy, and it has none; set the node's"
    " proxy option (for instance proxy=127.0.0.1:9050), or hive-comms-nostr-privacy=isolated"
)

OnWrap = Callable[[str, Event], Awaitable[None]]
OnAsked = Callable[[str, str, Event], Awaitable[None]]
"""A relay, the name of a subscription, an event."""


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
        always_use_proxy: bool,
        private_relays: bool,
        forms: Forms,
        writes_legacy: Container[str],
    ) -> None:
        """`proxy` is the node's, used for every socket when it always is, or when privacy is strict;
        `writes_legacy` are the peers that are answered by kind 4."""
        self._db, self._store, self._identity = db, store, identity
        self._on_wrap, self._now, self._log = on_wrap, now, log
        self._node_proxy, self._always_use_proxy = proxy, always_use_proxy
        self._private_relays, self._forms, self._writes_legacy = private_relays, forms, writes_legacy
        self._keys = nip44.ConversationKeys()
        self._sets = RelaySets()
        self._seen: dict[str, int] = {}
        self._listed_at: set[tuple[str, str]] = set()
        self._asked: dict[str, list[dict[str, Any]]] = {}
        self._searched: dict[str, dict[str, Any]] = {}
        self._following: set[asyncio.Task[None]] = set()
        self._one_change = asyncio.Lock()
        self._started = False
        self.last_ok: int | None = None
        self.on_asked: OnAsked | None = None
        """Gets the events of `ask` with its name."""
        self.on_connected: Callable[[], None] | None = None
        """Called when a relay is there again and none was."""
        self._proxy = proxy if always_use_proxy else None
        self._offline: str | None = None
        self.pool = self._new_pool(self._proxy)
        self._isolated = IsolatedReader(self._on_event, now=now, log=log, private_relays=private_relays)

    def _new_pool(self, proxy: str | None) -> RelayPool:
        return RelayPool(
            on_event=self._on_event,
            secret_provider=self._identity.secret,
            now=self._now,
            rng=os.urandom,
            proxy=proxy,
            log=self._log,
            private_relays=self._private_relays,
            on_connected=self._connected,
        )

    def _connected(self) -> None:
        if self.on_connected is not None:
            self.on_connected()

    # -- life ----------------------------------------------------------------------------------------

    async def start(self, sets: RelaySets) -> None:
        """Begin connecting and subscribing."""
        stored = await self._db.read(lambda tx: self._store.with_prefix(tx, "relay:"))
        self._seen = {key.removeprefix("relay:"): int(value) for key, value in stored.items()}
        self._started = True
        await self.apply(sets)
        await self.pool.start()

    async def apply(self, sets: RelaySets) -> None:
        """Follow a change of relays, of privacy or of our keys; connections that stay are not interrupted.

        Of more than eight relays the first eight are used (`RelaySets.too_many` says so beforehand).
        """
        async with self._one_change:
            must = self._always_use_proxy or sets.strict
            self._offline = _NO_PROXY if must and self._node_proxy is None else None
            proxy = self._node_proxy if must else None
            if proxy != self._proxy:
                await self.pool.stop()
                self.pool, self._proxy = self._new_pool(proxy), proxy
                if self._started:
                    await self.pool.start()
            self._sets = sets
            keys = list(self._identity.readable_secrets())
            self.pool.subscribe(_DM, [{"kinds": self._forms.kinds, "#p": keys}], self._since)
            self._ask_all()
            await self._connect()

    async def _connect(self) -> None:
        sets = RelaySets() if self._offline else self._sets
        adverts = self._advert_filters()
        standing = sets.standing(browsing=bool(adverts))
        await self.pool.set_relays(
            standing.reads, standing.all, sets.inbox, adverts=standing.adverts, own=sets.own
        )
        await self._isolated.follow(sets.browsed(), adverts, self._proxy)

    async def dial_now(self) -> int:
        """Try the relays whose next attempt is waited for; returns how many were.

        Waits a second at most for the first of them, so that whoever asked sees what came of it.
        """
        count = self.pool.dial_now()
        if count:
            await self.pool.wait_for(lambda: self.pool.connected() > 0, _DIAL_S)
        return count

    async def stop(self) -> None:
        """Close every socket within five seconds and remember when each relay was last heard."""
        self._note_contact()
        for task in list(self._following):
            task.cancel()
        await asyncio.gather(self.pool.stop(), self._isolated.stop())
        await self.save_cursors()

    # -- reading -------------------------------------------------------------------------------------

    def _since(self, relay_url: str) -> int:
        return self._seen.get(relay_url, self._now()) - LOOK_BACK_S

    async def _on_event(self, relay_url: str, name: str, event: Event) -> None:
        if name == _DM:
            await self._on_wrap(relay_url, event)
        elif self.on_asked is not None:
            await self.on_asked(relay_url, name.removesuffix(_ADVERTS), event)

    def ask(self, name: str, filters: Sequence[Mapping[str, Any]]) -> None:
        """Subscribe to events besides messages; they go to `on_asked`. Raises ValueError for bad filters.

        Adverts are asked of the search relays too, and over sockets of their own when privacy says so.
        """
        self._asked[name] = [dict(one) for one in filters]
        self._ask_one(name)
        self._follow()

    def stop_asking(self, name: str) -> None:
        """End such a subscription."""
        self._asked.pop(name, None)
        self.pool.unsubscribe(name)
        self.pool.unsubscribe(name + _ADVERTS)
        self._follow()

    def _ask_all(self) -> None:
        for name in self._asked:
            self._ask_one(name)

    def _ask_one(self, name: str) -> None:
        adverts, others = self._parted(name)
        here = [] if self._sets.isolated else adverts
        for asked, part, role in ((name, others, "read"), (name + _ADVERTS, here, "adverts")):
            if part:
                self.pool.subscribe(asked, part, lambda url: None, role)
            else:
                self.pool.unsubscribe(asked)

    def _parted(self, name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        keys = self._identity.readable_secrets()
        adverts = [one for one in self._asked[name] if is_advert_filter(one, keys)]
        return adverts, [one for one in self._asked[name] if one not in adverts]

    def _advert_filters(self) -> dict[str, list[dict[str, Any]]]:
        parts = {name: self._parted(name)[0] for name in self._asked}
        return {name: part for name, part in parts.items() if part}

    def _follow(self) -> None:
        if self._started:
            task = asyncio.create_task(self._followed())
            self._following.add(task)
            task.add_done_callback(self._following.discard)

    async def _followed(self) -> None:
        async with self._one_change:
            await self._connect()

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
            if row.get("connected") and row.get("url") in self._sets.inbox:
                self._seen[row["url"]] = self._now()
        self._seen = {url: at for url, at in self._seen.items() if url in self._sets.inbox}

    async def look(self, filters: Sequence[Mapping[str, Any]], timeout: float) -> QueryResult | None:
        """Ask once for stored adverts, where adverts are read; None when there is no relay to ask."""
        if self._offline:
            return None
        if self._sets.isolated:
            return await self._isolated.look(filters, timeout)
        relays = self._sets.standing(browsing=True).adverts
        return await self.pool.query(filters, relays, timeout=timeout) if relays else None

    async def lookup(self, pubkey: str) -> Sequence[Event]:
        """A peer's relay lists, newest first, as far as our relays have them."""
        asked = [*self._sets.primary, *self._sets.lists]
        if not asked or self._offline:
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
        return await self._publish_parts(secret, message, relays, split_chunks(message.content))

    async def send_parts(
        self, secret: Secret, message: Outgoing, relays: Sequence[str], indexes: Collection[int]
    ) -> Delivery:
        """Publish single parts of a message once more: the same rumors in new wraps."""
        parts = split_chunks(message.content)
        if not all(0 <= index < len(parts) for index in indexes):
            raise ValueError(f"the message has {len(parts)} parts")
        return await self._publish_parts(secret, message, relays, [parts[index] for index in sorted(indexes)])

    async def _publish_parts(
        self, secret: Secret, message: Outgoing, relays: Sequence[str], parts: Sequence[str]
    ) -> Delivery:
        if self._offline:
            return Delivery((), {"relays": self._offline})
        topic = "hive-mkt" if message.kind is MessageKind.MESSAGE else "hive-mgmt"
        tags = [["t", topic]]
        if message.reply_to:
            tags.append(["e", message.reply_to])
        delivery = Delivery((), {})
        for part in parts:
            event = self._written(secret, message, part, tags)
            delivery = self._delivery(await self.pool.publish(event, relays))
            if not delivery.ok:
                return delivery
        self.last_ok = self._now()
        return delivery

    def _written(self, secret: Secret, message: Outgoing, part: str, tags: list[list[str]]) -> Event:
        until = message.expires_at + (_DAY_S if message.kind is MessageKind.MESSAGE else 0)
        to, at = message.recipient, message.created_at
        if to in self._writes_legacy:
            return build_legacy(secret, to, part, tags=tags, now=at, expiration=until, keys=self._keys)
        event, _ = wrap(
            secret, to, part, tags=tags, now=at, rng=os.urandom, expiration=until, keys=self._keys
        )
        return event

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
        if self._offline:
            return Delivery((), {"relays": self._offline})
        counted, extra = self._sets.event_relays(event.kind)
        results, searched = await asyncio.gather(
            self.pool.publish(event, counted), self.pool.publish(event, extra, timeout=_SEARCH_S)
        )
        delivery = self._delivery(results)
        taken = (*delivery.accepted, *self._note_searched(searched))
        if not taken or len(taken) < min(relays_needed(event.kind), len(counted)):
            return Delivery((), {**dict.fromkeys(taken, "took it"), **delivery.refused})
        self.last_ok = self._now()
        return Delivery(taken, delivery.refused)

    def _note_searched(self, results: Mapping[str, PublishResult]) -> tuple[str, ...]:
        """The search relays that took an event; what they said is for status alone."""
        answers = self._delivery(results)
        for url in results:
            row = self._searched.setdefault(url, {"url": url, "last_ok": None, "last_error": ""})
            if url in answers.accepted:
                row |= {"last_ok": self._now(), "last_error": ""}
            else:
                row["last_error"] = answers.refused[url][:200]
        return answers.accepted

    def low_redundancy(self, kind: int) -> bool:
        """Whether an event of this kind finds fewer relays than it should have (04 §7.1)."""
        return bool(self._offline and relays_needed(kind) >= 3) or self._sets.low_redundancy(kind)

    async def publish_lists(self) -> bool:
        """Tell the world where we read (kinds 10050 and 10002); True when every relay has both lists.

        The same signed event goes out again until the relays or the key change (docs/protocol/04 §4.1).
        """
        if not self._sets.primary or self._offline:
            return True
        lists = (
            (KIND_INBOX, [["relay", url] for url in self._sets.primary]),
            (KIND_READ_WRITE, [["r", url] for url in self._sets.primary]),
        )
        complete = True
        for kind, tags in lists:
            event = await self._list_event(kind, tags)
            told = dict.fromkeys((*self._sets.primary, *self._sets.lists))
            missing = [url for url in told if (event.id, url) not in self._listed_at]
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
        """For hive-comms-transports and status: `connected` counts standing connections, `search` says how
        adverts fared at the search relays, `advert_relays` how many relays an offer goes to."""
        rows = self.pool.status()
        up = self.pool.connected()
        counted, extra = self._sets.event_relays(KIND_OFFER)
        found: dict[str, Any] = {
            "state": "up" if up else ("off" if not rows else "down"),
            "connected": up,
            "relays": [*rows, *({**row, "isolated": True} for row in self._isolated.status())],
            "search": [dict(row) for url, row in self._searched.items() if url in self._sets.searched],
            "advert_relays": len(counted) + len(extra),
        }
        if self._offline:
            found["reason"] = self._offline
        return found
