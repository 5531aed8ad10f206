"""hive:payment/v1 in the pipeline: what is refused and why, what a payment scores and counts, what became of
one whose end nobody saw (02 §3, §4 item 9, §7.1)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cl_hive_comms.domain.spend import DAY_S, PAYMENT
from cl_hive_comms.storage.spend_store import SpendStore
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnLost
from hive_shared.registry import PAYMENT as SCHEMA
from hive_shared.registry import Tier
from payment_world import BILL, FRIEND, OVER_S, SHOP, Paying, trusted
from pipeline_world import NODE_ID, NOW, Crash, View, issue, slug


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[Paying]:
    made = trusted(tmp_path)
    yield made
    made.close()


async def answer(world: Paying, action: str, params: Mapping[str, JsonValue], **more: Any) -> Any:
    world.pass_time(1)
    return await world.ask(SCHEMA, action, dict(params), **more)


async def ticks(world: Paying) -> None:
    for _ in range(2):
        await world.pipeline.timers.tick()


def spent(world: Paying) -> tuple[int, int]:
    """Sats of the credential's class and of the node with fees, in the last 24 h."""
    credential = next(iter(world.credentials.views))
    since = world.now - DAY_S
    return world.db.peek(
        lambda tx: (
            SpendStore().of_credential(tx, credential, PAYMENT, since),
            SpendStore().of_node(tx, since),
        )
    )


async def state(world: Paying) -> str:
    """Of the newest command."""
    sql = "SELECT state FROM comms_commands ORDER BY received_at DESC, rowid DESC LIMIT 1"
    row = await world.db.read(lambda tx: tx.execute(sql).fetchone())
    return str(row[0])


# -- amounts ----------------------------------------------------------------------------------------------


async def test_acceptance_02_08_payments_of_a_day_add_up_in_the_danger(world: Paying) -> None:
    text = [world.node.invoice_of(f"n{n}", 9_999_000) for n in range(4)]
    first = await answer(world, "pay_invoice", {"bolt11": text[0]})
    assert (first["status"], first["receipt"]["danger"]["total"]) == (0, 4), first
    # Reserved with the most it may cost, settled with what it did.
    assert spent(world) == (9_999, 10_000)
    second = await answer(world, "pay_invoice", {"bolt11": text[1]})
    assert (second["status"], second["receipt"]["danger"]["total"]) == (0, 6), second
    await answer(world, "keysend", {"destination": FRIEND, "amount_msat": 72_000_000})
    third = await answer(world, "pay_invoice", {"bolt11": text[2]})
    assert (third["status"], third["error"]["data"]["workflow"]) == (3, "confirm"), third
    assert third["error"]["data"]["danger"]["total"] == 7
    assert spent(world)[0] == 9_999 * 2 + 72_000
    world.pass_time(DAY_S)
    again = await answer(world, "pay_invoice", {"bolt11": text[3]})
    assert (again["status"], again["receipt"]["danger"]["total"]) == (0, 4), again


async def test_small_payments_of_a_minute_are_not_counted_as_dangerous_and_larger_ones_are(
    world: Paying,
) -> None:
    """What an invoice asks for is read before its danger is counted."""
    for number in range(6):
        small = world.node.invoice_of(f"s{number}", 50_000)
        done = await world.ask(SCHEMA, "pay_invoice", {"bolt11": small})
        assert (done["status"], done["receipt"]["danger"]["total"]) == (0, 4), done
    for number in range(6):
        larger = world.node.invoice_of(f"l{number}", 10_000_000)
        done = await world.ask(SCHEMA, "pay_invoice", {"bolt11": larger})
        assert (slug(done) == "rate_limited") is (number == 5), (number, done)
    assert len(world.node.sent) == 11
    assert done["receipt"]["danger"]["total"] >= 5, "refused with the danger that was counted"
    # Neither does the refusal count, nor what is less dangerous.
    made = await world.ask(SCHEMA, "create_invoice", {"amount_msat": 1_000, "description": ""})
    assert made["status"] == 0, made


async def test_the_result_says_what_it_cost_and_no_preimage_leaves_the_node(world: Paying) -> None:
    done = await answer(world, "pay_invoice", {"bolt11": BILL})
    assert done["result"] == {
        "payment_hash": world.node.asked[BILL]["payment_hash"],
        "destination": SHOP,
        "amount_msat": 50_000_000,
        "amount_sent_msat": 50_000_150,
        "fee_msat": 150,
        "parts": 1,
    }
    method, params = world.node.sent[0]
    assert (method, params["maxfee"], params["retry_for"]) == ("xpay", 250_000, 60)
    assert params["label"] == f"hive:{done['command_id']}"
    sent = await answer(world, "keysend", {"destination": FRIEND, "amount_msat": 1_500, "max_fee_ppm": 0})
    assert sent["result"]["payment_hash"] == world.node.parts[1]["payment_hash"]
    assert spent(world) == (50_000 + 2, 50_000 + 2 + 1)
    made = await answer(world, "create_invoice", {"amount_msat": "any", "description": "tea"})
    assert made["result"]["label"] == f"hive:00000000:{made['command_id']}"
    rows = await world.db.read(lambda tx: list(map(str, tx.execute("SELECT * FROM comms_responses"))))
    secrets = [each["preimage"] for each in world.node.asked.values()] + ["5e" * 32]
    everything = f"{rows} {await world.docs()} {done} {sent} {made}"
    assert not [secret for secret in secrets if secret in everything.replace(SHOP, "")]


async def test_the_credentials_limit_and_the_operators_budget_hold(world: Paying) -> None:
    limited = issue(
        template="complete_management", tier=Tier.ADMIN, constraints={"max_payment_sats_24h": 60_000}
    )
    world.credentials.add(View(limited, "adv-1"))
    assert (await answer(world, "pay_invoice", {"bolt11": BILL}))["status"] == 0
    other = world.node.invoice_of("other", 10_001_000)
    refused = await answer(world, "pay_invoice", {"bolt11": other})
    assert slug(refused) == "constraint_violated", refused
    assert "60001 sat is above 60000" in refused["error"]["message"]
    words: dict[str, JsonValue] = {"payment_*": "auto_execute"}
    world.policies.override("aggressive", daily_budget_sats=50_001, approval_overrides=words)
    refused = await answer(world, "keysend", {"destination": FRIEND, "amount_msat": 1_000})
    assert slug(refused) == "budget_exhausted", refused
    hits = [(level.value, text) for level, code, text in world.out.alerts if code == "budget_hit"]
    ((level, text),) = hits
    assert level == "critical" and "50001 of 50001 sat" in text
    # Asking for money spends none.
    made = await answer(world, "create_invoice", {"amount_msat": 10**12, "description": ""})
    assert made["status"] == 0, made
    assert len(world.node.sent) == 1 and spent(world) == (50_000, 50_001)


async def test_a_forbidden_peer_is_not_paid_either(world: Paying) -> None:
    words: dict[str, JsonValue] = {"payment_*": "auto_execute"}
    world.policies.override("aggressive", forbidden_peers=[SHOP, FRIEND], approval_overrides=words)
    for action, params in (
        ("pay_invoice", {"bolt11": BILL}),
        ("keysend", {"destination": FRIEND, "amount_msat": 1_000}),
    ):
        refused = await answer(world, action, params)
        assert slug(refused) == "forbidden_peer", refused
    assert not world.node.sent


# -- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "params", "said"),
    [
        ("pay_invoice", {"bolt11": BILL, "amount_msat": 49_999_999}, "asks for 50000000 msat, not 49999999"),
        ("pay_invoice", {"bolt11": "open"}, "names no amount; give amount_msat"),
        ("pay_invoice", {"bolt11": "late"}, "expired"),
        ("pay_invoice", {"bolt11": "own"}, "is this node's own"),
        ("pay_invoice", {"bolt11": "broken"}, "is damaged"),
        ("pay_invoice", {"bolt11": BILL[:-1]}, "is damaged"),
        ("pay_invoice", {"bolt11": BILL[:10].upper() + BILL[10:]}, "no BOLT 11 invoice"),
        ("pay_invoice", {"bolt11": "lnbc20m1qqqqqq"}, "is for bitcoin, this node is on regtest"),
        ("pay_invoice", {"bolt11": "lntbs1qqqqqq"}, "is for signet, this node is on regtest"),
        ("pay_invoice", {"bolt11": "lnr1qqqqqq"}, "an invoice request asks to be paid"),
        ("pay_invoice", {"bolt11": "bc1qexample"}, "no BOLT 11 invoice"),
        ("pay_invoice", {"bolt11": BILL, "max_fee_ppm": 50_001}, "from 0 to 50000"),
        ("pay_multipath", {"bolt11": BILL, "timeout_seconds": 601}, "from 5 to 600"),
        ("keysend", {"destination": NODE_ID, "amount_msat": 1}, "is this node itself"),
        ("keysend", {"destination": FRIEND, "amount_msat": 0}, "from 1"),
        ("keysend", {"destination": FRIEND.upper(), "amount_msat": 1}, "66 lower-case hex"),
        ("create_invoice", {"amount_msat": 0, "description": "x"}, "or any"),
        ("create_invoice", {"amount_msat": "all", "description": "x"}, "or any"),
        ("create_invoice", {"amount_msat": 1, "description": "ä" * 400}, "800 bytes long"),
        ("create_invoice", {"amount_msat": 1, "description": "x", "label": "a b"}, "a label"),
        ("create_invoice", {"amount_msat": 1, "description": "x", "expiry": 59}, "from 60"),
    ],
)
async def test_what_cannot_be_is_refused_with_the_reason_and_nothing_changes(
    world: Paying, action: str, params: dict[str, JsonValue], said: str
) -> None:
    texts = {
        "open": world.node.invoice_of("open", None),
        "late": world.node.invoice_of("late", created_at=NOW - 3_600, expiry=3_600),
        "own": world.node.invoice_of("own", payee=NODE_ID),
        "broken": world.node.invoice_of("broken", valid=False),
    }
    if params.get("bolt11") in texts:
        params = {**params, "bolt11": texts[str(params["bolt11"])]}
    refused = await answer(world, action, params)
    assert slug(refused) == "invalid_params" and said in refused["error"]["message"], refused
    assert not world.node.sent and not world.node.own and spent(world) == (0, 0)


@pytest.mark.parametrize("form", ["lightning:{}", "LIGHTNING:{}", " {} "])
async def test_an_invoice_as_people_paste_it(world: Paying, form: str) -> None:
    text = form.format(BILL.upper() if form.isupper() else BILL)
    assert (await answer(world, "pay_invoice", {"bolt11": text}))["status"] == 0


async def test_an_invoice_is_paid_once_whoever_asks(world: Paying) -> None:
    world.node.ends = "pending"
    first = await answer(world, "pay_invoice", {"bolt11": BILL})
    assert (first["status"], first["result"]["state"]) == (3, "pending_external"), first
    again = await answer(world, "pay_invoice", {"bolt11": BILL})
    assert slug(again) == "busy" and "under way" in again["error"]["message"], again
    world.node.end("complete")
    await ticks(world)
    (*_, receipt) = await world.docs()
    assert (receipt["status"], receipt["result"]["fee_msat"]) == ("success", 150)
    again = await answer(world, "pay_invoice", {"bolt11": BILL})
    assert slug(again) == "invalid_params" and "has paid this invoice already" in again["error"]["message"]
    assert len(world.node.sent) == 1 and spent(world) == (50_000, 50_001)


async def test_one_that_the_node_has_not_begun_yet_counts_as_under_way(world: Paying) -> None:
    """Told to pay, the answer lost, nothing on the list: the node may begin any moment."""
    world.node.fail["xpay"] = ClnLost("xpay", "").code
    first = await answer(world, "pay_invoice", {"bolt11": BILL})
    assert first["status"] == 3, first
    del world.node.fail["xpay"]
    again = await answer(world, "pay_invoice", {"bolt11": BILL})
    assert slug(again) == "busy" and f"command {first['command_id']}" in again["error"]["message"], again
    world.pass_time(OVER_S)
    await ticks(world)
    (*_, receipt) = await world.docs()
    assert receipt["status"] == "error" and "the node never began" in receipt["error"]["message"]
    assert spent(world) == (0, 0)
    assert (await answer(world, "pay_invoice", {"bolt11": BILL}))["status"] == 0
    assert world.node.paid() == [(SHOP, 50_000_000)]


# -- ends that nobody saw -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("ends", "status"), [("complete", "success"), ("failed", "error")])
@pytest.mark.parametrize("action", ["pay_invoice", "keysend"])
async def test_what_takes_long_is_watched_and_counts_until_it_ends(
    world: Paying, action: str, ends: str, status: str
) -> None:
    world.node.ends = "pending"
    params: dict[str, JsonValue] = {"destination": FRIEND, "amount_msat": 50_000_000}
    first = await answer(world, action, {"bolt11": BILL} if action == "pay_invoice" else params)
    assert first["status"] == 3 and spent(world) == (50_000, 50_250), first
    world.pass_time(3 * DAY_S)
    world.restart()
    await ticks(world)
    assert await state(world) == "pending_external" and await world.docs() == []
    world.node.end(ends)
    await ticks(world)
    (receipt,) = await world.docs()
    assert receipt["status"] == status, receipt
    counted = world.db.peek(lambda tx: SpendStore().of_node(tx, 0))
    assert counted == (50_001 if status == "success" else 0)
    assert len(world.node.sent) == 1


@pytest.mark.parametrize("action", ["pay_invoice", "keysend"])
@pytest.mark.parametrize("late", [True, False])
async def test_acceptance_02_12_nothing_is_called_unsent_while_the_call_may_still_run(
    world: Paying, action: str, late: bool
) -> None:
    """Killed when the node was told to pay: it may begin, or try again after a failure, until `retry_for` and
    two minutes are over."""
    world.crash_at = "payment_noted"
    paid: dict[str, JsonValue] = {"destination": FRIEND, "amount_msat": 50_000_000}
    told = world.envelope(SCHEMA, action, {"bolt11": BILL} if action == "pay_invoice" else paid)
    with pytest.raises(Crash):
        await world.handle(told)
    world.restart()
    row = await world.db.read(lambda tx: tx.execute("SELECT command_id FROM comms_commands").fetchone())
    sends = {"maxfee": 0, "label": f"hive:{row[0]}", "invstring": BILL, **paid}
    for _ in range(OVER_S // 60):
        await ticks(world)
        assert await state(world) == "pending_external" and await world.docs() == []
        world.pass_time(59)
        if late and not world.node.parts:
            # A first attempt that failed says nothing yet.
            world.node._send("xpay", sends, FRIEND, 1, "00" * 32)
            world.node.parts[0] |= {
                "status": "failed",
                "payment_hash": world.node.asked[BILL]["payment_hash"],
            }
    if late:
        getattr(world.node, "_xpay" if action == "pay_invoice" else "_xkeysend")(sends)
    world.pass_time(OVER_S)
    await ticks(world)
    (receipt,) = await world.docs()
    assert receipt["status"] == ("success" if late else "error"), receipt
    assert spent(world) == ((50_000, 50_000) if late else (0, 0))
    assert "xpay" not in world.node.calls and "xkeysend" not in world.node.calls


async def test_a_refusal_of_the_node_ends_it_at_once_in_our_words(world: Paying) -> None:
    world.node.ends = "failed"
    refused = await answer(world, "pay_invoice", {"bolt11": BILL})
    assert slug(refused) == "node_error" and "no route to the destination" in refused["error"]["message"]
    assert "private-dir" not in str(refused) and spent(world) == (0, 0)
    assert refused["error"]["data"] == {"rpc": "xpay", "code": 205}
    world.node.ends = "complete"
    assert (await answer(world, "pay_invoice", {"bolt11": BILL}))["status"] == 0


@pytest.mark.parametrize("action", ["pay_invoice", "keysend"])
async def test_acceptance_02_12_deleted_rows_prove_nothing(world: Paying, action: str) -> None:
    world.crash_at = "payment_noted"
    params: dict[str, JsonValue] = {"destination": FRIEND, "amount_msat": 50_000_000}
    with pytest.raises(Crash):
        await answer(world, action, {"bolt11": BILL} if action == "pay_invoice" else params)
    # Something was paid meanwhile and deleted from the list.
    world.node.made += 1
    world.restart()
    world.pass_time(OVER_S)
    await ticks(world)
    await ticks(world)
    (receipt,) = await world.docs()
    assert receipt["status"] == "indeterminate" and "were deleted" in receipt["error"]["message"]
    assert spent(world)[0] == 50_000
    assert any(code == "command_indeterminate" for _, code, _ in world.out.alerts)


async def test_somebody_elses_payment_is_not_taken_for_the_commands(world: Paying) -> None:
    world.crash_at = "payment_noted"
    with pytest.raises(Crash):
        await answer(world, "keysend", {"destination": FRIEND, "amount_msat": 50_000_000})
    world.node._xkeysend({"destination": FRIEND, "amount_msat": 50_000_000, "maxfee": 0, "label": "rent"})
    world.restart()
    world.pass_time(OVER_S)
    await ticks(world)
    await ticks(world)
    (receipt,) = await world.docs()
    assert receipt["status"] == "error" and "nothing was sent" in receipt["error"]["message"]


# -- offers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("named", "given"), [(5_000_000, None), (None, 5_000_000)])
async def test_the_invoice_of_an_offer_is_fetched_and_paid(
    world: Paying, named: int | None, given: int | None
) -> None:
    offer = world.node.offer_of("offer", named, 5_000_000)
    params: dict[str, JsonValue] = {"bolt11": offer}
    if given is not None:
        params["amount_msat"] = given
    done = await answer(world, "pay_invoice", params)
    assert done["status"] == 0 and done["result"]["amount_msat"] == 5_000_000, done
    assert done["result"]["destination"] == SHOP and spent(world) == (5_000, 5_001)
    method, sent = world.node.sent[0]
    assert method == "xpay" and str(sent["invstring"]).startswith("lni1") and "amount_msat" not in sent


async def test_a_dearer_invoice_than_the_offer_is_not_paid(world: Paying) -> None:
    offer = world.node.offer_of("offer", 5_000_000, 5_000_001)
    refused = await answer(world, "pay_invoice", {"bolt11": offer})
    assert slug(refused) == "invalid_params" and "asks for 5000001 msat, not for 5000000" in str(refused)
    own = world.node.offer_of("own", None, 1, offer_issuer_id=NODE_ID)
    refused = await answer(world, "pay_invoice", {"bolt11": own, "amount_msat": 1_000})
    assert slug(refused) == "invalid_params" and "is this node's own" in str(refused)
    world.node.fail["fetchinvoice"] = ClnLost("fetchinvoice", "").code
    refused = await answer(world, "pay_invoice", {"bolt11": world.node.offer_of("mute", 5_000, 5_000)})
    assert refused["status"] == 2, refused
    assert not world.node.sent and spent(world) == (0, 0)


async def test_an_offer_killed_before_its_invoice_was_noted_is_not_paid(world: Paying) -> None:
    offer = world.node.offer_of("offer", 5_000_000, 5_000_000)
    world.crash_at = "after_executing"
    with pytest.raises(Crash):
        await answer(world, "pay_invoice", {"bolt11": offer})
    world.restart()
    await ticks(world)
    (receipt,) = await world.docs()
    assert receipt["status"] == "error" and "nothing was sent" in receipt["error"]["message"]
    assert not world.node.sent and spent(world) == (0, 0)


# -- what nodes have ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "method", "labelled"),
    [
        (("xpay", "pay", "keysend", "xkeysend"), "xpay", True),
        (("xpay", "pay", "keysend"), "xpay", False),
        (("pay", "keysend"), "pay", True),
        (("xpay",), "xpay", False),
    ],
)
async def test_the_newest_call_that_the_node_has_is_used(
    world: Paying, calls: tuple[str, ...], method: str, labelled: bool
) -> None:
    async def offered() -> frozenset[str]:
        return frozenset({"wait", *calls})

    world.node.help_names = offered  # type: ignore[method-assign]
    await world.pipeline.executors.probe()
    assert (await answer(world, "pay_invoice", {"bolt11": BILL}))["status"] == 0
    used, params = world.node.sent[0]
    assert (world.node.calls.count(method), used, "label" in params) == (1, "xpay", labelled)
    sent = await answer(world, "keysend", {"destination": FRIEND, "amount_msat": 1_000})
    if not {"keysend", "xkeysend"}.intersection(calls):
        assert slug(sent) == "unsupported_action", sent
    else:
        used = "xkeysend" if "xkeysend" in calls else "keysend"
        assert (sent["status"], world.node.calls.count(used)) == (0, 1), sent


# -- invoices -----------------------------------------------------------------------------------------------


async def test_the_hundred_and_first_invoice_of_a_day_waits_for_the_next(world: Paying) -> None:
    words: dict[str, JsonValue] = {"payment_*": "auto_execute"}
    limits: dict[str, JsonValue] = {"total_actions_per_day": 1_000}
    world.policies.override("aggressive", rate_limits=limits, approval_overrides=words)
    tea: dict[str, JsonValue] = {"amount_msat": 1_000, "description": "tea"}
    for _ in range(100):
        assert (await answer(world, "create_invoice", tea))["status"] == 0
    assert slug(await answer(world, "create_invoice", tea)) == "daily_cap"
    world.pass_time(DAY_S)
    assert (await answer(world, "create_invoice", tea))["status"] == 0


async def test_a_label_is_used_once(world: Paying) -> None:
    tea: dict[str, JsonValue] = {"amount_msat": 1_000, "description": "tea", "label": "tea-1"}
    made = await answer(world, "create_invoice", tea)
    assert made["result"]["label"] == "hive:00000000:tea-1" and made["result"]["amount_msat"] == 1_000
    again = await answer(world, "create_invoice", tea)
    assert slug(again) == "invalid_params" and "exists already" in again["error"]["message"]
    assert len(world.node.own) == 1
