"""Tools of the engine for programs of this user and of others (11 §3, §11, §18.13, §18.15)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from approver_shell import PIN
from engine_world import EngineWorld
from hive_advisor.advisor import Advisor
from hive_advisor.cli import output
from hive_advisor.cli.far_tools import FarTools
from hive_advisor.domain.engine_frames import Answer, Call, Called, Open, Output, Refused, Tools
from hive_advisor.local_socket import Peer, connect
from hive_advisor.storage.audit_store import read_audit
from hive_devnet.world import AdvisorFailed
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_client import McpProgram, allow, mcp_program
from plan_world import SCID
from terminal import at_terminal

FEE = {"client": "alice", "action": "hive:fee-policy/set_single"}
NOBODY = 65_534


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[EngineWorld]:
    yield EngineWorld(tmp_path)


def configured(world: EngineWorld, text: str) -> None:
    world.paths.make()
    world.paths.config.write_text(f"[mcp]\n{text}\n")


def far(world: EngineWorld, path: Path | None = None, role: Any = "advisor") -> FarTools:
    return FarTools(path or world.paths.mcp_socket, world.paths.database, Open(role, None))


async def test_acceptance_11_15_a_human_approves_with_the_pin_while_a_program_works(
    world: EngineWorld,
) -> None:
    allow(world.shell, json.dumps(["adv_commit", "adv_approve"]))
    async with world.serving() as kit:
        await world.read(kit)
        # Its server has neither passphrase nor key.
        async with mcp_program(world.shell, "--role", "advisor") as program:
            tools = await program.tools()
            assert "adv_commit" in tools and "adv_approve" not in tools
            plan = await program.call("adv_plan", **FEE, params={"channel_id": SCID, "fee_ppm": 210})
            done = await program.call("adv_commit", plan_id=plan["data"]["plan_id"])
            assert done["data"]["state"] == "done" and sum(world.runs.values()) == 1
            bold = await program.call("adv_plan", **FEE, params={"channel_id": SCID, "fee_ppm": 900})
            waits = await program.call("adv_commit", plan_id=bold["data"]["plan_id"])
            name = waits["data"]["approval_id"]
            assert waits["data"]["held"] is True
            for tool in ("adv_approve", "adv_release", "adv_confirm"):
                error = await program.refused(tool, approval_id=name, pin=PIN)
                assert error["slug"] == "operator_only"
            approved = await at_terminal(
                world.shell, "approvals", "approve", name, answers={"PIN to approve": PIN}
            )
            assert approved["state"] == "done" and world.fees[SCID][1] == 900
            told = await program.call("adv_command", command_id=bold["data"]["plan_id"])
            assert told["data"]["state"] == "done"
            huge = await program.refused("adv_plan", **FEE, params={"x": "y" * 2_000_000})
            assert huge["slug"] == "too_large"
            assert (await program.call("adv_clients"))["data"]["items"][0]["client"] == "alice"
            prompts = {prompt.name for prompt in (await program.session.list_prompts()).prompts}
            assert "cycle" in prompts and "adv_approve is of class X" in program.errors.read_text()
        rows = read_audit(world.paths.database, 500)
        assert {row.tool for row in rows} >= {"adv_commit", "adv_plan", "adv_approve"}
        assert all(not row.client.startswith("uid ") for row in rows)


async def test_the_role_operator_is_served_beside_the_agent_too(world: EngineWorld) -> None:
    world.paths.make()
    world.paths.nodes.write_text('[nodes.gone]\nsocket = "gone.sock"\n')
    async with world.serving():
        tools = far(world, role=None)
        assert await tools.open() and tools.role == "operator" and "fleet_health" in tools.tools
        said = await tools.call("node_info", {"node": "gone"}, "bot")
        assert said.failed and said.body["error"]["slug"] == "transport_unavailable"
        await tools.close()
    assert read_audit(world.paths.database, 5)[0].tool == "node_info"


async def test_acceptance_11_15_nothing_but_tools_goes_over_the_socket(world: EngineWorld) -> None:
    async with world.serving() as kit:
        await world.read(kit)
        done = await kit.execute(await world.plan(kit, 900), wait_s=0, origin="lib")
        name = (await kit.questions.of_command(done.command_id)).approval_id
        approve = world.invoke("approvals", "approve", interactive=True, approval_id=name, node=None)
        for first in (approve, Answer(PIN), Call(1, "adv_status", {}, "x")):
            said = await world.told(first, world.paths.mcp_socket)
            assert isinstance(said, Refused) and said.slug == "unauthorized", said
        for garbage in (b"\xff" * 16, b"\x00\x00\x00\x02{}", b'\x00\x00\x00\x10{"frame":"open"}'):
            said = await world.told(garbage, world.paths.mcp_socket)
            assert isinstance(said, Refused) and said.code == -32602
        said = await world.told(Open("advisor", ["market"]), world.paths.mcp_socket)
        assert isinstance(said, Refused) and "market" in said.message
        # Also not after tools were asked for, and not while a call is answered.
        channel = await world.channel(world.paths.mcp_socket)
        await channel.send(Open("advisor", None))
        tools = await channel.receive()
        assert isinstance(tools, Tools) and "adv_commit" not in tools.tools
        for number, tool in enumerate(("adv_approve", "adv_commit", "approvals", "")):
            given = {"approval_id": name} if tool != "adv_commit" else {"plan_id": done.command_id}
            await channel.send(Call(number, tool, given, "x"))
            said = await channel.receive()
            assert isinstance(said, Called) and said.failed and said.number == number, said
        await channel.send(approve)
        said = await channel.receive()
        assert isinstance(said, Refused) and await channel.receive() is None
        assert (await kit.questions.find(name)).state == "waiting" and not world.runs


@pytest.mark.parametrize(
    ("uids", "peer", "served"),
    [(None, 0, True), (None, 1, False), ("[{other}]", 1, True), ("[{other}]", 0, False), ("[]", 0, False)],
)
async def test_a_uid_is_served_if_config_names_it(
    world: EngineWorld, uids: str | None, peer: int, served: bool
) -> None:
    """`peer` 0 is the engine's own user, 1 another one; without mcp.uids only the own one is served."""
    own = os.geteuid()
    if uids is not None:
        configured(world, f"uids = {uids.format(other=own + 1)}")
    async with world.serving(peer=lambda _connection: Peer(1, own + peer, 0)):
        tools = far(world)
        if served:
            assert await tools.open() and "adv_status" in tools.tools
            answer = await tools.call("adv_clients", {}, "bot")
            assert not answer.failed
            who = read_audit(world.paths.database, 1)[0].client
            assert who == ("bot" if peer == 0 else f"uid {own + 1} bot")
        else:
            from hive_shared.errors import Unauthorized

            with pytest.raises(Unauthorized, match=f"uid {own + peer} is not in mcp.uids"):
                await tools.open()
        await tools.close()


AS_NOBODY = """
import difflib, os, sys, traceback
# What a Python in root's home imports later is out of nobody's reach.
import anyio._backends._asyncio, mcp.server.stdio, mcp_types
import hive_advisor.cli.far_tools, hive_advisor.cli.mcp, hive_advisor.cli.tool_sets
import hive_advisor.advisor, hive_advisor.cli.approvals, hive_advisor.identity, hive_advisor.services.receipts
from hive_advisor.cli.main import main
from hive_advisor.mcp_server import require_library
require_library()
os.setgroups([]); os.setgid(65534); os.setuid(65534)
main()
"""


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that everybody may pass through, with a home for nobody."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o711)
        (place / "home").mkdir()
        os.chown(place / "home", NOBODY, NOBODY)
        yield place


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
async def test_acceptance_11_15_a_program_of_another_user_gets_tools_and_nothing_else(
    world: EngineWorld, open_place: Path
) -> None:
    path, home = open_place / "mcp.sock", str(open_place / "home")
    configured(world, f'uids = [{NOBODY}]\ngroup = {NOBODY}\nsocket = "{path}"')
    allow(world.shell, '["adv_commit"]')
    env = {**os.environ, "HOME": home, "XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home}
    server = StdioServerParameters(
        command=sys.executable,
        args=["-c", AS_NOBODY, "mcp", "serve", "--role", "advisor", "--socket", str(path)],
        env=env,
    )
    async with world.serving() as kit:
        await world.read(kit)
        assert path.stat().st_mode & 0o777 == 0o660 and path.stat().st_gid == NOBODY
        assert world.paths.control.stat().st_mode & 0o777 == 0o600
        errors = world.shell.directory / "mcp-stderr.txt"
        with errors.open("w+") as log:
            async with (
                stdio_client(server, errlog=log) as (read, write),
                ClientSession(read, write) as session,
            ):
                await session.initialize()
                program = McpProgram(session, errors)
                plan = await program.call("adv_plan", **FEE, params={"channel_id": SCID, "fee_ppm": 210})
                done = await program.call("adv_commit", plan_id=plan["data"]["plan_id"])
                assert done["data"]["state"] == "done" and sum(world.runs.values()) == 1
                error = await program.refused("adv_approve", approval_id="5f1c", pin=PIN)
                assert error["slug"] == "operator_only"
        row = read_audit(world.paths.database, 1)[0]
        assert (row.tool, row.slug) == ("adv_approve", "operator_only")
        assert row.client.startswith(f"uid {NOBODY} ")
        # Its own hive-advisor sees no profile of ours, so it approves nothing.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", AS_NOBODY, "--json", "approvals", "list"),
            env=env,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert (process.returncode, json.loads(out)["error"]["slug"]) == (output.NOT_FOUND, "not_found")


async def test_an_engine_that_ends_is_said_and_one_that_is_back_is_found(world: EngineWorld) -> None:
    tools = far(world)
    async with world.open() as kit:
        async with world.engine(kit):
            assert await tools.open()
            name = (await kit.execute(await world.plan(kit, 900), wait_s=0, origin="lib")).command_id
            given = {"command_id": name, "seconds": 50}
            asked = asyncio.create_task(tools.call("adv_wait", given, "bot"))
            assert not (await tools.call("adv_clients", {}, "bot")).failed
        said = await asked
        assert said.failed and said.body["error"]["slug"] == "engine_ended", said
        said = await tools.call("adv_clients", {}, "bot")
        assert "no engine listens" in said.body["error"]["message"]
        async with world.engine(kit):
            assert not (await tools.call("adv_clients", {}, "bot")).failed
        await tools.close()


async def test_programs_cannot_keep_the_human_out(world: EngineWorld) -> None:
    async with world.serving():
        idle = [await world.channel(world.paths.mcp_socket) for _ in range(128)]
        more = await connect(world.paths.mcp_socket)
        assert more is not None
        said = await more.receive()
        assert isinstance(said, Refused) and said.slug == "busy"
        said = await world.told(world.invoke("status"))
        assert isinstance(said, Output) and '"ok": true' in said.text
        for channel in idle:
            channel.abort()


async def test_a_socket_for_others_wants_a_place_that_is_ours(world: EngineWorld, tmp_path: Path) -> None:
    from hive_shared.errors import InvalidParams

    place, anybodys = tmp_path / "place", tmp_path / "anybodys"
    anybodys.mkdir()
    anybodys.chmod(0o777)
    for text, words in (
        (f'socket = "{place}/mcp.sock"', "mcp.socket: .* cannot be used"),
        (f'socket = "{anybodys}/mcp.sock"', "nobody else may write"),
        ('group = "no-such-group-here"', "there is no group 'no-such-group-here'"),
    ):
        configured(world, text)
        with pytest.raises(InvalidParams, match=words):
            async with world.serving():
                pass
        assert await connect(world.paths.control) is None
    error = await refused(world, "mcp", "serve", "--socket", str(place / "mcp.sock"))
    assert error.code == output.TRANSPORT and "no engine listens" in error.stderr


async def refused(world: EngineWorld, *words: str) -> AdvisorFailed:
    process = await world.started(*words)
    out, err = await process.communicate()
    assert process.returncode is not None and out == b""
    return AdvisorFailed(process.returncode, {}, err.decode())


async def test_the_server_that_holds_the_profile_serves_others_too(world: EngineWorld) -> None:
    """No `run` at all: the first program's server is the engine, as the command line finds it."""
    from hive_advisor.identity import write_identity

    passphrase = world.shell.directory / "passphrase"
    world.paths.make()
    write_identity(world.paths.identity, world.identity, passphrase.read_text().strip(), now=1)
    async with world.open():
        pass
    world.shell.env["HIVE_ADVISOR_PASSPHRASE_FILE"] = str(passphrase)
    world.shell.env["HIVE_ADVISOR_RELAYS"] = "ws://127.0.0.1:9"
    async with mcp_program(world.shell, "--role", "advisor") as first:
        assert (await first.call("adv_clients"))["data"]["count"] == 1
        world.shell.env.pop("HIVE_ADVISOR_PASSPHRASE_FILE")
        second = far(world)
        assert await second.open() and not (await second.call("adv_clients", {}, "bot")).failed
        await second.close()
        assert (await world.shell.run("client", "list"))["count"] == 1


async def test_a_program_that_is_killed_takes_its_calls_with_it(world: EngineWorld) -> None:
    async with world.serving() as kit:
        server = await world.started(*("mcp", "serve", "--role", "advisor"), stdin=asyncio.subprocess.PIPE)
        assert server.stdin is not None and server.stdout is not None
        hello = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "x", "version": "1"},
        }
        server.stdin.write(
            json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}).encode() + b"\n"
        )
        assert json.loads(await server.stdout.readline())["id"] == 1
        server.send_signal(signal.SIGKILL)
        await server.communicate()
        await rests(kit)
        tools = far(world)
        assert await tools.open() and not (await tools.call("adv_clients", {}, "bot")).failed
        await tools.close()


async def rests(kit: Advisor) -> None:
    assert (await kit.brief())["open_commands"] == []
