"""A pipeline over a node with peers and a wallet, and the writes that a crash test kills in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_hive_comms.domain.policy_rules import Override
from hive_shared import crypto
from hive_shared.canonical import JsonValue
from hive_shared.envelope import approve_digest, command_digest
from hive_shared.registry import PEER, WALLET, Tier
from msgspec.structs import replace
from node_with_wallet import COINS, FOREIGN, STRANGER, UNCONFIRMED, NodeWithWallet
from pipeline_world import NOW, View, World, issue

OTHER = "02" + "ef" * 32


class Richer(World):
    """A world whose node has peers and a wallet."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, channels=0)
        self.node: NodeWithWallet = NodeWithWallet()
        self.restart()

    def shown(self) -> Any:
        """What the actions of this file change."""
        node = self.node
        held = {name: until for name, until in node.reserved.items() if until != node.height + 72}
        return dict(node.peers), self.pipeline.bans.banned(), len(node.published), held


@dataclass(frozen=True)
class Case:
    """An action with its parameters, the commands that came before it, and the call that is its effect."""

    params: Mapping[str, JsonValue]
    effect: str | None
    before: tuple[tuple[str, str, Mapping[str, JsonValue]], ...] = ()


BANNED = (PEER, "ban", {"peer_id": STRANGER, "reason": "spam", "hours": 3})
FROZEN = (WALLET, "freeze_utxos", {"utxos": [COINS[0]], "blocks": 30})
CASES = {
    (PEER, "connect"): Case({"peer_id": OTHER, "host": "8.8.8.8"}, "connect"),
    (PEER, "disconnect"): Case({"peer_id": STRANGER}, "disconnect"),
    (PEER, "ban"): Case(BANNED[2], "disconnect"),
    (PEER, "unban"): Case({"peer_id": STRANGER}, None, (BANNED,)),
    (WALLET, "send_onchain"): Case({"destination": FOREIGN, "amount_sats": 60_000}, "txsend"),
    (WALLET, "sweep"): Case({"destination": FOREIGN}, "txsend"),
    (WALLET, "consolidate_utxos"): Case({"max_count": 3}, "txsend"),
    (WALLET, "bump_fee"): Case(
        {"txid": UNCONFIRMED[:64], "vout": 0, "feerate_perkw": 2_000, "max_fee_sats": 9_000}, "txsend"
    ),
    (WALLET, "freeze_utxos"): Case({"utxos": [COINS[0]], "blocks": 30}, "utxopsbt"),
    (WALLET, "unfreeze_utxos"): Case({"utxos": [COINS[0]]}, "unreserveinputs", (FROZEN,)),
    (WALLET, "generate_address"): Case({"type": "p2tr"}, "newaddr"),
}


APPROVER = crypto.Secret(b"\x2a" * 32)


def trusted(directory: Path) -> Richer:
    """An agent that may do everything by itself but sweep, which two people sign."""
    directory.mkdir(parents=True, exist_ok=True)
    world = Richer(directory)
    critical: dict[str, JsonValue] = {"grants_critical": [f"{WALLET}#sweep"]}
    issued = issue(template="complete_management", tier=Tier.ADMIN, constraints=critical)
    world.credentials.add(View(issued, "adv-1"))
    approver = crypto.xonly_pubkey(APPROVER)
    words: dict[str, JsonValue] = {"peer_*": "auto_execute", "wallet_*": "auto_execute"}
    world.policies.override(
        "aggressive",
        approvers=["local", approver],
        approval_overrides={**words, "wallet_sweep": "multi_sig_2_of_2"},
    )
    raised = Override("raised", {"max_danger": 10}, NOW - 1, NOW + 7 * 86_400)
    world.policies.now = replace(world.policies.now, override=raised)
    world.credentials.approvers.add(approver)
    return world


async def ask(world: World, schema: str, action: str, params: Mapping[str, JsonValue], **more: Any) -> Any:
    """Ask, and let both people sign what waits for them; the first answer."""
    command = world.envelope(schema, action, dict(params), **more)
    answer = await world.handle(command)
    assert answer is not None
    if answer["status"] == 3:
        signature = crypto.schnorr_sign(APPROVER, approve_digest(command_digest(command).hex(), "approve"))
        action_id, name = answer["error"]["data"]["action_id"], crypto.xonly_pubkey(APPROVER)
        await world.pipeline.approvals.approve(action_id, approver=name, signature=signature)
        await world.pipeline.approvals.approve(action_id)
    return answer
