"""A pipeline over a node with a swap service and a fleet plugin, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hive_shared.cln import ClnError, ClnTimeout
from hive_shared.registry import REBALANCE, Tier
from node_with_wallet import NodeWithWallet
from pipeline_world import View, World, issue
from wallet_world import Case

OUT_RPC = "acme-swap-out"
QUOTED_SAT = 400
PEER = "02" + f"{1:064x}"


class SwapNode(NodeWithWallet):
    """`swaps` are those begun, by label or id; `state` is what the service says of them. A method in
    `loses` acts, and its answer is lost. `tasks` are the fleet's."""

    def __init__(self) -> None:
        super().__init__(2)
        self.swaps: dict[str, dict[str, Any]] = {}
        self.state = "done"
        self.loses: set[str] = set()
        self.breaks: dict[str, int] = {}
        self.tasks: list[dict[str, Any]] = []
        self.methods = frozenset(
            {
                OUT_RPC,
                f"{OUT_RPC}-status",
                "hive-tasks",
                "listpeerchannels",
                "setchannel",
                "revenue-boltz-quote",
            }
            | {f"revenue-boltz-{name}" for name in ("loop-out", "loop-in", "status")}
        )

    async def help_names(self) -> frozenset[str]:
        return self.methods

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, timeout: float = 30.0
    ) -> dict[str, Any]:
        known: dict[str, Any] = {
            OUT_RPC: self._acme,
            f"{OUT_RPC}-status": self._acme_status,
            "revenue-boltz-quote": lambda _: {"estimated_total_fee_sats": QUOTED_SAT},
            "revenue-boltz-loop-out": self._loop,
            "revenue-boltz-loop-in": self._loop,
            "revenue-boltz-status": self._boltz_status,
            "hive-tasks": self._hive_tasks,
        }
        if method not in known:
            return await super().call(method, params, timeout=timeout)
        self._note(method)
        if method in self.breaks:
            raise ClnError(method, self.breaks[method], "exploded at /var/lib/private-dir")
        answer: dict[str, Any] = known[method](dict(params or {}))
        if method in self.loses:
            raise ClnTimeout(method, timeout)
        return answer

    def _acme(self, params: dict[str, Any]) -> dict[str, Any]:
        assert params["label"] not in self.swaps
        self.swaps[params["label"]] = params
        return self._acme_status(params)

    def _acme_status(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["label"] not in self.swaps:
            return {"status": "unknown"}
        return {"status": self.state, "id": "a1", "fee_sats": 350, "txid": "ab" * 32}

    def _loop(self, params: dict[str, Any]) -> dict[str, Any]:
        if self.state == "rejected":
            return {"status": "rejected", "error": "the day's budget"}
        swap_id = f"q{len(self.swaps) + 1}"
        self.swaps[swap_id] = params
        return {"status": "accepted", "result": {"id": swap_id}}

    def _boltz_status(self, params: dict[str, Any]) -> dict[str, Any]:
        assert params["swap_id"] in self.swaps
        state = {"done": "SUCCESSFUL", "pending": "PENDING", "failed": "REFUNDED"}[self.state]
        return {"swapinfo_entry": {"id": params["swap_id"], "state": state, "serviceFee": 300}}

    def _hive_tasks(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["action"] == "request":
            task = {name: value for name, value in params.items() if name != "action"}
            self.tasks.append({**task, "request_id": f"r{len(self.tasks) + 1}", "status": "open"})
            return {"tasks": self.tasks[-1:]}
        return {"tasks": list(self.tasks)}


class Swapping(World):
    """A world whose node can swap; `rpcs` are the configured methods."""

    def __init__(self, directory: Path, rpcs: tuple[str, str] = ("", "")) -> None:
        self.rpcs = rpcs
        super().__init__(directory, channels=0)
        self.node: SwapNode = SwapNode()
        self.restart()

    def swap_rpcs(self) -> tuple[str, str]:
        return self.rpcs

    def shown(self) -> Any:
        """What swaps and tasks change outside of the node."""
        return len(self.node.swaps), len(self.node.tasks)


OUT = {"amount_sats": 60_000, "max_fee_sats": 500}
TASK = {"peer_id": PEER, "amount_sats": 150_000, "direction": "in", "max_fee_ppm": 300}
CASES = {
    (REBALANCE, "swap_out"): Case(OUT, "revenue-boltz-loop-out"),
    (REBALANCE, "swap_in"): Case(OUT, "revenue-boltz-loop-in"),
    (REBALANCE, "peer_rebalance"): Case(TASK, "hive-tasks"),
}


def swapping(directory: Path, rpcs: tuple[str, str] = ("", ""), **overrides: Any) -> Swapping:
    """An agent that may swap by itself."""
    directory.mkdir(parents=True, exist_ok=True)
    world = Swapping(directory, rpcs)
    world.credentials.add(View(issue(template="complete_management", tier=Tier.ADMIN), "adv-1"))
    words = {"approval_overrides": {"rebalance_*": "auto_execute"}}
    world.policies.override("aggressive", **{**words, **overrides})
    return world
