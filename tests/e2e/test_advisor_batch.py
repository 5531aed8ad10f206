"""A batch at a real node: in order, stopped by the node's own refusal, nothing twice (11 §10)."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from hive_devnet.world import World

PARTIAL = 10


async def sent(world: World, file: Path) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
    """Exit code, rows, summary."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hive_advisor", "--json", "send", "alice", "--batch", str(file)),
        env=world.advisor.env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    *rows, last = [json.loads(line) for line in out.splitlines()]
    assert last["ok"] is (process.returncode == 0), err
    assert process.returncode is not None
    return process.returncode, rows, last["data"]


async def test_a_batch_reads_writes_and_stops_at_the_nodes_cooldown(world: World, tmp_path: Path) -> None:
    await world.hire("fees")
    await world.alice.call("setchannel", {"id": world.scid, "feebase": 1_000, "feeppm": 200})
    lines = [
        {"schema": "hive:monitor/v1", "action": "fee_report"},
        *(
            {
                "schema": "hive:fee-policy/v1",
                "action": "set_single",
                "params": {"channel_id": world.scid, "fee_ppm": ppm},
            }
            for ppm in (220, 225, 226)
        ),
    ]
    file = tmp_path / "fees.ndjson"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for attempt in range(2):
        code, rows, told = await sent(world, file)
        assert code == PARTIAL, (rows, told)
        assert (told["ran"], told["stopped_at"], told["not_begun"]) == ([1, 2], 3, [4])
        assert rows[2]["slug"] == "cooldown" and rows[2]["state"] == "rejected"
        assert [row.get("ran_before", False) for row in rows] == [attempt == 1, attempt == 1, False]
        assert (await world.channel_fees())[1] == 220
    items = (await world.alice.call("hive-client-receipts", {"limit": 200}))["items"]
    ours = [item for item in items if item["action"] == "set_single" and item["status"] == "success"]
    assert [item["command_id"] for item in ours] == [rows[1]["command_id"]]
