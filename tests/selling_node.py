"""A node that sells access, as a script: what it demands, and how often a fee is good, for tests."""

from __future__ import annotations

import hashlib
from typing import Any

from coincurve import PrivateKey
from hive_advisor.advisor import Advisor
from hive_devnet.embedded import bolt11 as codec
from hive_shared import credential as credentials
from hive_shared import envelope, l402
from hive_shared.canonical import JsonValue
from hive_shared.credential_scope import resolve_access
from hive_shared.crypto import Secret, cln_sign_message
from hive_shared.errors import HiveError, from_symbol
from kit_world import KitWorld

LIGHTNING = PrivateKey((9).to_bytes(32, "big"))
ROOT = Secret(b"r" * 32)


class PaidNode:
    """What a node that sells access answers: one fee runs one write, a token runs `actions` of them."""

    def __init__(self, world: KitWorld) -> None:
        self.world = world
        self.made = 0
        self.actions = 2
        self.uses: dict[str, int] = {}
        self.changes: dict[str, Any] = {}
        self.proofs: list[dict[str, Any]] = []
        self.answered: dict[str, dict[str, Any]] = {}
        self.fails = False
        self.sells = ("bolt11", "l402")

    def invoice(self, amount_sats: int) -> tuple[str, str]:
        """(invoice, payment hash) of a fresh payment."""
        self.made += 1
        digest = hashlib.sha256(self.preimage(self.made)).hexdigest()
        made = codec.Invoice(
            payee=LIGHTNING.public_key.format().hex(),
            payment_hash=digest,
            payment_secret="cd" * 32,
            created_at=self.world.now(),
            amount_msat=amount_sats * 1_000,
            description="access",
        )
        text = codec.encode_invoice(made, lambda hashed: LIGHTNING.sign_recoverable(hashed, hasher=None))
        return text, digest

    @staticmethod
    def preimage(number: int) -> bytes:
        """What pays the n-th invoice."""
        return hashlib.sha256(b"p%d" % number).digest()

    def hash_of(self, number: int) -> str:
        """The payment hash of the n-th invoice."""
        return hashlib.sha256(self.preimage(number)).hexdigest()

    def demand(self) -> dict[str, Any]:
        """The data of a `payment_required`."""
        data: dict[str, Any] = {"price_sats": 10, "methods": [*self.sells]}
        if "bolt11" in self.sells:
            text, digest = self.invoice(10)
            data["bolt11"] = {"invoice": text, "amount_sats": 10, "payment_hash": digest}
        if "l402" in self.sells:
            text, digest = self.invoice(1_000)
            bound = l402.Identifier(bytes.fromhex(digest), b"t" * 32)
            macaroon = l402.mint(ROOT, bound, ("max_actions=2", f"expires={self.world.now() + 86_400}"))
            data |= {"macaroon": macaroon.text(), "invoice": text, "amount_sats": 1_000}
        return {**data, **self.changes}

    def answer(self, command: envelope.Command) -> dict[str, Any]:
        """Takes a proof, or demands one."""
        proof = dict(command.payment_proof)
        if command.schema_type == "hive:control/v1":
            return self.world.node.honest(command)
        if command.hash in self.answered:
            return self.answered[command.hash]
        self.proofs.append(proof)
        self.answered[command.hash] = self.judged(command, proof)
        return self.answered[command.hash]

    def judged(self, command: envelope.Command, proof: dict[str, Any]) -> dict[str, Any]:
        """The answer to a command that comes for the first time."""
        node = self.world.node
        if proof["method"] == "none":
            return self._refuse(command, from_symbol("payment_required", "pay", **self.demand()))
        preimage = str(proof["preimage"])
        allowed = 1 if proof["method"] == "bolt11" else self.actions
        if self.uses.get(preimage, 0) >= allowed:
            error = from_symbol("payment_replayed", "used up")
            if proof["method"] == "l402":
                error = from_symbol("payment_required", "used up", **self.demand())
            return self._refuse(command, error)
        if self.fails:
            return self._refuse(command, from_symbol("cooldown", "later"))
        self.uses[preimage] = self.uses.get(preimage, 0) + 1
        return node.honest(command)

    def _refuse(self, command: envelope.Command, error: HiveError) -> dict[str, Any]:
        node, doc = self.world.node, envelope.error_doc(error)
        return node.response(
            command, 1, error=doc, receipt=node.receipt(command, status="rejected", error=doc)
        )


def offered(world: KitWorld, agent_key: str) -> dict[str, Any]:
    """An offer of a credential that charges per action."""
    node = world.node
    terms: dict[str, JsonValue] = {"model": "per_action"}
    made = credentials.new(
        template=resolve_access("fees"),
        credential_id="00000000-0000-4000-8000-0000000000f1",
        node_id=node.node_id,
        agent_key=agent_key,
        access=terms,
        valid_from=world.now(),
        valid_until=world.now() + 30 * 86_400,
    )
    signed = credentials.with_signature(made, cln_sign_message(node.hsm, credentials.signing_text(made)))
    return node.offer(agent_key, credential=dict(credentials.to_doc(signed)))


async def hire(world: KitWorld, kit: Advisor) -> None:
    """The kit accepts its offer."""
    await world.push(kit, offered(world, kit.pubkey))
    (client,) = await kit.clients.all()
    client, _ = await kit.clients.accept(client, "alice")
    await kit.delivery.set_socket(client, "/nowhere")
