"""Tickets on a node: what the operator types, what the advisor gets, and a kill -9 while the mint is locking
(docs/protocol/03-escrow-and-payments.md §6, §9, §14.23)."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import pytest_asyncio
from comms_world import Agent, call, killed, refused, until, world
from ecash_world import invoice_of
from hive_devnet.clock import PluginClock
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_devnet.node import DevnetRpcError, NodeHandle
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.terms import decode_terms, signed_by, terms_hash, terms_text
from hive_shared.cashu.ticket_messages import Release, Ticket, decode_message
from hive_shared.cashu.token import decode_token
from hive_shared.crypto import Secret, sha256

pytestmark = pytest.mark.asyncio(loop_scope="module")
ESCROW = "hive-client-escrow"
JUDGE = Path(__file__).parents[1] / "judge_plugin.py"
LOCK_KEY = Secret(b"\x21" * 32)
TASK = {"danger": 5, "schema": "ci:review/v1", "task_action": "review", "params": {"pull": 7}}


class Place:
    """A node whose mint is behind a fault front, and the advisor it hired."""

    def __init__(
        self, kind: str, node: NodeHandle, agent: Agent, front: MintFaultFront, clock: PluginClock
    ) -> None:
        self.kind, self.node, self.agent, self.front, self.clock = kind, node, agent, front, clock
        self.said: list[str] = []

    async def escrow(self, action: str, **params: object) -> dict[str, Any]:
        answer = await call(self.node, ESCROW, action=action, **params)
        self.said.append(json.dumps(answer))
        return answer

    async def create(self, key: str, **params: object) -> dict[str, Any]:
        given = {
            **TASK,
            "advisor": self.agent.npub,
            "payee_pubkey": public_key(LOCK_KEY),
            "amount_sats": 50,
            **params,
        }
        return await self.escrow("create", idempotency_key=key, **given)

    async def told(self, verb: str, ticket_id: str, item: int | None = None) -> Any:
        """The message of this verb about a ticket, or an item of it, that reached the advisor."""
        schema = f"hive:escrow/{verb}"

        def wanted(message: dict[str, Any]) -> bool:
            if message.get("schema") != schema or message["body"]["ticket_id"] != ticket_id:
                return False
            return item is None or message["body"]["item"] == item

        message = await self.agent.wait_for(wanted)
        return decode_message(schema, message["body"])

    async def killed(self) -> None:
        await killed(self.kind, self.node, self.front.clear)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(mint_url: str) -> AsyncIterator[Place]:
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    try:
        async with MintFaultFront.before(mint_url) as front, AsyncExitStack() as stack:
            options = {
                "hive-comms-escrow-mint": front.url,
                "hive-comms-escrow-verify-methods": "review-judge,gone-judge",
            }
            clock = PluginClock(directory / "clock")
            stack.enter_context(mock.patch.dict(os.environ, clock.environment))
            async with (
                world(directory, **options) as (network, node, relay),
                Agent(relay.url) as agent,
            ):
                await agent.hired(node)
                await call(node, "hive-client-wallet", action="fund", amount_sats=1_000)
                await until(lambda: _probed(node), "the end of the probe")
                yield Place(network.kind, node, agent, front, clock)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _probed(node: NodeHandle) -> bool:
    return bool((await call(node, "hive-client-wallet", action="probe", timeout=50))["state"] == "done")


# First, while the wallet still has calls left of the twenty a minute: a probe takes fifteen.
async def test_what_a_kill_interrupted_while_the_mint_locked_is_locked_once_and_handed_over(
    place: Place,
) -> None:
    place.front.set(MintFault(MintFaultKind.HOLD_AFTER, path="/v1/swap"))
    asked = asyncio.create_task(place.create("killed"))
    await place.front.until_held()
    # Nobody else waits for a mint that hangs (03 §15).
    reads = [("hive-client-escrow", "list"), ("hive-client-wallet", "balance")] * 50
    await asyncio.gather(*(call(place.node, method, action=action) for method, action in reads))
    assert not asked.done()
    await place.killed()
    with suppress(DevnetRpcError, ConnectionError):
        await asked

    async def handed_over() -> bool:
        rows = (await place.escrow("list", limit=1))["items"]
        return bool(rows[0]["item_states"] == {"delivered": 1})

    # A mint that was asked in vain is asked again after as long as it has lasted, up to a minute.
    await until(handed_over, "the ticket that the mint locked")
    again = await place.create("killed")
    assert again["item_states"] == {"delivered": 1}
    assert (await place.told("ticket", again["ticket_id"])).ticket_id == again["ticket_id"]
    counted = (await call(place.node, "hive-client-status"))["escrow"]
    assert counted == {"state": "served", "tickets_given": 1, "tickets_received": 0}
    locks = [
        op
        for op in (await call(place.node, "hive-client-wallet", action="ops"))["items"]
        if op["kind"] == "lock"
    ]
    assert {op["state"] for op in locks} == {"done"}
    assert len(locks) == (await place.escrow("list"))["count"], "each ticket was locked once"
    balance = await call(place.node, "hive-client-wallet", action="balance")
    fees = sum(op["fee_sats"] for op in (await call(place.node, "hive-client-wallet", action="ops"))["items"])
    locked = sum(op["amount_sats"] for op in locks)
    assert balance["total_sats"] == 1_000 - locked - fees


async def test_a_ticket_reaches_its_advisor_and_is_released_once_it_was_earned(place: Place) -> None:
    made = await place.create("first", items=[{"amount_sats": 50}, {"amount_sats": 8}], amount_sats=None)
    assert (made["state"], made["item_states"], made["amount_sats"]) == ("active", {"delivered": 2}, 58)
    id_ = made["ticket_id"]
    assert (
        await place.create("first", items=[{"amount_sats": 50}, {"amount_sats": 8}], amount_sats=None) == made
    )
    ticket = await place.told("ticket", id_)
    assert isinstance(ticket, Ticket) and isinstance(ticket.terms, dict)
    terms = decode_terms(ticket.terms)
    assert signed_by(terms.payer.id, terms_text(terms_hash(terms)), str(ticket.sig))
    assert sum(decode_token(text).amount_sats for text in ticket.tokens) >= 58
    shown = await place.escrow("get", ticket_id=id_)
    assert [item["state"] for item in shown["items"]] == ["delivered"] * 2
    assert id_ in [row["ticket_id"] for row in (await place.escrow("list", status="active"))["items"]]
    word = await refused(place.node, ESCROW, action="complete", ticket_id=id_, item=0, success=True)
    assert word.code == 4005, word
    done = await place.escrow(
        "complete", ticket_id=id_, item=0, success=True, confirm=True, result={"review": "good"}
    )
    assert done["state"] == "released"
    release = await place.told("release", id_)
    assert isinstance(release, Release)
    assert sha256(bytes.fromhex(release.preimage)).hex() == shown["items"][0]["hash"]
    (row,) = (await place.escrow("receipt", ticket_id=id_))["items"]
    assert str(row["receipt"]["receipt_id"]) == release.receipt_id
    again = await place.escrow("release", ticket_id=id_, item=0)
    assert again["released_at"] == done["released_at"]
    for changes, reason in (({"item": 1}, "not_released"), ({"item": 2}, None)):
        error = await refused(place.node, ESCROW, action="release", ticket_id=id_, **changes)
        assert reason is None or error.data["reason"] == reason, error
    error = await refused(place.node, ESCROW, action="refund", ticket_id=id_)
    assert error.data["reason"] == "too_early" and error.code == 4014
    failed = await place.escrow("complete", ticket_id=id_, item=1, success=False, confirm=True)
    assert failed["state"] == "failed"
    error = await refused(place.node, ESCROW, action="cancel", ticket_id=id_)
    assert error.code == 4015
    # Neither a token nor a preimage stands in an answer, in the database or in the node's log.
    secrets = [release.preimage, *(text[20:80] for text in ticket.tokens)]
    for text in (*place.said, place.node.log_text()):
        assert not any(secret in text for secret in secrets)


async def test_a_method_of_the_node_judges_an_item_and_what_it_leaves_open_waits_for_the_operator(
    place: Place, tmp_path: Path
) -> None:
    before = (await place.escrow("list"))["count"]
    for code, told, changes in (
        (-32602, "hive-comms-escrow-verify-methods", {"cond": {"verify_rpc": "stop"}}),
        (-32602, "cond.verify-rpc is nothing that this node reads", {"cond": {"verify-rpc": "stop"}}),
        (4013, "schema 'hive:review/v1' is not known here", {"schema": "hive:review/v1"}),
    ):
        item = {"amount_sats": 1, "cond": changes.pop("cond", {})}
        wrong = await refused(
            place.node,
            ESCROW,
            action="create",
            advisor=place.agent.npub,
            payee_pubkey=public_key(LOCK_KEY),
            idempotency_key="wrong",
            items=[item],
            **{**TASK, **changes},
        )
        assert wrong.code == code and told in wrong.message, wrong
    assert (await place.escrow("list"))["count"] == before
    judge = {"amount_sats": 1, "cond": {"verify_rpc": "review-judge"}}
    gone = {"amount_sats": 1, "cond": {"verify_rpc": "gone-judge"}}
    made = await place.create("judged", items=[judge, judge, judge, gone], amount_sats=None)
    id_ = made["ticket_id"]

    async def asked(item: int, **evidence: object) -> dict[str, Any]:
        return await place.escrow("complete", ticket_id=id_, item=item, result=evidence)

    error = await refused(place.node, ESCROW, action="complete", ticket_id=id_, item=0, result={"good": True})
    assert error.code == 4005 and error.data["judge"] == "review-judge", error
    await call(place.node, "plugin", subcommand="start", plugin=str(JUDGE))
    assert (await asked(0, good=True))["state"] == "released"
    await place.told("release", id_, 0)
    (row,) = (await place.escrow("receipt", ticket_id=id_))["items"]
    assert row["receipt"]["result"]["judge"] == "review-judge"
    assert (await asked(1, good=False))["state"] == "failed"
    assert (await place.told("failure", id_, 1)).reason == "refused_by_judge"
    for item, evidence in ((2, {"odd": True}), (3, {"good": True})):
        error = await refused(
            place.node, ESCROW, action="complete", ticket_id=id_, item=item, result=evidence
        )
        assert error.code == 4005 and "judge it yourself" in error.message, error
    # The plugin dies while the judge thinks: nothing is released by itself, and it may be asked again.
    os.mkfifo(fifo := tmp_path / "fifo")
    thinking = asyncio.create_task(asked(2, good=True, fifo=str(fifo)))
    writing = await asyncio.to_thread(os.open, fifo, os.O_WRONLY)
    await place.killed()
    os.close(writing)
    with suppress(DevnetRpcError, ConnectionError):
        await thinking
    if place.kind != "embedded":
        await call(place.node, "plugin", subcommand="start", plugin=str(JUDGE))
    states = [item["state"] for item in (await place.escrow("get", ticket_id=id_))["items"]]
    assert states == ["released", "failed", "unknown", "unknown"]
    assert (await asked(2, good=True))["state"] == "released"


async def test_acceptance_03_09_the_node_measures_a_bonus_when_its_window_is_over(place: Place) -> None:
    def bonus(threshold: int) -> dict[str, Any]:
        cond = {"metric": "revenue_msat_per_day", "threshold": threshold}
        return {"amount_sats": 1, "window_s": 600, "cond": cond}

    items = [{"amount_sats": 3, "window_s": 600}, bonus(0), bonus(1)]
    shape = {"type": "performance", "items": items, "amount_sats": None, "danger": 8}
    made = await place.create("bonus", **shape)
    id_ = made["ticket_id"]
    assert await place.create("bonus", **shape) == made
    terms = (await place.escrow("get", ticket_id=id_))["terms"]
    report = await call(place.node, "hive-client-report", advisor=place.agent.npub)
    income, baseline = report["baseline"]["income"], terms["baseline"]
    assert (
        baseline["period"] == [income["from"], income["to"]] and income["to"] - income["from"] == 7 * 86_400
    )
    assert baseline["signature"] == report["baseline"]["signature"] and baseline["value"] == 0
    await place.escrow("complete", ticket_id=id_, item=0, success=True, confirm=True)
    early = await refused(place.node, ESCROW, action="complete", ticket_id=id_, item=1, result={"value": 5})
    assert early.data["reason"] == "too_early", early
    place.clock.wait(1_300)
    met, missed = [await place.told("metric", id_, item) for item in (1, 2)]
    assert (met.value, met.threshold, met.met) == (0, 0, True)
    assert (missed.value, missed.threshold, missed.met) == (0, 1, False)
    release = await place.told("release", id_, 1)
    assert (await place.told("failure", id_, 2)).reason == "missed"
    shown = (await place.escrow("get", ticket_id=id_))["items"]
    assert sha256(bytes.fromhex(release.preimage)).hex() == shown[1]["hash"]
    assert [item["state"] for item in shown] == ["released", "released", "failed"]


async def test_acceptance_03_23_during_the_stop_no_ticket_is_made_and_nothing_paid(place: Place) -> None:
    await call(place.node, "hive-client-emergency-stop", reason="drill")
    error = await refused(
        place.node,
        ESCROW,
        action="create",
        advisor=place.agent.npub,
        payee_pubkey=public_key(LOCK_KEY),
        idempotency_key="stopped",
        amount_sats=5,
        **TASK,
    )
    assert error.code == 4012, error
    error = await refused(
        place.node, "hive-client-pay", advisor=place.agent.npub, amount_sats=5, target=invoice_of(5)
    )
    assert error.code == 4012, error
    rows = (await place.escrow("list"))["items"]
    assert all(row["item_states"] != {"planned": 1} for row in rows)
    assert (await place.escrow("pricing", danger=5))["base_sats"] == 50
