"""The kit's record: receipts acknowledged, missed and forked, evidence that anybody can check, pushes that
were missed, alerts (11 §5.3, §5.4, §7 "Duties"). No relay, one process.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hive_advisor.advisor import Advisor
from hive_advisor.cli.main import cli
from hive_advisor.domain import evidence
from hive_advisor.services.receipt_sync import SYNC_S
from hive_advisor.services.receipts import VerificationFailed
from hive_shared import crypto, envelope
from hive_shared.errors import Conflict, InvalidParams, NotFound, from_symbol
from kit_world import KitWorld, run_fee
from scripted_node import ScriptedNode

Answer = Callable[[envelope.Command], dict[str, Any] | None]


@pytest.fixture
def world(tmp_path: Path) -> KitWorld:
    return KitWorld(tmp_path)


def actions(world: KitWorld, since: int = 0) -> list[str]:
    """What the node heard, but for what the kit reads for its journal."""
    heard = world.node.commands[since:]
    return [command.action for command in heard if command.schema_type != "hive:monitor/v1"]


async def kinds(kit: Advisor) -> list[str]:
    return [event.kind for event in await kit.past_events(0, 500)]


async def test_a_receipt_that_agrees_is_acknowledged_once_and_the_chain_kept_hourly(world: KitWorld) -> None:
    async with world.open() as kit:
        client = await world.hired(kit)
        done = await run_fee(kit)
        assert (str(done.state), done.receipt_id) == ("done", 1)
        world.node.stub()
        await kit.pump()
        (acked,) = [command for command in world.node.commands if command.action == "receipt_ack"]
        digest = envelope.ack_digest(str(world.node.chain[0]["receipt_hash"]))
        assert isinstance(acked.params, dict)
        assert crypto.schnorr_verify(acked.sender, digest, str(acked.params["sig"]))
        stored = await kit.receipts.get(client, 1)
        assert stored is not None and (stored.acked, stored.standing, stored.level) == (
            True,
            "agrees",
            "chained",
        )
        assert (await kit.clients.named("alice")).head_id == 2
    async with world.open() as kit:
        # Up to date: nothing is asked before the hour is over, then once, from the head on.
        heard = len(world.node.commands)
        await kit.pump()
        assert actions(world, heard) == []
        world.ahead = SYNC_S + 60
        await kit.pump()
        asked = next(c for c in world.node.commands[heard:] if c.action == "receipts_list")
        assert isinstance(asked.params, dict) and asked.params["since_id"] == 1
        assert "receipt_ack" not in actions(world, heard)
        assert (await kit.receipts.verify(client))["ok"]


async def test_a_node_that_will_not_hear_an_acknowledgement_is_told_again_in_an_hour(world: KitWorld) -> None:
    def deaf(command: envelope.Command) -> dict[str, Any] | None:
        if command.action != "receipt_ack":
            return world.node.honest(command)
        return world.node.response(command, 2, error=envelope.error_doc(from_symbol("busy", "not now")))

    async with world.open() as kit:
        client = await world.hired(kit)
        world.node.answer = deaf
        await run_fee(kit)
        for _ in range(3):
            await kit.pump()
        # The credential that this world put there was not acknowledged either: once.
        assert actions(world).count("credential_ack") == 1
        assert set(actions(world)) == {"set_single", "receipts_list", "receipt_ack", "credential_ack"}
        told = [command.command_id for command in world.node.commands if command.action == "receipt_ack"]
        assert len(set(told)) == 1
        world.node.answer = world.node.honest
        world.ahead = 3_700
        await kit.pump()
        stored = await kit.receipts.get(client, 1)
        assert stored is not None and stored.acked
        # By hand it is told only what it has not taken yet.
        heard = len(world.node.commands)
        assert await kit.standing.acknowledge(client, 1, 5) is True
        assert actions(world, heard) == []
        with pytest.raises(NotFound, match="none of your commands"):
            await kit.standing.acknowledge(client, 9, 5)


async def test_an_operators_edit_is_no_contradiction(world: KitWorld) -> None:
    def reduced(command: envelope.Command) -> dict[str, Any]:
        if command.schema_type == "hive:control/v1":
            return world.node.honest(command)
        assert isinstance(command.params, dict)
        from hive_shared.canonical import encode

        asked = crypto.sha256(encode(command.params)).hex()
        receipt = world.node.receipt(
            command,
            params={**command.params, "fee_ppm": 120},
            approval={
                "level": "d3",
                "workflow": "queue",
                "approvers": ["local"],
                "original_params_hash": asked,
            },
        )
        return world.node.response(command, 0, receipt=receipt)

    async with world.open() as kit:
        client = await world.hired(kit)
        world.node.answer = reduced
        await run_fee(kit)
        await kit.pump()
        stored = await kit.receipts.get(client, 1)
        assert stored is not None and stored.acked
        assert await kit.standing.edits(client, 1) == {"fee_ppm": {"asked": 150, "done": 120}}


def lying(world: KitWorld, **parts: Any) -> Answer:
    """Executes, and gives a receipt that says something else than the answer."""

    def answer(command: envelope.Command) -> dict[str, Any]:
        if command.schema_type == "hive:control/v1":
            return world.node.honest(command)
        receipt = world.node.receipt(command, **parts.get("receipt", {}))
        return world.node.response(command, 0, receipt={**receipt, **parts.get("altered", {})})

    return answer


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"receipt": {"status": "error"}}, "it says 'error', the answer 'success'"),
        ({"receipt": {"result": {"fee": 1}}}, "its result is not that of the answer"),
        ({"receipt": {"params": {"channel_id": "103x1x0", "fee_ppm": 9}}}, "other parameters"),
        ({"receipt": {"error": {"slug": "cooldown"}}}, "it says cooldown"),
        ({"altered": {"status": "error"}}, "hash"),
    ],
    ids=["status", "result", "params", "slug", "a changed byte"],
)
async def test_acceptance_11_06_a_receipt_that_contradicts_its_answer_is_evidence(
    world: KitWorld, parts: dict[str, Any], why: str
) -> None:
    async with world.open() as kit:
        client = await world.hired(kit)
        world.node.answer = lying(world, **parts)
        await run_fee(kit, wait_s=1)
        client = await kit.clients.named("alice")
        assert client.state == "suspect" and why in client.suspect_why
        assert "receipt_ack" not in actions(world)
        await checked(kit, why)


async def checked(kit: Advisor, why: str) -> dict[str, Any]:
    """The newest evidence verifies by itself, and not with a changed byte in it; a human was told."""
    client = await kit.clients.named("alice")
    kept = (await kit.forks.kept(client))[0]
    document: dict[str, Any] = json.loads(json.dumps(kept.document))
    found = evidence.contradictions(document)
    assert any(why in sentence for sentence in found), found
    for claim in document["claims"]:
        part = claim.get("answer") or claim["receipt"]
        part["timestamp" if "answer" in claim else "created_at"] += 1
        with pytest.raises(InvalidParams, match="sign"):
            evidence.contradictions(document)
        part["timestamp" if "answer" in claim else "created_at"] -= 1
    (alert,) = await kit.alerts.listed(closed=False, limit=10)
    assert (alert.code, alert.level, alert.origin) == ("fork", "critical", "kit")
    with pytest.raises(Conflict, match="suspect"):
        await run_fee(kit, 160)
    return document


def listing(world: KitWorld, change: Callable[[ScriptedNode, dict[str, Any]], dict[str, Any]]) -> Answer:
    """A node that lies when it lists receipts."""

    def answer(command: envelope.Command) -> dict[str, Any]:
        if command.action != "receipts_list":
            return world.node.honest(command)
        return world.node.response(command, 0, result=change(world.node, world.node.listed(command)))

    return answer


def dropped(node: ScriptedNode, result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "items": [item for item in result["items"] if item["receipt_id"] != 2]}


def forked_stub(node: ScriptedNode, result: dict[str, Any]) -> dict[str, Any]:
    items = [
        {**item, "receipt_hash": "ab" * 32} if item["receipt_id"] == 3 else item for item in result["items"]
    ]
    return {**result, "items": items}


def shrunk(node: ScriptedNode, result: dict[str, Any]) -> dict[str, Any]:
    first = node.chain[0]
    head = {"receipt_id": 1, "receipt_hash": first["receipt_hash"]}
    return {**result, "items": [item for item in result["items"] if item["receipt_id"] < 2], "head": head}


def none_at_all(node: ScriptedNode, result: dict[str, Any]) -> dict[str, Any]:
    return {"count": 0, "items": [], "roots": []}


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (dropped, "is missing from its list"),
        (forked_stub, "receipt 3 has hash"),
        (shrunk, "is the newest"),
        (none_at_all, "is the newest"),
    ],
)
async def test_acceptance_11_06_dropped_forked_and_vanished_receipts_are_evidence(
    world: KitWorld, lie: Callable[[ScriptedNode, dict[str, Any]], dict[str, Any]], why: str
) -> None:
    async with world.open() as kit:
        await world.hired(kit)
        await run_fee(kit)
        world.node.stub()
        world.node.stub()
        client = await kit.clients.named("alice")
        await kit.sync_receipts(client, 5)
        assert (await kit.clients.named("alice")).head_id == 3
        world.node.stub()
        # The node's own clock is what orders what it says.
        later = world.node.response

        def a_minute_later(command: envelope.Command, status: int, **parts: Any) -> dict[str, Any]:
            made = later(command, status, **parts)
            return envelope.sign_response(world.node.secret, {**made, "timestamp": made["timestamp"] + 60})

        world.node.response = a_minute_later  # type: ignore[method-assign]
        world.node.answer = listing(world, lie)
        if lie is dropped:
            # It drops what we have not seen yet.
            await kit._db.write(
                lambda tx: kit._rows.set_head(tx, client.client_id, 1, world.node.chain[0]["receipt_hash"])
            )
            await kit._db.write(lambda tx: tx.execute("DELETE FROM adv_receipts WHERE receipt_id > 1"))
        with pytest.raises(VerificationFailed):
            await kit.sync_receipts(client, 5)
        client = await kit.clients.named("alice")
        assert client.state == "suspect", client
        document = await checked(kit, why)
        # Clearing it by hand does not make the contradiction new.
        await kit.clients.resume(client)
        assert document["node_key"] == world.node.key


async def test_what_lies_behind_a_signed_checkpoint_is_no_hole(world: KitWorld) -> None:
    from hive_shared import receipts

    async with world.open() as kit:
        await world.hired(kit)
        for _ in range(5):
            world.node.stub()
        client = await kit.clients.named("alice")
        merkle = receipts.merkle_root([str(item["receipt_hash"]) for item in world.node.chain[:3]])
        text = receipts.root_text("prune", 1, 1, 3, merkle)
        root = {"kind": "prune", "start": 1, "first_id": 1, "last_id": 3, "merkle_root": merkle}
        signed = {**root, "zbase": crypto.cln_sign_message(world.node.hsm, text)}

        def archived(signature: dict[str, Any]) -> Answer:
            def change(node: ScriptedNode, result: dict[str, Any]) -> dict[str, Any]:
                items = [item for item in result["items"] if item["receipt_id"] > 3]
                return {**result, "items": items, "roots": [signature]}

            return listing(world, change)

        world.node.answer = archived(signed)
        answer = await kit.sync_receipts(client, 5)
        assert (answer["head"], answer["taken"]) == (5, 2), answer
        world.node.stub()
        assert (await kit.sync_receipts(client, 5))["head"] == 6
    # A checkpoint that somebody else signed covers nothing.
    other = KitWorld(world.paths.data_dir / "other")
    async with other.open() as kit:
        other.node.chain, other.node.head = list(world.node.chain), world.node.head
        await other.hired(kit)
        forged = {**root, "zbase": crypto.cln_sign_message(crypto.Secret(b"\x01" * 32), text)}
        other.node.answer = listing(
            other,
            lambda node, result: {
                **result,
                "items": [item for item in result["items"] if item["receipt_id"] > 3],
                "roots": [forged],
            },
        )
        with pytest.raises(VerificationFailed, match="missing"):
            await kit.sync_receipts(await kit.clients.named("alice"), 5)


async def test_a_receipt_that_does_not_come_is_missed_after_ten_minutes_and_no_longer_when_it_comes(
    world: KitWorld,
) -> None:
    def mute(command: envelope.Command) -> dict[str, Any]:
        if command.schema_type != "hive:control/v1":
            world.node.receipt(command)
            return world.node.response(command, 0)
        return world.node.response(command, 0, result={"ok": True})

    async with world.open() as kit:
        client = await world.hired(kit)
        world.node.answer = mute
        done = await run_fee(kit)
        await kit.pump()
        assert await kit.alerts.listed(closed=True, limit=10) == []
        world.ahead = 660
        await kit.pump()
        await kit.pump()
        (alert,) = await kit.alerts.listed(closed=True, limit=10)
        assert (alert.code, alert.subject, alert.state) == ("receipt_missing", done.command_id, "open")
        # A look at the node's list brings it.
        world.node.answer = world.node.honest
        world.ahead = 2_000
        await kit.pump()
        assert (await kit.alerts.listed(closed=True, limit=10))[0].state == "resolved"
        stored = await kit.receipts.get(client, 1)
        assert (
            stored is not None and stored.acked and (await kit.commands.get(done.command_id)).receipt_id == 1
        )


ALERT = {
    "alert_id": "a-1",
    "level": "critical",
    "code": "channel_offline",
    "text": "channel 103x1x0 is offline",
}


async def test_acceptance_11_20_alerts_stay_open_until_a_human_acts_and_then_the_node_is_told(
    world: KitWorld,
) -> None:
    async with world.open() as kit:
        await world.hired(kit)
        document = world.node.push(kit.pubkey, "alert", ALERT)
        await world.push(kit, document)
        await world.push(kit, document)
        world.ahead = 7_200
        await kit.pump()
        (alert,) = await kit.alerts.listed(closed=False, limit=10)
        assert (alert.state, alert.text) == ("open", ALERT["text"])
        assert "alert_ack" not in actions(world)
        assert (await kinds(kit)).count("alert") == 1
        # The node is away when the human acknowledges: it is told when it is back, also by another process.
        busy = envelope.error_doc(from_symbol("busy", "not now"))
        world.node.answer = lambda command: world.node.response(command, 2, error=busy)
        await kit.alerts.acknowledge(alert.number)
        await kit.alerts.tell(kit.control, alert.number, 0)
        assert (await kit.alerts.get(alert.number)).state == "acking"
        with pytest.raises(Conflict, match="acking already"):
            await kit.alerts.acknowledge(alert.number)
    world.node.answer = world.node.honest
    async with world.open() as kit:
        world.ahead = 9_000
        await kit.pump()
        assert (await kit.alerts.get(alert.number)).state == "acked"
        heard = len(world.node.commands)
        await kit.pump()
        assert "alert_ack" not in actions(world, heard)
        with pytest.raises(NotFound, match="no alert 77"):
            await kit.alerts.acknowledge(77)
        assert (await kit.alerts.resolve(alert.number)).state == "resolved"


async def test_pushes_that_did_not_come_are_asked_for_and_count_once(world: KitWorld) -> None:
    kept: list[dict[str, Any]] = []

    def polled(command: envelope.Command) -> dict[str, Any]:
        if command.action != "push_poll":
            return world.node.honest(command)
        assert isinstance(command.params, dict)
        since = int(str(command.params["since_seq"]))
        items = [item for item in kept if item["seq"] > since][:2]
        more = {"next_cursor": str(items[-1]["seq"])} if len(items) == 2 else {}
        return world.node.response(command, 0, result={"count": len(items), "items": items, **more})

    async with world.open() as kit:
        await world.hired(kit)
        await run_fee(kit)
        world.node.answer = polled
        for number in range(5):
            kept.append(world.node.push(kit.pubkey, "alert", {**ALERT, "alert_id": f"a-{number}"}))
        forged = {**kept[1], "seq": kept[1]["seq"] + 50}
        kept.append(forged)
        # Only the third one came by a relay.
        await world.push(kit, kept[2])
        assert len(await kit.alerts.listed(closed=False, limit=10)) == 1
        assert "answers_missing" in await kinds(kit)
        await kit.pump()
        names = [alert.alert_id for alert in reversed(await kit.alerts.listed(closed=False, limit=10))]
        assert sorted(names) == [f"a-{number}" for number in range(5)]
        assert [item["why"] for item in (await kit.brief())["quarantined"]] == [
            "unauthorized: bad_signature: the push is not signed by its sender"
        ]
        heard = len(world.node.commands)
        await kit.pump()
        assert "push_poll" not in actions(world, heard)


async def test_killed_at_every_write_and_call_the_record_ends_whole_and_nothing_is_told_twice(
    tmp_path: Path,
) -> None:
    """A round that fetches a missed alert, tells of an acknowledged one, syncs and acknowledges a receipt."""
    first = KitWorld(tmp_path / "first")
    pushed: list[dict[str, Any]] = []
    async with first.open() as kit:
        await first.hired(kit)
        await run_fee(kit)
        first.node.stub()
        pushed.append(first.node.push(kit.pubkey, "alert", ALERT))
        await first.push(kit, first.node.push(kit.pubkey, "alert", {**ALERT, "alert_id": "a-2"}))
        (alert,) = await kit.alerts.listed(closed=False, limit=10)
        await kit.alerts.acknowledge(alert.number)
    for at in itertools.count():
        world = first.copy(tmp_path / str(at))

        def answer(command: envelope.Command, world: KitWorld = world) -> dict[str, Any]:
            if command.action == "push_poll":
                return world.node.response(command, 0, result={"count": len(pushed), "items": pushed})
            return world.node.honest(command)

        world.node.answer = answer
        world.ahead = 30
        died = await world.killed(at, lambda kit: kit.pump())
        world.ahead = 4_000
        async with world.open() as kit:
            await kit.pump()
            client = await kit.clients.named("alice")
            stored = await kit.receipts.get(client, 1)
            assert stored is not None and (stored.acked, stored.standing) == (True, "agrees"), at
            assert (client.state, client.head_id) == ("active", 2), at
            states = {alert.alert_id: alert.state for alert in await kit.alerts.listed(closed=True, limit=9)}
            assert states == {"a-1": "open", "a-2": "acked"}, at
            assert (await kinds(kit)).count("alert") == 2, at
            assert (await kit.brief())["quarantined"] == [], at
        told = {c.command_id for c in world.node.commands if c.action in ("receipt_ack", "alert_ack")}
        # The same bytes may come twice; what was told anew is what had no answer on disk.
        assert 2 <= len(told) <= 3, at
        if not died:
            assert at > 30, at
            return


async def test_evidence_is_written_and_checked_by_the_command_line(world: KitWorld, tmp_path: Path) -> None:
    async with world.open() as kit:
        await world.hired(kit)
        world.node.answer = lying(world, receipt={"status": "error"})
        await run_fee(kit)
        (kept,) = await kit.forks.kept(await kit.clients.named("alice"))

    async def shown(*words: str) -> tuple[int, dict[str, Any]]:
        ended = await asyncio.to_thread(CliRunner().invoke, cli, ["--json", "receipt", "evidence", *words])
        return ended.exit_code, json.loads(ended.stdout)

    async def check(document: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        file = tmp_path / "fork.json"
        file.write_text(json.dumps(document))
        return await shown("--check", str(file))

    code, told = await check(kept.document)
    assert (code, told["data"]["node_key"]) == (0, world.node.key)
    assert "contradicts the answer" in told["data"]["proves"][0]
    # No claim proves nothing, and what somebody else signed is no claim.
    assert (await check({**kept.document, "claims": []}))[0] == 7
    code, told = await check({**kept.document, "node_key": "ab" * 32})
    assert (code, told["data"]["proves"]) == (7, []) and "that the node signed" in told["data"]["reason"]
    assert (await check({"format": "other"}))[0] == 7
    for words in ([], ["alice", "x", "--check", "y"], ["--check", "none"]):
        assert (await shown(*words))[0] == 2, words
