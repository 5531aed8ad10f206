"""Sheet 08 §13.15, second half: prune -> verify ok; and receipts as files (08 §5.2)."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from agent import Agent
from comms_world import until
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World
from hive_shared.crypto import Secret, cln_recover_message, sha256
from hive_shared.receipts import root_text
from hive_shared.sealed_file import SealedReader

KEPT = 1_000
"""docs/protocol/02 §9.2: the newest receipts stay."""


async def many_receipts(world: World) -> int:
    """More receipts than have to stay, made by the operator; the highest id."""
    for _ in range(11):
        await asyncio.gather(
            *(
                world.alice.call(
                    "hive-client-policy", {"action": action, "peers": [f"02{number:064x}"]}, timeout=120
                )
                for number in range(1, 51)
                for action in ("forbid", "unforbid")
            ),
            return_exceptions=True,
        )
    (newest,) = (await world.alice.call("hive-client-receipts", {"limit": 1}))["items"]
    return int(newest["receipt_id"])


def the_files_own_count(world: World) -> tuple[int, int]:
    with closing(sqlite3.connect(world.alice.net_dir / "cl_hive_comms.db", timeout=60)) as database:
        lowest, highest = database.execute(
            "SELECT MIN(receipt_id), MAX(receipt_id) FROM management_receipts"
        ).fetchone()
    return int(lowest), int(highest)


async def test_acceptance_08_15_prune_then_verify_is_ok(world: World, agent: Agent) -> None:
    last = await many_receipts(world)
    assert last > KEPT
    done = await world.alice.call("hive-client-prune", {"days": 0}, timeout=120)
    archive = done["archive"]
    assert done["receipts"] == archive["last_id"] >= last - KEPT - 1 and archive["first_id"] == 1
    lowest, highest = await asyncio.to_thread(the_files_own_count, world)
    assert lowest == archive["last_id"] + 1 and highest - lowest + 1 >= KEPT
    # 02 §15.1: the agent reads the root, signed by the node's Lightning key.
    listed = await agent.rest(agent.signed("receipts_list", {"since_id": 0, "limit": 1}, "hive:control/v1"))
    (root,) = [root for root in listed["result"]["roots"] if root["kind"] == "prune"]
    assert (root["first_id"], root["last_id"]) == (1, archive["last_id"])
    text = root_text(root["kind"], root["start"], root["first_id"], root["last_id"], root["merkle_root"])
    assert cln_recover_message(text, root["zbase"]) == world.alice.node_id
    verified = await world.alice.call("hive-client-receipts-verify", timeout=120)
    assert (verified["ok"], verified["first_bad"], verified["last_id"]) == (True, None, highest), verified
    path = Path(archive["path"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sha256(path.read_bytes()).hex() == archive["sha256"]
    # The agent's side goes on, and so does the chain over a restart.
    await world.alice.stop()
    await world.alice.start()
    await until(lambda: world.alice.call("hive-client-status"), "the plugin answers")
    await agent.rest(agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 1_050}))
    again = await world.alice.call("hive-client-receipts-verify", timeout=120)
    assert again["ok"] is True and again["last_id"] > highest, again


async def test_receipts_are_exported_as_json_csv_and_sealed(
    world: World, agent: Agent, tmp_path: Path
) -> None:
    await agent.rest(agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 1_100}))
    page = await world.alice.call("hive-client-receipts", {"limit": 200})
    plain, table, sealed = (tmp_path / name for name in ("r.json", "r.csv", "r.sealed"))
    secret_file = tmp_path / "passphrase"
    secret_file.write_text("correct horse battery\n")
    secret_file.chmod(0o600)
    done = await world.alice.call("hive-client-receipts-export", {"path": str(plain)})
    assert (done["count"], done["sha256"]) == (page["count"], sha256(plain.read_bytes()).hex())
    assert stat.S_IMODE(plain.stat().st_mode) == 0o600
    written = json.loads(plain.read_text())["receipts"]
    newest = next(item for item in reversed(written) if item["action"] == "set_single")
    assert newest["agent_npub"] == agent.npub and newest["timestamp"].endswith("+00:00")
    assert newest["receipt_hash"].startswith("sha256:") and newest["params"]["fee_ppm"] == 1_100
    await world.alice.call("hive-client-receipts-export", {"path": str(table)})
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [row["receipt_hash"] for row in rows] == [item["receipt_hash"] for item in written]
    await world.alice.call(
        "hive-client-receipts-export", {"path": str(sealed), "passphrase_file": str(secret_file)}
    )
    assert b"set_single" not in sealed.read_bytes()
    with SealedReader(sealed, Secret(b"correct horse battery")) as reader:
        assert json.loads(b"\n".join(reader.lines()))["receipts"] == written


@pytest.mark.parametrize("what", ["relative", "taken", "no directory", "open passphrase", "short passphrase"])
async def test_an_export_that_cannot_be_is_refused_with_a_sentence(
    world: World, tmp_path: Path, what: str
) -> None:
    taken, secret_file = tmp_path / "taken.json", tmp_path / "passphrase"
    taken.write_text("mine")
    secret_file.write_text("short" if what == "short passphrase" else "long enough to do")
    os.chmod(secret_file, 0o644 if what == "open passphrase" else 0o600)
    params, sentence = {
        "relative": ({"path": "receipts.json"}, "absolute"),
        "taken": ({"path": str(taken)}, "exists already"),
        "no directory": ({"path": str(tmp_path / "none" / "r.json")}, "cannot be written"),
        "open passphrase": (
            {"path": str(tmp_path / "r"), "passphrase_file": str(secret_file)},
            "can be read by others",
        ),
        "short passphrase": ({"path": str(tmp_path / "r"), "passphrase_file": str(secret_file)}, "at least"),
    }[what]
    with pytest.raises(DevnetRpcError, match=sentence) as refused:
        await world.alice.call("hive-client-receipts-export", params)
    assert refused.value.code == -32602
    assert taken.read_text() == "mine" and not (tmp_path / "r").exists()
