"""The operator's program: told of every event at least once, in order, and a burden to nobody (11 §13)."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hive_advisor.advisor import Advisor
from hive_advisor.config import load_config
from hive_advisor.services.hooks import FAILING, WORKING, HookService
from hive_advisor.storage.record_store import RecordStore
from hive_advisor.transport.hook_program import HookProgram
from hive_shared.errors import InvalidParams
from plan_world import PlanWorld

PYTHON = sys.executable


class Told:
    """A program that takes what the test lets it take."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.why: str | None = None
        self.dies = False

    async def run(self, body: bytes) -> str | None:
        event = json.loads(body)
        if self.why is None:
            self.texts.append(event["text"] or event["kind"])
        if self.dies:
            raise KeyboardInterrupt
        return self.why


def hook_of(world: PlanWorld, kit: Advisor, program: Any) -> HookService:
    return HookService(kit._db, kit._rows, kit._records, kit._events, program, now=lambda: world.now)


async def noted(world: PlanWorld, kit: Advisor, *texts: str) -> None:
    for text in texts:
        await kit._db.write(lambda tx, t=text: RecordStore().add_event(tx, "alert", "alice", t, world.now))


@pytest.fixture
def world(tmp_path: Path) -> PlanWorld:
    return PlanWorld(tmp_path)


async def test_it_begins_with_what_happens_from_then_on_and_goes_on_after_a_restart(world: PlanWorld) -> None:
    program = Told()
    async with world.open() as kit:
        hook = hook_of(world, kit, program)
        assert await hook.deliver() == 0, "nothing of the past"
        await noted(world, kit, "one", "two")
        assert await hook.deliver() == 2 and await hook.deliver() == 0
        await noted(world, kit, "three")
    async with world.open() as kit:
        hook = hook_of(world, kit, program)
        assert await hook.deliver() == 1 and program.texts == ["one", "two", "three"]
        assert await hook.standing() == {"waiting": 0, "failures": 0}
        # Without a program its place is kept.
        assert await hook_of(world, kit, None).deliver() == 0
        assert await hook_of(world, kit, None).standing() is None


async def test_what_fails_is_told_once_counted_and_tried_again_later_in_order(world: PlanWorld) -> None:
    program = Told()
    async with world.open() as kit:
        hook = hook_of(world, kit, program)
        await hook.deliver()
        begun = await kit._events.newest()
        await noted(world, kit, "one", "two")
        program.why = "it ended with 1"
        for pause in (10, 30, 60, 300, 900, 900):
            assert await hook.deliver() == 0
            world.now += pause - 1
            assert await hook.deliver() == 0
            world.now += 1
        standing = await hook.standing()
        assert standing is not None
        assert (standing["failures"], standing["why"]) == (6, "it ended with 1")
        kinds = [event.kind for event in await kit.past_events(begun, 100)]
        assert kinds == ["alert", "alert", FAILING]
        checks = {check["id"]: check for check in await kit.doctor(0)}
        assert "hook" not in checks, "this profile names none"
        program.why = None
        assert await hook.deliver() == 3 and program.texts == ["one", "two", "it ended with 1"]
        assert await hook.deliver() == 1 and program.texts[-1] == f"took event {begun + 1} after 6 failures"
        assert [event.kind for event in await kit.past_events(begun, 100)][-1] == WORKING
        assert await hook.standing() == {"waiting": 0, "failures": 6}


async def test_killed_after_the_program_ran_the_event_comes_again(world: PlanWorld) -> None:
    program = Told()
    async with world.open() as kit:
        await hook_of(world, kit, program).deliver()
        await noted(world, kit, "one", "two")
    program.dies = True
    with pytest.raises(KeyboardInterrupt):
        async with world.open() as kit:
            await hook_of(world, kit, program).deliver()
    program.dies = False
    async with world.open() as kit:
        await hook_of(world, kit, program).deliver()
    assert program.texts == ["one", "one", "two"]


async def test_in_an_older_copy_of_the_profile_it_goes_on_with_what_comes(world: PlanWorld) -> None:
    program = Told()
    async with world.open() as kit:
        hook = hook_of(world, kit, program)
        await hook.deliver()
        state = '{"cursor": 100000, "failures": 2}'
        await kit._db.write(lambda tx: kit._rows.set_meta(tx, "hook", state))
        assert await hook.deliver() == 0
        await noted(world, kit, "one")
        assert await hook.deliver() == 1 and program.texts == ["one"]


SCRIPT = """
import json, os, sys
told = [json.loads(sys.stdin.read()), dict(os.environ), os.getcwd()]
open(sys.argv[1], "a").write(json.dumps(told))
"""


async def test_the_program_gets_the_event_on_standard_input_and_no_secret(tmp_path: Path) -> None:
    out = tmp_path / "out; touch x"
    environ = {
        "HOME": "/root",
        "TZ": "UTC",
        "HIVE_ADVISOR_PASSPHRASE_FILE": "/secret",
        "AWS_SECRET_ACCESS_KEY": "x",
        "LD_PRELOAD": "/evil.so",
    }
    program = HookProgram([PYTHON, "-c", SCRIPT, str(out), "$(id)"], "work", environ)
    assert await program.run(b'{"cursor": 7, "text": "x"}\n') is None
    event, seen, where = json.loads(out.read_text())
    assert event == {"cursor": 7, "text": "x"} and where == "/"
    assert {**seen, "LC_CTYPE": ""} == {
        "HOME": "/root",
        "TZ": "UTC",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HIVE_ADVISOR_PROFILE": "work",
        "LC_CTYPE": "",
    }
    assert list(tmp_path.iterdir()) == [out], "no shell read its arguments"


# A shell is up in milliseconds: it has to have begun before its time is over, on a busy machine too.
HANGS = 'sleep 600 & echo $! > "$0"; wait'


def alive(pid: int) -> bool:
    """Whether it runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["/nonexistent/tell"], "/nonexistent/tell cannot be started: No such file or directory"),
        (["/etc/passwd"], "/etc/passwd cannot be started: Permission denied"),
        ([PYTHON, "-c", "raise SystemExit(3)"], f"{PYTHON} ended with 3"),
        ([PYTHON, "-c", "import os; os.kill(os.getpid(), 15)"], f"{PYTHON} was ended by signal 15"),
    ],
)
async def test_what_is_wrong_with_a_program_is_said(argv: list[str], why: str) -> None:
    body = b"x" * 1_000_000  # more than a pipe holds; it never reads
    assert await HookProgram(argv, "work", {}).run(body) == why


async def test_one_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = HookProgram(["/bin/sh", "-c", HANGS, str(pid)], "work", {}, timeout_s=1.5)
    assert await program.run(b"{}") == "/bin/sh did not end within 1.5 s"
    async with asyncio.timeout(60):
        while alive(int(pid.read_text())):
            await asyncio.sleep(0.02)


def test_the_setting_is_a_program_and_its_arguments(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"

    def read(text: str, mode: int = 0o644) -> tuple[str, ...]:
        file.write_text(f"[hooks]\nexec = {text}\n")
        file.chmod(mode)
        return load_config(file).hook

    assert read('["/usr/bin/tell", "--all"]') == ("/usr/bin/tell", "--all") and read("[]") == ()
    for text, said in (
        ('"/usr/bin/tell --all"', "takes a program and its arguments"),
        ('["/usr/bin/tell", 7]', "takes a program and its arguments"),
        ('["tell"]', "is no full path"),
        ('["/usr/bin/tell", "a\\u0000b"]', "zero byte"),
    ):
        with pytest.raises(InvalidParams, match=said):
            read(text)
    with pytest.raises(InvalidParams, match="can be written by others"):
        read('["/usr/bin/tell"]', 0o664)
