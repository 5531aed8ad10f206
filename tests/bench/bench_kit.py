"""The advisor kit's command line and journal at size (docs/protocol/11-advisor-kit.md §19). Each command is a
process of its own, as its user starts it; beside them the interpreter with the kit's command-line library
alone, which is what every one of them costs at least.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from figures import Figure, cpu_s, percentile, rss_mb
from hive_advisor.advisor import MIGRATIONS
from hive_advisor.domain.journal import DAY_S, HOUR_S, Sample, trend, velocity
from hive_advisor.storage.journal_store import JournalStore
from hive_devnet.relay import RelayProcess
from hive_devnet.world import AdvisorShell
from hive_shared.store import Db, Tx

_COMMANDS = 100_000
_T0 = 1_770_000_000
_CLIENT = """INSERT INTO adv_clients (client_id, alias, alias_key, node_key, node_id, network, relays_json,
 max_skew_s, state, created, updated)
 VALUES ('c1', 'alice', 'alice', ?, ?, 'regtest', '[]', 300, 'active', 0, 0)"""
_ONE_CLIENT = """INSERT INTO adv_clients (client_id, alias, alias_key, node_key, node_id, network,
 relays_json, max_skew_s, state, created, updated)
 VALUES (?, ?, ?, ?, ?, 'regtest', '[]', 300, 'paused', 0, 0)"""
_CREDENTIAL = """INSERT INTO adv_credentials (credential_id, client_id, doc_json, state, valid_until, created)
 VALUES ('cred', 'c1', '{}', 'active', 4000000000, 0)"""
_COMMAND = """INSERT INTO adv_commands (command_id, client_id, credential_id, schema, action, params_json,
 danger_json, origin, nonce, timestamp, command_hash, envelope_json, state, created, updated)
 VALUES (?, 'c1', 'cred', 'hive:fee-policy/v1', 'set_single', '{"channel_id":"103x1x0","fee_ppm":150}',
 '[2,3,3,3,2]', 'cli', ?, ?, ?, '{}', 'done', ?, ?)"""


def main(smoke: bool) -> list[Figure]:
    """See the module's first lines."""
    times, rows = (2, 2_000) if smoke else (15, _COMMANDS)
    with tempfile.TemporaryDirectory(prefix="hive-") as directory:
        shell = AdvisorShell(Path(directory), ["ws://127.0.0.1:1"])
        _run(shell.env, "identity", "create")
        asyncio.run(_fill(Path(directory), rows))
        bare = [_timed(shell.env, [sys.executable, "-c", "import click"]) for _ in range(times)]
        figures = [Figure("interpreter and click alone, p50", percentile(bare, 0.5), "ms")]
        for name, words, goal in (
            ("hive-advisor --help", ("--help",), 150),
            (f"list of commands, {rows:,} kept, unlocking (scrypt) included", ("command", "list"), None),
            ("schema list", ("schema", "list"), None),
        ):
            took = [_timed(shell.env, _words(*words)) for _ in range(times)]
            figures.append(Figure(f"{name}, p50", percentile(took, 0.5), "ms", goal))
        completing = {
            **shell.env,
            "_HIVE_ADVISOR_COMPLETE": "bash_complete",
            "COMP_WORDS": "hive-advisor client show al",
            "COMP_CWORD": "3",
        }
        took = [_timed(completing, _words()) for _ in range(times)]
        figures.append(Figure("completion of a client's name, p50", percentile(took, 0.5), "ms", 100))
        figures += asyncio.run(_lists(Path(directory), times))
        figures += asyncio.run(_idle(Path(directory) / "idle", 2 if smoke else 30))
    return figures


async def _idle(directory: Path, seconds: int) -> list[Figure]:
    """The agent process with 200 clients that are paused, so that nothing is due: what waiting costs."""
    relay = await RelayProcess.start()
    shell = AdvisorShell(directory, [relay.url])
    try:
        _run(shell.env, "identity", "create")
        db = _open(directory)
        try:
            await db.write(_clients)
        finally:
            db.close()
        agent = await asyncio.create_subprocess_exec(
            *_words("run"), env=shell.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            # Unlocking, connecting and the first round.
            await asyncio.sleep(5 + seconds / 5)
            before, began = cpu_s(agent.pid), time.perf_counter()
            await asyncio.sleep(seconds)
            share = (cpu_s(agent.pid) - before) / (time.perf_counter() - began)
            return [
                Figure("agent with 200 clients, idle: processor", share * 100, "%", 1),
                Figure("agent with 200 clients: memory", rss_mb(agent.pid), "MB", 120),
            ]
        finally:
            agent.terminate()
            await agent.wait()
    finally:
        await relay.stop()


def _clients(tx: Tx) -> None:
    for n in range(200):
        name = f"c{n}"
        tx.execute(_ONE_CLIENT, (name, name, name, f"{n + 1:064x}", f"02{n:064x}"))


def _words(*words: str) -> list[str]:
    return [sys.executable, "-m", "hive_advisor", *words]


def _run(env: Mapping[str, str], *words: str) -> None:
    subprocess.run(_words(*words), env=dict(env), check=True, capture_output=True)


def _timed(env: Mapping[str, str], command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=dict(env), check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return (time.perf_counter() - began) * 1_000


def _open(directory: Path) -> Db:
    return Db.open(next((directory / "data").rglob("hive-advisor")) / "default" / "advisor.db", MIGRATIONS)


async def _fill(directory: Path, rows: int) -> None:
    db = _open(directory)

    def put(tx: Tx) -> None:
        tx.execute(_CLIENT, ("ab" * 32, "02" * 33))
        tx.execute(_CREDENTIAL)
        tx.executemany(
            _COMMAND,
            [
                (f"{n:08x}-0000-4000-8000-000000000000", n + 1, _T0 + n, "cd" * 32, _T0 + n, _T0 + n)
                for n in range(rows)
            ],
        )
        hours = range(0, 45 * DAY_S, HOUR_S)
        JournalStore().add_samples(
            tx,
            [
                Sample("c1", f"{n:064x}", _T0 + at, f"{n}x1x0", 1, 10**9 - at * n, 10**9, at, None)
                for n in range(50)
                for at in hours
            ]
            + [Sample("c1", "", _T0 + at, "", 50, 10**10, 10**11, at, 5) for at in hours],
        )

    try:
        await db.write(put)
    finally:
        db.close()


async def _lists(directory: Path, times: int) -> list[Figure]:
    from hive_advisor.storage.command_store import CommandStore
    from hive_shared.crypto import Sealer, Secret

    db = _open(directory)
    until = _T0 + 45 * DAY_S
    listed, trends, fitted = [], [], []
    store, commands = JournalStore(), CommandStore(Sealer({1: Secret(b"k" * 32)}, 1))
    try:
        for _ in range(times * 5):
            began = time.perf_counter()
            await db.read(lambda tx: commands.listed(tx, None, None, 50))
            listed.append((time.perf_counter() - began) * 1_000)
            began = time.perf_counter()
            totals = await db.read(lambda tx: store.totals(tx, "c1", until - 30 * DAY_S))
            assert trend(totals, 30, until)["known"]
            trends.append((time.perf_counter() - began) * 1_000)
            began = time.perf_counter()
            channels = await db.read(lambda tx: store.channels(tx, "c1", until - DAY_S))
            assert all(velocity(rows) for rows in channels.values())
            fitted.append((time.perf_counter() - began) * 1_000)
    finally:
        db.close()
    return [
        Figure("  the list alone, newest 50, p50", percentile(listed, 0.5), "ms", 250),
        Figure("trend of a node over 30 days, p50", percentile(trends, 0.5), "ms", 50),
        Figure("velocities of 50 channels, p50", percentile(fitted, 0.5), "ms", 50),
    ]
