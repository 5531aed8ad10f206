"""What reckless makes of each plugin's directory, and that the node starts it there (Protocol 08 §8.1).

The rules are those of CLN v26.06's reckless: it takes the directory whose name is the plugin's, with an entry
`<name>.py` and a `requirements.txt` in it; copies that directory alone to `reckless/<name>/source/<name>`,
links as files; makes a virtual environment beside it from `requirements.txt`; puts a wrapper in the place of
the entry; runs that once, which has to end well within ten seconds; then `plugin start`.

Nothing is downloaded: the environment gets the packages that `requirements.txt` names, with what those need,
from the environment of the tests, and no others. A package that is missing from the file is missing here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path

import pytest
from architecture.sources import PLUGINS, imports, is_in, of_plugins, of_shared
from comms_world import call, relay_options, until
from hive_devnet.network import open_network
from hive_devnet.node import NodeHandle
from hive_devnet.relay import RelayProcess
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
STATUS = {
    "cl-hive-comms": "hive-client-status",
    "cl-hive-archon": "hive-archon-status",
    "cl-hive": "hive-status",
}


def required(name: str) -> list[Requirement]:
    """The pins of the plugin's requirements.txt."""
    lines = (ROOT / name / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def closure(name: str) -> Iterator[metadata.Distribution]:
    """The distributions that pip would install for the plugin, as they are installed here."""
    waiting, seen = [(each, frozenset[str]()) for each in required(name)], set()
    for requirement, _ in waiting:
        installed = metadata.version(requirement.name)
        assert requirement.specifier.contains(installed), f"{requirement}, but {installed} is installed here"
    while waiting:
        requirement, extras = waiting.pop()
        wanted = extras | frozenset(requirement.extras)
        key = (re.sub(r"[-_.]+", "-", requirement.name).lower(), wanted)
        if key in seen:
            continue
        seen.add(key)
        found = metadata.distribution(requirement.name)
        yield found
        for text in found.requires or ():
            needed = Requirement(text)
            contexts = [{"extra": extra} for extra in wanted] or [{"extra": ""}]
            if needed.marker is None or any(needed.marker.evaluate(context) for context in contexts):
                waiting.append((needed, frozenset()))


def make_environment(directory: Path, name: str) -> Path:
    """A virtual environment with exactly what requirements.txt brings; its interpreter."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(directory)
    (site,) = directory.glob("lib/python3*/site-packages")
    for distribution in closure(name):
        assert distribution.files, distribution
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))).resolve())
    return directory / "bin" / "python"


def install(reckless: Path, name: str) -> Path:
    """Install the plugin as reckless does; the path that it hands to `plugin start`."""
    source, entry = ROOT / name, f"{name}.py"
    names = {path.name.lower() for path in source.iterdir() if path.is_file()}
    assert {entry, "requirements.txt", "pyproject.toml"} <= names, "reckless would not find the plugin"
    home = reckless / name
    staged = home / "source" / name
    shutil.copytree(source, staged, ignore=shutil.ignore_patterns("__pycache__"))
    linked = [path for path in staged.rglob("*") if path.is_symlink()]
    assert not linked and (staged / "hive_shared" / "runtime.py").is_file(), "links become files"
    python = make_environment(home / ".venv", name)
    wrapper = home / entry
    wrapper.write_text(
        f"#!{python}\n"
        "import runpy\n"
        "import sys\n"
        f"sys.path.append({str(staged)!r})\n"
        f"sys.path = [path for path in sys.path if path != {str(home)!r}]\n"
        f"runpy.run_module({name!r}, {{}}, '__main__')\n",
        encoding="utf-8",
    )
    wrapper.chmod(0o755)
    return wrapper


def foreign_modules(name: str) -> set[str]:
    """Every module of others that the plugin, or what it uses of the shared library, imports anywhere: many
    imports stand inside functions, where a missing package shows only when they are called."""
    own = {source.module: source for source in of_plugins() + of_shared("hive_shared")}
    waiting = [module for module in own if is_in(module, PLUGINS[name])]
    reached, foreign = set(waiting), set()
    while waiting:
        for _, imported in imports(own[waiting.pop()]):
            parts = imported.split(".")
            inside = {".".join(parts[:end]) for end in range(1, len(parts) + 1)} & own.keys()
            if not inside and parts[0] not in sys.stdlib_module_names:
                foreign.add(parts[0])
            waiting += inside - reached
            reached |= inside
    return foreign


def tried(entry: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The entry as reckless tries it out: not started by lightningd, and nothing of ours on the path."""
    bare = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LIGHTNINGD_"))}
    return subprocess.run(
        [entry],
        cwd=entry.parent / "source" / entry.stem,
        env={**bare, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def lightning_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hive-") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def entries(lightning_dir: Path) -> dict[str, Path]:
    """All three, installed."""
    return {name: install(lightning_dir / "reckless", name) for name in STATUS}


@asynccontextmanager
async def lonely_node(directory: Path) -> AsyncIterator[tuple[NodeHandle, RelayProcess]]:
    relay = await RelayProcess.start()
    network = await open_network(directory)
    try:
        yield await network.add_node("alice"), relay
    finally:
        await network.close()
        await relay.stop()


@pytest.mark.parametrize("name", STATUS)
def test_tried_out_it_says_what_it_is_and_ends_well(entries: dict[str, Path], name: str) -> None:
    done = tried(entries[name])
    assert done.returncode == 0, done.stderr
    assert name in done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", STATUS)
def test_every_module_it_may_ever_import_comes_with_its_requirements(
    entries: dict[str, Path], name: str
) -> None:
    wanted = foreign_modules(name)
    assert {"msgspec", "coincurve", "rfc8785"} <= wanted, wanted
    script = (
        "import importlib.util, sys\nfor n in sys.argv[1:]: print(n, importlib.util.find_spec(n) is not None)"
    )
    python = entries[name].parent / ".venv" / "bin" / "python"
    found = subprocess.run(
        [python, "-I", "-c", script, *sorted(wanted)], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.split() == [word for module in sorted(wanted) for word in (module, "True")]


@pytest.mark.parametrize("name", STATUS)
def test_a_package_that_is_not_there_is_named(entries: dict[str, Path], tmp_path: Path, name: str) -> None:
    """Of a broken install the operator hears which package is missing, on the terminal as in the node."""
    home = tmp_path / name
    shutil.copytree(entries[name].parent, home, symlinks=True)
    (site,) = home.glob(".venv/lib/python3*/site-packages")
    (site / "msgspec").unlink()
    text = entries[name].read_text(encoding="utf-8").replace(str(entries[name].parent), str(home))
    wrapper = home / f"{name}.py"
    wrapper.write_text(text, encoding="utf-8")
    done = tried(wrapper)
    assert done.returncode != 0 and "msgspec" in done.stderr and "Traceback" not in done.stderr, done.stderr
    question = '{"jsonrpc":"2.0","id":"m","method":"getmanifest","params":{}}\n\n'
    answer = subprocess.run(
        [wrapper], input=question, env={**os.environ, "LIGHTNINGD_PLUGIN": "1"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert '"disable"' in answer.stdout and "msgspec" in answer.stdout, answer


async def test_acceptance_08_19_started_from_where_reckless_put_them_all_three_answer(
    entries: dict[str, Path], lightning_dir: Path
) -> None:
    async with lonely_node(lightning_dir / "n") as (node, relay):
        for name, entry in entries.items():
            options = relay_options(relay) if name == "cl-hive-comms" else {}
            options.pop("hive-comms-nostr-search-relays", None)
            await node.call("plugin", {"subcommand": "start", "plugin": str(entry), **options})
            await until(lambda name=name: call(node, STATUS[name]), f"{name} answers")
        listed = {
            Path(row["name"]).name: row
            for row in (await node.call("plugin", {"subcommand": "list"}))["plugins"]
        }
        assert all(listed[entry.name]["active"] for entry in entries.values()), listed
        # They are the installed copies, in their own environments, and find each other.

        async def together() -> bool:
            siblings = (await call(node, "hive-client-status"))["siblings"]
            return bool(siblings["combination"] == "all")

        await until(together, "all three have met")
        for entry in entries.values():
            pid = await node.plugin_pid(entry.name)
            command = Path(f"/proc/{pid}/cmdline")
            if command.exists():
                assert str(entry.parent / ".venv") in command.read_text(), command.read_text()
        assert "Traceback" not in node.log_text()
