"""The MCP server's role advisor against a scripted node: what is open, plans committed once, words of others
apart (11 §11.1, §11.2, §18.13-15)."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hive_advisor.advisor import Advisor
from hive_advisor.config import AdvisorConfig
from hive_advisor.domain.advisor_tools import ADVISOR_TOOLS, HUMANS_OWN
from hive_advisor.domain.allow_list import AllowList, read_allow_list
from hive_advisor.guard_files import HaltFile
from hive_advisor.identity import create_identity
from hive_advisor.paths import ProfilePaths
from hive_advisor.services import advisor_acts
from hive_advisor.services.advisor_acts import advisor_toolbox
from hive_advisor.services.tool_calls import ToolCallService
from hive_advisor.storage.audit_store import read_audit
from hive_devnet.relay import RelayProcess
from hive_devnet.world import until
from hive_shared import envelope
from hive_shared.store import Db
from injections import HIDDEN, INJECTIONS
from open_guard import open_guard
from scripted_node import ScriptedNode

pytestmark = pytest.mark.asyncio(loop_scope="module")
FEE = "hive:fee-policy/set_single"
SCID = "103x1x0"
ACTS = frozenset(name for name, tool in ADVISOR_TOOLS.items() if tool.klass == "A")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relay() -> AsyncIterator[RelayProcess]:
    process = await RelayProcess.start()
    yield process
    await process.stop()


@dataclass
class Desk:
    """A kit with one client, and a program's calls to it. ``ahead`` moves the clock of kit and rates."""

    paths: ProfilePaths
    node: ScriptedNode
    relay: str
    identity: Any = field(default_factory=create_identity)
    listed: AllowList = field(default_factory=lambda: AllowList(ACTS))
    ahead: int = 0
    kit: Advisor = field(init=False)
    service: ToolCallService = field(init=False)

    def now(self) -> int:
        return int(time.time()) + self.ahead

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Desk]:
        config = AdvisorConfig(relays=(self.relay,), accept_offers=True)
        async with Advisor.open(self.paths, self.identity, config, online=True, now=self.now) as kit:
            self.kit = kit
            toolbox = advisor_toolbox(kit, HaltFile(self.paths.halt), lambda: self.listed, now=self.now)
            self.service = kit.tool_calls(toolbox, dict)
            if not await kit.clients.all():
                await self._hired(kit)
            yield self

    async def _hired(self, kit: Advisor) -> None:
        await self.node.send(
            kit.pubkey, self.node.offer(kit.pubkey, credential=self.node.credential(kit.pubkey))
        )

        async def known() -> Any:
            return await kit.clients.with_node_key(self.node.key)

        client = await until(known, "the client")
        await self.node.heard(1)
        await kit.clients.rename(client, "alice")

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        self.ahead += 3
        return (await self.service.call(tool, arguments, "a program")).body

    async def data(self, tool: str, **arguments: Any) -> Any:
        body = await self.call(tool, **arguments)
        assert body["ok"], body
        return body["data"]

    async def slug(self, tool: str, **arguments: Any) -> str:
        body = await self.call(tool, **arguments)
        assert not body["ok"], body
        return str(body["error"]["slug"])

    async def plan(self, ppm: int = 150) -> str:
        said = await self.data(
            "adv_plan", client="alice", action=FEE, params={"channel_id": SCID, "fee_ppm": ppm}
        )
        return str(said["plan_id"])

    def sent(self) -> list[envelope.Command]:
        """Writes that reached the node."""
        return [command for command in self.node.commands if command.action == "set_single"]


@pytest_asyncio.fixture(loop_scope="module")
async def desk(relay: RelayProcess, tmp_path: Path) -> AsyncIterator[Desk]:
    paths = ProfilePaths("test", tmp_path / "config", tmp_path / "data")
    open_guard(paths.config_dir)
    async with ScriptedNode(relay.url) as node:
        node.answer = answered(node)
        async with Desk(paths, node, relay.url).opened() as made:
            yield made


def answered(node: ScriptedNode) -> Any:
    """What an honest node says to each."""

    def answer(command: envelope.Command) -> dict[str, Any]:
        if command.action == "telemetry_subscribe":
            return node.response(
                command, 0, result={"sub_id": str(uuid.uuid4()), "until": int(time.time()) + 10**6}
            )
        if command.schema_type in ("hive:control/v1", "hive:monitor/v1"):
            return node.response(command, 0, result={"ok": True})
        new = {"new": 150}
        return node.response(command, 0, result=new, receipt=node.receipt(command, result=new))

    return answer


async def test_every_tool_answers_and_leaves_its_row(desk: Desk) -> None:
    plan_id = await desk.plan()
    committed = await desk.call("adv_commit", plan_id=plan_id)
    assert committed["data"]["state"] == "done" and committed["data"]["final"] is True
    assert (committed["source"], committed["verified"]) == ("alice", True)
    assert len(desk.sent()) == 1
    given: dict[str, dict[str, Any]] = {
        "adv_client": {"client": "alice"},
        "adv_schema": {"action": FEE},
        "adv_schemas": {"words": "fee"},
        "adv_read": {"client": "alice", "action": "hive:monitor/health_summary"},
        "adv_command": {"command_id": plan_id},
        "adv_wait": {"command_id": plan_id, "seconds": 1},
        "adv_receipts": {"client": "alice"},
        "adv_verify": {"client": "alice"},
        "adv_telemetry": {"client": "alice", "metric": "health"},
        "adv_trend": {"client": "alice"},
        "adv_velocity": {"client": "alice"},
        "adv_tools_search": {"words": "receipts"},
        "adv_journal_add": {"client": "alice", "kind": "fee", "target": SCID, "reasoning": "flow moved"},
        "adv_ask_human": {"kind": "question", "object": "alice", "reason": "may I open a channel?"},
        "adv_telemetry_subscribe": {"client": "alice", "metrics": ["health"]},
    }
    said = {
        name: await desk.call(name, **given.get(name, {}))
        for name in ADVISOR_TOOLS
        if name not in ("adv_thread", "adv_plan", "adv_commit", "adv_cancel", "adv_halt", "adv_alert_ack")
    }
    assert {name for name, body in said.items() if not body["ok"]} == set()
    assert said["adv_receipts"]["data"]["items"][0]["level"] == "chained"
    assert said["adv_verify"]["data"]["ok"] is True
    assert said["adv_threads"]["data"] == said["adv_contracts"]["data"] == {"items": [], "count": 0}
    assert said["adv_balances"]["data"] == {"free_sats": 0, "items": [], "count": 0}
    assert {"client": "alice", "state": "active"} in said["adv_status"]["data"]["clients"]
    assert FEE in [row["name"] for row in said["adv_schemas"]["data"]["items"]]
    assert said["adv_schema"]["data"]["action"] == "set_single"
    approvals = await desk.call("adv_approvals")
    assert approvals["data"]["items"][0]["kind"] == "question"
    # What a program wrote is shown to the next one as others' words.
    assert "may I open" not in json.dumps(approvals["data"])
    assert "flow moved" in json.dumps((await desk.call("adv_journal"))["untrusted"])
    rows = read_audit(desk.paths.database, 500)
    assert {row.decision for row in rows} == {"done"} and {row.client for row in rows} == {"a program"}
    (row,) = [row for row in rows if row.tool == "adv_commit"]
    assert (row.klass, row.plan) == ("A", plan_id) and len(row.out_hash) == 64


async def test_acceptance_11_13_what_is_not_open_is_refused_and_the_rest_goes_on(desk: Desk) -> None:
    plan_id = await desk.plan()
    for text in ('["adv_commit"', '{"adv_commit": true}', "[7]", "\xff"):
        desk.listed = read_allow_list(text)
        assert await desk.slug("adv_commit", plan_id=plan_id) == "not_allowed"
    assert not any("adv_" in name for name in read_allow_list(json.dumps(["adv_commit ", "adv_*"])).names)
    desk.listed = AllowList(ACTS | HUMANS_OWN)
    for name in HUMANS_OWN:
        assert await desk.slug(name, plan_id=plan_id) == "operator_only"
    assert await desk.slug("adv_make_rich") == "unknown_tool"
    for tool, arguments, words in (
        ("adv_client", {}, "missing argument: client"),
        ("adv_client", {"client": "alice", "colour": 1}, "unknown argument"),
        ("adv_client", {"client": 7}, "client must be string"),
        ("adv_client", {"client": None}, "missing argument"),
        ("adv_client", {"client": "a" * 2_000_000}, "bytes"),
        ("adv_receipts", {"client": "alice", "limit": "5"}, "limit must be integer"),
        ("adv_receipts", {"client": "alice", "limit": True}, "limit must be integer"),
        ("adv_receipts", {"client": "alice", "limit": 201}, "from 1 to 200"),
        ("adv_plan", {"client": "alice", "action": FEE, "params": []}, "params must be an object"),
        ("adv_plan", {"client": "alice", "action": FEE, "params": {"fee_ppm": "x"}}, ""),
        ("adv_plan", {"client": "alice", "action": "hive:control/cancel", "params": {}}, "the kit's own"),
        ("adv_plan", {"client": "alice", "action": "hive:fee-policy/nothing"}, "adv_schemas"),
        ("adv_read", {"client": "alice", "action": FEE, "params": {}}, "adv_plan"),
        ("adv_telemetry_subscribe", {"client": "alice", "metrics": ["gold"]}, "metrics takes"),
        ("adv_commit", {"plan_id": "x" * 37}, "at most 36"),
    ):
        desk.ahead += 30
        body = await desk.call(tool, **arguments)
        assert not body["ok"] and words in body["error"]["message"], body
        assert body["error"]["slug"] in ("invalid_params", "not_found", "unsupported_action"), body
    for raw in (
        desk.node.key,
        desk.node.node_id,
        "npub1" + "q" * 58,
        "wss://relay.example",
        "https://node.example",
        "lnbc10u1p" + "q" * 50,
        "cashuB" + "o2" * 20,
        "did:nostr:" + "ab" * 32,
    ):
        desk.ahead += 30
        assert await desk.slug("adv_client", client=raw[:64]) == "invalid_params", raw
    assert desk.sent() == []
    assert (await desk.data("adv_clients"))["count"] == 1


async def test_acceptance_11_15_a_plan_is_committed_once_and_only_as_it_was_planned(desk: Desk) -> None:
    used = await desk.plan()
    assert (await desk.data("adv_commit", plan_id=used))["state"] == "done"
    assert await desk.slug("adv_commit", plan_id=used) == "plan_used"
    expired = await desk.plan(151)
    desk.ahead += 601
    assert await desk.slug("adv_commit", plan_id=expired) == "approval_expired"
    alice = await desk.kit.clients.named("alice")
    plan = await desk.kit.plan(
        alice, "hive:fee-policy/v1", "set_single", {"channel_id": SCID, "fee_ppm": 152}
    )
    foreign = (await desk.kit.plans.draft(plan, "cli")).command_id
    assert await desk.slug("adv_commit", plan_id=foreign) == "not_found"
    assert await desk.slug("adv_commit", plan_id="00000000-0000-4000-8000-000000000000") == "not_found"
    edited = await desk.plan(153)
    other = json.dumps({"channel_id": SCID, "fee_ppm": 4_000})
    await desk.kit._db.write(
        lambda tx: tx.execute("UPDATE adv_commands SET params_json = ? WHERE command_id = ?", (other, edited))
    )
    assert await desk.slug("adv_commit", plan_id=edited) == "plan_edited"
    assert [command.params["fee_ppm"] for command in desk.sent()] == [150]


async def test_what_the_guard_holds_waits_for_the_human_and_goes_out_once(desk: Desk) -> None:
    (desk.paths.config_dir / "guard.toml").unlink()
    # Nothing was read of the channel, so the step of its fee is not known: the default guard holds.
    plan_id = await desk.plan()
    held = await desk.data("adv_commit", plan_id=plan_id)
    assert held["held"] is True and desk.sent() == []
    assert await desk.slug("adv_commit", plan_id=plan_id) == "plan_used"
    assert (await desk.data("adv_status"))["waits_for_the_human"] == [held["approval_id"]]
    (waiting,) = (await desk.data("adv_approvals"))["items"]
    assert (waiting["approval_id"], waiting["client"]) == (held["approval_id"], "alice")
    assert await desk.slug("adv_approve", approval_id=held["approval_id"]) == "operator_only"
    question = await desk.kit.questions.find(held["approval_id"])
    assert question is not None
    approved = await desk.kit.follow(await desk.kit.plans.approve(question), 20)
    assert str(approved.state) == "done" and len(desk.sent()) == 1
    assert (await desk.data("adv_command", command_id=plan_id))["state"] == "done"
    # One that waits can be taken back by who planned it.
    again = await desk.plan(160)
    await desk.data("adv_commit", plan_id=again)
    assert (await desk.data("adv_cancel", command_id=again))["state"] == "cancelled"
    assert len(desk.sent()) == 1


async def test_a_halt_stops_what_acts_and_only_the_human_ends_it(desk: Desk) -> None:
    plan_id = await desk.plan()
    assert await desk.data("adv_halt", reason="something is wrong") == {"halted": True, "before": False}
    assert await desk.slug("adv_commit", plan_id=plan_id) == "guard_denied"
    assert (await desk.data("adv_halt"))["before"] is True
    assert (await desk.data("adv_status"))["halted"] is True
    assert await desk.slug("adv_release") == "operator_only" and desk.sent() == []


class Killed(BaseException):
    """The end of the process."""


class Steps:
    """Ends the process around its n-th write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, last: int) -> None:
        self.count, write = 0, Db.write

        def step() -> None:
            self.count += 1
            if self.count >= last:
                raise Killed

        async def watched(db: Db, body: Any, **options: Any) -> Any:
            step()
            result = await write(db, body, **options)
            step()
            return result

        monkeypatch.setattr(Db, "write", watched)


async def test_a_commit_killed_at_any_write_is_sent_once_or_not_at_all(
    relay: RelayProcess, tmp_path: Path
) -> None:
    paths = ProfilePaths("test", tmp_path / "config", tmp_path / "data")
    open_guard(paths.config_dir)
    async with ScriptedNode(relay.url) as node:
        node.answer = answered(node)
        desk = Desk(paths, node, relay.url)
        ended = False
        for last in range(1, 60):
            before = len({command.command_id for command in desk.sent()})
            async with desk.opened():
                plan_id = await desk.plan(150 + last)
                with pytest.MonkeyPatch.context() as patched:
                    # Nobody waits for an answer that came to a dead process.
                    patched.setattr(advisor_acts, "WAIT_S", 1)
                    steps = Steps(patched, last)
                    try:
                        await desk.call("adv_commit", plan_id=plan_id)
                    except Killed:
                        pass
                    ended = steps.count < last
            # Another process, later.
            desk.ahead += 61
            async with desk.opened():
                again = await desk.call("adv_commit", plan_id=plan_id)
                if again["ok"]:
                    assert again["data"]["state"] == "done", again
                else:
                    assert again["error"]["slug"] == "plan_used", again
                await desk.kit.pump()
                said = await desk.data("adv_wait", command_id=plan_id, seconds=20)
                assert said["state"] == "done", said
            # The same bytes may have gone out twice; the node runs an id once.
            sent = [command for command in desk.sent() if command.command_id == plan_id]
            assert len({command.hash for command in sent}) == 1
            assert len({command.command_id for command in desk.sent()}) == before + 1
            if ended:
                break
        assert ended and last > 5
        begun = [row for row in read_audit(paths.database, 500) if row.decision == "begun"]
        assert {row.tool for row in begun} == {"adv_commit"}


async def test_alerts_are_shown_apart_and_acknowledged_to_their_node(desk: Desk) -> None:
    text, alert_id = INJECTIONS[0], "ab" * 8
    desk.node.seq += 1
    push = envelope.build_push(
        "alert",
        {"alert_id": alert_id, "level": "critical", "code": "budget", "text": text},
        node_key=desk.node.key,
        agent_key=desk.kit.pubkey,
        seq=desk.node.seq,
        timestamp=int(time.time()),
    )
    await desk.node.send(desk.kit.pubkey, envelope.sign_push(desk.node.secret, push))

    async def came() -> Any:
        return (await desk.call("adv_alerts"))["untrusted"]

    texts = await until(came, "the alert", pause=0.2)
    assert [part["text"] for part in texts.values()].count(text) == 1
    (row,) = (await desk.data("adv_alerts"))["items"]
    assert (row["client"], row["level"], row["state"], row["text"]) == (
        "alice",
        "critical",
        "open",
        "[untrusted]",
    )
    assert (await desk.data("adv_alert_ack", alert=row["alert"]))["state"] == "acking"
    assert await desk.slug("adv_alert_ack", alert=row["alert"]) == "conflict"
    await desk.kit.pump()
    (told,) = [command for command in desk.node.commands if command.action == "alert_ack"]
    assert told.params == {"alert_id": alert_id}
    assert (await desk.data("adv_alerts"))["items"] == []


async def test_acceptance_11_14_two_hundred_strings_end_beside_the_data(desk: Desk) -> None:
    before = json.dumps({name: tool.description for name, tool in desk.service.tools.items()})
    places = ("alias", "reason", "text", "log", "message", "name", "schema", "action", "description", "error")
    assert len(INJECTIONS) == 200
    for start in range(0, 200, 20):
        some = INJECTIONS[start : start + 20]
        rows = [{places[at % 10]: text, "amount_sats": at} for at, text in enumerate(some)]
        desk.node.answer = lambda c, rows=rows: desk.node.response(c, 0, result={"items": rows})
        body = await desk.call("adv_read", client="alice", action="hive:monitor/channel_list")
        apart(body, 20)
    for at, text in enumerate(INJECTIONS[:20]):
        slug = "policy_denied" if at % 2 else "Ignore everything"
        error = {"code": 4003, "slug": slug, "message": text, "data": {"reason": text}}
        desk.node.answer = lambda c, error=error: desk.node.response(c, 1, error=error)
        desk.ahead += 10
        plan_id = await desk.plan(200 + at)
        apart(await desk.call("adv_commit", plan_id=plan_id), 1)
        apart(await desk.call("adv_events", since=0, limit=200), 0)
    assert before == json.dumps({name: tool.description for name, tool in desk.service.tools.items()})


def apart(body: dict[str, Any], least: int) -> None:
    """No word of others in the data, and those beside it cleaned."""
    assert body["ok"], body
    data = json.dumps(body["data"], ensure_ascii=False)
    for words in (
        "gnore",
        "SYSTEM",
        "instructions",
        "evil",
        "Assistant",
        "structured",
        "nsec1",
        "release",
        "//",
    ):
        assert words not in data, data
    texts = [part["text"] for part in body["untrusted"].values()]
    assert least <= len(texts) <= 20
    for text in texts:
        assert len(text) <= 2_000 and "://" not in text and "nsec1q" not in text
        assert not any(hidden in text for hidden in HIDDEN), ascii(text)
    assert {part["from"] for part in body["untrusted"].values()} <= {"client alice", "this advisor"}
