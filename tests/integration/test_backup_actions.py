"""hive:backup/v1 on the pipeline (02 §4 item 13): files, what is told of them, and what a crash leaves."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cl_hive_comms.domain.node_backup import NodeBackup
from cl_hive_comms.services.executors.backup import backup_key, open_channels
from crash_points import killed, under_way
from hive_shared import crypto
from hive_shared.nostr import nip44
from hive_shared.registry import BACKUP, MONITOR, Tier
from hive_shared.sealed_file import file_digest
from pipeline_world import NODE_ID, NODE_KEY, OTHER_KEY, View, World, issue, slug


def trusted(directory: Path) -> World:
    """An agent that may back up by itself."""
    directory.mkdir(parents=True, exist_ok=True)
    world = World(directory)
    world.credentials.add(View(issue(template="complete_management", tier=Tier.ADMIN), "adv-1"))
    world.policies.override("aggressive", approval_overrides={"backup_*": "auto_execute"})
    return world


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = trusted(tmp_path)
    yield made
    made.close()


async def done(world: World, action: str, **params: Any) -> dict[str, Any]:
    answer = await world.ask(BACKUP, action, params)
    assert answer["status"] == 0, answer
    return dict(answer["result"])


async def status(world: World) -> dict[str, Any]:
    return dict((await world.ask(MONITOR, "backup_status", {}))["result"])


def named(world: World) -> list[str]:
    directory = world.path.parent / "backup"
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


async def test_a_backup_is_sealed_private_and_told_of(world: World) -> None:
    assert (await status(world))["last_backup"] is None
    refused = await world.ask(BACKUP, "verify_backup", {})
    assert slug(refused) == "invalid_params" and "trigger_backup" in refused["error"]["message"]
    made = await done(world, "trigger_backup")
    directory = world.path.parent / "backup" / made["backup_id"]
    assert sorted(path.name for path in directory.iterdir()) == ["manifest.json", "scb.sealed"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (directory, directory.parent)} == {0o700}
    for row in world.node.rows:
        assert row["channel_id"].encode() not in (directory / "scb.sealed").read_bytes()
    told = await status(world)
    assert told["last_backup"]["backup_id"] == made["backup_id"]
    assert (told["backups"], told["damaged_backups"]) == (1, 0)
    verified = await done(world, "verify_backup", backup_id=made["backup_id"])
    assert (verified["intact"], verified["complete"], verified["channels"]) == (True, True, 4)
    assert verified["missing_channels"] == verified["gone_channels"] == []
    assert verified["emergency_recover"] == {"available": True, "missing_channels": []}
    assert verified["sha256"] == made["sha256"]
    opened = await open_channels(world.node, world.backups, made["backup_id"])
    assert opened["scb"] == (await world.node.call("staticbackup"))["scb"]


async def test_a_full_backup_has_the_plugins_own_and_says_that_no_vault_took_it(world: World) -> None:
    made = await done(world, "trigger_backup", backup_type="full")
    assert [file["name"] for file in made["files"]] == ["comms.sealed", "scb.sealed"]
    assert "archon" in made["vault"]
    without = await done(world, "trigger_backup", backup_type="full", include_scb=False)
    assert [file["name"] for file in without["files"]] == ["comms.sealed"]
    verified = await done(world, "verify_backup")
    assert verified["backup_id"] == without["backup_id"], "the newest"
    assert verified["intact"] is True and verified["complete"] is False, "it holds no channels"
    refused = await world.ask(BACKUP, "trigger_backup", {"include_scb": False})
    assert slug(refused) == "invalid_params" and len(named(world)) == 2


async def test_verify_tells_of_channels_that_came_and_went(world: World) -> None:
    made = await done(world, "trigger_backup")
    gone = world.node.rows.pop(0)
    new = world.node._row(9)
    world.node.rows.append(new)
    world.node.rows[0]["state"] = "ONCHAIN"
    verified = await done(world, "verify_backup", backup_id=made["backup_id"])
    assert verified["missing_channels"] == [new["channel_id"]] and verified["complete"] is False
    assert verified["gone_channels"] == sorted([gone["channel_id"], world.node.rows[0]["channel_id"]])


@pytest.mark.parametrize("harm", ["byte", "gone", "manifest", "renamed"])
async def test_a_changed_backup_is_never_called_whole(world: World, harm: str) -> None:
    made = await done(world, "trigger_backup")
    directory = world.path.parent / "backup" / made["backup_id"]
    file, manifest = directory / "scb.sealed", directory / "manifest.json"
    if harm == "byte":
        file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1]))
    elif harm == "gone":
        file.unlink()
    elif harm == "manifest":
        doc = json.loads(manifest.read_bytes())
        manifest.write_text(json.dumps({**doc, "created_at": doc["created_at"] + 1}))
    else:
        directory.rename(directory.parent / ("ab" * 8))
    answer = await world.ask(BACKUP, "verify_backup", {})
    if harm in ("byte", "gone"):
        assert answer["result"]["intact"] is False and answer["result"]["complete"] is False
        assert answer["result"]["broken_files"] == ["scb.sealed"]
    else:
        assert slug(answer) == "invalid_params"
        assert (await status(world))["damaged_backups"] == 1


@pytest.mark.parametrize("named_as", ["../../etc/passwd", "/etc/shadow", "A" * 16, "ab", ""])
async def test_a_backup_is_named_by_its_id_never_by_a_path(world: World, named_as: str) -> None:
    assert slug(await world.ask(BACKUP, "verify_backup", {"backup_id": named_as})) == "invalid_params"


async def test_old_backups_go_and_those_of_other_days_stay(world: World) -> None:
    key = await backup_key(world.node)

    async def make(number: int) -> str:
        wanted = NodeBackup(f"{number:016x}", NODE_ID, "scb", world.now, 0, ())
        return (await world.backups.make(wanted, None, key))[0].backup_id

    first = await make(99)
    world.pass_time(86_400)
    ids = [await make(number) for number in range(12)]
    assert named(world) == sorted([first, *ids[-10:]])
    assert (await status(world))["backups"] == 11
    world.pass_time(31 * 86_400)
    await make(50)
    assert first not in named(world) and len(named(world)) == 10


async def test_what_cannot_be_written_leaves_nothing_and_says_why(world: World) -> None:
    async def full(path: Path, passphrase: crypto.Secret) -> None:
        raise OSError(28, os.strerror(28))

    world.backups._write_own = full
    answer = await world.ask(BACKUP, "trigger_backup", {"backup_type": "full"})
    assert slug(answer) == "node_error" and "No space left" in answer["error"]["message"]
    assert named(world) == [] and answer["receipt"]["status"] == "error"
    for method in ("makesecret", "staticbackup"):
        world.node.fail = {method: -1}
        assert slug(await world.ask(BACKUP, "trigger_backup", {})) == "node_error"
        assert named(world) == []


async def test_an_export_opens_with_the_operators_key_alone(world: World) -> None:
    made = await done(world, "export_scb")
    assert made["recipient"] == crypto.xonly_pubkey(OTHER_KEY)
    texts = [
        json.loads(nip44.decrypt(nip44.conversation_key(OTHER_KEY, made["sealed_by"]), part))
        for part in made["parts"]
    ]
    assert [text["scb"] for text in texts] == [(await world.node.call("staticbackup"))["scb"]]
    with pytest.raises(nip44.Nip44Error):
        nip44.decrypt(nip44.conversation_key(NODE_KEY, made["sealed_by"]), made["parts"][0])
    assert named(world) == []
    again = await done(world, "export_scb")
    assert again["sealed_by"] != made["sealed_by"], "the key is used once"


async def test_an_export_of_many_channels_comes_in_parts_and_one_of_too_many_is_refused(world: World) -> None:
    entries = [f"{n:016x}{n:064x}" + "ab" * 500 for n in range(300)]
    world.node.answers["staticbackup"] = lambda _: {"scb": entries}
    made = await done(world, "export_scb")
    key = nip44.conversation_key(OTHER_KEY, made["sealed_by"])
    texts = [json.loads(nip44.decrypt(key, part)) for part in made["parts"]]
    assert [entry for text in texts for entry in text["scb"]] == entries and len(texts) > 1
    assert [(text["part"], text["of"]) for text in texts] == [
        (n, len(texts)) for n in range(1, len(texts) + 1)
    ]
    world.node.answers["staticbackup"] = lambda _: {"scb": entries * 4}
    answer = await world.ask(BACKUP, "export_scb", {})
    assert slug(answer) == "node_error" and "trigger_backup" in answer["error"]["message"]


async def test_without_an_operators_key_nothing_is_exported(world: World) -> None:
    world.operator_key = None
    answer = await world.ask(BACKUP, "export_scb", {})
    assert slug(answer) == "unsupported_action" and "hive-comms-alert-nostr-dm" in answer["error"]["message"]


@pytest.mark.parametrize("action", ["trigger_backup", "export_scb"])
async def test_acceptance_02_12_a_backup_killed_anywhere_is_whole_or_not_there(
    tmp_path: Path, action: str
) -> None:
    params = {"backup_type": "full"} if action == "trigger_backup" else {}
    seen: set[str] = set()
    for at in range(80):

        async def order(world: World) -> None:
            await world.ask(BACKUP, action, params)

        world, died = await killed(tmp_path / str(at), at, order, trusted)
        docs, left = await world.docs(), named(world)
        assert len(docs) <= 1, (at, docs)
        outcome = docs[0]["status"] if docs else "none"
        seen.add(outcome)
        whole = [each for each in left if not each.startswith(".")]
        if action == "trigger_backup":
            assert bool(whole) == (outcome == "success"), (at, left, docs)
        if whole:
            assert docs[0]["result"]["backup_id"] == whole[0]
            # Every file is hashed; opening them takes a second each time and is tested above.
            found = await world.backups.find(whole[0], await backup_key(world.node))
            assert found is not None
            for file in found[0].files:
                path = world.path.parent / "backup" / whole[0] / file.name
                assert file_digest(path) == file.sha256
        assert docs or died
        assert await under_way(world) == 0
        assert (await world.receipts.verify()).ok
        # What was left over goes with the next one.
        if action == "trigger_backup" and len(left) != len(whole):
            if "swept" not in seen:
                await done(world, "trigger_backup")
                assert not [each for each in named(world) if each.startswith(".")]
            seen.add("swept")
        world.close()
        if not died:
            break
    else:
        pytest.fail("more points than expected")
    assert {"none", "error", "success"} <= seen, seen
    assert action == "export_scb" or "swept" in seen
