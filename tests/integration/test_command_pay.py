"""Commands that earn their agent something: claimed, reserved, paid after their success
(docs/protocol/02-fleet-management.md §7.1, §8; 03 §7; 11 §15.8, §15.10, §15.11)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.domain.payment_limits import Limits
from cl_hive_comms.domain.payment_machine import State
from cl_hive_comms.services.debts import AGAIN_S, ASK_EVERY_S, ASKED_DAYS, UNPROVEN_S
from cl_hive_comms.storage.payment_store import PaymentStore
from hive_shared.errors import Conflict, HiveError, NotFound
from pipeline_world import NODE_ID, NOW, SEALER, slug
from reward_world import AGENT, Rewarding

COST = 25 + 1
"""What was paid: the amount, and a fee below one sat."""
MOST = 25 + 5
"""What is reserved: the amount and the highest fee."""


ASKED = {
    "schema": "hive:fee-policy/v1",
    "action": "set_single",
    "params": {"channel_id": "101x1x0", "fee_ppm": 102},
}


async def test_a_command_that_succeeded_is_paid_once_and_its_agent_gets_the_proof(tmp_path: Path) -> None:
    world = Rewarding(tmp_path)
    response = await world.earn()
    assert response["status"] == 0, response
    told = response["receipt"]["payment"]
    row = world.row(response["command_id"])
    assert row is not None
    assert told == {
        **{"direction": "compensation", "method": "bolt11", "amount_sats": 25, "state": "owed"},
        "ref": row.payment_hash,
    }
    # Receipted before anything is paid.
    assert row.state is State.OWED and world.node.paid() == [] and world.counted() == MOST
    world.debts.kick()
    await world.debts.drain()
    row = world.row(response["command_id"])
    assert row is not None and row.state is State.SETTLED and len(world.node.paid()) == 1
    assert world.counted() == COST
    (notice,) = world.notices()
    assert notice == {
        **{"payment_id": row.payment_id, "purpose": "action", "command_id": response["command_id"]},
        **{"method": "bolt11", "amount_sats": 25, "payment_hash": row.payment_hash, "state": "settled"},
        "preimage": row.preimage,
    }
    await world.minute()
    assert len(world.node.sent) == 1 and len(world.notices()) == 1


async def test_a_command_that_failed_or_was_refused_is_paid_nothing(tmp_path: Path) -> None:
    world = Rewarding(tmp_path)
    world.node.fail["setchannel"] = 313
    failed = await world.earn()
    assert failed["status"] == 2 and failed["receipt"]["payment"]["state"] == "not_due"
    row = world.row(failed["command_id"])
    assert row is not None and row.state is State.FAILED and world.counted() == 0
    world.node.fail.clear()
    refused = await world.earn(word="other", ppm=90_000)
    assert refused["status"] == 1 and world.row(refused["command_id"]) is None
    await world.minute()
    assert world.node.sent == [] and world.notices() == []
    # The invoice of a command that did nothing is good for the next one.
    again = await world.earn(word="bill", ppm=103)
    assert again["status"] == 0
    await world.minute()
    assert len(world.node.paid()) == 1


CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "less than agreed": ({"amount_msat": 24_999}, "this command earns 25 sat"),
    "more than agreed": ({"amount_msat": 25_001}, "names 25001 msat"),
    "no amount": ({"amount_msat": None}, "names no amount"),
    "expired": ({"expiry": 0}, "expired"),
    "about to expire": ({"expiry": 59}, "60 s are needed"),
    "our own": ({"payee": NODE_ID}, "cannot pay itself"),
}


@pytest.mark.parametrize("what", CLAIMS)
async def test_an_invoice_that_is_not_what_was_agreed_is_refused_and_nothing_runs(
    tmp_path: Path, what: str
) -> None:
    world, (changes, says) = Rewarding(tmp_path), CLAIMS[what]
    invoice = world.bill()
    world.node.asked[invoice] |= changes
    if changes.get("amount_msat", 0) is None:
        del world.node.asked[invoice]["amount_msat"]
    response = await world.set_fee(102, payment_proof={"method": "bolt11", "invoice": invoice})
    assert slug(response) == "payment_invalid" and says in response["error"]["message"], response
    assert world.setchannels == 0 and world.owed_rows() == []


PROOFS: dict[str, tuple[dict[str, Any], str]] = {
    "of another network": ({"invoice": "lnbc1" + "q" * 40}, "is for bitcoin"),
    "no invoice at all": ({"invoice": "give me money"}, "is no BOLT 11"),
    "an offer": ({"invoice": "lno1" + "q" * 40}, "damaged"),
    "no text": ({"invoice": 7}, "must be a BOLT 11 invoice"),
    "a book": ({"invoice": "l" * 4_097}, "at most 4096"),
    "with a preimage": ({"invoice": "lnbcrt1q", "preimage": "aa" * 32}, "unknown field 'preimage'"),
    "a ticket": ({"method": "cashu_escrow", "ticket_id": "ab" * 16, "item": 0}, "holds no pay in escrow"),
}


@pytest.mark.parametrize("what", PROOFS)
async def test_a_claim_of_another_form_is_refused_with_what_is_wrong(tmp_path: Path, what: str) -> None:
    world, (proof, says) = Rewarding(tmp_path), PROOFS[what]
    response = await world.set_fee(102, payment_proof={"method": "bolt11", **proof})
    assert slug(response) == "payment_invalid" and says in response["error"]["message"], response
    assert world.setchannels == 0 and world.owed_rows() == []


async def test_an_invoice_is_claimed_once(tmp_path: Path) -> None:
    world = Rewarding(tmp_path)
    assert (await world.earn())["status"] == 0
    assert slug(await world.earn(ppm=103, channel="102x1x0")) == "payment_replayed"
    both = await asyncio.gather(
        world.earn(ppm=104, channel="103x1x0", word="one"),
        world.earn(ppm=104, channel="104x1x0", word="one"),
    )
    assert sorted(str(slug(each)) for each in both) == ["None", "payment_replayed"]
    await world.minute()
    assert len(world.node.paid()) == 2


async def test_a_command_that_this_copy_has_forgotten_earns_nothing_again(tmp_path: Path) -> None:
    """A backup has what was paid for commands, not the commands: an agent that repeats one would run it."""
    world = Rewarding(tmp_path)
    paid = await world.earn(word="1")
    await world.minute()
    world.policies.override("moderate", approval_overrides={"fee_policy_*": "always_confirm"})
    held = await world.earn(103, word="2", channel="102x1x0")
    forgotten = f"compensation:{held['command_id']}"
    known = f"compensation:{paid['command_id']}"
    sql = "UPDATE comms_payments SET idempotency_key = ? WHERE idempotency_key = ?"
    await world.db.write(lambda tx: tx.execute(sql, (forgotten, known)))
    await world.pipeline.approvals.approve(held["command_id"])
    assert await world.state(held["command_id"]) == "rejected" and world.setchannels == 1
    assert "a new id" in str((await world.docs())[-1]["error"])
    assert len(world.node.paid()) == 1 and world.counted() == COST


async def test_nothing_is_claimed_for_reads_or_where_nothing_is_agreed(tmp_path: Path) -> None:
    world = Rewarding(tmp_path)
    proof = {"method": "bolt11", "invoice": world.bill()}
    read = await world.ask("hive:monitor/v1", "log_stream", {}, payment_proof=proof)
    assert slug(read) == "payment_invalid" and "reads earn nothing" in read["error"]["message"]
    for changes in ({"rate_sats": 0}, {"model": "subscription"}):
        world.hire(**changes)
        response = await world.earn(word=str(changes))
        assert slug(response) == "payment_invalid" and "agrees no pay" in response["error"]["message"]
    world.hire(accepted_methods=["cashu_escrow"])
    assert "pays you by nothing" in (await world.earn(word="m"))["error"]["message"]
    # Who claims nothing works for nothing.
    assert (await world.set_fee(102))["receipt"]["payment"]["direction"] == "none"


async def test_without_a_rate_the_price_of_the_danger_is_paid(tmp_path: Path) -> None:
    world = Rewarding(tmp_path)
    world.hire(rate_sats=None)
    quoted = await world.ask("hive:control/v1", "quote", ASKED)
    price = quoted["result"]["price_sats"]
    assert price == {2: 5, 3: 10, 4: 25}[quoted["result"]["danger"]["total"]]
    response = await world.earn(sats=price)
    assert response["status"] == 0 and response["receipt"]["payment"]["amount_sats"] == price


async def test_pay_for_danger_is_held_in_escrow_unless_waived_for_a_trusted_agent(tmp_path: Path) -> None:
    world = Rewarding(tmp_path)
    world.pay_terms = type(world.pay_terms)(escrow_min_danger=2)
    refused = await world.earn()
    assert slug(refused) == "escrow_required" and world.setchannels == 0
    # Trusted, but the operator named no methods: nothing is waived; named, but not trusted: neither.
    world.hire(trust=2)
    assert slug(await world.earn(word="b")) == "escrow_required"
    world.hire(trust=1, accepted_methods=["bolt11"])
    assert slug(await world.earn(word="c")) == "escrow_required"
    world.hire(trust=2, accepted_methods=["bolt11"])
    assert (await world.earn(word="d"))["status"] == 0


async def test_a_limit_refuses_the_command_before_it_runs_and_two_at_once_do_not_exceed_it(
    tmp_path: Path,
) -> None:
    world = Rewarding(tmp_path)
    world.limits_now = Limits(50_000, 200_000, MOST + COST, 0, 10_000)
    both = await asyncio.gather(
        world.earn(word="one"),
        world.earn(word="two", channel="102x1x0"),
        world.earn(word="3", channel="103x1x0"),
    )
    assert sorted(str(slug(each)) for each in both) == ["None", "budget_exhausted", "budget_exhausted"]
    assert world.setchannels == 1 and world.counted() == MOST
    assert [code for _, code, _ in world.out.alerts].count("budget_hit") >= 1
    # What was paid costs less than what was held: the next one fits.
    await world.minute()
    assert world.counted() == COST
    assert (await world.earn(word="4", channel="104x1x0"))["status"] == 0


async def test_a_claim_expired_in_the_queue_is_owed_and_an_invoice_asked_for(tmp_path: Path) -> None:
    world = Rewarding(tmp_path)
    world.policies.override("moderate", approval_overrides={"fee_policy_*": "always_confirm"})
    held = await world.earn(expiry=600)
    assert held["status"] == 3 and world.owed_rows() == []
    world.pass_time(700)
    await world.pipeline.approvals.approve(held["command_id"])
    row = world.row(held["command_id"])
    assert row is not None and row.state is State.OWED and row.payment_hash is None
    assert (await world.docs())[-1]["payment"]["state"] == "owed"
    await world.minute()
    await world.minute()
    ((key, letter),) = world.letters.sent.items()
    assert key == f"invoice_request:{row.payment_id}:0" and letter["to"] == AGENT
    assert letter["schema"] == "hive:marketplace/invoice_request"
    assert letter["body"] == {
        **{"purpose": "action", "amount_sats": 25, "command_id": held["command_id"]},
        **{"due_at": row.created_at + ASKED_DAYS * ASK_EVERY_S, "idempotency_key": f"{row.payment_id}:0"},
    }
    asked = str(letter["body"]["idempotency_key"])
    for wrong, says in (
        ({"key": asked, "word": "x", "sats": 26}, "were agreed"),
        ({"key": asked, "word": "y", "sender": "ab" * 32}, "another agent"),
        ({"key": "nobody:0", "word": "z"}, "nobody asked"),
        ({"key": asked, "word": "late", "expiry": 30}, "s ago"),
    ):
        with pytest.raises(HiveError, match=says):
            await world.answer(**wrong)
    await world.answer(asked, "fresh", created_at=world.now)
    row = world.row(held["command_id"])
    assert row is not None and row.state is State.SETTLED and len(world.node.paid()) == 1
    assert world.notices()[-1]["state"] == "settled" and world.counted() == COST
    with pytest.raises(HiveError, match="settled"):
        await world.answer(asked, "again", created_at=world.now)
    assert len(world.node.paid()) == 1


async def test_who_gives_no_invoice_is_asked_daily_for_two_weeks_and_then_the_operator_is_told(
    tmp_path: Path,
) -> None:
    world = Rewarding(tmp_path)
    response = await world.earn(expiry=600)
    world.pass_time(700)
    for _ in range(ASKED_DAYS + 3):
        await world.minute()
        await world.minute()
        world.pass_time(ASK_EVERY_S)
    row = world.row(response["command_id"])
    assert row is not None and len(world.letters.sent) == ASKED_DAYS and world.node.sent == []
    assert [code for _, code, _ in world.out.alerts].count("debt_unclaimed") == 1
    # It is never too late.
    await world.answer(f"{row.payment_id}:3", "late", created_at=world.now)
    assert len(world.node.paid()) == 1


async def test_a_debt_that_the_operator_closed_is_paid_and_asked_for_no_more(tmp_path: Path) -> None:
    world = Rewarding(tmp_path)
    response = await world.earn(expiry=600)
    row = world.row(response["command_id"])
    assert row is not None and row.state is State.OWED and world.counted() == MOST
    world.pass_time(700)
    await world.minute()
    asked = f"{row.payment_id}:0"
    with pytest.raises(NotFound):
        await world.debts.close("nobody", "")
    closed = await world.debts.close(row.payment_id, "by hand")
    assert (closed.state, closed.error) == (State.FAILED, "closed by the operator: by hand")
    assert world.counted() == 0
    # The answer to what was asked before comes late: paid, it would be paid twice.
    with pytest.raises(Conflict, match="is failed"):
        await world.answer(asked, "late", created_at=world.now)
    world.pass_time(ASK_EVERY_S)
    await world.minute()
    assert world.node.sent == [] and len(world.letters.sent) == 1
    with pytest.raises(Conflict, match="only what is owed"):
        await world.debts.close(row.payment_id, "again")


async def test_a_debt_that_takes_its_time_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, gate, asked = Rewarding(tmp_path), asyncio.Event(), asyncio.Event()
    slow, quick = [await world.earn(channel=f"10{n}x1x0", word=f"bill {n}") for n in (1, 2)]
    call, first = world.node.call, world.bill("bill 1")

    async def hangs(method: str, params: Any = None, **named: Any) -> Any:
        if first in (params or {}).values() and method in ("xpay", "pay"):
            asked.set()
            await gate.wait()
        return await call(method, params, **named)

    monkeypatch.setattr(world.node, "call", hangs)

    async def ends(response: dict[str, Any], state: State) -> None:
        async with asyncio.timeout(30):
            while (row := world.row(response["command_id"])) is None or row.state is not state:
                await asyncio.sleep(0.01)

    world.debts.kick()
    await ends(quick, State.SETTLED)
    await asked.wait()
    # What is earned meanwhile does not wait either, and a round of the loop leaves the slow one alone.
    later = await world.earn(channel="103x1x0", word="bill 3")
    world.debts.kick()
    await ends(later, State.SETTLED)
    await world.minute()
    await ends(slow, State.SENDING)
    assert len(world.node.paid()) == 2 and world.counted() == 2 * COST + MOST
    gate.set()
    await world.debts.drain()
    await ends(slow, State.SETTLED)
    assert (len(world.node.sent), len(world.node.paid()), world.counted()) == (3, 3, 3 * COST)
    assert len(world.notices()) == 3


async def test_a_debt_that_is_closed_while_it_waits_for_others_is_not_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, gate, asked = Rewarding(tmp_path), asyncio.Event(), asyncio.Event()
    world.debts._slots = asyncio.Semaphore(1)
    commands = [await world.earn(channel=f"10{n}x1x0", word=f"bill {n}") for n in (1, 2)]
    call = world.node.call

    async def hangs(method: str, params: Any = None, **named: Any) -> Any:
        if method in ("xpay", "pay"):
            asked.set()
            await gate.wait()
        return await call(method, params, **named)

    monkeypatch.setattr(world.node, "call", hangs)
    world.debts.kick()
    await asked.wait()
    rows = [row for each in commands if (row := world.row(each["command_id"])) and row.state is State.OWED]
    await world.debts.close(rows[0].payment_id, "by hand")
    gate.set()
    await world.debts.drain()
    assert (len(rows), len(world.node.sent), world.counted()) == (1, 1, COST)


async def test_what_is_being_paid_cannot_be_closed(tmp_path: Path) -> None:
    world = Rewarding(tmp_path)
    response = await world.earn()
    world.node.ends = "pending"
    await world.minute()
    row = world.row(response["command_id"])
    assert row is not None and row.state is State.UNKNOWN
    with pytest.raises(Conflict, match="is unknown"):
        await world.debts.close(row.payment_id, "")
    world.node.end("complete")
    await world.minute()
    assert len(world.node.paid()) == 1 and world.counted() == COST


async def test_an_attempt_that_failed_is_repeated_while_the_invoice_is_good(tmp_path: Path) -> None:
    world = Rewarding(tmp_path)
    response = await world.earn()
    world.node.ends = "failed"
    await world.minute()
    row = world.row(response["command_id"])
    assert row is not None and row.state is State.OWED and world.counted() == MOST
    await world.minute()
    assert len(world.node.sent) == 1
    world.pass_time(AGAIN_S)
    world.node.ends = "complete"
    await world.minute()
    row = world.row(response["command_id"])
    assert row is not None and row.state is State.SETTLED and len(world.node.paid()) == 1
    assert world.counted() == COST


async def test_a_payment_whose_end_is_not_known_is_not_repeated(tmp_path: Path) -> None:
    world = Rewarding(tmp_path)
    response = await world.earn()
    world.node.ends = "pending"
    await world.minute()
    for _ in range(3):
        world.pass_time(AGAIN_S)
        await world.minute()
    row = world.row(response["command_id"])
    assert row is not None and row.state is State.UNKNOWN and len(world.node.sent) == 1
    world.node.end("complete")
    await world.minute()
    row = world.row(response["command_id"])
    assert row is not None and row.state is State.SETTLED and len(world.notices()) == 1


async def test_an_invoice_for_what_is_being_paid_already_is_refused_and_pays_nothing(tmp_path: Path) -> None:
    """Taken, it would be paid beside the one whose end is not known."""
    world = Rewarding(tmp_path)
    response = await world.earn()
    world.node.ends = "pending"
    await world.minute()
    row = world.row(response["command_id"])
    assert row is not None and row.state is State.UNKNOWN
    for paid in (False, True):
        if paid:
            world.node.end("complete")
            await world.minute()
        before = world.row(response["command_id"])
        with pytest.raises(Conflict, match="stale_state"):
            await world.answer(f"{row.payment_id}:0", f"another-{paid}", created_at=world.now)
        world.pass_time(AGAIN_S)
        await world.minute()
        assert world.row(response["command_id"]) == before and len(world.node.sent) == 1
    settled = world.row(response["command_id"])
    assert settled is not None and settled.state is State.SETTLED


async def test_an_end_unknown_that_failed_is_owed_again_and_paid(tmp_path: Path) -> None:
    world = Rewarding(tmp_path)
    response = await world.earn()
    world.node.ends = "pending"
    await world.minute()
    world.node.end("failed")
    world.node.ends = "complete"
    world.pass_time(AGAIN_S)
    await world.minute()
    world.pass_time(AGAIN_S)
    await world.minute()
    row = world.row(response["command_id"])
    assert row is not None and row.state is State.SETTLED and len(world.node.paid()) == 1


async def test_what_nobody_can_prove_stays_reserved_and_is_given_up_after_a_month(tmp_path: Path) -> None:
    world = Rewarding(tmp_path)

    async def breaks(*_args: object, **_params: object) -> None:
        raise RuntimeError("half way")

    world.node.setchannel = breaks  # what the executor does not expect
    response = await world.earn()
    assert slug(response) == "indeterminate" and response["receipt"]["payment"]["state"] == "reserved"
    row = world.row(response["command_id"])
    assert row is not None and row.state is State.RESERVED and world.counted() == MOST
    world.pass_time(UNPROVEN_S - 1)
    await world.minute()
    assert world.counted() == MOST
    world.pass_time(1)
    await world.minute()
    row = world.row(response["command_id"])
    assert row is not None and row.state is State.FAILED and world.counted() == 0 and world.node.sent == []


async def test_the_stop_holds_pay_back_and_its_end_lets_it_go(tmp_path: Path) -> None:
    world = Rewarding(tmp_path)
    response = await world.earn()
    world.switch.on = True
    await world.minute()
    row = world.row(response["command_id"])
    assert row is not None and row.state is State.OWED and world.node.sent == []
    world.switch.on = False
    await world.minute()
    assert len(world.node.paid()) == 1


async def test_an_older_copy_of_the_database_pays_no_debt_again(tmp_path: Path) -> None:
    world = Rewarding(tmp_path)
    response = await world.earn()
    await world.minute()
    (paid,) = world.owed_rows()
    sql = "UPDATE comms_payments SET state = 'owed', preimage_enc = NULL, payment_hash = NULL"
    await world.db.write(lambda tx: tx.execute(sql) and None)
    world.restored = True
    await world.answer(f"{paid.payment_id}:0", "another", created_at=NOW)
    row = world.row(response["command_id"])
    assert row is not None and row.state is State.SETTLED and row.payment_hash == paid.payment_hash
    assert len(world.node.paid()) == 1


async def test_quote_and_capabilities_say_what_is_earned(tmp_path: Path) -> None:
    world = Rewarding(tmp_path)
    quoted = (await world.ask("hive:control/v1", "quote", ASKED))["result"]
    assert {name: quoted[name] for name in ("price_sats", "direction", "methods", "escrow")} == {
        **{"price_sats": 25, "direction": "compensation", "methods": ["bolt11"], "escrow": False},
    }
    world.pay_terms = type(world.pay_terms)(escrow_min_danger=1)
    quoted = (await world.ask("hive:control/v1", "quote", ASKED))["result"]
    assert quoted["escrow"] is True and quoted["methods"] == []
    able = (await world.ask("hive:control/v1", "capabilities", {}))["result"]
    assert able["payment"]["compensation"] == {
        **{"model": "per_action", "rate_sats": 25, "methods": ["bolt11"], "escrow_min_danger": 1},
    }


async def test_what_a_backup_holds_as_reserved_is_not_owed_after_a_restore(tmp_path: Path) -> None:
    world = Rewarding(tmp_path)

    async def breaks(*_args: object, **_params: object) -> None:
        raise RuntimeError("half way")

    world.node.setchannel = breaks
    open_, store = await world.earn(), PaymentStore(SEALER)
    world.node.__dict__.pop("setchannel")
    owed = await world.earn(word="owed", channel="102x1x0")
    raws = world.db.peek(lambda tx: list(store.raw_payments(tx)))
    other = Rewarding(tmp_path / "other")
    await other.db.write(lambda tx: [store.put_raw_payment(tx, raw) for raw in raws])
    states = {row.command_id: (row.state, row.counted_sats) for row in other.owed_rows()}
    assert states == {
        open_["command_id"]: (State.FAILED, 0),
        owed["command_id"]: (State.OWED, MOST),
    }
