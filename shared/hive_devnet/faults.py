"""Fault switches of the development network, for tests of crashes and lost answers.

They work on the embedded network; `kill_plugin` of a NodeHandle works on every driver.
"""

from __future__ import annotations

from enum import StrEnum

from hive_devnet.network import EmbeddedNetwork
from hive_devnet.node import NodeHandle


class FaultKind(StrEnum):
    """What happens to an RPC call, and when: before the node acts on it, or after."""

    DELAY_BEFORE = "delay_before"
    DELAY_AFTER = "delay_after"
    LOSE_BEFORE = "lose_before"
    LOSE_AFTER = "lose_after"
    FAIL_BEFORE = "fail_before"
    FAIL_AFTER = "fail_after"


class NodeFaults:
    """The switches of one node of an embedded network.

    A lost call gets no answer at all: LOSE_AFTER is "the node acted, nobody heard".
    """

    def __init__(self, network: EmbeddedNetwork, node: NodeHandle) -> None:
        self._network = network
        self._name = node.name

    async def set(self, command: str, kind: FaultKind, *, seconds: float = 0.0, times: int = 1) -> None:
        """Strikes the next `times` calls of `command` (0: all); `seconds` is how long a delay lasts at
        most: `release` ends it."""
        params = {
            "name": self._name,
            "command": command,
            "kind": kind.value,
            "seconds": seconds,
            "times": times,
        }
        await self._network.control("set_fault", params)

    async def clear(self) -> int:
        """Turns every switch off; returns how often they struck."""
        return int((await self._network.control("clear_faults", {"name": self._name}))["struck"])

    async def release(self) -> None:
        """Lets go on every call that is held now."""
        await self._network.control("release_faults", {"name": self._name})

    async def struck(self, command: str) -> int:
        """How often the switches of `command` have struck so far."""
        params = {"name": self._name, "command": command}
        return int((await self._network.control("fault_count", params))["struck"])
