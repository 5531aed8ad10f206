"""Events of the relays for siblings (docs/protocol/08-client-and-plugins.md §3.4 "hive-comms-subscribe").

Relays serve few subscriptions per socket, so those of siblings share four; every event is matched again with
the filters of each, and each gets it once.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from hive_shared.cln import ClnError
from hive_shared.errors import Capacity, InvalidParams, NotFound
from hive_shared.nostr.event import Event
from hive_shared.nostr.filters import MAX_FILTERS, CompiledFilter, compile_filters

from ..domain.sibling_names import Owner, owner_of
from .ports_commands import Log
from .sibling_delivery import Parcel, SiblingDelivery
from .sibling_registry import Methods

MAX_SUBSCRIPTIONS: Final = 20
_SHARED: Final = 4
MAX_FILTERS_TOGETHER: Final = _SHARED * MAX_FILTERS
_REMEMBERED: Final = 5_000


class Relays(Protocol):
    """The relay connections (transport.nostr)."""

    def ask(self, name: str, filters: Sequence[Mapping[str, Any]]) -> None: ...
    def stop_asking(self, name: str) -> None: ...


@dataclass(slots=True)
class _Subscription:
    sub_id: str
    method: str
    owner: Owner
    filters: tuple[Mapping[str, Any], ...]
    compiled: tuple[CompiledFilter, ...]
    place: int
    given: OrderedDict[str, None] = field(default_factory=OrderedDict)


class SiblingSubscriptions:
    """Subscriptions of siblings, in memory: they go with the plugin that serves their method."""

    def __init__(
        self,
        relays: Relays,
        delivery: SiblingDelivery,
        node: Methods,
        *,
        random_bytes: Callable[[int], bytes],
        log: Log,
    ) -> None:
        self._relays, self._delivery, self._node = relays, delivery, node
        self._random_bytes, self._log = random_bytes, log
        self._subscriptions: dict[str, _Subscription] = {}
        self._names: dict[int, str] = {}
        self._round = 0
        self.counters: Counter[str] = Counter()

    async def subscribe(self, filters: Any, method: str) -> str:
        """Have events that match handed to a method as (sub_id, event); returns the sub_id.

        Raises InvalidParams, NotFound (the node has no such method), Capacity beyond 20 subscriptions or 40
        filters together.
        """
        owner = owner_of(method)
        read, compiled = _filters(filters)
        try:
            await self._node.call("help", {"command": method}, timeout=5.0)
        except ClnError as error:
            if error.is_unknown_command:
                raise NotFound(
                    f"the node has no method {method}; subscribe after your plugin is up"
                ) from None
            raise
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise Capacity(f"{MAX_SUBSCRIPTIONS} subscriptions are open; end one with hive-comms-unsubscribe")
        place = self._place_for(len(read))
        sub_id = self._random_bytes(8).hex()
        self._subscriptions[sub_id] = _Subscription(sub_id, method, owner, read, compiled, place)
        self._ask(place)
        return sub_id

    def unsubscribe(self, sub_id: str) -> None:
        """End a subscription. Raises NotFound."""
        found = self._subscriptions.pop(sub_id, None)
        if found is None:
            raise NotFound(f"there is no subscription {sub_id[:64]!a}")
        self._ask(found.place)

    def stopped(self, methods: Collection[str]) -> None:
        """A plugin that served these methods stopped: its subscriptions end."""
        gone = [row for row in self._subscriptions.values() if row.method in methods]
        for row in gone:
            del self._subscriptions[row.sub_id]
        for place in {row.place for row in gone}:
            self._ask(place)

    def count(self) -> int:
        """Open subscriptions."""
        return len(self._subscriptions)

    async def on_event(self, name: str, event: Event) -> None:
        """A verified event of one of the shared subscriptions."""
        for row in list(self._subscriptions.values()):
            if self._names.get(row.place) != name or event.id in row.given:
                continue
            if any(one.matches(event) for one in row.compiled):
                self._give(row, event)

    # -- inside --------------------------------------------------------------------------------------

    def _give(self, row: _Subscription, event: Event) -> None:
        sub_id = row.sub_id
        taken = self._delivery.put(
            Parcel(
                owner=row.owner,
                lane=f"sub:{sub_id}",
                method=lambda: row.method,
                params={"sub_id": sub_id, "event": event.to_json()},
                done=lambda outcome: self.counters.update((outcome,)),
                needs_queued=False,
                ended=lambda: sub_id not in self._subscriptions,
            )
        )
        if not taken:
            self.counters["dropped"] += 1
            return
        row.given[event.id] = None
        if len(row.given) > _REMEMBERED:
            row.given.popitem(last=False)

    def _used(self, place: int) -> int:
        return sum(len(row.filters) for row in self._subscriptions.values() if row.place == place)

    def _place_for(self, wanted: int) -> int:
        place = min(range(_SHARED), key=self._used)
        if self._used(place) + wanted > MAX_FILTERS:
            raise Capacity(
                f"the subscriptions of siblings have room for {MAX_FILTERS_TOGETHER} filters together;"
                " join filters, or end a subscription"
            )
        return place

    def _ask(self, place: int) -> None:
        """Ask the relays anew: under a new name, because a name gets each stored event only once."""
        before = self._names.pop(place, None)
        if before is not None:
            self._relays.stop_asking(before)
        filters = [one for row in self._subscriptions.values() if row.place == place for one in row.filters]
        if filters:
            self._round += 1
            self._names[place] = f"sibling-{place}-{self._round}"
            self._relays.ask(self._names[place], filters)


def _filters(filters: Any) -> tuple[tuple[Mapping[str, Any], ...], tuple[CompiledFilter, ...]]:
    given = [filters] if isinstance(filters, dict) else filters
    if not isinstance(given, list) or not all(isinstance(one, dict) and one for one in given):
        raise InvalidParams("filters must be a list of Nostr filters (JSON objects with at least one key)")
    try:
        compiled = compile_filters(given)
    except (ValueError, TypeError) as error:
        raise InvalidParams(f"filters: {error}") from None
    return tuple(given), compiled
