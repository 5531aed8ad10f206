"""A kit that is killed at the n-th step of what it does; one process that forks a kit per line of stdin.

Line: ``N KIND JSON`` with KIND ``send`` (JSON: parameters of a fee change), ``pump`` or ``late`` (a round a
minute, or a quarter of an hour, later). Answer: a line with
how the kit ended: ``killed`` at step N, or ``ended STEPS``. Arguments: profile directory, relay, root in hex.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hive_advisor.advisor import Advisor
from hive_advisor.config import AdvisorConfig
from hive_advisor.domain import pace
from hive_advisor.identity import Identity
from hive_advisor.paths import ProfilePaths
from hive_advisor.services.journal import JournalService
from hive_advisor.services.rounds import RoundService
from hive_shared.crypto import Secret
from hive_shared.nostr.relay import RelayPool
from hive_shared.store import Db
from open_guard import open_guard

DIRECTORY, RELAY, ROOT = Path(sys.argv[1]), sys.argv[2], Secret(bytes.fromhex(sys.argv[3]))


class Steps:
    """Counts what could be the last thing a process does: around every write, inside every transaction,
    and around every publication."""

    def __init__(self, last: int) -> None:
        self.count, self._last, self.counting = 0, last, False

    def step(self) -> None:
        if self.counting:
            self.count += 1
            if self.count == self._last:
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        write, publish = Db.write, RelayPool.publish

        async def watched_write(db: Db, body: Callable[[Any], Any], **options: Any) -> Any:
            def inside(tx: Any) -> Any:
                result = body(tx)
                self.step()
                return result

            self.step()
            result = await write(db, inside, **options)
            self.step()
            return result

        async def watched_publish(pool: RelayPool, *given: Any, **options: Any) -> Any:
            self.step()
            result = await publish(pool, *given, **options)
            self.step()
            return result

        for owner, name, watched in (
            (Db, "write", watched_write),
            (RelayPool, "publish", watched_publish),
        ):
            setattr(owner, name, watched)


async def kit(steps: Steps, kind: str, params: dict[str, Any]) -> None:
    """One run of the kit: a command sent and waited for, or a round over what is open a minute later."""
    ahead = {"send": 0, "pump": 60, "late": 1_000}[kind]
    paths = ProfilePaths("test", DIRECTORY / "config", DIRECTORY / "data")
    open_guard(paths.config_dir)
    config = AdvisorConfig(relays=(RELAY,), accept_offers=True)
    async with Advisor.open(
        paths, Identity(ROOT), config, online=True, now=lambda: int(time.time()) + ahead
    ) as advisor:
        steps.counting = True
        if kind == "send":
            client = (await advisor.clients.all())[0]
            wait_s = params.pop("wait_s", 60)
            plan = await advisor.plan(client, "hive:fee-policy/v1", "set_single", params)
            await advisor.execute(plan, wait_s=wait_s)
        else:
            opened = [row for row in await advisor.commands.open() if row.schema != "hive:control/v1"]
            await advisor.pump()
            for command in opened:
                await advisor.commands.settled(command.command_id, 60)
        steps.counting = False


async def nothing(_service: object, _client: object = None) -> int:
    """Record and journal have crash tests of their own, which need no relay."""
    return 0


def at_once(*_: object) -> None:
    """The kit's own pace has tests of its own; here more goes out in a minute than it allows."""


def main() -> None:
    for owner, name in ((RoundService, "_record"), (JournalService, "measure_due")):
        setattr(owner, name, nothing)
    pace.wait_until = at_once
    for line in sys.stdin:
        last, kind, params = line.split(" ", 2)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            steps = Steps(int(last))
            steps.watch()
            asyncio.run(kit(steps, kind, json.loads(params)))
            os.write(write, str(steps.count).encode())
            os._exit(0)
        os.close(write)
        _, status = os.waitpid(child, 0)
        with os.fdopen(read) as told:
            said = f"ended {told.read()}" if status == 0 else "failed"
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            said = "killed"
        sys.stdout.write(said + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
