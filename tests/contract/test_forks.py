"""A forked program is one like the executed one (docs/decisions/0672): same output and end, a process of its
own with its own environment, killed as any other; what needs an interpreter of its own gets one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest
from hive_devnet import forks
from hive_devnet.network import open_network
from hive_devnet.world import PLUGINS, AdvisorShell, until
from outside import parent

PIPE = asyncio.subprocess.PIPE
KIT = ("-m", "hive_advisor")
STARTER = """\
import asyncio, os
from hive_devnet import forks

async def main():
    forks.enable()
    words = ("-m", "hive_devnet.relay_main", "0")
    relay = await forks.spawn(*words, env=os.environ, stdin=-1, stdout=-1, stderr=-3)
    await relay.stdout.readline()
    print(relay.pid, forks.parent_of(words, os.environ), flush=True)
    await relay.wait()

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def really_forks() -> None:
    if os.environ.get("HIVE_FORKS") == "no":
        pytest.skip("everything is executed: HIVE_FORKS=no")


async def outcome(process: forks.Process) -> tuple[bytes, bytes, int | None]:
    out, err = await process.communicate()
    return out, err, process.returncode


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--help",), 0),
        (("schema", "list"), 0),
        (("--json", "identity", "show"), None),
        (("no-such-command",), 2),
        (("--relays",), 2),
        (("run", "--interval", "soon"), 2),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
async def test_a_forked_command_says_and_returns_what_an_executed_one_does(
    tmp_path: Path, words: tuple[str, ...], code: int | None
) -> None:
    shell = AdvisorShell(tmp_path, ["ws://127.0.0.1:9"], {"COLUMNS": "90"})
    forked = await forks.spawn(*KIT, *words, env=shell.env, stdout=PIPE, stderr=PIPE, cwd=tmp_path)
    assert isinstance(forked, forks.Forked)
    executed = await asyncio.create_subprocess_exec(
        sys.executable,
        *(*KIT, *words),
        env=shell.env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        cwd=tmp_path,
    )
    said = await outcome(forked)
    assert said == await outcome(executed)
    assert said[0] or said[1]
    assert (said[2] == code) if code is not None else said[2]


async def test_each_has_its_own_environment_directory_and_time_zone(tmp_path: Path) -> None:
    places = {}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shell = AdvisorShell(tmp_path / name, ["ws://127.0.0.1:9"])
        shell.env["TZ"] = f"{name.upper()}-5"
        process = await forks.spawn(
            *(*KIT, "--json", "identity", "create"),
            env=shell.env,
            stdout=PIPE,
            stderr=PIPE,
            cwd=tmp_path / name,
        )
        out, _, code = await outcome(process)
        assert code == 0
        places[name] = json.loads(out)["data"]
    assert str(tmp_path / "one") in places["one"]["file"]
    assert str(tmp_path / "two") in places["two"]["file"]
    assert places["one"]["npub"] != places["two"]["npub"]


async def test_killed_ended_or_left_alone_it_ends_as_a_process_does() -> None:
    relays = [
        await forks.spawn(
            *("-m", "hive_devnet.relay_main", "0"), env=os.environ, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        for _ in range(3)
    ]
    for relay in relays:
        assert isinstance(relay, forks.Forked) and relay.stdout is not None
        assert (await relay.stdout.readline()).startswith(b"ws://")
        assert relay.returncode is None and Path(f"/proc/{relay.pid}").exists()
    killed, ended, left = relays
    killed.kill()
    assert await killed.wait() == killed.returncode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        killed.kill()
    ended.terminate()
    assert await ended.wait() == -signal.SIGTERM
    assert left.returncode is None and left.stdin is not None
    left.stdin.close()
    assert await left.wait() == 0


async def test_other_python_settings_and_other_paths_are_executed(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('of its own interpreter')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = await forks.spawn(*KIT, "version", env=environment, stdout=PIPE, stderr=PIPE)
    assert not isinstance(process, forks.Forked)
    assert (await outcome(process))[0].startswith(b"of its own interpreter\n")
    script = tmp_path / "cl-hive-comms.py"
    script.write_text(f"#!{sys.executable}\nprint('another plugin')\n")
    script.chmod(0o755)
    process = await forks.spawn(str(script), env=os.environ, stdout=PIPE, stderr=PIPE)
    assert await outcome(process) == (b"another plugin\n", b"", 0)


async def test_a_plugin_is_forked_by_its_network_or_executed_where_that_is_said(tmp_path: Path) -> None:
    def server(pid: int) -> bool:
        return b"hive_devnet.fork_server" in Path(f"/proc/{pid}/cmdline").read_bytes()

    for how, forked in ((nullcontext(), True), (forks.executing(), False)):
        with tempfile.TemporaryDirectory(prefix="hive-") as directory, how:
            network = await open_network(Path(directory), "embedded")
            try:
                node = await network.add_node("solo", {}, [PLUGINS["cl-hive"]])
                pid = await node.plugin_pid("cl-hive.py")
                assert server(parent(pid)) == server(pid) == forked
                await node.kill_plugin("cl-hive.py")
                assert not alive(pid)
            finally:
                await network.close()


async def test_the_server_and_what_reads_its_starter_end_with_the_starter() -> None:
    starter = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", STARTER),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=PIPE,
    )
    assert starter.stdout is not None
    pids = [int(word) for word in (await starter.stdout.readline()).split()]
    assert len(pids) == 2
    starter.kill()
    await starter.wait()

    async def gone() -> bool:
        return not any(alive(pid) for pid in pids)

    await until(gone, "the server and its relay to end", 120)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
