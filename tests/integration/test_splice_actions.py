"""hive:splice/v1: what is asked of the node, what is refused, what it costs, and what a kill leaves
(02 §4 item 7, §7.1 "Crash" and `pending_external`, §15.12)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from channel_node import FOREIGN, OWN
from cl_hive_comms.services.executors.splice_run import SETTLED_S
from crash_points import killed_everywhere, under_way
from hive_shared.canonical import JsonValue
from hive_shared.registry import SPLICE, Tier
from pipeline_world import Crash, View, World, issue, slug
from splice_node import FEE_SAT, WITHOUT, SpliceNode, splice_world

ID = f"{1:064x}"
IN: dict[str, JsonValue] = {"channel_id": "101x1x0", "amount_sats": 200_000, "feerate_perkw": 1_000}
OUT: dict[str, JsonValue] = {"channel_id": "101x1x0", "amount_sats": 60_000, "feerate_perkw": 1_000}
CASES: Mapping[str, dict[str, JsonValue]] = {"splice_in": IN, "splice_out": {**OUT, "destination": FOREIGN}}
OUT_FEE_SAT = 774
"""42 + 164 + 224 weight for fields and funding input, 172 for each of two outputs, at 1,000 per kw."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = splice_world(tmp_path)
    yield made
    made.close()


def node(world: World) -> SpliceNode:
    assert isinstance(world.node, SpliceNode)
    return world.node


async def spent(world: World) -> list[tuple[int, int, str]]:
    sql = "SELECT amount_sat, fee_sat, state FROM comms_spend ORDER BY at"
    return [tuple(row) for row in await world.db.read(lambda tx: tx.execute(sql).fetchall())]


async def last(world: World) -> dict[str, Any]:
    return (await world.docs())[-1]


def untouched(world: World) -> bool:
    """Nothing signed, nothing under way, no coin set aside."""
    at = node(world)
    return not (at.signed or at.splicing or at.reserved or at.unsafe or at.row().get("inflight"))


# -- what is done --------------------------------------------------------------------------------------------


async def test_a_splice_in_is_signed_once_and_its_fee_is_counted(world: World) -> None:
    answer = await world.ask(SPLICE, "splice_in", IN)
    assert answer["status"] == 0, answer
    (txid,) = node(world).signed
    result = answer["result"]
    assert (result["txid"], result["outnum"], result["channel_id"]) == (txid, 1, ID)
    assert (result["amount_sats"], result["capacity_sats"]) == (200_000, 1_200_000)
    assert result["fee_sats"] == FEE_SAT and "destination" not in result
    # One's own coins in one's own channel are spent on nobody but miners.
    assert await spent(world) == [(0, FEE_SAT, "settled")]
    assert node(world).row()["state"] == "CHANNELD_AWAITING_SPLICE"


async def test_another_advisor_waits_after_a_splice_and_an_hour_for_a_further_one(world: World) -> None:
    other = issue(template="complete_management", tier=Tier.ADVANCED, number=2)
    world.credentials.add(View(other, "adv-2"))
    assert (await world.ask(SPLICE, "splice_in", IN))["status"] == 0
    refused = await world.set_fee(110, credential=2)
    assert slug(refused) == "cooldown" and refused["error"]["retry_after"] == 300, refused
    world.pass_time(300)
    assert (await world.set_fee(110, credential=2))["status"] == 0
    node(world).confirm()
    refused = await world.ask(SPLICE, "splice_in", IN, credential=2)
    assert slug(refused) == "cooldown" and refused["error"]["retry_after"] == 3_300, refused


@pytest.mark.parametrize(("destination", "leaves"), [("wallet", 0), (OWN, 0), (FOREIGN, 60_000)])
async def test_a_splice_out_pays_its_fee_from_the_channel(
    world: World, destination: str, leaves: int
) -> None:
    answer = await world.ask(SPLICE, "splice_out", {**OUT, "destination": destination})
    assert answer["status"] == 0, answer
    assert answer["result"]["capacity_sats"] == 1_000_000 - 60_000 - OUT_FEE_SAT
    assert answer["result"]["destination"] == destination
    assert await spent(world) == [(leaves, OUT_FEE_SAT, "settled")]
    assert len(node(world).signed) == 1 and "signpsbt" not in node(world).calls


async def test_a_transaction_that_the_peer_changes_is_noted_as_it_becomes(world: World) -> None:
    node(world).changes = 2
    answer = await world.ask(SPLICE, "splice_in", IN)
    assert answer["status"] == 0 and answer["result"]["txid"] == node(world).signed[0]
    node(world).confirm()
    node(world).changes = 9
    answer = await world.ask(SPLICE, "splice_out", {**OUT, "channel_id": "102x1x0"})
    assert slug(answer) == "node_error" and "kept changing" in answer["error"]["message"]
    assert len(node(world).signed) == 1 and not node(world).splicing


# -- danger, policy, credential ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "changed", "danger"),
    [
        ("splice_in", {}, 5),
        ("splice_in", {"feerate_perkw": 40_000}, 6),
        ("splice_out", {}, 6),
        ("splice_out", {"destination": OWN, "amount_sats": 150_000}, 6),
        ("splice_out", {"destination": FOREIGN, "amount_sats": 99_999}, 6),
        ("splice_out", {"destination": FOREIGN, "amount_sats": 100_000}, 8),
    ],
)
async def test_danger_is_that_of_the_money_that_leaves(
    world: World, action: str, changed: dict[str, JsonValue], danger: int
) -> None:
    params = {**(IN if action == "splice_in" else OUT), **changed}
    asked: dict[str, JsonValue] = {"schema": SPLICE, "action": action, "params": params}
    quote = await world.ask("hive:control/v1", "quote", asked)
    assert quote["result"]["danger"]["total"] == danger, quote
    answer = await world.ask(SPLICE, action, params)
    # What leaves for good in such an amount waits for people, whatever the policy says.
    assert answer["status"] == (3 if danger == 8 else 0), answer


@pytest.mark.parametrize(
    ("action", "overrides", "expected"),
    [
        ("splice_in", {"protected_channels": [ID]}, "protected_channel"),
        ("splice_out", {"protected_channels": ["101x1x0"]}, "protected_channel"),
        ("splice_in", {"forbidden_peers": ["02" + f"{1:064x}"]}, "forbidden_peer"),
        ("splice_in", {"max_feerate_perkw": 999}, "policy_blocked"),
        ("splice_in", {"max_channel_open_sats": 199_999}, "policy_blocked"),
        ("splice_out", {"daily_budget_sats": 60_000}, "budget_exhausted"),
    ],
)
async def test_policy_speaks_of_splices(
    tmp_path: Path, action: str, overrides: dict[str, Any], expected: str
) -> None:
    world = splice_world(tmp_path / "policy", **overrides)
    answer = await world.ask(SPLICE, action, CASES[action])
    assert slug(answer) == expected, answer
    assert untouched(world) and await spent(world) == []
    world.close()


@pytest.mark.parametrize(("destination", "status"), [(FOREIGN, 3), (OWN, 0)])
async def test_what_leaves_on_chain_is_asked_from_the_operators_amount_on(
    tmp_path: Path, destination: str, status: int
) -> None:
    world = splice_world(tmp_path / "asked", required_confirmation={"onchain_send_gte_sats": 60_000})
    answer = await world.ask(SPLICE, "splice_out", {**OUT, "destination": destination})
    assert answer["status"] == status and bool(node(world).signed) is (status == 0), answer
    world.close()


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "changed", "words"),
    [
        ("splice_in", {"channel_id": "9x9x9"}, "is no channel of this node"),
        ("splice_in", {"amount_sats": 545}, "amount_sats must be an integer from 546"),
        ("splice_in", {"amount_sats": True}, "amount_sats must be an integer"),
        ("splice_in", {"amount_sats": 3_000_000}, "more than the 3000000 sat of coins"),
        ("splice_in", {"feerate_perkw": 252}, "feerate_perkw must be"),
        ("splice_in", {"destination": "wallet"}, "absent"),
        ("splice_out", {"amount_sats": 479_227}, "more than the 480000 sat that may leave channel 101x1x0"),
        ("splice_out", {"destination": "bcrt1qnobodysaddress"}, "is no address of this node's network"),
        ("splice_out", {"destination": "103x1x0:1"}, "wallet or an on-chain address"),
    ],
)
async def test_parameters_that_cannot_be(
    world: World, action: str, changed: dict[str, JsonValue], words: str
) -> None:
    answer = await world.ask(SPLICE, action, {**(IN if action == "splice_in" else OUT), **changed})
    assert slug(answer) == "invalid_params" and words in answer["error"]["message"], answer
    assert untouched(world)


@pytest.mark.parametrize("action", list(CASES))
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"state": "CHANNELD_SHUTTING_DOWN"}, "is in state CHANNELD_SHUTTING_DOWN"),
        ({"state": "CHANNELD_AWAITING_SPLICE"}, "is in state CHANNELD_AWAITING_SPLICE"),
        ({"inflight": [{"funding_txid": "ab" * 32}]}, "has a splice under way"),
        ({"peer_connected": False}, "is not connected"),
    ],
)
async def test_channels_that_cannot_be_spliced_now(
    world: World, action: str, changed: dict[str, Any], words: str
) -> None:
    node(world).row().update(changed)
    answer = await world.ask(SPLICE, action, CASES[action])
    assert slug(answer) == "invalid_params" and words in answer["error"]["message"], answer
    assert not node(world).signed and not node(world).splicing


async def test_a_peer_that_does_not_know_splices(world: World) -> None:
    node(world).features = WITHOUT
    answer = await world.ask(SPLICE, "splice_in", IN)
    assert slug(answer) == "invalid_params" and "does not support splices" in answer["error"]["message"]


async def test_a_node_without_the_calls_lists_the_actions_as_unsupported(world: World) -> None:
    await world.pipeline.executors.probe()
    assert not world.pipeline.executors.served(SPLICE, "splice_in")
    answer = await world.ask(SPLICE, "splice_in", IN)
    assert slug(answer) == "unsupported_action" and untouched(world)


@pytest.mark.parametrize("action", list(CASES))
@pytest.mark.parametrize(
    ("step", "code", "words"),
    [
        ("splice_init", 351, "the peer is not connected"),
        ("splice_init", 355, "another splice of this channel"),
        ("splice_update", 359, "name a higher feerate_perkw"),
        ("splice_update", 362, "called the splice off"),
        ("splice_signed", 358, "not ready for this step"),
    ],
)
async def test_a_step_that_is_refused_leaves_everything_as_it_was(
    world: World, action: str, step: str, code: int, words: str
) -> None:
    node(world).refuse[step] = code
    answer = await world.ask(SPLICE, action, CASES[action])
    assert slug(answer) == "node_error" and words in answer["error"]["message"], answer
    assert answer["error"]["data"]["code"] == code and "private-dir" not in str(answer)
    assert untouched(world) and await spent(world) == []


@pytest.mark.parametrize("code", [301, 313])
async def test_coins_that_the_node_does_not_give(world: World, code: int) -> None:
    node(world).refuse["fundpsbt"] = code
    answer = await world.ask(SPLICE, "splice_in", IN)
    assert slug(answer) == "node_error" and answer["error"]["data"]["code"] == code
    assert untouched(world) and "abort_channels" not in node(world).calls


# -- answers that do not come, and kills ---------------------------------------------------------------------


@pytest.mark.parametrize("action", list(CASES))
@pytest.mark.parametrize("step", ["splice_init", "splice_update"])
async def test_an_answer_lost_before_anything_is_signed_calls_it_off(
    world: World, action: str, step: str
) -> None:
    node(world).lose.add(step)
    answer = await world.ask(SPLICE, action, CASES[action])
    assert slug(answer) == "timeout", answer
    assert untouched(world) and await spent(world) == []


@pytest.mark.parametrize("action", list(CASES))
async def test_an_answer_lost_when_it_is_signed_is_looked_for(world: World, action: str) -> None:
    node(world).lose.add("splice_signed")
    answer = await world.ask(SPLICE, action, CASES[action])
    assert answer["status"] == 3 and len(node(world).signed) == 1, answer
    node(world).lose.clear()
    world.pass_time(SETTLED_S + 31)
    await world.pipeline.timers.tick()
    # Both may have signed; the node does not list what pays only strangers before a block has it.
    assert await under_way(world) == 1 and not node(world).unsafe
    node(world).confirm()
    world.pass_time(31)
    await world.pipeline.timers.tick()
    receipt = await last(world)
    assert receipt["status"] == "success" and receipt["result"]["txid"] == node(world).signed[0]
    assert len(node(world).signed) == 1 and [row[2] for row in await spent(world)] == ["settled"]


@pytest.mark.parametrize("action", list(CASES))
async def test_acceptance_02_12_a_splice_killed_anywhere_is_done_once_or_not_at_all(
    tmp_path: Path, action: str
) -> None:
    async def order(world: World) -> None:
        await world.ask(SPLICE, action, dict(CASES[action]))

    seen: set[str] = set()
    async for at, world, died in killed_everywhere(tmp_path, order, splice_world):
        world.pass_time(SETTLED_S + 61)
        await world.pipeline.timers.tick()
        if await under_way(world):
            # Signed, and only a block tells.
            assert node(world).signed
            node(world).confirm()
            world.pass_time(31)
            await world.pipeline.timers.tick()
        docs, done = await world.docs(), len(node(world).signed)
        status = docs[0]["status"] if docs else "none"
        seen.add(status)
        assert len(docs) <= 1 and done <= 1 and not node(world).unsafe, (at, docs)
        assert not node(world).splicing, (at, "the channel is left quiescent")
        if status == "success":
            assert done == 1 and docs[0]["result"]["txid"] == node(world).signed[0], (at, docs)
            assert [row[2] for row in await spent(world)] == ["settled"]
        else:
            assert status in ("none", "rejected", "error") and not done, (at, docs)
            assert (docs or died) and await spent(world) == [], at
            assert not node(world).row().get("inflight"), at
    assert seen >= {"none", "error", "success"}, seen


async def crashed(world: World, action: str, at: str) -> None:
    world.crash_at = at
    with pytest.raises(Crash):
        await world.ask(SPLICE, action, CASES[action])
    world.crash_at = ""
    world.restart()


@pytest.mark.parametrize("action", list(CASES))
async def test_a_splice_whose_peer_left_meanwhile_is_called_off_when_it_is_back(
    world: World, action: str
) -> None:
    """Both held commitments and the connection ended: CLN keeps the splice and refuses to sign it."""
    secured = node(world)._splice_update
    node(world)._signpsbt = node(world)._splice_signed = _dies  # type: ignore[method-assign]
    with pytest.raises(Crash):
        await world.ask(SPLICE, action, CASES[action])
    assert node(world).row()["inflight"] and secured
    node(world).hang_up()
    world.restart()
    for _ in range(2):
        world.pass_time(SETTLED_S + 31)
        await world.pipeline.timers.tick()
    assert await under_way(world) == 1, "it cannot be called off while the peer is away"
    node(world).row()["peer_connected"] = True
    world.pass_time(31)
    await world.pipeline.timers.tick()
    receipt = await last(world)
    assert (receipt["status"], receipt["error"]["slug"]) == ("error", "shutting_down"), receipt
    assert untouched(world) and await spent(world) == []


def _dies(_asked: Mapping[str, Any]) -> dict[str, Any]:
    raise Crash


@pytest.mark.parametrize("action", list(CASES))
async def test_what_the_node_lost_after_it_was_signed_is_not_guessed_at(world: World, action: str) -> None:
    node(world).lose.add("splice_signed")
    await world.ask(SPLICE, action, CASES[action])
    del node(world).row()["inflight"]
    world.pass_time(SETTLED_S + 31)
    await world.pipeline.timers.tick()
    receipt = await last(world)
    assert receipt["status"] == "indeterminate", receipt
    assert receipt["result"]["txid"] == node(world).signed[0] and not node(world).unsafe


@pytest.mark.parametrize("action", list(CASES))
async def test_a_channel_that_closed_meanwhile_is_not_guessed_at(world: World, action: str) -> None:
    await crashed(world, action, "splice_noted")
    node(world).row()["state"] = "ONCHAIN"
    world.pass_time(SETTLED_S + 31)
    await world.pipeline.timers.tick()
    receipt = await last(world)
    assert receipt["status"] == "indeterminate" and not node(world).signed, receipt


@pytest.mark.parametrize("action", list(CASES))
async def test_the_emergency_stop_is_asked_before_anything_is_signed(world: World, action: str) -> None:
    sign, update = node(world)._splice_update, []

    def engaged(asked: Mapping[str, Any]) -> dict[str, Any]:
        answer = sign(asked)
        update.append(answer)
        world.switch.on = bool(answer["commitments_secured"])
        return answer

    node(world)._splice_update = engaged  # type: ignore[method-assign]
    answer = await world.ask(SPLICE, action, CASES[action])
    assert slug(answer) == "emergency_stop" and len(update) == 2, answer
    assert untouched(world) and await spent(world) == []
