"""Tickets of cl-hive over the wallet of cl-hive-comms, at a real mint
(docs/protocol/03-escrow-and-payments.md §1, §6, §9 hive-escrow-*)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cashu_tickets import STRANGER
from fleet_world import NODE_ID, START, FleetWorld, told
from hive_shared.cashu.terms import signed_by
from hive_shared.cashu.ticket_messages import Dispute, TicketReject
from hive_shared.errors import (
    BudgetExhausted,
    Busy,
    ConfirmationRequired,
    Conflict,
    EmergencyStop,
    FeatureDisabled,
    HiveError,
    Internal,
    InvalidParams,
    NotFound,
    PaymentFailed,
    SiblingUnavailable,
    Unauthorized,
)
from msgspec.structs import replace

pytestmark = pytest.mark.asyncio(loop_scope="module")
OTHER = STRANGER[2:]
AGO_S = 32_400 + 3_600 + 7_200


@pytest_asyncio.fixture(loop_scope="module")
async def world(mint_url: str, tmp_path: Path) -> AsyncIterator[FleetWorld]:
    made = await FleetWorld.funded(tmp_path, mint_url)
    yield made
    await made.close()


async def test_a_ticket_is_made_taken_earned_by_a_command_and_redeemed(world: FleetWorld) -> None:
    made = await world.create(40)
    id_ = made["ticket_id"]
    assert (made["status"], made["role"], made["action"]) == ("active", "payer", "set_single")
    assert await world.create(40) == {
        **made,
        "updated_at": (await world.call("get", ticket_id=id_))["updated_at"],
    }
    with pytest.raises(Conflict) as other:
        await world.create(41)
    assert other.value.code == 4015
    await world.carry()
    assert await world.status(id_) == ("active", ["accepted"])
    assert await world.payee.states(id_) == ["accepted"]
    shown = await world.call("get", ticket_id=id_)
    text = f"hive-escrow-terms:v1:{shown['terms_hash']}"
    assert shown["terms"]["payer"]["id"] == NODE_ID and signed_by(NODE_ID, text, shown["payer_signature"])
    # A bare claim is not enough; a command of another agent, or paid for otherwise, is none of this ticket.
    world.node.receipts += [
        told(world, {}, agent_id="did:nostr:" + OTHER),
        told(world, {}, escrow={"ticket_id": "x"}),
        told(world, {}, params={"channel_id": "1x1x1", "fee_ppm": 481, "enforce_delay_s": 600}),
    ]
    with pytest.raises(ConfirmationRequired):
        await world.call("complete", ticket_id=id_, success=True)
    world.node.receipts.append(told(world, {"command_id": "c-9"}))
    with pytest.raises(Conflict, match="says success=true"):
        await world.call("complete", ticket_id=id_, success=False)
    done = await world.call("complete", ticket_id=id_)
    assert (done["state"], done["command_id"]) == ("released", "c-9")
    assert (await world.call("complete", ticket_id=id_))["state"] == "released"
    (receipt,) = (await world.call("receipt", ticket_id=id_))["items"]
    signed = f"hive-escrow-receipt:v1:{receipt['receipt_hash'].removeprefix('sha256:')}"
    assert signed_by(NODE_ID, signed, receipt["node_signature"]) and receipt["preimage_revealed"]
    await world.carry()
    assert await world.redeemed() == 40
    await world.carry()
    assert await world.status(id_) == ("redeemed", ["redeemed"])
    await world.balanced()


async def test_what_reads_shows_neither_preimages_nor_tokens_nor_does_the_file(world: FleetWorld) -> None:
    made = await world.create(40)
    word = bytes(range(1, 33))
    registered = await world.call("register", task_id="t-1", secret=word.hex())
    again = await world.create(20, key="own", task_id="t-1")
    id_ = again["ticket_id"]
    await world.carry()
    shown = await world.call("get", ticket_id=id_)
    assert shown["items"][0]["hash"] == registered["hash"]
    await world.call("complete", ticket_id=id_, success=True, confirm=True)
    rows = [json.dumps(await world.call("get", ticket_id=each)) for each in (made["ticket_id"], id_)]
    rows += [json.dumps(await world.call("list")), json.dumps(await world.call("receipt", ticket_id=id_))]
    assert not any(word.hex() in row or "cashuB" in row for row in rows)
    await world.db.write(lambda tx: None)
    files = b"".join(file.read_bytes() for file in world.directory.glob("cl_hive.db*"))
    assert word not in files and word.hex().encode() not in files and b"cashuB" not in files
    await world.carry()
    released = [row["message"] for row in world.comms.letters.values() if "preimage" in row["message"]]
    assert [each["preimage"] for each in released] == [word.hex()]


async def test_the_money_moves_only_with_comms_and_what_reads_answers_without(world: FleetWorld) -> None:
    made = await world.create(40)
    id_ = made["ticket_id"]
    world.comms.there = False
    for name, params in (
        ("complete", {"success": True, "confirm": True}),
        ("refund", {}),
        ("redeem", {"preimage": "ab" * 32}),
    ):
        with pytest.raises(SiblingUnavailable) as refused:
            await world.call(name, ticket_id=id_, **params)
        assert refused.value.code == 4010
    with pytest.raises(SiblingUnavailable):
        await world.create(30, key="two")
    assert (await world.call("list"))["count"] == 1
    assert (await world.call("get", ticket_id=id_))["status"] == "active"
    assert (await world.call("receipt", ticket_id=id_))["count"] == 0
    assert (await world.call("pricing", danger_score=5))["adjusted_sats"] == 75
    await world.parts.rounds.tick()
    world.comms.there = True
    await world.carry()
    assert await world.status(id_) == ("active", ["accepted"])
    await world.balanced()


async def test_refusals_change_nothing(world: FleetWorld) -> None:
    world.mints = ()
    with pytest.raises(PaymentFailed, match="hive-settlement-mints is empty"):
        await world.create(40)
    world.mints = (world.comms.mint_url,)
    with pytest.raises(PaymentFailed, match="none of hive-settlement-mints"):
        await world.create(40, mint_url="https://other.example")
    world.comms.stopped = True
    with pytest.raises(EmergencyStop):
        await world.create(40)
    world.comms.stopped = False
    for wrong, why in (
        ({"agent_id": "nobody"}, InvalidParams),
        ({"agent_id": NODE_ID}, FeatureDisabled),
        ({"amount_sats": None}, InvalidParams),
        ({"amount_sats": 10_000_001}, InvalidParams),
        ({"danger_score": 11}, InvalidParams),
        ({"ticket_type": "performance"}, InvalidParams),
        ({"params_json": [1]}, InvalidParams),
        ({"params_json": {"fee_ppm": 1}}, InvalidParams),
        ({"items": [{"amount_sats": 1}]}, InvalidParams),
        ({"surprise": 1}, InvalidParams),
    ):
        with pytest.raises(why):
            await world.create(40, **wrong)
    for name in ("get", "receipt", "complete", "refund", "redeem"):
        with pytest.raises(NotFound):
            await world.call(name, ticket_id="ab" * 16)
        with pytest.raises(InvalidParams):
            await world.call(name, ticket_id="no")
    assert (await world.call("list"))["count"] == 0
    # More than is there: written down, refused by comms, given up.
    with pytest.raises((PaymentFailed, BudgetExhausted)):
        await world.create(START + 1)
    ((row,), _) = ((await world.call("list"))["items"], None)
    assert row["status"] == "cancelled" and await world.comms.sats() == START
    with pytest.raises(PaymentFailed, match="was given up"):
        await world.create(START + 1)


async def test_the_budget_of_the_fleet_bounds_it(world: FleetWorld) -> None:
    limits = world.comms.limits_now
    world.comms.limits_now = replace(limits, siblings={"fleet": (50, 500)})
    with pytest.raises(BudgetExhausted):
        await world.create(100)
    assert (await world.create(40, key="small"))["status"] == "active"
    await world.balanced()


async def test_a_batch_is_judged_item_by_item_and_what_was_not_earned_comes_back(
    mint_url: str, tmp_path: Path
) -> None:
    world = await FleetWorld.funded(tmp_path, mint_url, ago_s=AGO_S)
    made = await world.create(40, 30, 20)
    id_ = made["ticket_id"]
    await world.carry()
    assert (await world.status(id_))[1] == ["accepted"] * 3
    await world.call("complete", ticket_id=id_, item=0, success=True, confirm=True)
    failed = await world.call("complete", ticket_id=id_, item=1, success=False, confirm=True)
    assert failed["state"] == "failed"
    with pytest.raises(Conflict):
        await world.call("complete", ticket_id=id_, item=1, success=True, confirm=True)
    with pytest.raises(NotFound):
        await world.call("complete", ticket_id=id_, item=3, success=True, confirm=True)
    with pytest.raises(Unauthorized, match="come with settlements"):
        await world.call("redeem", ticket_id=id_, preimage="ab" * 32)
    with pytest.raises(NotFound, match=r"come with settlements .*hive-client-escrow action=redeem"):
        await world.call("redeem", ticket_id="ab" * 16, preimage="ab" * 32)
    with pytest.raises(PaymentFailed) as early:
        await world.call("refund", ticket_id=id_)
    assert early.value.reason == "too_early"
    await world.carry()
    assert await world.redeemed() == 40
    world.comms.now += AGO_S
    shown = await world.call("refund", ticket_id=id_)
    assert shown["item_states"] == {"redeemed": 1, "refunded": 2} or shown["item_states"]["refunded"] == 2
    await world.carry()
    assert await world.status(id_) == ("partial", ["redeemed", "refunded", "refunded"])
    await world.balanced()
    await world.close()


async def test_a_released_item_is_left_to_its_payee_for_a_day(mint_url: str, tmp_path: Path) -> None:
    world = await FleetWorld.funded(tmp_path, mint_url, ago_s=AGO_S)
    id_ = (await world.create(40))["ticket_id"]
    await world.carry()
    await world.call("complete", ticket_id=id_, success=True, confirm=True)
    world.comms.now += AGO_S
    await world.round()
    assert (await world.status(id_))[1] == ["released"]
    with pytest.raises(PaymentFailed, match="too_early"):
        await world.call("refund", ticket_id=id_)
    await world.close()


async def test_a_stored_result_waits_for_its_reveal(world: FleetWorld) -> None:
    id_ = (await world.create(40))["ticket_id"]
    await world.carry()
    held = await world.call("complete", ticket_id=id_, success=True, confirm=True, reveal_preimage=False)
    assert held["state"] == "executing"
    assert not any("preimage" in row["message"] for row in world.comms.letters.values())
    assert (await world.call("complete", ticket_id=id_))["state"] == "released"
    await world.carry()
    assert await world.redeemed() == 40


async def test_a_payee_that_refuses_is_heard_and_a_stranger_is_not(world: FleetWorld) -> None:
    id_ = (await world.create(40))["ticket_id"]
    terms_hash = (await world.call("get", ticket_id=id_))["terms_hash"]
    said = TicketReject(id_, "token_invalid(nonce)", "no", terms_hash)
    assert await world.tell_us(said, sender=OTHER)
    await world.round()
    assert (await world.status(id_))[1] == ["delivered"]
    assert await world.tell_us(said)
    await world.round()
    assert (await world.status(id_)) == ("failed", ["failed"])
    assert any("rejected" in text for text in world.comms.alerts_told)
    assert not await world.tell_us(TicketReject("ab" * 16, "token_invalid(nonce)", "no", terms_hash))


async def test_the_operator_answers_what_an_agent_disputes(world: FleetWorld) -> None:
    id_ = (await world.create(10, 10))["ticket_id"]
    await world.carry()
    for item in (0, 1):
        await world.call("complete", ticket_id=id_, item=item, success=False, confirm=True)
        await world.tell_us(Dispute(f"{item:032x}", id_, item, "it was done", []))
    await world.round()
    told = [text for text in world.comms.alerts_told if "disputes item" in text]
    assert len(told) == 2 and f"hive-escrow-dispute ticket_id={id_} item=0" in "".join(told)
    shown = await world.call("get", ticket_id=id_)
    assert [(row["item"], row["state"]) for row in shown["disputes"]] == [(0, "open"), (1, "open")]
    answer = {"ticket_id": id_, "outcome": "pay", "reason": "so it was"}
    for wrong in ({}, {"outcome": "reject", "payment_id": "p1"}, {"payment_id": "p1", "reason": "a\nb"}):
        with pytest.raises(InvalidParams):
            await world.call("dispute", **{**answer, **wrong})
    with pytest.raises(NotFound):
        await world.call("dispute", **answer, item=2, payment_id="p1")
    paid = await world.call("dispute", **answer, payment_id="p1")
    assert (paid["item"], paid["state"]) == (0, "paid")
    rejected = await world.call("dispute", ticket_id=id_, item=1, outcome="reject", reason="it was not")
    assert rejected["state"] == "rejected"
    with pytest.raises(NotFound, match="not answered"):
        await world.call("dispute", **answer, payment_id="p1")
    await world.round()
    said = [
        row["message"] for row in world.comms.letters.values() if row["schema"].endswith("/dispute_reply")
    ]
    assert [(each["outcome"], each["reason"]) for each in said] == [
        *(("pay", "so it was"), ("reject", "it was not")),
    ]


@pytest.mark.parametrize("why", [Busy("cl-hive-comms is starting"), Internal("no room on the disk")], ids=str)
async def test_what_comms_cannot_take_now_is_said_later(world: FleetWorld, why: HiveError) -> None:
    id_ = (await world.create(40))["ticket_id"]
    await world.carry()
    await world.call("complete", ticket_id=id_, success=True, confirm=True)
    call = world.comms.call

    async def refusing(who: str, method: str, params: Any, **more: Any) -> dict[str, Any]:
        if method == "hive-comms-send-dm":
            raise why
        return await call(who, method, params, **more)

    world.comms.call = refusing  # type: ignore[method-assign]
    await world.round()
    world.comms.call = call  # type: ignore[method-assign]
    await world.carry()
    assert await world.redeemed() == 40


async def test_an_answer_that_cannot_be_read_holds_up_no_message(world: FleetWorld) -> None:
    id_ = (await world.create(40))["ticket_id"]
    await world.carry()
    await world.call("complete", ticket_id=id_, success=True, confirm=True)
    call = world.comms.call

    async def newer(who: str, method: str, params: Any, **more: Any) -> dict[str, Any]:
        answer = await call(who, method, params, **more)
        for row in answer.get("locks", ()):
            row["state"] = "of a later version"
        return answer

    world.comms.call = newer  # type: ignore[method-assign]
    await world.round()
    world.comms.call = call  # type: ignore[method-assign]
    assert any("preimage" in row["message"] for row in world.comms.letters.values())
    await world.carry()
    assert await world.redeemed() == 40


async def test_locks_that_comms_has_lost_hold_up_no_other_ticket(mint_url: str, tmp_path: Path) -> None:
    world = await FleetWorld.funded(tmp_path, mint_url, ago_s=AGO_S)
    lost = (await world.create(20, key="lost"))["ticket_id"]
    await world.comms.db.write(lambda tx: tx.execute("DELETE FROM comms_cashu_locks"))
    world.comms.now += 7_200
    id_ = (await world.create(40))["ticket_id"]
    await world.carry()
    world.comms.now = world.began + AGO_S - 3_600
    await world.call("complete", ticket_id=id_, success=True, confirm=True)
    for _ in range(2):
        await world.round()
    assert any("preimage" in row["message"] for row in world.comms.letters.values())
    told = [text for text in world.comms.alerts_told if "does not know its locks" in text]
    assert len(told) == 1 and lost in told[0]
    await world.close()


async def test_what_is_disputed_after_the_money_came_back_is_heard(mint_url: str, tmp_path: Path) -> None:
    world = await FleetWorld.funded(tmp_path, mint_url, ago_s=AGO_S)
    id_ = (await world.create(40))["ticket_id"]
    await world.carry()
    await world.call("complete", ticket_id=id_, success=False, confirm=True)
    world.comms.now += AGO_S
    await world.call("refund", ticket_id=id_)
    await world.round()
    assert (await world.status(id_))[1] == ["refunded"]
    # Nobody hears the signal: cl-hive starts anew, and has no ticket that is open.
    world.restart()
    assert await world.tell_us(Dispute("ab" * 16, id_, 0, "it was done", []))
    await world.round(wait_s=3_700)
    (dispute,) = (await world.call("get", ticket_id=id_))["disputes"]
    assert dispute["state"] == "open"
    await world.balanced()
    await world.close()
