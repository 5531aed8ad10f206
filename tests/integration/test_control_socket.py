"""Commands of other processes in the engine that holds the profile (11 §3, §18.12, §18.15, §18.18)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from approver_shell import PIN
from engine_world import FEE, EngineWorld
from hive_advisor.advisor import Advisor
from hive_advisor.cli import output
from hive_advisor.cli.agent import Ending, leaving
from hive_advisor.cli.context import Settings
from hive_advisor.cli.far_console import FarConsole
from hive_advisor.cli.forwarding import knock
from hive_advisor.cli.output import Terminal
from hive_advisor.domain.command_machine import CommandState
from hive_advisor.domain.engine_frames import Answer, Ask, Cancel, End, Open, Output, Refused, Welcome
from hive_advisor.identity import write_identity
from hive_advisor.local_socket import Channel, Peer, connect, listening, runtime_dir
from hive_devnet.world import AdvisorFailed, until
from hive_shared.errors import Conflict, InvalidParams, VersionIncompatible
from terminal import at_terminal

HERE = Path(__file__).parents[1]


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[EngineWorld]:
    yield EngineWorld(tmp_path)


async def fails(world: EngineWorld, *words: str) -> AdvisorFailed:
    with pytest.raises(AdvisorFailed) as ended:
        await world.shell.run(*words)
    return ended.value


async def held(world: EngineWorld, kit: Advisor, ppm: int = 900) -> str:
    """A command that waits for the human's word."""
    done = await kit.execute(await world.plan(kit, ppm), wait_s=0, origin="lib")
    return str((await kit.questions.of_command(done.command_id)).approval_id)


async def test_acceptance_11_18_a_second_engine_is_refused_and_its_commands_run_in_the_first(
    world: EngineWorld,
) -> None:
    async with world.serving() as kit:
        await world.read(kit)
        # Without passphrase: the key stays where it is.
        done, listed, refused, missing = await asyncio.gather(
            world.shell.run("send", "alice", *FEE, "fee_ppm=210", "--note", "two at once"),
            world.shell.run("client", "list"),
            fails(world, "run"),
            fails(world, "client", "show", "nobody"),
        )
        assert (done["state"], done["client"]) == ("done", "alice") and set(world.runs.values()) == {1}
        assert [item["alias"] for item in listed["items"]] == ["alice"]
        assert refused.code == output.REFUSED and f"process {os.getpid()}" in str(refused)
        assert "needs it alone" in str(refused)
        assert (missing.code, missing.error["slug"]) == (output.NOT_FOUND, "not_found")
        (kept,) = [row for row in await kit.commands.listed(None, None, 9) if row.action == "set_single"]
        assert (kept.command_id, kept.note, kept.origin) == (done["command_id"], "two at once", "cli")
        assert (await world.shell.run("run", "--once"))["quarantined"] == 0


async def test_what_needs_the_profile_alone_says_by_what_it_is_held(
    world: EngineWorld, tmp_path: Path
) -> None:
    """Restoring, and a new key: the engine would go on with the old ones."""
    world.shell.env["HIVE_ADVISOR_PASSPHRASE_FILE"] = str(world.shell.directory / "passphrase")
    world.paths.make()
    write_identity(world.paths.identity, world.identity, "correct horse battery staple", now=1)
    file = str(tmp_path / "profile.hive")
    async with world.serving():
        assert (await world.shell.run("backup", "create", file))["file"] == file
        before = world.paths.identity.read_bytes()
        for words in (("backup", "restore", file, "--apply", "--replace"), ("--yes", "identity", "rotate")):
            error = await fails(world, *words)
            assert error.code == output.REFUSED and f"process {os.getpid()}" in str(error), words
        assert world.paths.identity.read_bytes() == before


async def test_what_is_piped_or_named_is_read_where_it_was_given(world: EngineWorld, tmp_path: Path) -> None:
    params = {"channel_id": "103x1x0", "fee_ppm": 205}
    (tmp_path / "params.json").write_text(json.dumps(params))
    async with world.serving() as kit:
        await world.read(kit)
        process = await world.started(
            *("--json", "send", "alice", FEE[0], "--params", "-", "--dry-run"), stdin=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate(json.dumps(params).encode())
        assert (process.returncode, err) == (0, b""), err
        assert params.items() <= json.loads(out)["data"]["params"].items()
        process = await world.started(
            *("--json", "send", "alice", FEE[0], "--params", "params.json", "--dry-run"), cwd=tmp_path
        )
        out, _ = await process.communicate()
        assert params.items() <= json.loads(out)["data"]["params"].items()
        process = await world.started("receipt", "export", "alice", "receipts.json", cwd=tmp_path)
        await process.communicate()
        assert json.loads((tmp_path / "receipts.json").read_text())["receipts"] == []
        process = await world.started("client", "show")
        _, err = await process.communicate()
        assert (process.returncode, b"Missing argument" in err) == (output.USAGE, True)


async def test_acceptance_11_15_approving_takes_a_terminal_and_the_pin_at_the_other_end(
    world: EngineWorld,
) -> None:
    async with world.serving() as kit:
        await world.read(kit)
        name = await held(world, kit)
        without = await fails(world, "approvals", "approve", name)
        assert without.code == output.PENDING and "terminal" in str(without)
        with pytest.raises(AdvisorFailed) as wrong:
            await at_terminal(world.shell, "approvals", "approve", name, answers={"PIN to approve": "000000"})
        assert wrong.value.code == output.LOCKED and "4 tries left" in str(wrong.value)
        with pytest.raises(AdvisorFailed) as broken_off:
            await at_terminal(world.shell, "approvals", "approve", name, answers={"PIN to approve": "\x03"})
        assert broken_off.value.code == output.INTERRUPTED
        assert not world.runs and (await kit.questions.find(name)).state == "waiting"
        done = await at_terminal(world.shell, "approvals", "approve", name, answers={"PIN to approve": PIN})
        assert done["state"] == "done" and set(world.runs.values()) == {1}
        # A PIN that was changed since: the engine knows the old one only.
        again = await held(world, kit, 3_000)
        world.paths.identity.write_text("{}")
        changed = await fails_at_terminal(world, "approvals", "approve", again)
        assert changed.code == output.REFUSED and "start that again" in str(changed)
        assert sum(world.runs.values()) == 1


async def fails_at_terminal(world: EngineWorld, *words: str) -> AdvisorFailed:
    with pytest.raises(AdvisorFailed) as ended:
        await at_terminal(world.shell, *words, answers={})
    return ended.value


async def test_acceptance_11_15_another_uid_and_a_forged_end_approve_nothing(world: EngineWorld) -> None:
    uid = os.geteuid() + 1
    async with world.open() as kit:
        name = await held(world, kit)
        async with world.engine(kit, peer=lambda _connection: Peer(1, uid, uid)):
            channel = await connect(world.paths.control)
            assert channel is not None
            said = await channel.receive()
            assert isinstance(said, Refused) and f"uid {uid}" in said.message
            assert await channel.receive() is None
            error = await fails(world, "approvals", "approve", name)
            assert error.code == output.PENDING and "terminal" in str(error)
            error = await fails(world, "client", "list")
            assert (error.code, error.error["slug"]) == (output.REFUSED, "unauthorized")
        async with world.engine(kit):
            # A client that says a human sits there, and has no PIN.
            channel = await world.channel()
            await channel.send(
                world.invoke("approvals", "approve", interactive=True, approval_id=name, node=None)
            )
            asked = await shown_until(channel, Ask)
            assert asked.how == "hidden" and asked.question.startswith("PIN to approve")
            await channel.send(Answer(""))
            assert (await shown_until(channel, End)).code == output.LOCKED
        assert not world.runs and (await kit.questions.find(name)).state == "waiting"


async def shown_until(channel: Any, kind: type[Any]) -> Any:
    """The first frame of a kind; before it only output comes."""
    while not isinstance(frame := await asyncio.wait_for(channel.receive(), 60), kind):
        assert isinstance(frame, Output), frame
    return frame


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
async def test_acceptance_11_15_a_process_of_another_user_is_refused_although_it_may_open_the_socket(
    world: EngineWorld,
) -> None:
    """The kernel's word on it, not a test's."""
    program = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "os.chdir(sys.argv[1]); os.setgid(65534); os.setuid(65534)\n"
        "s.connect('control.sock')\n"
        "sys.stdout.write(s.recv(4096)[4:].decode())\n"
    )
    async with world.serving():
        world.paths.control.chmod(0o666)
        world.paths.data_dir.chmod(0o711)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, str(world.paths.data_dir)), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        said = json.loads(out)
        assert (
            said["frame"] == "refused" and said["slug"] == "unauthorized" and "uid 65534" in said["message"]
        )


async def test_one_that_hangs_at_a_prompt_holds_nobody_up_and_its_death_is_ctrl_c(world: EngineWorld) -> None:
    async with world.serving() as kit:
        name = await held(world, kit)
        hung = await world.channel()
        await hung.send(world.invoke("approvals", "approve", interactive=True, approval_id=name, node=None))
        await shown_until(hung, Ask)
        idle = [await world.channel() for _ in range(50)]
        assert (await world.shell.run("client", "list"))["count"] == 1
        hung.abort()
        await hung_up(world)
        assert (await kit.questions.find(name)).state == "waiting" and not world.runs
        for channel in idle:
            channel.abort()


async def hung_up(world: EngineWorld) -> None:
    """The engine is at rest: it answers, and a round of it ends."""
    channel = await world.channel()
    await channel.send(world.invoke("status"))
    assert (await shown_until(channel, End)).code == output.OK
    channel.abort()


async def test_acceptance_11_12_a_client_that_is_killed_or_breaks_off_leaves_what_ctrl_c_leaves(
    world: EngineWorld,
) -> None:
    async with world.serving() as kit:
        await world.read(kit)
        world.down = True
        for end, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, output.INTERRUPTED)):
            words = ("--wait", "60", "send", "alice", *FEE, "fee_ppm=210", "--again")
            client = await world.started(*words)

            async def open_ones() -> Any:
                rows = await kit.commands.listed(None, None, 9)
                return [row for row in rows if row.action == "set_single" and row.state == CommandState.SENT]

            (kept,) = await until(open_ones, "the command")
            client.send_signal(end)
            out, err = await client.communicate()
            assert (client.returncode, out) == (code, b"") and b"Traceback" not in err
            await hung_up(world)
            # Recorded, and settled by the engine's own rounds: the same bytes, once.
            world.down = False
            world.now += 50
            await kit.pump()
            assert (await kit.commands.get(kept.command_id)).state == CommandState.DONE
            assert world.runs[kept.command_id] == 1
            world.down = True


ENGINE = """
import asyncio, sys
from pathlib import Path
from engine_world import EngineWorld
from hive_advisor.domain.keyring import Keyring

async def main():
    world = EngineWorld(Path(sys.argv[1]))
    async with world.serving() as kit:
        await world.read(kit)
        world.down = True
        sys.stdout.write("up\\n"); sys.stdout.flush()
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_an_engine_that_is_killed_in_the_middle_is_told_as_what_it_is(world: EngineWorld) -> None:
    path = os.pathsep.join([str(HERE), *sys.path])
    engine = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ENGINE, str(world.shell.directory)),
        env={**os.environ, "PYTHONPATH": path},
        stdout=asyncio.subprocess.PIPE,
    )
    assert engine.stdout is not None
    assert await engine.stdout.readline() == b"up\n"
    client = await world.started("--json", "--wait", "60", "send", "alice", *FEE, "fee_ppm=210")
    database = world.paths.database

    async def sent() -> bool:
        import sqlite3

        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as look:
            rows = look.execute("SELECT state FROM adv_commands WHERE action = 'set_single'").fetchall()
        return rows == [("sent",)]

    await until(sent, "the command")
    engine.kill()
    out, err = await client.communicate()
    await engine.wait()
    body = json.loads(out)
    assert (client.returncode, err) == (output.UNKNOWN, b"")
    assert body["ok"] is False and body["error"]["slug"] == "engine_ended"
    assert "whether it was done is not known" in body["error"]["message"]
    # What it left is no engine: the profile is free, the command still open, its bytes the same.
    assert world.paths.control.is_socket() and await connect(world.paths.control) is None
    left = await fails(world, "client", "list")
    assert "passphrase" in str(left) or left.code == output.NOT_FOUND
    async with world.serving() as kit:
        (kept,) = [row for row in await kit.commands.listed(None, None, 9) if row.action == "set_single"]
        assert kept.state == CommandState.SENT and await world.channel()


async def test_an_engine_that_stops_says_so_to_who_waits(world: EngineWorld) -> None:
    world.now += 1
    async with world.open() as kit:
        name = await held(world, kit)
        async with world.engine(kit) as engine:
            channel = await world.channel()
            await channel.send(
                world.invoke("approvals", "approve", interactive=True, approval_id=name, node=None)
            )
            await shown_until(channel, Ask)
            idle = await world.channel()
            stopping = asyncio.create_task(engine.stop())
            said = await shown_until(channel, Output)
            while "engine_ended" not in said.text:
                said = await shown_until(channel, Output)
            assert (await shown_until(channel, End)).code == output.UNKNOWN
            await stopping
            assert await idle.receive() is None and await connect(world.paths.control) is None
        assert (await kit.questions.find(name)).state == "waiting"


async def test_run_and_what_others_sent_to_it_end_within_the_same_seconds(world: EngineWorld) -> None:
    async with world.open() as kit, world.engine(kit) as engine:
        settings = Settings(world.paths, Terminal(), 5, 5, False, False, None, None, listening=engine)
        channel = await world.channel()
        await channel.send(
            world.invoke("telemetry", "follow", alias="alice", span=None, since=None, after=None)
        )
        await hung_up(world)
        ending = Signal()
        async with leaving(ending, settings):
            ending.asked.set()
            # Told while the rounds still have their time.
            assert (await shown_until(channel, End)).code == output.UNKNOWN
        assert await connect(world.paths.control) is None
        async with leaving(Signal(), settings):
            pass


class Signal(Ending):
    """A signal that the test gives."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()


async def test_one_that_takes_no_output_is_let_go(world: EngineWorld) -> None:
    gone = asyncio.Event()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        console = FarConsole(Channel(reader, writer), False)
        for _ in range(40):
            console.out("x" * 1_000_000)
        await writer.wait_closed()
        gone.set()

    world.paths.make()
    async with await asyncio.start_unix_server(
        accepted, sock=await listening(world.paths.control, 0o600, None)
    ):
        channel = await connect(world.paths.control)
        assert channel is not None
        await asyncio.wait_for(gone.wait(), 60)
        channel.abort()


async def test_what_is_no_command_changes_nothing_and_the_engine_goes_on(world: EngineWorld) -> None:
    world.paths.make()
    world.paths.halt.write_text("{}")
    async with world.serving():
        for garbage, word in (
            (b"GET / HTTP/1.1\r\n\r\n", "a frame of"),
            (b"\xff\xff\xff\xff" + b"x" * 64, "a frame of"),
            (b"\x00\x00\x00\x02{}", "no frame"),
            (b"\x00\x00\x00\x04\xff\xfe\x00\x00", "no frame"),
            (b"\x00\x01\x86\xa0" + b"[" * 100_000, "no frame"),
            (Open(None, None), "Open where"),
            (Cancel(), "Cancel where"),
            (End(0), "End where"),
        ):
            said = await world.told(garbage)
            assert isinstance(said, Refused) and word in said.message, said
        for command in (
            ["identity", "export-recovery"],
            ["identity", "pin"],
            ["backup", "restore"],
            ["mcp", "serve"],
            ["version"],
            [],
        ):
            said = await world.told(world.invoke(*command))
            assert isinstance(said, Refused) and "process of its own" in said.message, command
        for command, params, code in (
            (["run"], {"once": False, "interval": 15}, output.REFUSED),
            (["guard", "release"], {}, output.REFUSED),
            (["nope"], {}, output.USAGE),
            (["client"], {}, output.USAGE),
            (["client", "show", "more"], {}, output.USAGE),
            (["client", "show"], {"alias": "alice", "path": "x"}, output.USAGE),
            (["client", "show"], {}, output.USAGE),
            (["client", "show"], {"alias": None}, output.USAGE),
            (["client", "list"], {"state": "odd"}, output.USAGE),
        ):
            channel = await world.channel()
            await channel.send(world.invoke(*command, **params))
            assert (await shown_until(channel, End)).code == code, command
        # An answer that nobody asked for is no answer to what is asked next.
        channel = await world.channel()
        await channel.send(
            world.invoke("telemetry", "follow", alias="alice", span=None, since=None, after=None)
        )
        await channel.send(Answer("123456"))
        assert (await shown_until(channel, End)).code == output.INTERRUPTED
        assert world.paths.halt.exists() and (await world.shell.run("client", "list"))["count"] == 1


async def test_a_clients_limit_is_set_beside_the_engine_and_loosened_with_the_pin(world: EngineWorld) -> None:
    async with world.serving():
        tighter = await world.shell.run("guard", "set", "client.alice.fee_writes_3h", "1")
        assert tighter["changed"] is True and "fee_writes_3h = 1" in world.paths.guard.read_text()
        looser = ("guard", "set", "client.alice.fee_writes_3h", "--unset")
        assert (await fails(world, *looser)).code == output.PENDING
        done = await at_terminal(world.shell, *looser, answers={"PIN to loosen": PIN})
        assert done["changed"] is True and "fee_writes_3h" not in world.paths.guard.read_text()


async def test_other_settings_than_the_engines_are_refused(world: EngineWorld, tmp_path: Path) -> None:
    async with world.serving():
        error = await fails(world, "--config", str(tmp_path), "client", "list")
        assert error.code == output.REFUSED and "leave --config away" in str(error)
        wanted = world.invoke("client", "list", state=None)
        said = await world.told(msgspec.structs.replace(wanted, relays="wss://other.invalid"))
        assert isinstance(said, Refused) and "leave --relays away" in said.message
        said = await world.told(msgspec.structs.replace(wanted, relays="junk"))
        assert isinstance(said, Refused) and said.code == -32602


async def test_the_socket_is_private_and_stands_in_the_runtime_directory_if_that_is(
    world: EngineWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    place = runtime / "hive-advisor" / "default" / "control.sock"
    async with world.serving():
        assert world.paths.control.readlink() == place and place.stat().st_mode & 0o777 == 0o600
        # Another profile of that name, elsewhere: each finds its own.
        other = EngineWorld(tmp_path / "other")
        async with other.serving():
            assert other.paths.control.is_socket() and world.paths.control.readlink() == place
            for each in (world, other):
                link = await knock(each.paths.control, each.paths.database)
                assert link is not None
                link.channel.abort()
            assert await knock(world.paths.control, other.paths.database) is None
    assert not world.paths.control.is_symlink() and not place.exists()
    place.parent.chmod(0o755)
    assert runtime_dir("default") is None
    async with world.serving():
        assert world.paths.control.is_socket() and world.paths.control.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert runtime_dir("default") is None


async def test_a_stale_socket_is_replaced_a_living_one_is_not(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a-long-name-for-a-directory"] * 4)
    deep.mkdir(parents=True)
    path = deep / "control.sock"
    stale = await listening(path, 0o600, None)
    stale.close()
    assert path.is_socket()
    fresh = await listening(path, 0o640, os.getegid())
    assert path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(Conflict, match="another process listens"):
        await listening(path, 0o600, None)
    fresh.close()
    (deep / "file").write_text("not a socket")
    (deep / "file").chmod(0o400)
    (await listening(deep / "file", 0o600, None)).close()
    with pytest.raises(InvalidParams, match="no socket can be made"):
        await listening(tmp_path / "missing" / "control.sock", 0o600, None)
    assert sorted(each.name for each in deep.iterdir()) == ["control.sock", "file"]


async def test_another_version_and_another_listener_are_named(world: EngineWorld) -> None:
    world.paths.make()
    welcome = Welcome(1, "0.0.0", "run", 7, "0:0")
    said: list[bytes] = []

    async def old(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said[0])
        writer.close()

    listener = await listening(world.paths.control, 0o600, None)
    async with await asyncio.start_unix_server(old, sock=listener):
        from hive_advisor.domain.engine_frames import encoded

        body = encoded(welcome)
        said.append(len(body).to_bytes(4, "big") + body)
        with pytest.raises(VersionIncompatible, match=r"runs version 0\.0\.0 of the kit"):
            await knock(world.paths.control, world.paths.database)
        said[0] = b"\x00\x00\x00\x02hi"
        error = await fails(world, "client", "list")
        assert error.code == output.TRANSPORT and "does not answer as an engine does" in str(error)
