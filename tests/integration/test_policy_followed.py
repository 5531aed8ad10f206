"""A policy that is another one at start, reload or after a broken file leaves a receipt and an alert
(docs/protocol/08-client-and-plugins.md §5.4, docs/decisions/0310-what-was-in-force-is-remembered.md)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hive_shared.errors import InvalidParams
from policy_world import Operator

FOLLOWED = "policy_followed"


def document(preset: str = "moderate", **overrides: object) -> str:
    return json.dumps({"policy_version": 1, "preset": preset, "overrides": overrides})


class Restarts:
    """One node whose plugin starts again and again; `world` is the running one."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, path / "policy.json"
        self.world = Operator(path)

    async def start(self, preset: str = "moderate", *, with_file: bool = False) -> Operator:
        self.world.db.close()
        self.world = Operator(self.path)
        await self.world.policy.load(preset, str(self.file) if with_file else "")
        return self.world

    async def rows(self) -> dict[str, int]:
        """How much stands in every table that a policy is written to, and the version."""

        def count(tx: Any) -> dict[str, int]:
            tables = ("management_receipts", "comms_alerts", "comms_policy_rules")
            found = {name: tx.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}
            (stamp,) = tx.execute("SELECT max(updated_at) FROM comms_state").fetchone()
            return {**found, "version": self.world.policy.snapshot().version, "facts": stamp}

        return await self.world.db.read(count)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Restarts]:
    made = Restarts(tmp_path)
    yield made
    made.world.db.close()


async def test_an_option_changed_while_the_plugin_was_down_is_on_record(node: Restarts) -> None:
    first = await node.start("conservative")
    assert await first.recorded(FOLLOWED) == [] and await first.told() == []
    await first.policy.set({"min_fee_ppm": 5})
    version = first.policy.snapshot().version
    later = await node.start("aggressive")
    (said,) = await later.recorded(FOLLOWED)
    assert (said["source"], said["differs"]) == ("option", ["preset"])
    assert said["old_hash"] != said["new_hash"] and len(said["new_hash"]) == 64
    (text,) = await later.told()
    assert "max_danger" in text and "hive-comms-policy-preset" in text
    snapshot = later.policy.snapshot()
    assert (snapshot.version, snapshot.preset) == (version + 1, "aggressive")
    assert snapshot.document.overrides == {"min_fee_ppm": 5}


async def test_a_stricter_policy_leaves_a_receipt_and_no_alert(node: Restarts) -> None:
    await node.start("moderate")
    later = await node.start("conservative")
    assert len(await later.recorded(FOLLOWED)) == 1 and await later.told() == []


async def test_a_file_edited_while_the_plugin_was_down_is_on_record(node: Restarts) -> None:
    node.file.write_text(document(max_danger=4, forbidden_peers=["02" + "ab" * 32]))
    first = await node.start(with_file=True)
    assert await first.recorded(FOLLOWED) == [] and first.policy.snapshot().version == 1
    await first.policy.add_rule({"id": "r", "match": {}, "effect": "confirm"})
    node.file.write_text(document(max_danger=7))
    later = await node.start(with_file=True)
    (said,) = await later.recorded(FOLLOWED)
    assert (said["source"], said["differs"]) == ("file", ["forbidden_peers", "max_danger"])
    (text,) = await later.told()
    assert "max_danger" in text and "forbidden_peers" in text and "the policy file" in text
    assert later.policy.snapshot().version == 3
    assert [rule.id for rule in later.policy.snapshot().rules] == ["r"]


async def test_a_file_that_comes_or_goes_while_the_plugin_was_down(node: Restarts) -> None:
    await node.start("conservative")
    node.file.write_text(document("aggressive"))
    with_file = await node.start("conservative", with_file=True)
    (said,) = await with_file.recorded(FOLLOWED)
    assert said["source"] == "file" and len(await with_file.told()) == 1
    # Without it nothing changes: what was in force stays until somebody changes it.
    without = await node.start("conservative")
    assert len(await without.recorded(FOLLOWED)) == 1
    assert (without.policy.source, without.policy.snapshot().preset) == ("stored", "aggressive")


async def test_a_policy_that_is_the_same_costs_no_write(node: Restarts) -> None:
    node.file.write_text(document("conservative", max_danger=3))
    await node.start(with_file=True)
    await node.world.policy.add_rule({"id": "r", "match": {}, "effect": "confirm"})
    before = await node.rows()
    changes: list[str] = []
    node.world.policy.on_change(lambda: changes.append("changed"))
    # Written again, the same thing in other words.
    node.file.write_text(
        '{"overrides": {"max_danger": 3},  "preset": "conservative", "policy_version": 1}\n\n'
    )
    await node.world.policy.watch_file()
    assert (await node.rows(), changes) == (before, [])
    await node.start(with_file=True)
    assert await node.rows() == before


async def test_a_file_edited_while_the_plugin_runs_says_what_differs(node: Restarts) -> None:
    node.file.write_text(document(max_danger=4))
    world = await node.start(with_file=True)
    node.file.write_text(document("moderate"))
    await world.policy.watch_file()
    await world.policy.watch_file()
    (said,) = await world.recorded(FOLLOWED)
    assert (said["source"], said["differs"]) == ("file", ["max_danger"])
    assert len(await world.told()) == 1


async def test_what_an_override_hides_is_told_all_the_same(node: Restarts) -> None:
    world = await node.start("moderate")
    await world.policy.override({"max_danger": 3}, "2h")
    assert await world.told() == []
    later = await node.start("aggressive")
    assert later.policy.snapshot().settings(later.now).max_danger == 3
    assert "max_danger" in (await later.told())[0]


async def test_a_broken_file_holds_what_it_held_and_its_repair_is_compared(node: Restarts) -> None:
    node.file.write_text(document(max_danger=4))
    world = await node.start(with_file=True)
    await world.policy.override({"max_danger": 5}, "1h")
    count = len(await world.told())
    node.file.write_text("{")
    await world.policy.watch_file()
    assert world.policy.snapshot().document.overrides == {"max_danger": 4}
    # At start there is no last good one: only reading, and the remembered one is not lost.
    locked = await node.start(with_file=True)
    assert locked.policy.snapshot().locked is not None
    locked.now += 3_600
    await locked.policy.expire_overrides()
    assert locked.policy.snapshot().locked is not None and locked.policy.snapshot().override is None
    assert len(await locked.recorded("policy_override_expired")) == 1
    node.file.write_text(document(max_danger=6))
    await locked.policy.watch_file()
    assert locked.policy.snapshot().locked is None
    (said,) = await locked.recorded(FOLLOWED)
    assert said["differs"] == ["max_danger"] and said["old_hash"] is not None
    told = await locked.told()
    assert len(told) == count + 3 and "max_danger" in told[0]


async def test_what_held_before_cannot_be_read_and_that_is_told(node: Restarts) -> None:
    world = await node.start("moderate")
    await world.db.write(lambda tx: tx.execute("UPDATE comms_policy SET document_json = '{'"))
    assert (await node.start("moderate")).policy.snapshot().locked is not None
    node.file.write_text(document("conservative"))
    later = await node.start(with_file=True)
    assert later.policy.snapshot().preset == "conservative"
    (said,) = await later.recorded(FOLLOWED)
    assert said["old_hash"] is None
    assert "cannot be read" in (await later.told())[0]


async def test_a_file_that_is_not_taken_by_the_option_changes_nothing(node: Restarts) -> None:
    world = await node.start("moderate")
    before = await node.rows()
    node.file.write_text("{")
    with pytest.raises(InvalidParams, match=r"policy\.json is not used"):
        await world.policy.reload_file(str(node.file))
    assert await node.rows() == before and world.policy.source == "stored"


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from cl_hive_comms.services import policy_in_force, policy_record
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.receipt_service import ReceiptService
from policy_world import Operator

def die(*args, **more):
    os.kill(os.getpid(), signal.SIGKILL)

owner, name = {
    "before the receipt": (ReceiptService, "append"),
    "before the alert": (AlertService, "raise_in"),
    "before memory follows": (policy_in_force.PolicyInForce, "_adopt"),
}[sys.argv[1]]
world = Operator(Path(sys.argv[2]))
setattr(owner, name, die)
asyncio.run(world.policy.load("aggressive", sys.argv[3]))
"""


@pytest.mark.parametrize("point", ["before the receipt", "before the alert", "before memory follows"])
@pytest.mark.parametrize("source", ["option", "file"])
async def test_a_kill_at_any_point_leaves_one_receipt_and_one_alert(
    node: Restarts, source: str, point: str
) -> None:
    node.file.write_text(document("aggressive"))
    await node.start("conservative")
    node.world.db.close()
    file = str(node.file) if source == "file" else ""
    died = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KILLED, point, str(node.path), file),
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], *sys.path])},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await died.communicate()
    assert died.returncode == -signal.SIGKILL, said.decode()
    for _ in range(2):
        world = await node.start("aggressive", with_file=source == "file")
        assert [row["source"] for row in await world.recorded(FOLLOWED)] == [source]
        assert len(await world.told()) == 1
        assert (world.policy.snapshot().version, world.policy.snapshot().preset) == (2, "aggressive")
