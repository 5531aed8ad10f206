"""Access that agents pay for: one run for one fee, or the fee is still good
(docs/protocol/02-fleet-management.md §7.1 steps 15 and 18, §8, §15.14; 03 §7.5, §14.21)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from access_world import Selling
from cl_hive_comms.domain.access_fee import HELD, MAX_OPEN, AccessTerms
from cl_hive_comms.storage.access_store import AccessStore
from hive_shared import l402
from hive_shared.canonical import JsonValue
from hive_shared.crypto import Secret
from hive_shared.store import Tx
from msgspec.structs import replace
from pipeline_world import OTHER_KEY, View, issue, slug
from pymacaroons import Macaroon as Independent
from pymacaroons import Verifier

PRICE = 10
"""Danger 3 of set_single, base price 10 sat at trust 1."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Selling]:
    selling = Selling(tmp_path)
    yield selling
    selling.close()


async def test_who_pays_per_action_is_told_what_to_pay_and_nothing_runs(world: Selling) -> None:
    response = await world.set_fee(101)
    assert slug(response) == "payment_required" and response["error"]["code"] == 4014
    told = response["error"]["data"]
    assert told["methods"] == ["bolt11", "l402"] and told["price_sats"] == PRICE
    assert told["bolt11"]["amount_sats"] == PRICE and told["amount_sats"] == 1_000
    assert {row["amount_msat"] for row in world.invoices.values()} == {PRICE * 1_000, 1_000_000}
    assert world.setchannels == 0
    # The record shows neither the macaroon nor its key.
    receipt = (await world.docs())[0]
    assert told["macaroon"] not in str(receipt) and receipt["payment"]["direction"] == "none"


async def test_one_fee_is_one_action(world: Selling) -> None:
    proof = await world.one_fee()
    done = await world.set_fee(102, payment_proof=proof)
    assert done["status"] == 0, done
    assert done["receipt"]["payment"] == {
        "direction": "access",
        "method": "bolt11",
        "amount_sats": PRICE,
        "ref": world.row("SELECT payment_hash FROM comms_l402_tokens WHERE service = 'action'")[0],
        "state": "redeemed",
    }
    # The operator's list of payments has what came in, once.
    income = world.row("SELECT COUNT(*), SUM(amount_sats), MIN(advisor_id), MIN(kind) FROM comms_payments")
    assert tuple(income) == (1, PRICE, "adv-1", "bolt11")
    world.pass_time(3_700)
    again = await world.set_fee(103, payment_proof=proof)
    assert slug(again) == "payment_replayed" and world.setchannels == 1


async def test_acceptance_02_14_a_token_is_good_for_its_actions_and_no_others(world: Selling) -> None:
    proof = await world.token()
    for number, channel in enumerate(("101x1x0", "102x1x0", "103x1x0"), 1):
        done = await world.set_fee(110, channel, payment_proof=proof)
        assert done["status"] == 0, done
        assert done["receipt"]["payment"]["method"] == "l402" and world.uses() == [number]
    after = await world.set_fee(110, "104x1x0", payment_proof=proof)
    assert slug(after) == "payment_required" and after["error"]["data"]["macaroon"] != proof["macaroon"]
    assert world.setchannels == 3

    fresh = await world.token("104x1x0")
    macaroon = l402.decode(str(fresh["macaroon"]))
    edited = replace(macaroon, caveats=(*macaroon.caveats[:-1], "max_actions=9"))
    others = View(issue(OTHER_KEY, access={"model": "per_action"}, number=2), "adv-2")
    world.credentials.add(others)
    for changes, options in (
        ({"macaroon": edited.text()}, {}),
        ({"preimage": "00" * 32}, {}),
        ({}, {"agent": OTHER_KEY, "credential": 2}),
    ):
        refused = await world.set_fee(111, "104x1x0", payment_proof={**fresh, **changes}, **options)
        assert slug(refused) == "payment_invalid", refused
    assert world.setchannels == 3
    assert (await world.set_fee(111, "104x1x0", payment_proof=fresh))["status"] == 0


async def test_acceptance_03_21_macaroons_of_this_node_hold(world: Selling) -> None:
    identifier = l402.Identifier(b"\xaa" * 32, b"\xbb" * 32)
    caveats = ("node=02" + "11" * 32, "agent=" + "22" * 32, "tier=standard", "max_actions=1000")
    vector = l402.mint(Secret(bytes(range(32))), identifier, (*caveats, "expires=1900000000"))
    assert vector.signature.reveal().hex().startswith("fb0dcfc64c100512")

    world.access_terms = AccessTerms(methods=("l402",), l402_actions=1_000, l402_days=1)
    proof = await world.token()
    macaroon = l402.decode(str(proof["macaroon"]))
    theirs = Independent.deserialize(str(proof["macaroon"]).replace("+", "-").replace("/", "_").rstrip("="))
    verifier = Verifier()
    verifier.satisfy_general(lambda caveat: "=" in caveat)
    root = l402.root_key(Secret(b"a" * 32), macaroon.identifier.token_id)
    assert verifier.verify(theirs, root.reveal())

    assert (await world.set_fee(101, payment_proof=proof))["status"] == 0
    await world.db.write(lambda tx: tx.execute("UPDATE comms_l402_tokens SET uses = 1000"))
    used = await world.set_fee(101, "102x1x0", payment_proof=proof)
    assert slug(used) == "payment_required"
    await world.db.write(lambda tx: tx.execute("UPDATE comms_l402_tokens SET uses = 999 WHERE uses = 1000"))
    world.pass_time(86_400 + 601)
    expired = await world.set_fee(101, "103x1x0", payment_proof=proof)
    assert slug(expired) == "payment_invalid" and "expired" in expired["error"]["message"]


async def test_no_more_uses_are_taken_than_were_sold_whoever_saw_some_left(world: Selling) -> None:
    """The row itself counts: what a command read before it began may be old."""
    done = await world.set_fee(110, payment_proof=await world.token())
    store, command_id = AccessStore(), str(done["command_id"])

    def crowd(tx: Tx) -> list[bool]:
        fee = store.fee_of(tx, command_id)
        assert fee is not None
        return [store.take(tx, f"other-{i}", fee, HELD, world.now) for i in range(4)]

    assert await world.db.write(crowd) == [True, True, False, False]
    assert world.uses() == [3]


@pytest.mark.parametrize(
    ("caveat", "why"),
    [
        ("tier=monitor", "tier monitor"),
        ("schemas=hive:monitor/*", "schemas"),
        ("schemas=nonsense pattern", "no patterns"),
        ("max_danger=2", "danger"),
        ("expires=1", "expired"),
        ("contract=x", "contract"),
    ],
)
async def test_what_its_holder_took_away_is_gone(world: Selling, caveat: str, why: str) -> None:
    proof = await world.token()
    narrowed = l402.decode(str(proof["macaroon"])).with_caveats(caveat).text()
    refused = await world.set_fee(101, payment_proof={**proof, "macaroon": narrowed})
    assert slug(refused) == "payment_invalid" and why in refused["error"]["message"]
    assert (await world.set_fee(101, payment_proof=proof))["status"] == 0


@pytest.mark.parametrize(
    "proof",
    [
        {"method": "bolt11"},
        {"method": "bolt11", "preimage": "AA" * 32},
        {"method": "bolt11", "preimage": 7},
        {"method": "bolt11", "preimage": "07" * 32},
        {"method": "bolt11", "preimage": "07" * 32, "payment_hash": "08" * 32},
        {"method": "bolt11", "preimage": "07" * 32, "more": 1},
        {"method": "l402", "preimage": "07" * 32},
        {"method": "l402", "macaroon": "!!", "preimage": "07" * 32},
        {"method": "l402", "macaroon": "A" * 60_000, "preimage": "07" * 32},
        {"method": "cashu", "token": "cashuB"},
        {"method": "bolt12", "preimage": "07" * 32},
    ],
)
async def test_proofs_of_no_known_form_are_refused_and_nothing_is_taken(
    world: Selling, proof: dict[str, Any]
) -> None:
    refused = await world.set_fee(101, payment_proof=proof)
    assert slug(refused) in ("payment_invalid", "too_large"), refused
    assert world.setchannels == 0 and not world.invoices


async def test_money_that_did_not_come_buys_nothing(world: Selling) -> None:
    told = await world.asked()
    label = next(label for label, row in world.invoices.items() if row["bolt11"] == told["invoice"])
    unpaid = {"method": "l402", "macaroon": told["macaroon"], "preimage": world.pay(told["invoice"], part=2)}
    assert slug(await world.set_fee(101, payment_proof=unpaid)) == "payment_invalid"
    world.invoices[label]["status"] = "unpaid"
    assert slug(await world.set_fee(101, payment_proof=unpaid)) == "payment_invalid"
    world.invoices.clear()
    assert slug(await world.set_fee(101, payment_proof=unpaid)) == "payment_invalid"
    assert world.setchannels == 0


async def test_a_fee_of_another_kind_of_income_buys_no_access(world: Selling) -> None:
    """An agent that may make invoices cannot pay with one of its own making."""
    made = world._invoice({"label": "shop-1", "amount_msat": 50_000, "expiry": 600})
    proof = {"method": "bolt11", "preimage": world.pay(made["bolt11"])}
    assert slug(await world.set_fee(101, payment_proof=proof)) == "payment_invalid"


async def test_a_refusal_before_the_run_takes_nothing_and_one_fee_runs_once_under_a_crowd(
    world: Selling,
) -> None:
    proof = await world.one_fee()
    refused = await world.set_fee(9_000, payment_proof=proof)
    assert slug(refused) == "constraint_violated"
    crowd = await asyncio.gather(
        *(world.set_fee(102, f"10{n}x1x0", payment_proof=proof) for n in (1, 2, 3, 4))
    )
    assert sorted(slug(each) or "" for each in crowd) == ["", *["payment_replayed"] * 3]
    assert world.setchannels == 1


async def test_a_failure_gives_the_fee_back(world: Selling) -> None:
    proof = await world.one_fee()
    world.node.fail["setchannel"] = -32602
    failed = await world.set_fee(102, payment_proof=proof)
    assert failed["status"] == 2 and failed["receipt"]["payment"]["state"] == "refunded"
    assert world.uses() == [0]
    del world.node.fail["setchannel"]
    world.pass_time(3_700)
    assert (await world.set_fee(102, payment_proof=proof))["status"] == 0


async def test_what_waits_for_people_holds_its_fee_until_they_decide(world: Selling) -> None:
    world.policies.override("moderate", approval_overrides={"fee_policy_*": "always_confirm"})
    proof = await world.one_fee()
    waiting = await world.set_fee(102, payment_proof=proof)
    assert slug(waiting) == "confirmation_required" and world.uses() == [1]
    other = await world.set_fee(102, "102x1x0", payment_proof=proof)
    assert slug(other) == "payment_replayed"
    await world.pipeline.approvals.approve(waiting["command_id"], reject=True)
    assert world.uses() == [0]
    waiting = await world.set_fee(102, "103x1x0", payment_proof=proof)
    world.restart()
    await world.pipeline.approvals.approve(waiting["command_id"])
    assert await world.state(waiting["command_id"]) == "success" and world.uses() == [1]
    assert (await world.docs())[-1]["payment"]["state"] == "redeemed"


async def test_twenty_invoices_may_wait_then_they_expire(world: Selling) -> None:
    for _ in range(MAX_OPEN // 2):
        await world.asked()
    assert slug(await world.set_fee(101)) == "rate_limited"
    made = len(world.invoices)
    world.pass_time(721)
    await world.pipeline.timers.tick()
    assert world.row("SELECT COUNT(*) FROM comms_l402_tokens")[0] == 0
    await world.asked()
    assert len(world.invoices) == made + 2


async def test_a_fee_that_was_paid_at_the_last_moment_is_kept(world: Selling) -> None:
    proof = await world.one_fee()
    world.pass_time(721)
    await world.pipeline.timers.tick()
    assert world.row("SELECT SUM(amount_sats) FROM comms_payments WHERE direction = 'in'")[0] == PRICE
    assert (await world.set_fee(101, payment_proof=proof))["status"] == 0


async def test_what_was_sold_goes_on_under_the_renewed_credential(world: Selling) -> None:
    proof = await world.token()
    first = world.credentials.views["00000000-0000-4000-8000-000000000001"]
    renewed = View(issue(access={"model": "per_action"}, number=2), "adv-1")
    world.credentials.add(replace(first, status="superseded", superseded_by=renewed.credential.credential_id))
    world.credentials.add(renewed)
    assert (await world.set_fee(101, payment_proof=proof, credential=2))["status"] == 0
    # What the operator no longer sells stays good for who has paid.
    world.access_terms = AccessTerms()
    assert (await world.set_fee(101, "102x1x0", payment_proof=proof, credential=2))["status"] == 0


async def test_reads_of_danger_two_cost_too_and_those_of_danger_one_nothing(world: Selling) -> None:
    logs = ("hive:monitor/v1", "log_stream", {})
    assert (await world.ask("hive:monitor/v1", "channel_list", {}))["status"] == 0
    assert slug(await world.ask(*logs)) == "payment_required"
    proof = await world.one_fee()
    world.node.fail["getlog"] = -1
    assert (await world.ask(*logs, payment_proof=proof))["status"] == 2
    del world.node.fail["getlog"]
    assert (await world.ask(*logs, payment_proof=proof))["status"] == 0
    assert slug(await world.ask(*logs, payment_proof=proof)) == "payment_replayed"
    free = await world.ask("hive:monitor/v1", "channel_list", {}, payment_proof=proof)
    assert slug(free) == "payment_invalid"


async def test_a_dearer_command_needs_a_dearer_fee(tmp_path: Path) -> None:
    table = [0, 5, 5, 25, 50, 100, 250, 500, 1000, 2500]
    world = Selling(tmp_path, ("bolt11",), price_table=table, accepted_methods=["bolt11", "cashu"])
    told = await world.asked()
    assert told["methods"] == ["bolt11"] and "macaroon" not in told and told["bolt11"]["amount_sats"] == 5
    proof = {"method": "bolt11", "preimage": world.pay(told["bolt11"]["invoice"])}
    dearer = {"channels": ["101x1x0", "102x1x0"], "policy": {"base_msat": 900}}
    refused = await world.ask("hive:fee-policy/v1", "set_bulk", dearer, payment_proof=proof)
    assert slug(refused) == "payment_invalid" and "stays good" in refused["error"]["message"]
    assert (await world.set_fee(101, payment_proof=proof))["status"] == 0
    world.close()


async def test_nothing_in_the_file_pays_for_access(world: Selling) -> None:
    world.policies.override("moderate", approval_overrides={"fee_policy_*": "always_confirm"})
    proof = await world.token()
    asked = world.envelope(
        "hive:fee-policy/v1", "set_single", {"channel_id": "101x1x0", "fee_ppm": 102}, payment_proof=proof
    )
    waiting = await world.handle(asked)
    assert slug(waiting) == "confirmation_required"
    assert await world.handle(asked) == waiting
    world.restart()
    command_id = str((waiting or {})["command_id"])
    await world.pipeline.approvals.approve(command_id)
    assert await world.state(command_id) == "success"
    world.close()
    kept = b"".join(path.read_bytes() for path in world.path.parent.glob("comms.db*"))
    for secret in (str(proof["macaroon"]), str(proof["preimage"])):
        assert secret.encode() not in kept and bytes(secret[:40], "ascii") not in kept
    world.restart()


async def test_no_common_way_to_pay_is_said(tmp_path: Path) -> None:
    world = Selling(tmp_path, ("bolt11",), accepted_methods=["l402"])
    refused = await world.set_fee(101)
    assert slug(refused) == "payment_required" and refused["error"]["data"]["methods"] == []
    world.close()


async def test_quotes_and_capabilities_name_price_and_methods(world: Selling) -> None:
    asked = {"schema": "hive:fee-policy/v1", "action": "set_single"}
    params = {"channel_id": "101x1x0", "fee_ppm": 101}
    quote = (await world.ask("hive:control/v1", "quote", {**asked, "params": params}))["result"]
    assert (quote["price_sats"], quote["direction"]) == (PRICE, "access")
    assert quote["methods"] == ["bolt11", "l402"] and quote["valid_until"] == world.now + 600
    capable = (await world.ask("hive:control/v1", "capabilities", {}))["result"]
    assert capable["payment"]["methods"] == ["bolt11", "l402"]
    assert not world.invoices


async def test_a_node_that_cannot_make_an_invoice_refuses_and_keeps_nothing(world: Selling) -> None:
    world.node.fail["invoice"] = 900
    assert slug(await world.set_fee(101)) == "node_error"
    assert world.row("SELECT COUNT(*) FROM comms_l402_tokens")[0] == 0


async def test_an_invoice_that_can_still_be_paid_is_not_forgotten(world: Selling) -> None:
    """The node took its time: its invoice ends later than our asking for it would say."""
    made = world._invoice

    def late(params: Mapping[str, Any]) -> dict[str, Any]:
        row = made(params)
        world.invoices[params["label"]]["expires_at"] += 30
        return {**row, "expires_at": row["expires_at"] + 30}

    world.node.answers["invoice"] = late
    told = (await world.asked())["bolt11"]
    world.pass_time(610)
    await world.pipeline.timers.tick()
    proof: dict[str, JsonValue] = {"method": "bolt11", "preimage": world.pay(told["invoice"])}
    assert (await world.set_fee(101, payment_proof=proof))["status"] == 0


async def test_a_crowd_of_reads_gets_no_more_than_twenty_invoices(
    world: Selling, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = world.node.call

    async def slow(method: str, *args: Any, **more: Any) -> dict[str, Any]:
        for _ in range(1_000 if method == "invoice" else 0):
            await asyncio.sleep(0)
        return await call(method, *args, **more)

    monkeypatch.setattr(world.node, "call", slow)
    logs = ("hive:monitor/v1", "log_stream", {})
    crowd = await asyncio.gather(*(world.ask(*logs) for _ in range(MAX_OPEN)))
    assert {slug(each) for each in crowd} == {"payment_required", "rate_limited"}
    # One that is just being stored counts twice for a moment: a crowd may get fewer.
    assert 0 < len(world.invoices) <= MAX_OPEN
    while slug(await world.ask(*logs)) == "payment_required":
        assert len(world.invoices) <= MAX_OPEN
    assert len(world.invoices) == MAX_OPEN
    # A place is free again when the node refused.
    world.pass_time(601)
    world.node.fail["invoice"] = -1
    assert slug(await world.ask(*logs)) == "node_error"
    del world.node.fail["invoice"]
    for _ in range(MAX_OPEN // 2):
        assert slug(await world.ask(*logs)) == "payment_required"
