"""The operator guide from its first line: a clean copy of this repository is cloned, installed by hand into a
home of its own, started on a node, and the walkthrough typed to its end; with the time of each step.

Needs the package registry (or pip's own cache), as an operator does. Where reckless is installed its two
lines are typed as well; tests/integration/test_install_layout.py holds to its rules where it is not.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from guide import Terminal, Typed, check_outcome, two_channels, walkthrough
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World, until
from outside import COMMS

ROOT = Path(__file__).parents[2]
PROMISED_S = 600.0
RECKLESS = [
    "reckless source add https://github.com/<owner>/<this repository>",
    "reckless install cl-hive-comms",
]


@pytest_asyncio.fixture
async def bare_world() -> AsyncIterator[World]:
    """Two nodes with a channel and no plugin of ours."""
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    made = await World.start(directory, plugins=())
    yield made
    await made.close()
    shutil.rmtree(directory, ignore_errors=True)


def git(*words: str, at: Path) -> str:
    """A git command, with nobody's own settings."""
    identity = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *words], cwd=at, capture_output=True, text=True, check=True)
    return done.stdout


def clean_copy(target: Path) -> Path:
    """This working tree without what is ignored, as a repository that can be cloned."""
    for name in git("ls-files", "-z", "--cached", "--others", "--exclude-standard", at=ROOT).split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
        elif name and (ROOT / name).is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).symlink_to(os.readlink(ROOT / name))
    git("init", "-q", at=target)
    git("add", "-A", at=target)
    git("commit", "-q", "-m", "as it stands", at=target)
    return target


def shell(line: str, home: Path, answer: str = "") -> subprocess.CompletedProcess[str]:
    """One line of a terminal in that home, without the environment of the tests."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HIVE_"))}
    return subprocess.run(
        ["bash", "-euc", line],
        cwd=home,
        env={**bare, "HOME": str(home)},
        input=answer,
        capture_output=True,
        text=True,
        timeout=PROMISED_S,
        check=False,
    )


async def start(world: World, entry: Path) -> None:
    """`plugin start`; nothing of a test leaves the machine, so the relay is the test's."""
    options = {f"hive-comms-nostr-{name}-relays": "" for name in ("profile", "search")}
    options["hive-comms-nostr-relays"] = world.relay.url
    await world.alice.call("plugin", {"subcommand": "start", "plugin": str(entry), **options})


async def install(terminal: Terminal, lines: list[Typed], home: Path, repository: Path) -> None:
    """Type the lines that install; what they do to `~` they do to a home of the test's own."""
    world = terminal.world
    for typed in lines:
        began = time.monotonic()
        line = typed.line.replace("<this repository>", str(repository))
        if typed.words[0] == "lightning-cli":
            await start(world, Path(line.split()[-1].replace("~", str(home))))
        else:
            done = await asyncio.to_thread(shell, line, home)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        terminal.took[f"{typed.step}: {line.split()[0].rpartition('/')[2]}"] += time.monotonic() - began


async def serves(world: World) -> bool:
    """Whether the plugin answers."""
    try:
        await world.alice.call("hive-client-status")
    except DevnetRpcError:
        return False
    return True


@pytest.mark.timeout(1_200)
async def test_from_a_clone_to_the_first_advisor_within_ten_minutes(
    bare_world: World, record_property: Callable[[str, object], None]
) -> None:
    world, typed = bare_world, walkthrough()
    by_hand = [each for each in typed if each.installs and each.words[0] != "reckless"]
    assert [each.line for each in typed if each.words[0] == "reckless"] == RECKLESS
    terminal = await two_channels(world)
    with tempfile.TemporaryDirectory(prefix="hive-") as directory:
        home = Path(directory) / "home"
        home.mkdir()
        repository = clean_copy(Path(directory) / "repository")
        await install(terminal, by_hand, home, repository)
        installed = home / ".lightning" / "hive" / "cl-hive-comms" / COMMS
        assert (home / ".lightning" / "config").read_text() == f"plugin={installed}\n"
        assert installed.read_text().startswith(f"#!{home}/.lightning/hive/venv/bin/python3\n")
        assert not [path for path in installed.parent.rglob("*") if path.is_symlink()], "links are files"

        began = time.monotonic()
        await until(lambda: serves(world), "the installed plugin serves", 60)
        terminal.took["1. Install: until it serves"] += time.monotonic() - began
        for each in typed:
            if not each.installs:
                await terminal.type(each)
        await check_outcome(world)
        await world.alice.call("plugin", {"subcommand": "stop", "plugin": str(installed)})
    record_property("figure", terminal.times())
    assert sum(terminal.took.values()) < PROMISED_S, terminal.times()


@pytest.mark.timeout(1_200)
async def test_reckless_installs_what_then_runs(
    bare_world: World, record_property: Callable[[str, object], None]
) -> None:
    if shutil.which("reckless") is None:
        pytest.skip("reckless comes with Core Lightning, which is not installed here")
    with tempfile.TemporaryDirectory(prefix="hive-") as directory:
        home = Path(directory)
        (home / "repository").mkdir()
        repository = clean_copy(home / "repository")
        # A node of its own that is not running: reckless would start the plugin with public relays.
        node = home / "lightning"
        (node / "regtest").mkdir(parents=True)
        (node / "regtest" / "config").touch()
        began = time.monotonic()
        for line in RECKLESS:
            typed = line.replace("https://github.com/<owner>/<this repository>", str(repository))
            typed = typed.replace("reckless ", f"reckless -l {node} -r ")
            done = await asyncio.to_thread(shell, typed, home, "Y\n")
            assert done.returncode == 0, f"{typed}\n{done.stdout}{done.stderr}"
        record_property("figure", f"reckless: source add and install in {time.monotonic() - began:.0f} s")
        enabled = (node / "reckless" / "regtest-reckless.conf").read_text()
        entry = node / "reckless" / "cl-hive-comms" / COMMS
        assert f"plugin={entry}" in enabled.splitlines()
        await start(bare_world, entry)
        await until(lambda: serves(bare_world), "the installed plugin serves", 60)
        pid = await bare_world.alice.plugin_pid(COMMS)
        assert str(entry.parent / ".venv") in Path(f"/proc/{pid}/cmdline").read_text()
        await bare_world.alice.call("plugin", {"subcommand": "stop", "plugin": str(entry)})
