"""Commands that are paid by ecash, at a real mint (docs/protocol/02-fleet-management.md §8, §15.13)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cl_hive_comms.domain.approval import Workflow
from cl_hive_comms.services.decision import DecisionService
from crash_points import Countdown
from ecash_fee_world import PRICE, Shop, proof_of, token_of, worth
from ecash_world import EcashWorld
from hive_shared import crypto
from hive_shared.canonical import decode_object
from hive_shared.cashu.ports import MintUnavailable
from hive_shared.cashu.token import Token, decode_token, encode_token
from hive_shared.envelope import approve_digest
from msgspec.structs import replace
from pipeline_world import Crash, slug

pytestmark = pytest.mark.asyncio(loop_scope="module")
OTHER = "102x1x0"
LOGS = ("hive:monitor/v1", "log_stream", {})


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def agent(mint_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EcashWorld]:
    world = EcashWorld(tmp_path_factory.mktemp("agent"), mint_url)
    await world.service.fund(4_000, None, None, 30)
    yield world
    await world.close()


@pytest_asyncio.fixture(loop_scope="module")
async def shop(mint_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    world = Shop(tmp_path / "node", mint_url)
    yield world
    await world.end()


def refused(response: dict[str, Any]) -> tuple[str | None, Any]:
    """Slug and check of a refusal."""
    return slug(response), response["error"].get("data", {}).get("check")


async def test_acceptance_02_13_ecash_that_does_not_pay_is_refused_untouched(
    shop: Shop, agent: EcashWorld, mint_url: str
) -> None:
    short, spent, good = [await token_of(agent, sats) for sats in (PRICE, 64, 63)]
    await agent.service.receive(spent, 30)
    elsewhere = encode_token(Token("https://mint.example", decode_token(good).proofs))
    first = min(decode_token(good).proofs, key=lambda proof: proof.amount)
    for token, expected in (
        (short, ("payment_invalid", "amount")),
        (spent, ("payment_invalid", "token_spent")),
        (elsewhere, ("mint_untrusted", None)),
        (encode_token(Token(mint_url, (first,))), ("payment_invalid", "amount")),
        ("cashuB", ("payment_invalid", "token_form")),
        (good[:-12] + "aaaaaaaaaaaa", ("payment_invalid", "token_form")),
    ):
        response = await shop.set_fee(102, payment_proof=proof_of(token))
        assert refused(response) == expected and "refund" not in response, response
    for wrong in ({"method": "cashu"}, {**proof_of(good), "more": "x"}, {"method": "cashu", "token": 7}):
        assert slug(await shop.set_fee(102, payment_proof=wrong)) == "payment_invalid"
    assert shop.setchannels == 0 and await shop.till.sats() == await shop.till.held() == 0
    assert await worth(agent, short) == PRICE and await worth(agent, good) == 63
    # Whatever was tried with it: it still pays.
    assert (await shop.set_fee(102, payment_proof=proof_of(good)))["status"] == 0


async def test_acceptance_02_13_a_policys_refusal_leaves_the_token_unspent(
    shop: Shop, agent: EcashWorld
) -> None:
    token = await token_of(agent, 64)
    shop.policies.override("moderate", protected_channels=["101x1x0"])
    response = await shop.set_fee(102, payment_proof=proof_of(token))
    assert slug(response) == "protected_channel"
    assert await worth(agent, token) == 64 and await shop.till.ops() == []
    assert (await shop.set_fee(102, OTHER, payment_proof=proof_of(token)))["status"] == 0


async def test_acceptance_02_13_a_failure_after_the_swap_returns_the_value(
    shop: Shop, agent: EcashWorld
) -> None:
    token = await token_of(agent, 64)
    shop.node.fail["setchannel"] = 313
    doc = shop.envelope(
        "hive:fee-policy/v1",
        "set_single",
        {"channel_id": "101x1x0", "fee_ppm": 102},
        payment_proof=proof_of(token),
    )
    failed = await shop.handle(doc)
    assert failed is not None and slug(failed) == "node_error" and failed["status"] == 2
    assert await worth(agent, token) == 0 and "change" not in failed
    assert failed["receipt"]["payment"] == {
        "direction": "access",
        "method": "cashu",
        "amount_sats": PRICE,
        "ref": failed["receipt"]["payment"]["ref"],
        "state": "refunded",
    }
    # All but the mint's own fee of the exchange; the same answer as often as it is asked for.
    assert await worth(agent, failed["refund"]) == 63
    assert await shop.handle(doc) == failed
    assert await shop.till.sats() == await shop.till.held() == 0
    assert slug(await shop.set_fee(102, OTHER, payment_proof=proof_of(token))) == "payment_replayed"
    shop.node.fail.clear()
    done = await shop.set_fee(102, OTHER, payment_proof=proof_of(failed["refund"]))
    assert done["status"] == 0 and await shop.till.sats() == PRICE
    assert "cashu" not in str(await shop.docs()).replace("'cashu'", "") + str(shop.log)


async def test_acceptance_02_13_a_token_pays_once_and_its_change_comes_back(
    shop: Shop, agent: EcashWorld
) -> None:
    told = (await shop.asked())["cashu"]
    assert told["amount_sats"] == PRICE and told["mints"] == [shop.till.mint_url]
    # Locked to the node's key: nobody on the way can spend it.
    token = await token_of(agent, 64, told["pubkey"])
    done = await shop.set_fee(102, payment_proof=proof_of(token))
    assert done["status"] == 0 and done["receipt"]["payment"]["state"] == "redeemed"
    assert await shop.till.sats() == PRICE and await worth(agent, done["change"]) == 64 - 1 - PRICE
    for channel in ("101x1x0", OTHER):
        again = await shop.set_fee(103, channel, payment_proof=proof_of(token))
        assert slug(again) in ("payment_replayed", "cooldown") and "change" not in again
    part = encode_token(Token(shop.till.mint_url, decode_token(token).proofs[:1]))
    assert slug(await shop.set_fee(103, OTHER, payment_proof=proof_of(part))) == "payment_replayed"
    row = shop.row("SELECT kind, purpose, direction, amount_sats, state FROM comms_payments")
    assert tuple(row) == ("cashu", "access", "in", PRICE, "settled")
    kept = shop.row("SELECT group_concat(response_json || envelope) FROM comms_responses, comms_commands")[0]
    assert "cashuB" not in kept
    assert (await agent.service.receive(done["change"], 30)).amount_sats == 64 - 1 - PRICE - 1


async def test_a_token_of_just_the_price_has_no_change(shop: Shop, agent: EcashWorld) -> None:
    done = await shop.set_fee(102, payment_proof=proof_of(await token_of(agent, PRICE + 1)))
    assert done["status"] == 0 and "change" not in done and await shop.till.sats() == PRICE


async def test_ecash_is_taken_where_the_credential_names_it_and_not_for_reads(
    mint_url: str, tmp_path: Path, agent: EcashWorld
) -> None:
    table = [2, *range(5, 50, 5)]
    token = await token_of(agent, 64)
    shop = Shop(tmp_path, mint_url, accepted_methods=["bolt11"], price_table=table)
    assert "cashu" not in (await shop.asked())["methods"]
    assert slug(await shop.set_fee(102, payment_proof=proof_of(token))) == "payment_invalid"
    await shop.end()
    shop = Shop(tmp_path, mint_url, price_table=table)
    assert slug(await shop.ask(*LOGS, payment_proof=proof_of(token))) == "payment_invalid"
    assert await worth(agent, token) == 64
    await shop.end()


async def test_a_command_that_waits_holds_its_token_unspent(shop: Shop, agent: EcashWorld) -> None:
    token = await token_of(agent, 64)
    shop.policies.override("moderate", approval_overrides={"fee_policy_*": "always_confirm"})
    held = await shop.set_fee(102, payment_proof=proof_of(token))
    assert held["status"] == 3 and await worth(agent, token) == 64
    assert slug(await shop.set_fee(103, OTHER, payment_proof=proof_of(token))) == "payment_replayed"
    await shop.pipeline.approvals.approve(held["command_id"], reject=True)
    assert await worth(agent, token) == 64
    again = await shop.set_fee(103, payment_proof=proof_of(token))
    await shop.pipeline.approvals.approve(again["command_id"])
    assert await shop.state(again["command_id"]) == "success"
    assert await worth(agent, token) == 0 and await shop.till.sats() == PRICE


async def test_a_token_that_approvers_could_spend_is_not_shown_to_them(
    shop: Shop, agent: EcashWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = DecisionService._verdict

    def by_several(self: DecisionService, *args: Any) -> Any:
        verdict = judge(self, *args)
        judged = replace(verdict.judged, workflow=Workflow.MULTISIG.value, needed=2, expires_in=3_600)
        return replace(verdict, judged=judged)

    monkeypatch.setattr(DecisionService, "_verdict", by_several)
    keys = [crypto.Secret((50 + n).to_bytes(32, "big")) for n in range(2)]
    names = [crypto.xonly_pubkey(key) for key in keys]
    shop.policies.override("moderate", approvers=names, approval_overrides={"fee_policy_*": "always_confirm"})
    token = await token_of(agent, 64)
    response = await shop.set_fee(102, payment_proof=proof_of(token))
    assert refused(response) == ("payment_invalid", "not_locked"), response
    told = response["error"]["data"]["pubkey"]
    assert token not in str(shop.out.sent) and await worth(agent, token) == 64
    # Nothing is kept of it: it pays for what nobody else reads, and a locked one for this.
    locked = await token_of(agent, 64, told)
    held = await shop.set_fee(102, payment_proof=proof_of(locked))
    assert held["status"] == 3 and str(shop.out.sent).count(locked) == 2, "each approver"
    pushed = [decode_object(message["content"]) for message in shop.out.sent]
    command_hash = str(pushed[0]["schema_payload"]["params"]["command_hash"])  # type: ignore[index,call-overload]
    for name, key in zip(names, keys, strict=True):
        signature = crypto.schnorr_sign(key, approve_digest(command_hash, "approve"))
        await shop.pipeline.approvals.approve(held["command_id"], approver=name, signature=signature)
    assert await shop.state(held["command_id"]) == "success" and await shop.till.sats() == PRICE
    monkeypatch.undo()
    shop.policies.override("moderate")
    again = await shop.set_fee(102, OTHER, payment_proof=proof_of(token))
    assert again["status"] == 0 and await shop.till.sats() == 2 * PRICE, again


async def test_a_token_spent_while_its_command_waited_buys_nothing(shop: Shop, agent: EcashWorld) -> None:
    token = await token_of(agent, 64)
    shop.policies.override("moderate", approval_overrides={"fee_policy_*": "always_confirm"})
    held = await shop.set_fee(102, payment_proof=proof_of(token))
    await agent.service.receive(token, 30)
    await shop.pipeline.approvals.approve(held["command_id"])
    assert await shop.state(held["command_id"]) == "error" and shop.setchannels == 0
    assert await shop.till.sats() == await shop.till.held() == 0
    assert shop.row("SELECT COUNT(*) FROM comms_ecash_fees")[0] == 0


def silence(monkeypatch: pytest.MonkeyPatch, shop: Shop, *, carried_out: bool) -> None:
    """The mint answers no swap and no question about one, whether or not it carries it out."""
    client = shop.till.mints.client
    swap = client.swap

    async def silent(*args: Any, **named: Any) -> Any:
        if carried_out:
            await swap(*args, **named)
        raise MintUnavailable(shop.till.mint_url, "it does not answer", sent=True)

    async def away(*_: Any, **__: Any) -> Any:
        raise MintUnavailable(shop.till.mint_url, "it does not answer", sent=True)

    monkeypatch.setattr(client, "swap", silent)
    monkeypatch.setattr(client, "restore", away)


@pytest.mark.parametrize("carried_out", [True, False])
async def test_a_mint_that_does_not_answer_is_waited_for_and_its_late_answer_gives_the_value_back(
    shop: Shop, agent: EcashWorld, monkeypatch: pytest.MonkeyPatch, carried_out: bool
) -> None:
    token = await token_of(agent, 64)
    silence(monkeypatch, shop, carried_out=carried_out)
    waits = await shop.set_fee(102, payment_proof=proof_of(token))
    assert waits["status"] == 3 and waits["result"] == {"waiting_for": "mint", "state": "pending_external"}
    await shop.pipeline.timers.tick()
    assert await shop.state(waits["command_id"]) == "pending_external"
    monkeypatch.undo()
    await shop.till.sweep()
    await shop.pipeline.timers.tick()
    assert await shop.state(waits["command_id"]) == "error" and shop.setchannels == 0
    final = str(shop.out.sent[-1]["content"])
    assert "payment_invalid" in final and '"refund":"cashu' in final
    refund = final.split('"refund":"')[1].partition('"')[0]
    assert await worth(agent, refund) == 63 and await worth(agent, token) == 0
    assert await shop.till.sats() == await shop.till.held() == 0


async def test_what_a_command_holds_is_given_back_however_long_nobody_ended_it(
    shop: Shop, agent: EcashWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await token_of(agent, 64)
    silence(monkeypatch, shop, carried_out=True)
    waits = await shop.set_fee(102, payment_proof=proof_of(token))
    monkeypatch.undo()
    await shop.till.sweep()
    assert await shop.till.held() == PRICE
    # The node was off for a month, and its wallet tidies up first.
    shop.pass_time(31 * 86_400)
    shop.till.now += 31 * 86_400
    await shop.till.service.tidy()
    await shop.pipeline.timers.tick()
    assert await shop.state(waits["command_id"]) != "pending_external"
    refund = str(shop.out.sent[-1]["content"]).split('"refund":"')[1].partition('"')[0]
    assert await worth(agent, refund) == 63
    assert await shop.till.sats() == await shop.till.held() == 0
    await shop.till.service.tidy()
    assert await shop.till.ops() == []


async def test_a_restore_from_the_seed_spends_nothing_that_a_command_may_give_back(
    shop: Shop, agent: EcashWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the mint signed for a command whose end is open is found by the seed, and still held for it."""
    token = await token_of(agent, 64)
    silence(monkeypatch, shop, carried_out=True)
    waits = await shop.set_fee(102, payment_proof=proof_of(token))
    monkeypatch.undo()
    await shop.till.restore_from_seed().run(None, dry_run=False)
    await shop.till.sweep()
    assert (await shop.till.sats(), await shop.till.held()) == (0, PRICE)
    await shop.pipeline.timers.tick()
    assert await shop.state(waits["command_id"]) == "error"
    final = str(shop.out.sent[-1]["content"])
    refund = final.split('"refund":"')[1].partition('"')[0]
    assert await worth(agent, refund) == 63 and await shop.till.sats() == 0


async def test_what_comes_after_the_end_of_its_command_is_told_to_the_operator(
    shop: Shop, agent: EcashWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await token_of(agent, 64)
    silence(monkeypatch, shop, carried_out=True)
    waits = await shop.set_fee(102, payment_proof=proof_of(token))
    shop.pass_time(31 * 86_400)
    await shop.pipeline.timers.tick()
    assert await shop.state(waits["command_id"]) == "indeterminate" and shop.setchannels == 0
    monkeypatch.undo()
    await shop.till.sweep()
    assert await shop.till.sats() == 63 and await shop.till.held() == 0
    assert shop.till.late.raised == ["access_fee_late"] and await worth(agent, token) == 0


class Before(Countdown):
    """Points before each call only: after one is before the next."""

    def watched(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def watched(*args: Any, **named: Any) -> Any:
            self.point()
            return await call(*args, **named)

        return watched


async def killed(shop: Shop, doc: Any, at: int) -> bool:
    """Whether a command died at that point: before a write, a call of the mint, the change."""
    countdown = Before(at)
    mint = shop.till.mints.client
    countdown.watch(shop.db, "write")
    countdown.watch(mint, "swap", "checkstate")
    countdown.watch(shop.node, "setchannel")
    died = True
    try:
        await shop.handle(doc)
        died = False
    except Crash:
        pass
    countdown.left = -1
    shop.node.__dict__.pop("setchannel")
    await shop.till.mints.reached.close()
    shop.restart()
    return died


@pytest.mark.parametrize("node_fails", [False, True])
async def test_a_command_paid_by_ecash_killed_anywhere_is_paid_once_and_no_sat_is_lost(
    mint_url: str, tmp_path: Path, agent: EcashWorld, node_fails: bool
) -> None:
    ends = set()
    for at in range(2 if node_fails else 0, 40):
        shop = Shop(tmp_path / str(at), mint_url)
        token = await token_of(agent, 32)
        doc = shop.envelope(
            "hive:fee-policy/v1",
            "set_single",
            {"channel_id": "101x1x0", "fee_ppm": 102},
            payment_proof=proof_of(token),
        )
        if node_fails:
            shop.node.fail["setchannel"] = 313
        died = await killed(shop, doc, at)
        for _ in range(2):
            await shop.till.sweep()
            await shop.pipeline.timers.tick()
        # A command that was never stored runs now; the others tell what became of them.
        told = await shop.handle(doc)
        assert told is not None and told["status"] in (0, 1, 2), (at, told)
        ran = shop.node.fees("101x1x0")[1] == 102
        untouched, sats = await worth(agent, token), await shop.till.sats()
        back = (
            await worth(agent, told[name])
            if (name := next(iter({"change", "refund"} & set(told)), ""))
            else 0
        )
        # What the agent brought is where it should be, but for the mint's fee of one exchange.
        assert (untouched, back, sats) == (
            (0, 31 - PRICE, PRICE) if ran else (32, 0, 0) if untouched else (0, 31, 0)
        ), (at, told)
        assert await shop.till.held() == 0 and shop.setchannels <= 1 + died, at
        assert (told["status"] == 0) == ran and (await shop.receipts.verify()).ok, (at, told)
        again = await shop.set_fee(103, OTHER, payment_proof=proof_of(token))
        assert (slug(again) not in ("payment_replayed", "payment_invalid")) == bool(untouched), (at, again)
        ends.add((died, ran, bool(untouched)))
        await shop.end()
        if not died:
            break
    else:
        pytest.fail("more points than expected")
    assert {(True, False, False), (True, False, True)} <= ends
    assert node_fails or {(True, True, False), (False, True, False)} <= ends
