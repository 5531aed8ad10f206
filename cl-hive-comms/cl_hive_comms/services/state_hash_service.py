"""The state hash of the running node (docs/protocol/02-fleet-management.md §9.3)."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.receipts import MerkleLevels

from ..domain import state_hash
from ..domain.forwarding import BY_ADVISORS
from ..domain.state_hash import StateRoots
from .executors.action import NODE_ROOTS, Outcome, Plan
from .executors.channels import merged
from .executors.peer import BAN
from .ports_commands import Node

CACHE_S: Final = 60
_INLINE_CHANNELS: Final = 100

Rows = Sequence[Mapping[str, Any]]
Holds = frozenset[tuple[str, str]]
"""Why which channels are disabled: pairs of reason and channel id."""


class _Own(msgspec.Struct, frozen=True):
    """What the config root holds of this plugin's own records."""

    bans: frozenset[str]
    holds: Holds
    policy_version: int

    def with_(self, outcome: Outcome, now: int) -> _Own:
        """As it will be once an outcome is on record: the hash goes into the same transaction."""
        ended = {subject for kind, subject in outcome.disarm if kind == BAN}
        begun = {timer.subject for timer in outcome.arm if timer.kind == BAN and timer.due > now}
        held = {(h.reason, h.channel.channel_id) for h in outcome.hold if h.reason in BY_ADVISORS}
        holds = (self.holds - frozenset(outcome.release)) | held
        return _Own((self.bans - ended) | begun, holds, self.policy_version)


# What the two leaves of a channel cover (02 §9.3); a test holds these lists to domain.state_hash.
_POLICY_FIELDS: Final = (
    "short_channel_id",
    "state",
    "fee_base_msat",
    "fee_proportional_millionths",
    "minimum_htlc_out_msat",
    "maximum_htlc_out_msat",
)
_BALANCE_FIELDS: Final = ("to_us_msat", "total_msat")


class _Root:
    """A root over channels that hashes only what changed since the last time: between two writes of a quiet
    node one leaf of all, and its path."""

    def __init__(self, fields: tuple[str, ...], leaf: Callable[[Mapping[str, Any]], str]) -> None:
        self._fields, self._leaf = fields, leaf
        self._known: dict[tuple[object, object], tuple[tuple[object, ...], str]] = {}
        self._tree = MerkleLevels()
        # Long listings are hashed in threads of the pool.
        self._turn = threading.Lock()

    def over(self, channels: Rows) -> str:
        """The root, 64 hex, over channels in order (domain.state_hash.in_order)."""
        known = {}
        leaves = []
        with self._turn:
            for row in channels:
                name = (row.get("channel_id"), row.get("peer_id"))
                values = tuple(map(row.get, self._fields))
                entry = self._known.get(name)
                if entry is None or entry[0] != values:
                    entry = (values, self._leaf(row))
                known[name] = entry
                leaves.append(entry[1])
            self._known = known
            return self._tree.root(leaves)


class StateHashService:
    """Computes hashes from what was read anyway. `key` keys balances and amounts; it stays on the node.

    `holds` gives the channels that advisors disabled, `banned` the ids of banned peers, `armed` whatever is
    another value once something that a timer ends has ended.

    What the node says of wallet, options and plugins is kept for a minute: managing channels does not change
    it. A write that may change some of it (`Plan.moves`) runs inside `moving`, where that is read afresh
    before and after; what anybody read in between is not kept.
    """

    def __init__(
        self,
        node: Node,
        *,
        key: bytes,
        policy_version: Callable[[], int],
        holds: Callable[[], Holds],
        banned: Callable[[], frozenset[str]],
        armed: Callable[[], object],
        now: Callable[[], int],
    ) -> None:
        self._node, self._key, self._policy_version, self._now = node, key, policy_version, now
        self._holds, self._banned, self._armed = holds, banned, armed
        self._policy = _Root(_POLICY_FIELDS, state_hash.policy_leaf)
        self._balance = _Root(_BALANCE_FIELDS, lambda row: state_hash.balance_leaf(row, key))
        self._readers: dict[str, Callable[[], Awaitable[Any]]] = {
            "wallet": self._wallet,
            "config": self._options,
            "plugins": self._plugins,
        }
        # By root: when it was read, and what the reader gave.
        self._kept: dict[str, tuple[int, Any]] = {}
        # How many running writes may change a root, and how often one of them has ended.
        self._moving: Counter[str] = Counter()
        self._moved: Counter[str] = Counter()
        self._config: tuple[object, _Own, str] | None = None
        self._last: tuple[int, object, StateRoots] | None = None

    @contextmanager
    def moving(self, plan: Plan) -> Iterator[None]:
        """A write runs: `of_plan` before it and `after` after it belong inside."""
        self._moving.update(plan.moves)
        try:
            yield
        except BaseException:
            # Perhaps it acted and nobody looked afterwards.
            self._forget(plan.moves)
            raise
        finally:
            self._moving.subtract(plan.moves)

    async def of_plan(self, plan: Plan) -> str:
        """The hash before a write, from the channels its plan read. Raises ClnError."""
        return (await self._roots(plan.before or await self._node.listpeerchannels(), self._own())).hash

    async def policy_root(self, plan: Plan) -> str:
        """The policy root over the channels as the plan read them, 64 hex. Raises ClnError."""
        rows: Rows = plan.before or await self._node.listpeerchannels()
        root = (await self._channel_roots(rows))[0]
        if self._last is not None and self._last[2].policy != root:
            # Whoever is refused for an old root must not be shown that one again.
            self._last = None
        return root

    async def after(self, plan: Plan, outcome: Outcome) -> str | None:
        """The hash after a write, from the re-read channels; None when the node cannot be asked: what was
        done is recorded all the same."""
        self._forget(plan.moves)
        try:
            rows: Rows = (
                merged(plan.before, outcome.after) if plan.before else await self._node.listpeerchannels()
            )
            return (await self._roots(rows, self._own().with_(outcome, self._now()))).hash
        except ClnError:
            return None

    async def found(self, outcome: Outcome) -> str | None:
        """The hash now that the node told what became of a write whose end we did not see; None when the
        node cannot be asked."""
        self._forget(NODE_ROOTS)
        try:
            rows = await self._node.listpeerchannels()
            return (await self._roots(rows, self._own().with_(outcome, self._now()))).hash
        except ClnError:
            return None

    async def describe(self) -> dict[str, JsonValue]:
        """Hash and roots for reads, at most a minute old and never from before a write or the end of one
        by the clock. Raises ClnError."""
        now, own = self._now(), (self._own(), self._armed())
        last = self._last
        if last is None or now - last[0] >= CACHE_S or last[1] != own:
            if last is not None and last[1] != own:
                self._forget(NODE_ROOTS)
            moved = self._moved.copy()
            last = (now, own, await self._roots(await self._node.listpeerchannels(), own[0]))
            self._last = last if moved == self._moved else None
        return {**last[2].to_doc(), "computed_at": last[0]}

    def _own(self) -> _Own:
        return _Own(self._banned(), self._holds(), self._policy_version())

    def _forget(self, roots: Iterable[str]) -> None:
        """What was read of these roots until now is old; so is what is being read."""
        self._last = None
        self._moved["channels"] += 1
        for name in roots:
            self._moved[name] += 1
            self._kept.pop(name, None)

    async def _roots(self, channels: Rows, own: _Own) -> StateRoots:
        wallet, options, plugins = await self._slow()
        policy, balance = await self._channel_roots(channels)
        return StateRoots(policy, balance, wallet, self._config_root(options, own), plugins)

    async def _channel_roots(self, channels: Rows) -> tuple[str, str]:
        """Policy and balance root."""
        # Leaves of many channels take longer than the event loop may stand still.
        if len(channels) > _INLINE_CHANNELS:
            return await asyncio.to_thread(self._compute, channels)
        return self._compute(channels)

    def _compute(self, channels: Rows) -> tuple[str, str]:
        rows = state_hash.in_order(channels)
        return self._policy.over(rows), self._balance.over(rows)

    def _config_root(self, options: Mapping[str, Mapping[str, Any]], own: _Own) -> str:
        known = self._config
        if known is None or known[0] is not options or known[1] != own:
            root = state_hash.config_root(
                options,
                bans=own.bans,
                disabled={channel_id for _, channel_id in own.holds},
                policy_version=own.policy_version,
            )
            self._config = known = (options, own, root)
        return known[2]

    async def _slow(self) -> tuple[str, Mapping[str, Mapping[str, Any]], str]:
        """Wallet root, options, plugins root: kept ones where nothing that runs may change them."""
        now, known = self._now(), dict(self._kept)
        old = [
            name
            for name in self._readers
            if self._moving[name] or name not in known or now - known[name][0] >= CACHE_S
        ]
        if old:
            moved = self._moved.copy()
            for name, read in zip(old, await asyncio.gather(*(self._readers[n]() for n in old)), strict=True):
                known[name] = (now, read)
                if moved[name] == self._moved[name]:
                    self._kept[name] = known[name]
        return known["wallet"][1], known["config"][1], known["plugins"][1]

    async def _wallet(self) -> str:
        outputs = (await self._node.call("listfunds")).get("outputs", ())
        return state_hash.wallet_root(outputs, self._key)

    async def _options(self) -> Mapping[str, Mapping[str, Any]]:
        found: Mapping[str, Mapping[str, Any]] = (await self._node.listconfigs()).get("configs", {})
        return found

    async def _plugins(self) -> str:
        return state_hash.plugins_root(await self._node.plugin_list())
