"""The kit and nodes that want to be paid: what is demanded is checked, what was paid is taken along once
(docs/protocol/11-advisor-kit.md §8)."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from coincurve import PrivateKey
from hive_advisor.advisor import Advisor
from hive_devnet.embedded import bolt11 as codec
from hive_shared import credential as credentials
from hive_shared import envelope, l402
from hive_shared.canonical import JsonValue
from hive_shared.credential_scope import resolve_access
from hive_shared.crypto import Secret, cln_sign_message
from hive_shared.errors import HiveError, InvalidParams, from_symbol
from kit_world import FEE, PARAMS, KitWorld
from kit_world import run_fee as run

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
    await world.push(kit, offered(world, kit.pubkey))
    (client,) = await kit.clients.all()
    client, _ = await kit.clients.accept(client, "alice")
    await kit.delivery.set_socket(client, "/nowhere")


@pytest.fixture
def world(tmp_path: Path) -> KitWorld:
    return KitWorld(tmp_path)


@pytest.fixture
def node(world: KitWorld) -> PaidNode:
    made = PaidNode(world)
    world.node.answer = made.answer
    return made


@pytest_asyncio.fixture
async def kit(world: KitWorld, node: PaidNode) -> AsyncIterator[Advisor]:
    async with world.open() as opened:
        await hire(world, opened)
        yield opened


async def test_what_was_paid_for_one_action_goes_with_one_that_runs(kit: Advisor, node: PaidNode) -> None:
    node.sells = ("bolt11",)
    refused = await run(kit)
    assert (refused.state, refused.slug) == ("rejected", "payment_required")
    (demand,) = await kit.fees.demands(refused)
    assert (demand.method, demand.amount_sats) == ("bolt11", 10)
    preimage = node.preimage(1).hex()
    with pytest.raises(HiveError, match="none of the invoices"):
        await kit.fees.attach(refused, "07" * 32)
    _, new = await kit.fees.attach(refused, preimage)
    assert new and not (await kit.fees.attach(refused, preimage))[1]
    # A refusal before it ran leaves the fee good.
    node.fails = True
    assert (await run(kit, 151)).state == "rejected"
    assert [how for _, how in await kit.fees.listed(10)] == ["good"]
    node.fails = False
    assert (await run(kit, 152)).state == "done"
    assert [how for _, how in await kit.fees.listed(10)] == ["used"]
    assert (await run(kit, 153)).slug == "payment_required"
    proof = {"method": "bolt11", "preimage": preimage}
    assert node.proofs == [{"method": "none"}, proof, proof, {"method": "none"}]


async def test_a_token_goes_with_every_action_until_the_node_says_it_is_used_up(
    kit: Advisor, node: PaidNode
) -> None:
    refused = await run(kit)
    token, one = await kit.fees.demands(refused)
    assert (token.method, one.method) == ("l402", "bolt11")
    await kit.fees.attach(refused, node.preimage(2).hex())
    states = [(await run(kit, fee)).slug for fee in (151, 152, 153)]
    assert states == [None, None, "payment_required"]
    assert [how for _, how in await kit.fees.listed(10)] == ["used"]
    last = await run(kit, 154)
    assert last.slug == "payment_required" and node.proofs[-1] == {"method": "none"}


async def test_reading_costs_nothing_and_takes_nothing_along(kit: Advisor, node: PaidNode) -> None:
    refused = await run(kit)
    await kit.fees.attach(refused, node.preimage(2).hex())
    client = await kit.clients.named("alice")
    plan = await kit.plan(client, "hive:monitor/v1", "channel_list", {})
    assert plan.summary()["price_sats"] == 0
    await kit.execute(plan, wait_s=5)
    assert node.proofs[-1] == {"method": "none"}
    assert (await kit.plan(client, *FEE, PARAMS)).summary()["price_sats"] == 10


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"amount_sats": 999}, "999 sat"),
        ({"invoice": "lnbc1q"}, "no BOLT 11 invoice|damaged"),
        ({"invoice": 5}, "names no invoice"),
        ({"macaroon": "AgEE"}, "macaroon"),
        ({"bolt11": {"invoice": "x", "amount_sats": 10}}, "no BOLT 11 invoice"),
        ({"bolt11": {"amount_sats": True, "invoice": "x"}}, "names no invoice"),
    ],
)
async def test_a_demand_that_contradicts_itself_is_not_shown_for_payment(
    kit: Advisor, node: PaidNode, changes: dict[str, Any], why: str
) -> None:
    node.changes = changes
    refused = await run(kit)
    with pytest.raises(HiveError, match=why):
        await kit.fees.demands(refused)


async def test_an_invoice_of_another_hash_than_the_macaroons_is_not_shown(
    kit: Advisor, node: PaidNode
) -> None:
    node.changes = {"invoice": node.invoice(1_000)[0]}
    with pytest.raises(HiveError, match="not bound"):
        await kit.fees.demands(await run(kit))


async def test_a_command_that_ran_demands_nothing(kit: Advisor, world: KitWorld) -> None:
    world.node.answer = world.node.honest
    done = await run(kit)
    with pytest.raises(InvalidParams, match="not refused for a payment"):
        await kit.fees.demands(done)


async def test_no_two_commands_take_the_same_fee_at_once(kit: Advisor, node: PaidNode) -> None:
    node.sells = ("bolt11",)
    await kit.fees.attach(await run(kit), node.preimage(1).hex())
    client = await kit.clients.named("alice")
    issued = [
        await kit.plans.issue(
            await kit.plan(client, *FEE, {**PARAMS, "channel_id": f"10{n}x1x0"}), origin="cli", human=True
        )
        for n in (1, 2)
    ]
    assert [each.envelope["payment_proof"]["method"] for each in issued] == ["bolt11", "none"]
    assert [how for _, how in await kit.fees.listed(10)] == ["in use"]


async def test_a_paid_command_killed_anywhere_takes_its_fee_to_one_run(
    world: KitWorld, node: PaidNode, tmp_path: Path
) -> None:
    async with world.open() as kit:
        await hire(world, kit)
        node.sells = ("bolt11",)
        refused = await run(kit)
        await kit.fees.attach(refused, node.preimage(1).hex())
    for at in range(40):
        copy = world.copy(tmp_path / str(at))
        there = PaidNode(copy)
        copy.node.answer, there.sells = there.answer, ("bolt11",)
        died = await copy.killed(at, lambda kit: run(kit, 160))
        async with copy.open() as kit:
            # What was signed goes out again as the same bytes.
            client = await kit.clients.named("alice")
            for command in await kit.commands.open():
                await kit.send_again(command, client)
                await kit.commands.settled(command.command_id, 5)
            await run(kit, 161)
            fees = await kit.fees.listed(10)
            assert [how for _, how in fees] == ["used"], at
        assert there.uses == {node.preimage(1).hex(): 1}, at
        if not died:
            assert at > 3
            return
    pytest.fail("the command touches disk and node at more than 40 points")


async def test_preimage_and_macaroon_are_sealed_in_the_list_of_fees(
    world: KitWorld, node: PaidNode, kit: Advisor
) -> None:
    await kit.fees.attach(await run(kit), node.preimage(2).hex())
    rows = await kit._db.read(lambda tx: [tuple(row) for row in tx.execute("SELECT * FROM adv_l402")])
    assert node.preimage(2).hex() not in str(rows) and "macaroon" not in str(rows)


async def test_the_proof_a_plan_names_goes_unchanged_and_is_part_of_its_hash(
    kit: Advisor, node: PaidNode, world: KitWorld
) -> None:
    await kit.fees.attach(await run(kit), node.preimage(2).hex())
    world.node.answer = world.node.honest
    client = await kit.clients.named("alice")
    ticket = {"method": "cashu_escrow", "ticket_id": "ab" * 16, "item": 0}
    plan = await kit.plan(client, *FEE, {**PARAMS, "fee_ppm": 155}, payment=ticket)
    bare = await kit.plan(client, *FEE, {**PARAMS, "fee_ppm": 155})
    assert plan.hash != bare.hash and plan.summary()["payment"] == ticket
    done = await kit.execute(plan, wait_s=5, human=True)
    assert done.state == "done" and done.payment == ticket
    assert dict(world.node.commands[-1].payment_proof) == ticket
    assert [how for _, how in await kit.fees.listed(10)] == ["good"]
