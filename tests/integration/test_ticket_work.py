"""Commands that are paid by an item of an escrow ticket (docs/protocol/02-fleet-management.md §7.1, §8, §9.1;
03 §6.6, §6.7)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cl_hive_comms.storage.command_store import CommandStore
from hive_shared.cashu.escrow_rows import REVEAL_S
from hive_shared.cashu.ticket_machine import PayerItem
from hive_shared.crypto import Secret, xonly_pubkey
from pipeline_world import AGENT_KEY, NOW, OTHER_KEY, View, issue, slug
from ticket_world import LOCK_KEY, TICKET, Ticketed, params_of, secret_of


async def test_success_releases_the_item_with_its_receipt_and_tells_the_preimage(tmp_path: Path) -> None:
    world = Ticketed(tmp_path)
    await world.ticket()
    done = await world.work()
    assert done["status"] == 0 and done["preimage"] == secret_of(), done
    item, receipt = world.item(), done["receipt"]
    assert receipt["escrow"] == {
        **{"ticket_id": TICKET, "item": 0, "hash": item.hash, "preimage_released": True},
        **{"terms_hash": receipt["escrow"]["terms_hash"], "lock_state": "released"},
    }
    assert receipt["payment"] == {
        **{"direction": "compensation", "method": "cashu_escrow", "amount_sats": 100},
        **{"ref": f"{TICKET}:0", "state": "released"},
    }
    assert hashlib.sha256(bytes.fromhex(done["preimage"])).hexdigest() == item.hash
    assert item.state is PayerItem.RELEASED and item.command_id == done["command_id"]
    assert item.receipt_id == str(receipt["receipt_id"]) and world.locks.state == {"lock-0": "released"}
    # No payment row: the ticket's face was counted when it was locked.
    assert world.owed_rows() == [] and (await world.receipts.verify()).ok


async def test_failure_tells_none_and_the_item_pays_nothing_any_more(tmp_path: Path) -> None:
    world = Ticketed(tmp_path)
    await world.ticket()
    world.node.fail["setchannel"] = 313
    failed = await world.work()
    assert failed["status"] == 2 and "preimage" not in failed
    assert failed["receipt"]["escrow"]["preimage_released"] is False
    assert failed["receipt"]["escrow"]["lock_state"] == "failed"
    assert failed["receipt"]["payment"]["state"] == "failed"
    assert world.item().state is PayerItem.FAILED and world.locks.state == {"lock-0": "unheld"}
    world.node.fail.clear()
    again = await world.work()
    assert slug(again) == "payment_replayed" and world.item().state is PayerItem.FAILED


async def test_what_nobody_can_prove_is_unknown_and_nothing_is_told(tmp_path: Path) -> None:
    world = Ticketed(tmp_path)
    await world.ticket()

    async def breaks(*_args: object, **_params: object) -> None:
        raise RuntimeError("half way")

    world.node.setchannel = breaks
    unclear = await world.work()
    assert slug(unclear) == "indeterminate" and "preimage" not in unclear
    assert unclear["receipt"]["escrow"]["lock_state"] == "unknown"
    assert unclear["receipt"]["payment"]["state"] == "reserved"
    assert world.item().state is PayerItem.UNKNOWN


MISFITS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another payee": ({"payee": {"id": "ab" * 32}}, {}, "holds no ticket"),
    "another node": (
        {"node_id": LOCK_KEY},
        {},
        "another node",
    ),
    "less danger": ({"danger": 1}, {}, "for work of danger 1"),
    "another credential": (
        {"credential_ref": "another"},
        {},
        "under credential",
    ),
    "other parameters": ({}, {"ppm": 103}, "for another task"),
    # Its parameters are those of the item; the ticket as a whole is for something else.
    "another schema": ({"schema": "hive:other/v1"}, {}, "is for hive:other/v1"),
    "judged by a method": ({"cond": {"verify_rpc": "judge"}}, {}, "judged by a method"),
    "not locked yet": ({"state": PayerItem.PLANNED}, {}, "pays no new task"),
    "taken back": ({"state": PayerItem.REFUNDABLE}, {}, "pays no new task"),
    "no such item": ({}, {"number": 3}, "has no item 3"),
}


@pytest.mark.parametrize("what", MISFITS)
async def test_a_ticket_that_is_not_for_this_command_is_refused_and_keeps_its_item(
    tmp_path: Path, what: str
) -> None:
    made, sent, says = MISFITS[what]
    world = Ticketed(tmp_path)
    await world.ticket(**made)
    before = world.item()
    response = await world.work(**sent)
    assert slug(response) == "payment_invalid" and says in response["error"]["message"], response
    assert world.setchannels == 0 and world.item() == before and not world.locks.state


PROOFS: dict[str, tuple[dict[str, Any], str]] = {
    "no ticket": ({"ticket_id": None}, "ticket_id must be 32"),
    "a long id": ({"ticket_id": "ab" * 32}, "ticket_id must be 32"),
    "an unknown ticket": ({"ticket_id": "cd" * 16}, "holds no ticket"),
    "no number": ({"item": "0"}, "must be the number"),
    "below zero": ({"item": -1}, "must be the number"),
    "a truth": ({"item": True}, "must be the number"),
    "more": ({"tip": 1}, "unknown field 'tip'"),
}


@pytest.mark.parametrize("what", PROOFS)
async def test_a_claim_of_another_form_says_what_is_wrong(tmp_path: Path, what: str) -> None:
    changes, says = PROOFS[what]
    world = Ticketed(tmp_path)
    await world.ticket()
    response = await world.set_fee(102, payment_proof={**world.proof(), **changes})
    assert slug(response) == "payment_invalid" and says in response["error"]["message"], response
    assert world.item().state is PayerItem.ACCEPTED


async def test_after_the_deadline_no_work_is_begun(tmp_path: Path) -> None:
    world = Ticketed(tmp_path)
    await world.ticket()
    world.pass_time(3_601)
    late = await world.work()
    assert slug(late) == "payment_invalid" and late["error"]["data"]["check"] == "too_late"


async def test_a_renewed_credential_goes_on_with_the_ticket_of_the_one_before(tmp_path: Path) -> None:
    world = Ticketed(tmp_path)
    await world.ticket(credential_ref="00000000-0000-4000-8000-000000000001")
    world.credentials.add(
        View(issue(), "adv-1", status="superseded", superseded_by="00000000-0000-4000-8000-000000000002")
    )
    world.credentials.add(View(issue(number=2), "adv-1"))
    assert (await world.work(credential=2))["status"] == 0


async def test_a_waiting_command_holds_its_item_and_has_it_when_it_runs(tmp_path: Path) -> None:
    world = Ticketed(tmp_path)
    await world.ticket()
    world.policies.override("moderate", approval_overrides={"fee_policy_*": "always_confirm"})
    held = await world.work()
    assert held["status"] == 3 and world.item().state is PayerItem.ACCEPTED
    assert slug(await world.work()) == "payment_replayed"
    await world.pipeline.approvals.approve(held["command_id"])
    assert world.item().state is PayerItem.RELEASED and world.item().command_id == held["command_id"]
    # Rejected, it would have let go.
    other = Ticketed(tmp_path / "other")
    await other.ticket()
    other.policies.override("moderate", approval_overrides={"fee_policy_*": "always_confirm"})
    held = await other.work()
    await other.pipeline.approvals.approve(held["command_id"], reject=True)
    assert (await other.docs())[-1]["payment"]["state"] == "not_due"
    assert other.item().state is PayerItem.ACCEPTED
    assert (await other.work())["status"] == 3


async def test_milestones_are_earned_in_their_order(tmp_path: Path) -> None:
    world = Ticketed(tmp_path)
    await world.ticket(params_of(102), params_of(103, "102x1x0"), type="milestone")
    early = await world.work(103, "102x1x0", 1)
    assert slug(early) == "payment_invalid" and "comes after item 0" in early["error"]["message"]
    assert (await world.work())["preimage"] == secret_of(0)
    assert (await world.work(103, "102x1x0", 1))["preimage"] == secret_of(1)


async def test_a_bonus_is_earned_by_no_command(tmp_path: Path) -> None:
    world = Ticketed(tmp_path)
    await world.ticket(params_of(102), params_of(103, "102x1x0"), type="performance")
    assert (await world.work())["status"] == 0
    bonus = await world.work(103, "102x1x0", 1)
    assert slug(bonus) == "payment_invalid" and "is a bonus" in bonus["error"]["message"]


@pytest.mark.parametrize("mode", ["receipt", "p2pk"])
async def test_a_lock_that_the_payee_can_spend_anyway_pays_no_dangerous_command(
    tmp_path: Path, mode: str
) -> None:
    world = Ticketed(tmp_path)
    await world.ticket(mode=mode)
    refused = await world.work()
    assert slug(refused) == "payment_invalid" and "mode task" in refused["error"]["message"], refused
    assert world.item().state is PayerItem.ACCEPTED and world.setchannels == 0


async def test_a_read_takes_no_item(tmp_path: Path) -> None:
    world = Ticketed(tmp_path)
    await world.ticket()
    read = await world.ask("hive:monitor/v1", "log_stream", {}, payment_proof=world.proof())
    assert slug(read) == "payment_invalid" and world.item().state is PayerItem.ACCEPTED


async def asked_again(world: Ticketed, command_id: str, agent: Secret = AGENT_KEY, number: int = 1) -> Any:
    """What `command_status` answers an agent of a credential."""
    status = await world.ask(
        *("hive:control/v1", "command_status", {"command_id": command_id}), agent=agent, credential=number
    )
    return status["result"]


async def test_acceptance_03_16_a_preimage_is_told_to_its_payee_after_success_only_and_then_the_same(
    tmp_path: Path,
) -> None:
    world = Ticketed(tmp_path)
    await world.ticket(params_of(102), params_of(103, "102x1x0"))
    world.credentials.add(View(issue(OTHER_KEY, number=2), "adv-2"))
    world.policies.override("moderate", approval_overrides={"fee_policy_*": "always_confirm"})
    # Before success.
    held = await world.work()
    assert "preimage" not in str(await asked_again(world, held["command_id"]))
    world.policies.override("moderate")
    await world.pipeline.approvals.approve(held["command_id"])
    # After it, twice and by the same envelope again.
    first, second = [await asked_again(world, held["command_id"]) for _ in range(2)]
    assert first == second and first["response"]["preimage"] == secret_of(0)
    # Another npub, by the command's id or by the same claim.
    assert await asked_again(world, held["command_id"], OTHER_KEY, 2) == {"state": "not_found"}
    stolen = await world.work(102, "103x1x0", agent=OTHER_KEY, credential=2)
    assert slug(stolen) == "payment_invalid" and "preimage" not in stolen
    assert xonly_pubkey(OTHER_KEY) != xonly_pubkey(AGENT_KEY)
    # After failure.
    world.node.fail["setchannel"] = 313
    failed = await world.work(103, "102x1x0", 1)
    assert failed["status"] == 2
    assert "preimage" not in (await asked_again(world, failed["command_id"]))["response"]


async def test_the_same_envelope_and_the_same_command_anew_tell_the_same_preimage(tmp_path: Path) -> None:
    world = Ticketed(tmp_path)
    await world.ticket()
    command = "00000000-0000-4000-8000-0000000000c1"
    envelope = world.envelope(
        *("hive:fee-policy/v1", "set_single", params_of(102)), payment_proof=world.proof(), command_id=command
    )
    first, again = await world.handle(envelope), await world.handle(envelope)
    assert first == again and first is not None and first["preimage"] == secret_of()
    anew = await world.work(command_id=command)
    assert anew["preimage"] == secret_of() and world.setchannels == 1
    # Its answer is kept for a week, the preimage until 90 days after the locktime.
    await world.db.write(lambda tx: CommandStore.prune_responses(CommandStore(), tx, NOW + 1))
    later = await world.work(command_id=command)
    assert later["preimage"] == secret_of(), later
    tickets = world.pipeline.rewards.tickets
    for asker, told in ((AGENT_KEY, secret_of()), (OTHER_KEY, None)):
        case = SimpleNamespace(sender=xonly_pubkey(asker), agent_id="nobody")
        assert world.db.peek(lambda tx, case=case: tickets.again(tx, command, case)) == told
    world.pass_time(7_200 + REVEAL_S + 1)
    world.credentials.add(View(issue(valid=(NOW, world.now + 1_000)), "adv-1"))
    assert "preimage" not in await world.work(command_id=command)


async def test_no_table_shows_a_preimage_before_or_after_it_was_told(tmp_path: Path) -> None:
    world = Ticketed(tmp_path)
    await world.ticket()
    assert secret_of().encode() not in _file(world)
    assert (await world.work(transport="nostr_dm"))["preimage"] == secret_of()
    await world.receipts.verify()
    assert secret_of().encode() not in _file(world)
    assert all(secret_of() not in str(doc) for doc in await world.docs())


def _file(world: Ticketed) -> bytes:
    files = sorted(world.path.parent.glob("comms.db*"))
    assert files
    return b"".join(file.read_bytes() for file in files if file.is_file())
