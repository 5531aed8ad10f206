"""The command pipeline end to end over a real file (docs/protocol/02-fleet-management.md §7, §15)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hive_shared import crypto, receipts
from hive_shared.canonical import encode
from pipeline_world import AGENT_KEY, HSM_KEY, OTHER_KEY, Keys, View, World, issue, slug

FEES = "hive:fee-policy/v1"
MONITOR = "hive:monitor/v1"
CONTROL = "hive:control/v1"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


async def test_acceptance_02_01_a_fee_change_is_executed_and_proven(world: World) -> None:
    before = await world.ask(MONITOR, "state_hash", {})
    response = await world.set_fee(120)
    after = await world.ask(MONITOR, "state_hash", {})
    assert response["status"] == 0, response
    assert world.node.fees("101x1x0") == (1_000, 120)
    assert response["result"]["old"] == {"base_msat": 1_000, "fee_ppm": 100}
    assert response["result"]["new"] == {"base_msat": 1_000, "fee_ppm": 120}
    receipt = response["receipt"]
    assert receipts.verify(receipt, Keys.pubkey)
    assert (receipt["status"], receipt["action"], receipt["danger"]["total"]) == ("success", "set_single", 3)
    assert receipt["approval"]["workflow"] == "auto"
    assert receipt["state_hash_before"] == before["result"]["state_hash"]
    assert receipt["state_hash_after"] == response["state_hash"] == after["result"]["state_hash"]
    assert before["result"]["roots"]["policy"] != after["result"]["roots"]["policy"]
    assert before["result"]["roots"]["balance"] == after["result"]["roots"]["balance"]
    assert (await world.receipts.verify()).ok


async def test_a_managed_write_costs_three_transactions_and_a_read_two(world: World) -> None:
    await world.ask(MONITOR, "fee_report", {})
    writes = world.db.stats.writes
    await world.set_fee(110)
    assert world.db.stats.writes - writes == 3
    await world.ask(MONITOR, "fee_report", {})
    assert world.db.stats.writes - writes == 5


async def test_the_node_is_asked_before_the_nonce_is_written_and_once_for_a_change(world: World) -> None:
    await world.set_fee(110)
    world.pass_time(3_700)
    world.node.calls.clear()
    asked: list[list[str]] = []
    write = world.db.write

    async def noted(body: Any, *, durable: bool = True) -> Any:
        asked.append(list(world.node.calls))
        return await write(body, durable=durable)

    world.db.write = noted  # type: ignore[method-assign]
    assert (await world.set_fee(120))["status"] == 0
    slow = ["listfunds", "listconfigs", "plugin_list"]
    calls = [call for call in world.node.calls if call not in slow]
    assert asked[0] == ["listpeerchannels"] and calls == ["listpeerchannels", "setchannel"]
    assert asked[1][-1] != "setchannel" and asked[2][-1] == "setchannel"


async def test_acceptance_02_02_one_envelope_over_three_ways_runs_once(world: World) -> None:
    doc = world.envelope(FEES, "set_single", {"channel_id": "101x1x0", "fee_ppm": 120})
    first, second = await asyncio.gather(
        world.handle(doc, transport="nostr_dm"), world.handle(doc, transport="nostr_dm")
    )
    third = await world.handle(doc, transport="rest")
    assert first == second == third
    assert world.setchannels == 1
    assert len(await world.docs()) == 1


async def test_acceptance_08_04_each_way_an_envelope_came_gets_its_answer(world: World) -> None:
    doc = world.envelope(FEES, "set_single", {"channel_id": "101x1x0", "fee_ppm": 120})
    rest, dm = await asyncio.gather(
        world.handle(doc, transport="rest"), world.handle(doc, transport="nostr_dm")
    )
    assert rest == dm
    assert [message["content"] for message in world.out.sent] == [encode(rest or {}).decode()]
    assert world.setchannels == 1


async def test_acceptance_02_02_a_used_nonce_with_other_content_is_nonce_reuse(world: World) -> None:
    await world.set_fee(110, nonce=5)
    again = await world.set_fee(111, nonce=5)
    assert slug(again) == "nonce_reuse"
    assert [code for _, code, _ in world.out.alerts if code == "nonce_reuse"]
    assert world.setchannels == 1


async def test_acceptance_02_02_a_low_nonce_after_a_second_is_too_low(world: World) -> None:
    await world.ask(MONITOR, "fee_report", {}, nonce=6)
    world.pass_time(1)
    late = await world.ask(MONITOR, "fee_report", {}, nonce=5)
    assert slug(late) == "nonce_too_low"
    assert late["error"]["data"]["expected_min"] == 7


async def test_acceptance_02_02_nonces_6_and_5_within_the_window_both_run_in_order(world: World) -> None:
    await world.ask(MONITOR, "fee_report", {}, nonce=4)
    sixth = asyncio.create_task(
        world.ask(FEES, "set_single", {"channel_id": "101x1x0", "base_msat": 900}, nonce=6)
    )
    await asyncio.sleep(0)
    fifth = await world.set_fee(110, channel="102x1x0", nonce=5)
    answered = await sixth
    assert (fifth["status"], answered["status"]) == (0, 0)
    assert [doc["nonce"] for doc in await world.docs()] == [5, 6]


@pytest.mark.parametrize(
    ("skew", "expected"), [(-301, "stale_timestamp"), (301, "stale_timestamp"), (299, None), (-299, None)]
)
async def test_acceptance_02_03_timestamps_within_300_seconds(
    world: World, skew: int, expected: str | None
) -> None:
    response = await world.ask(MONITOR, "fee_report", {}, timestamp=world.now + skew)
    assert slug(response) == expected


async def test_acceptance_02_03_a_command_for_another_node_is_refused(world: World) -> None:
    response = await world.ask(MONITOR, "fee_report", {}, node=crypto.xonly_pubkey(OTHER_KEY))
    assert slug(response) == "wrong_node"


async def test_acceptance_02_04_flipped_byte_is_bad_signature_and_leaves_the_nonce(world: World) -> None:
    good = world.envelope(FEES, "set_single", {"channel_id": "101x1x0", "fee_ppm": 120}, nonce=9)
    signature = str(good["signature"])
    flipped = ("0" if signature[0] != "0" else "1") + signature[1:]
    tampered = [
        {**good, "signature": flipped},
        {
            **good,
            "schema_payload": {"action": "set_single", "params": {"channel_id": "101x1x0", "fee_ppm": 121}},
        },
        {**good, "payment_proof": {"method": "nona"}},
        {**good, "nonce": 10},
        {**good, "timestamp": world.now + 1},
    ]
    for doc in tampered:
        assert slug(await world.handle(doc)) == "bad_signature"
    assert world.db.stats.writes == 0
    assert slug(await world.handle(good)) is None


async def test_acceptance_02_05_a_credential_by_a_stranger_never_authorises(world: World) -> None:
    world.credentials.add(View(issue(OTHER_KEY, number=2, issuer=OTHER_KEY), "adv-2"))
    response = await world.set_fee(120, agent=OTHER_KEY, credential=2)
    assert slug(response) == "issuer_untrusted"
    reference = {"credential_id": "00000000-0000-4000-8000-000000000001", "hash": "ab" * 32}
    embedded = await world.ask(MONITOR, "fee_report", {}, credential=reference)
    assert slug(embedded) == "unauthorized"


async def test_another_agents_credential_is_no_use(world: World) -> None:
    world.credentials.add(View(issue(OTHER_KEY, number=2), "adv-2"))
    assert slug(await world.set_fee(120, agent=OTHER_KEY, credential=1)) == "unauthorized"


async def test_acceptance_02_06_monitor_tier_cannot_set_fees(world: World) -> None:
    world.credentials.add(View(issue(OTHER_KEY, "monitor_only", number=2), "adv-2"))
    response = await world.set_fee(120, agent=OTHER_KEY, credential=2)
    assert slug(response) == "tier_insufficient"
    assert response["receipt"]["status"] == "rejected"
    assert world.setchannels == 0


async def test_acceptance_02_07_constraint_and_day_old_reference(world: World) -> None:
    world.policies.override("aggressive", max_fee_change_per_24h_pct=1_000)
    assert slug(await world.set_fee(160)) == "constraint_violated"
    assert slug(await world.set_fee(130)) is None
    world.pass_time(2 * 3_600)
    assert slug(await world.set_fee(169)) == "constraint_violated"
    world.pass_time(23 * 3_600)
    assert slug(await world.set_fee(169)) is None


async def test_acceptance_02_07_one_protected_channel_fails_the_whole_bulk(world: World) -> None:
    world.policies.override("moderate", protected_channels=["102x1x0"])
    params = {"channels": ["101x1x0", "102x1x0"], "policy": {"fee_ppm": 110}}
    response = await world.ask(FEES, "set_bulk", params)
    assert slug(response) == "protected_channel"
    assert world.setchannels == 0


@pytest.mark.parametrize(
    "params",
    [
        {"channel_id": "101x1x0", "fee_ppm": True},
        {"channel_id": "101x1x0", "fee_ppm": -1},
        {"channel_id": "101x1x0", "fee_ppm": 120, "sudo": 1},
        {"fee_ppm": 120},
        {"channel_id": "101x1x0"},
        {"channel_id": "999x9x9", "fee_ppm": 120},
        [],
    ],
)
async def test_acceptance_02_09_bad_parameters_are_refused_with_a_receipt(world: World, params: Any) -> None:
    response = await world.ask(FEES, "set_single", params)
    assert (slug(response), response["error"]["code"]) == ("invalid_params", -32602)
    assert world.setchannels == 0
    assert len(await world.docs()) == 1


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"{", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b'{"v":1,"v":1}', "malformed"),
        (b'{"a":' * 13 + b"1" + b"}" * 13, "too_large"),
        (b'{"v":1,"x":"' + b"y" * 70_000 + b'"}', "too_large"),
        (b'{"v":1,"nonce":NaN}', "malformed"),
        (encode({"v": 2}), "unsupported_version"),
    ],
)
async def test_acceptance_02_09_hostile_text_from_a_known_key_costs_no_database_write(
    world: World, raw: bytes, expected: str
) -> None:
    """By a caller that waits for the answer; what a direct message costs is in test_message_cost."""
    response = await world.handle(raw)
    assert slug(response) == expected
    assert world.db.stats.writes == 0


async def test_who_only_claims_a_key_does_not_use_up_the_minute_of_its_owner(world: World) -> None:
    forged = world.envelope(CONTROL, "ping", {})
    forged["timestamp"] = world.now + 1
    for _ in range(100):
        assert slug(await world.handle(forged)) == "bad_signature"
    assert slug(await world.ask(CONTROL, "ping", {})) is None


async def test_acceptance_02_17_the_61st_command_in_a_minute_is_rate_limited(world: World) -> None:
    for _ in range(60):
        assert slug(await world.ask(CONTROL, "ping", {})) is None
    assert slug(await world.ask(CONTROL, "ping", {})) == "rate_limited"
    world.pass_time(61)
    assert slug(await world.ask(CONTROL, "ping", {})) is None


async def test_acceptance_02_17_strangers_cost_nothing(world: World) -> None:
    for n in range(200):
        stranger = crypto.Secret((1_000 + n).to_bytes(32, "big"))
        doc = world.envelope(MONITOR, "fee_report", {}, agent=stranger)
        assert await world.handle(doc, transport="nostr_dm") is None
    assert world.db.stats.writes == 0
    assert world.out.sent == []


async def test_five_dangerous_commands_a_minute_are_the_limit(world: World) -> None:
    params = {"channels": ["101x1x0", "102x1x0", "103x1x0"], "policy": {"fee_ppm": 110}}
    for _ in range(5):
        assert slug(await world.ask(FEES, "set_bulk", params)) != "rate_limited"
    assert slug(await world.ask(FEES, "set_bulk", params)) == "rate_limited"


async def test_acceptance_02_20_cooldowns_between_advisors(world: World) -> None:
    world.credentials.add(View(issue(OTHER_KEY, number=2), "adv-2"))
    assert slug(await world.set_fee(110)) is None
    world.pass_time(100)
    base = {"channel_id": "101x1x0", "base_msat": 900}
    blocked = await world.ask(FEES, "set_single", base, agent=OTHER_KEY, credential=2)
    assert slug(blocked) == "cooldown" and blocked["error"]["retry_after"] == 200
    world.pass_time(201)
    assert slug(await world.ask(FEES, "set_single", base, agent=OTHER_KEY, credential=2)) is None
    assert slug(await world.set_fee(112, agent=OTHER_KEY, credential=2)) == "cooldown"


def waiting(seconds: int) -> View:
    """Another advisor whose credential says how long it waits after others."""
    return View(issue(OTHER_KEY, number=2, coordination={"action_cooldown_s": seconds}), "adv-2")


@pytest.mark.parametrize(("said", "wait"), [(0, 0), (60, 60), (4_000, 4_000), (10**9, 86_400)])
async def test_a_credential_says_how_long_its_holder_waits_after_others(
    world: World, said: int, wait: int
) -> None:
    world.credentials.add(waiting(said))
    assert slug(await world.set_fee(110)) is None
    base = {"channel_id": "101x1x0", "base_msat": 900}
    if wait:
        world.pass_time(wait - 1)
        blocked = await world.ask(FEES, "set_single", base, agent=OTHER_KEY, credential=2)
        assert slug(blocked) == "cooldown" and blocked["error"]["retry_after"] == 1
        world.pass_time(1)
    assert slug(await world.ask(FEES, "set_single", base, agent=OTHER_KEY, credential=2)) is None


@pytest.mark.parametrize(("said", "wait"), [(0, 3_600), (7_200, 7_200)])
async def test_for_the_same_field_it_is_an_hour_at_least(world: World, said: int, wait: int) -> None:
    world.credentials.add(waiting(said))
    assert slug(await world.set_fee(110)) is None
    world.pass_time(wait - 1)
    assert slug(await world.set_fee(112, agent=OTHER_KEY, credential=2)) == "cooldown"
    world.pass_time(1)
    assert slug(await world.set_fee(112, agent=OTHER_KEY, credential=2)) is None


async def test_what_one_credential_says_does_not_hold_for_others(world: World) -> None:
    world.credentials.add(waiting(0))
    base = {"channel_id": "101x1x0", "base_msat": 900}
    assert slug(await world.ask(FEES, "set_single", base, agent=OTHER_KEY, credential=2)) is None
    blocked = await world.set_fee(110)
    assert slug(blocked) == "cooldown" and blocked["error"]["retry_after"] == 300


async def test_an_agent_waits_an_hour_between_its_own_writes_of_a_channel(world: World) -> None:
    assert slug(await world.set_fee(110)) is None
    world.pass_time(3_599)
    assert slug(await world.set_fee(115)) == "cooldown"
    world.pass_time(1)
    assert slug(await world.set_fee(115)) is None


async def test_reads_have_a_day_s_measure_of_their_own_for_each_credential(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cl_hive_comms.services.command_service.READS_PER_DAY", 3)
    world.credentials.add(View(issue(OTHER_KEY, number=2), "adv-2"))
    for _ in range(3):
        assert (await world.ask("hive:monitor/v1", "channel_list", {}))["status"] == 0
    full = await world.ask("hive:monitor/v1", "channel_list", {})
    assert slug(full) == "daily_cap" and "reads a day" in full["error"]["message"]
    # Writes, and others, have theirs.
    assert slug(await world.set_fee(110)) is None
    other = await world.ask("hive:monitor/v1", "channel_list", {}, agent=OTHER_KEY, credential=2)
    assert other["status"] == 0
    world.pass_time(86_400)
    assert (await world.ask("hive:monitor/v1", "channel_list", {}))["status"] == 0


async def test_the_policy_names_its_rule(world: World) -> None:
    response = await world.set_fee(140)
    assert slug(response) == "policy_blocked"
    assert response["error"]["data"]["rule"] == "max_fee_change_per_24h_pct"
    assert response["receipt"]["danger"]["total"] == 3


async def test_repeated_refusals_of_a_minute_share_a_receipt(world: World) -> None:
    answers = [await world.set_fee(140) for _ in range(4)]
    assert len({answer["receipt"]["receipt_id"] for answer in answers}) == 1
    assert len(await world.docs()) == 1
    world.pass_time(60)
    await world.pipeline.timers.tick()
    await world.pipeline.timers.tick()
    docs = await world.docs()
    assert [doc.get("result") for doc in docs] == [
        None,
        {"repeats": 3, "minute": docs[1]["result"]["minute"]},
    ]


async def test_reads_of_an_hour_get_one_receipt_per_agent(world: World) -> None:
    for _ in range(3):
        await world.ask(MONITOR, "fee_report", {})
    await world.ask(CONTROL, "ping", {})
    await world.pipeline.timers.hourly()
    assert await world.docs() == []
    world.pass_time(3_600)
    await world.pipeline.timers.hourly()
    await world.pipeline.timers.hourly()
    (doc,) = await world.docs()
    assert doc["result"]["reads"] == {"hive:monitor/v1#fee_report": 3, "hive:control/v1#ping": 1}


async def test_the_emergency_stop_refuses_everything(world: World) -> None:
    world.switch.on = True
    assert slug(await world.set_fee(110)) == "emergency_stop"
    assert world.db.stats.writes == 0


async def test_a_payment_is_refused_untouched_while_nothing_costs_anything(world: World) -> None:
    response = await world.ask(
        MONITOR, "fee_report", {}, payment_proof={"method": "cashu", "token": "cashuB"}
    )
    assert slug(response) == "payment_invalid"


async def test_the_node_s_refusal_is_an_error_without_its_text(world: World) -> None:
    world.node.fail["setchannel"] = 205
    response = await world.set_fee(110)
    assert (response["status"], slug(response)) == (2, "node_error")
    assert "private-dir" not in str(response)
    assert response["receipt"]["status"] == "error"
    del world.node.fail["setchannel"]
    assert slug(await world.set_fee(110)) is None


async def test_a_lost_answer_is_resolved_by_looking(world: World) -> None:
    world.node.lose.add("setchannel")
    response = await world.set_fee(110)
    assert response["status"] == 0
    assert world.setchannels == 1


async def test_bulk_reports_every_channel_under_one_receipt(tmp_path: Path) -> None:
    world = World(tmp_path / "wide", channels=10)
    world.policies.override("aggressive", approval_overrides={"fee_policy_set_bulk": "auto_execute"})
    channels = ["101x1x0", "102x1x0", "103x1x0", "104x1x0"]
    response = await world.ask(FEES, "set_bulk", {"channels": channels, "policy": {"fee_delta_pct": 10}})
    assert response["status"] == 0, response
    assert response["result"]["applied"] == 4
    assert {world.node.fees(scid)[1] for scid in channels} == {110}
    assert len(await world.docs()) == 1
    world.close()


async def test_nostr_responses_are_sent_and_rest_ones_are_not(world: World) -> None:
    await world.set_fee(110, transport="rest")
    assert world.out.sent == []
    response = await world.ask(MONITOR, "fee_report", {}, transport="nostr_dm")
    (message,) = world.out.sent
    assert message["kind"] == "response"
    assert message["content"] == encode(response).decode()


async def test_responses_are_numbered_without_gaps(world: World) -> None:
    answers = [await world.ask(CONTROL, "ping", {}) for _ in range(3)]
    assert [answer["seq"] for answer in answers] == [1, 2, 3]


async def test_a_known_command_id_answers_with_the_first_runs_outcome(world: World) -> None:
    command_id = "00000000-0000-4000-8000-0000000000c1"
    first = await world.set_fee(110, command_id=command_id)
    again = await world.set_fee(110, command_id=command_id)
    assert again["result"] == first["result"] and again["request_nonce"] != first["request_nonce"]
    assert world.setchannels == 1
    assert slug(await world.set_fee(111, command_id=command_id)) == "nonce_reuse"


async def test_an_anchor_ends_by_itself_after_its_time(world: World) -> None:
    params = {"channel_id": "101x1x0", "target_fee_ppm": 120, "ttl_hours": 2, "confidence": 0.25}
    response = await world.ask(FEES, "set_anchor", params)
    assert response["status"] == 0, response
    listed = await world.ask(FEES, "list_anchors", {})
    assert [item["target_fee_ppm"] for item in listed["result"]["items"]] == [120]
    world.pass_time(2 * 3_600 + 1)
    world.restart()
    await world.pipeline.timers.tick()
    await world.pipeline.timers.tick()
    assert world.node.fees("101x1x0") == (1_000, 100)
    docs = await world.docs()
    assert [doc["action"] for doc in docs] == ["set_anchor", "clear_anchor"]
    assert (await world.ask(FEES, "list_anchors", {}))["result"]["count"] == 0


async def test_an_anchor_that_somebody_changed_since_is_left_alone(world: World) -> None:
    await world.ask(FEES, "set_anchor", {"channel_id": "101x1x0", "target_fee_ppm": 120, "ttl_hours": 1})
    world.node.rows[0]["fee_proportional_millionths"] = 77
    world.pass_time(3_601)
    await world.pipeline.timers.tick()
    assert world.node.fees("101x1x0") == (1_000, 77)
    assert (await world.docs())[-1]["result"]["state"] == "left_alone"


async def test_clearing_an_anchor_puts_the_former_fee_back(world: World) -> None:
    await world.ask(FEES, "set_anchor", {"channel_id": "101x1x0", "target_fee_ppm": 120})
    world.pass_time(3_601)
    response = await world.ask(FEES, "clear_anchor", {"channel_id": "101x1x0"})
    assert response["status"] == 0, response
    assert world.node.fees("101x1x0") == (1_000, 100)
    assert (await world.ask(FEES, "list_anchors", {}))["result"]["count"] == 0


async def test_the_hsm_signs_the_roots_over_the_receipts(world: World) -> None:
    await world.set_fee(110)
    world.pass_time(3_700)
    await world.pipeline.timers.hourly()
    listed = await world.ask(CONTROL, "receipts_list", {"since_id": 0, "paths": True})
    (root,) = listed["result"]["roots"]
    text = receipts.root_text(
        root["kind"], root["start"], root["first_id"], root["last_id"], root["merkle_root"]
    )
    assert crypto.cln_recover_message(text, root["zbase"]) == crypto.cln_recover_message(
        "x", crypto.cln_sign_message(HSM_KEY, "x")
    )
    item = listed["result"]["items"][0]
    assert receipts.verify_path(item["receipt_hash"], 0, 1, root["paths"]["1"], root["merkle_root"])


async def test_an_agent_sees_only_the_outline_of_others_receipts(world: World) -> None:
    world.credentials.add(View(issue(OTHER_KEY, number=2), "adv-2"))
    await world.set_fee(110)
    mine = (await world.ask(CONTROL, "receipts_list", {}))["result"]["items"][0]
    theirs = (await world.ask(CONTROL, "receipts_list", {}, agent=OTHER_KEY, credential=2))["result"][
        "items"
    ][0]
    assert "params" in mine
    assert set(theirs) == {
        "receipt_id",
        "prev_hash",
        "receipt_hash",
        "node_signature",
        "schema",
        "time",
        "result",
    }


async def test_a_receipt_is_acknowledged_by_its_agent(world: World) -> None:
    receipt = (await world.set_fee(110))["receipt"]
    from hive_shared.envelope import ack_digest

    params = {
        "receipt_id": receipt["receipt_id"],
        "receipt_hash": receipt["receipt_hash"],
        "sig": crypto.schnorr_sign(AGENT_KEY, ack_digest(receipt["receipt_hash"])),
    }
    assert (await world.ask(CONTROL, "receipt_ack", params))["result"]["acknowledged"]
    assert slug(await world.ask(CONTROL, "receipt_ack", {**params, "sig": "ab" * 64})) == "bad_signature"


async def test_capabilities_and_quotes_tell_the_agent_its_scope(world: World) -> None:
    result = (await world.ask(CONTROL, "capabilities", {}))["result"]
    assert result["tier"] == "standard" and "hive:fee-policy/v1" in result["supported_schemas"]
    assert result["limits"]["per_min"] == 60
    quote = (
        await world.ask(
            CONTROL,
            "quote",
            {"schema": FEES, "action": "set_single", "params": {"channel_id": "101x1x0", "fee_ppm": 110}},
        )
    )["result"]
    assert (quote["price_sats"], quote["danger"]["total"], quote["workflow"]) == (0, 3, "auto")


async def test_capabilities_name_the_next_nonce_that_will_do(world: World) -> None:
    async def next_nonce(nonce: int) -> str:
        answer = await world.ask(CONTROL, "capabilities", {}, nonce=nonce)
        return str(answer["result"]["next_nonce"])

    assert await next_nonce(1_000) == "1001"
    # Beyond what a double holds, as text (docs/decisions/0060); what was refused before step 9 burned none.
    high = 2**60
    bad = world.envelope(FEES, "set_single", {"channel_id": "101x1x0", "fee_ppm": 110}, nonce=high + 50)
    assert slug(await world.handle({**bad, "signature": "00" * 64})) == "bad_signature"
    assert await next_nonce(high) == str(high + 1)
    # A nonce that was promised is taken, and what lies below it is not.
    promised = await world.set_fee(110, nonce=high + 1)
    assert slug(promised) is None
    world.pass_time(2)
    assert slug(await world.ask(MONITOR, "fee_report", {}, nonce=high)) in ("nonce_too_low", "nonce_reuse")
    assert await next_nonce(high + 7) == str(high + 8)


async def test_every_monitor_read_answers_or_says_what_the_node_lacks(world: World) -> None:
    ok = {
        "health_summary",
        "channel_list",
        "peer_list",
        "htlc_snapshot",
        "fee_report",
        "log_stream",
        "plugin_status",
    }
    ok |= {"backup_status", "state_hash", "onchain_balance"}
    lacking = {"forward_history", "invoice_list", "payment_list", "earnings"}
    for name in sorted(ok | lacking):
        response = await world.ask(MONITOR, name, {})
        assert (slug(response) is None) == (name in ok), (name, response)
    graph = await world.ask(MONITOR, "graph_query", {"scid": "101x1x0"})
    assert slug(graph) == "unsupported_action"


async def test_acceptance_02_25_logs_read_remotely_hold_no_secrets(world: World) -> None:
    result = (await world.ask(MONITOR, "log_stream", {"level": "info"}))["result"]
    assert "abc" not in str(result) and "<redacted>" in str(result)
    plugins = (await world.ask(MONITOR, "plugin_status", {}))["result"]
    assert plugins["items"][0]["name"] == "autoclean"
