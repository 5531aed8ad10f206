"""The state hash of the running node (docs/protocol/02-fleet-management.md §9.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError

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


@dataclass(frozen=True, slots=True)
class _Known:
    """The last roots of channels and the values they were computed from."""

    policies: list[object]
    balances: list[object]
    policy: str
    balance: str


# What the two roots cover (02 §9.3); a test holds these lists to domain.state_hash.
_POLICY_FIELDS: Final = (
    "channel_id",
    "short_channel_id",
    "state",
    "fee_base_msat",
    "fee_proportional_millionths",
    "minimum_htlc_out_msat",
    "maximum_htlc_out_msat",
    "peer_id",
)
_BALANCE_FIELDS: Final = ("channel_id", "to_us_msat", "total_msat", "peer_id")


def _fields(channels: Rows, names: tuple[str, ...]) -> list[object]:
    return [[row.get(name) for name in names] for row in channels]


class StateHashService:
    """Computes hashes from what was read anyway. `key` keys balances and amounts; it stays on the node.
    `disabled` gives the ids of the channels that advisors disabled."""

    def __init__(
        self,
        node: Node,
        *,
        key: bytes,
        policy_version: Callable[[], int],
        disabled: Callable[[], Awaitable[Sequence[str]]],
        now: Callable[[], int],
    ) -> None:
        self._node, self._key, self._policy_version, self._now = node, key, policy_version, now
        self._disabled = disabled
        self._slow: _Slow | None = None
        self._known: _Known | None = None
        self._last: tuple[int, StateRoots] | None = None

    async def of_plan(self, plan: Plan) -> str:
        """The hash before a write, from the channels its plan read. Raises ClnError."""
        return (await self._roots(plan.before or await self._node.listpeerchannels())).hash

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
        """Policy and balance root. A root whose leaves are those of the last time is not computed again:
        between two writes of a quiet node that is three roots of four."""
        policies, balances = _fields(channels, _POLICY_FIELDS), _fields(channels, _BALANCE_FIELDS)
        known = self._known
        policy = known.policy if known is not None and known.policies == policies else None
        balance = known.balance if known is not None and known.balances == balances else None
        if policy is not None and balance is not None:
            return policy, balance
        # A root of many channels takes longer than the event loop may stand still.
        if len(channels) > _INLINE_CHANNELS:
            roots = await asyncio.to_thread(self._compute, channels, policy, balance)
        else:
            roots = self._compute(channels, policy, balance)
        self._known = _Known(policies, balances, *roots)
        return roots

    def _compute(self, channels: Rows, policy: str | None, balance: str | None) -> tuple[str, str]:
        return (
            policy or state_hash.policy_root(channels),
            balance or state_hash.balance_root(channels, self._key),
        )

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
                    disabled=await self._disabled(),
                    policy_version=self._policy_version(),
                ),
                plugins=state_hash.plugins_root(plugins),
                at=now,
            )
        return self._slow
