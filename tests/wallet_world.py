"""A pipeline over a node with peers and a wallet, and the writes that a crash test kills in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hive_shared.canonical import JsonValue
from hive_shared.registry import PEER, Tier
from node_with_wallet import STRANGER, NodeWithWallet
from pipeline_world import View, World, issue

OTHER = "02" + "ef" * 32


class Richer(World):
    """A world whose node has peers and a wallet."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, channels=0)
        self.node: NodeWithWallet = NodeWithWallet()
        self.restart()

    def shown(self) -> Any:
        """What the actions of this file change."""
        return dict(self.node.peers), self.pipeline.bans.banned()


@dataclass(frozen=True)
class Case:
    """An action with its parameters, the commands that came before it, and the call that is its effect."""

    params: Mapping[str, JsonValue]
    effect: str | None
    before: tuple[tuple[str, str, Mapping[str, JsonValue]], ...] = ()


BANNED = (PEER, "ban", {"peer_id": STRANGER, "reason": "spam", "hours": 3})
CASES = {
    (PEER, "connect"): Case({"peer_id": OTHER, "host": "8.8.8.8"}, "connect"),
    (PEER, "disconnect"): Case({"peer_id": STRANGER}, "disconnect"),
    (PEER, "ban"): Case(BANNED[2], "disconnect"),
    (PEER, "unban"): Case({"peer_id": STRANGER}, None, (BANNED,)),
}


def trusted(directory: Path) -> Richer:
    """An agent that may do everything by itself."""
    directory.mkdir(parents=True, exist_ok=True)
    world = Richer(directory)
    world.credentials.add(View(issue(template="complete_management", tier=Tier.ADMIN), "adv-1"))
    world.policies.override("aggressive", approval_overrides={"peer_*": "auto_execute"})
    return world
