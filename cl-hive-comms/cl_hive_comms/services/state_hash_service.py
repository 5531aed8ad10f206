"""The state hash of the running node (docs/protocol/02-fleet-management.md §9.3)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.receipts import MerkleLevels

from ..domain import state_hash
from ..domain.state_hash import StateRoots
from .executors.action import Outcome, Plan
from .executors.channels import merged
from .ports_commands import Node

CACHE_S: Final = 60
_INLINE_CHANNELS: Final = 100

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Slow:
    """Roots that management of channels does not change; read at most once a minute."""

    wallet: str
    config: str
    plugins: str
    at: int


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
    `disabled` gives the ids of the channels that advisors disabled, `banned` those of banned peers."""

    def __init__(
        self,
        node: Node,
        *,
        key: bytes,
        policy_version: Callable[[], int],
        disabled: Callable[[], Awaitable[Sequence[str]]],
        banned: Callable[[], frozenset[str]],
        now: Callable[[], int],
    ) -> None:
        self._node, self._key, self._policy_version, self._now = node, key, policy_version, now
        self._disabled, self._banned = disabled, banned
        self._slow: _Slow | None = None
        self._policy = _Root(_POLICY_FIELDS, state_hash.policy_leaf)
        self._balance = _Root(_BALANCE_FIELDS, lambda row: state_hash.balance_leaf(row, key))
        self._last: tuple[int, StateRoots] | None = None

    async def of_plan(self, plan: Plan) -> str:
        """The hash before a write, from the channels its plan read. Raises ClnError."""
        return (await self._roots(plan.before or await self._node.listpeerchannels())).hash

    async def policy_root(self, plan: Plan) -> str:
        """The policy root over the channels as the plan read them, 64 hex. Raises ClnError."""
        rows: Rows = plan.before or await self._node.listpeerchannels()
        root = (await self._channel_roots(rows))[0]
        if self._last is not None and self._last[1].policy != root:
            # Whoever is refused for an old root must not be shown that one again.
            self._last = None
        return root

    async def after(self, plan: Plan, outcome: Outcome) -> str | None:
        """The hash after a write, from the re-read channels; None when the node cannot be asked: what was
        done is recorded all the same."""
        try:
            rows: Rows = (
                merged(plan.before, outcome.after) if plan.before else await self._node.listpeerchannels()
            )
            return (await self._roots(rows)).hash
        except ClnError:
            return None

    async def current(self) -> str | None:
        """The hash now, None when the node cannot be asked."""
        try:
            return (await self._roots(await self._node.listpeerchannels())).hash
        except ClnError:
            return None

    async def describe(self) -> dict[str, JsonValue]:
        """Hash and roots for reads, at most a minute old. Raises ClnError."""
        now = self._now()
        if self._last is None or now - self._last[0] >= CACHE_S:
            self._last = (now, await self._roots(await self._node.listpeerchannels()))
        return {**self._last[1].to_doc(), "computed_at": self._last[0]}

    async def _roots(self, channels: Rows) -> StateRoots:
        slow = await self._slow_roots()
        policy, balance = await self._channel_roots(channels)
        roots = StateRoots(policy, balance, slow.wallet, slow.config, slow.plugins)
        self._last = (self._now(), roots)
        return roots

    async def _channel_roots(self, channels: Rows) -> tuple[str, str]:
        """Policy and balance root."""
        # Leaves of many channels take longer than the event loop may stand still.
        if len(channels) > _INLINE_CHANNELS:
            return await asyncio.to_thread(self._compute, channels)
        return self._compute(channels)

    def _compute(self, channels: Rows) -> tuple[str, str]:
        rows = state_hash.in_order(channels)
        return self._policy.over(rows), self._balance.over(rows)

    async def _slow_roots(self) -> _Slow:
        now = self._now()
        if self._slow is None or now - self._slow.at >= CACHE_S:
            funds, configs, plugins = await asyncio.gather(
                self._node.call("listfunds"), self._node.listconfigs(), self._node.plugin_list()
            )
            self._slow = _Slow(
                wallet=state_hash.wallet_root(funds.get("outputs", ()), self._key),
                config=state_hash.config_root(
                    configs.get("configs", {}),
                    bans=self._banned(),
                    disabled=await self._disabled(),
                    policy_version=self._policy_version(),
                ),
                plugins=state_hash.plugins_root(plugins),
                at=now,
            )
        return self._slow
