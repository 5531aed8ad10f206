"""Sheet 08 §13.18 as far as this version has the parts: backup -> wipe -> restore, old nonce refused."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from agent import Agent
from channel_world import all_frozen, channels, plugin_again
from comms_world import until
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import PLUGINS, World

WORD = "correct horse battery staple"
STOP = "hive-client-emergency-stop"


@pytest_asyncio.fixture
async def word(tmp_path: Path) -> str:
    """A passphrase file."""
    path = tmp_path / "passphrase"
    path.write_text(WORD + "\n")
    path.chmod(0o600)
    return str(path)


async def backed_up(world: World, path: Path, word: str, **more: object) -> dict[str, Any]:
    return await world.alice.call(
        "hive-client-backup", {"path": str(path), "passphrase_file": word, **more}, timeout=120
    )


async def restore(world: World, path: Path, word: str, **more: object) -> dict[str, Any]:
    return await world.alice.call(
        "hive-client-restore", {"path": str(path), "passphrase_file": word, **more}, timeout=120
    )


async def started(world: World) -> None:
    """The node again, its plugin past `busy`: a real node does not wait for it."""
    await world.alice.start()
    await until(lambda: world.alice.call("hive-client-status"), "the plugin answers")


async def wiped(world: World) -> None:
    """Every file of the plugin is gone, as after a lost disk; the node has its hsm_secret."""
    await world.alice.stop()
    for file in world.alice.net_dir.glob("cl_hive_comms.db*"):
        file.unlink()
    await started(world)
    assert (await world.alice.call("hive-client-receipts"))["count"] == 0


def by_part(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {part["part"]: part for part in result["parts"]}


async def test_acceptance_08_18_wipe_and_restore_refuses_an_old_nonce(
    world: World, agent: Agent, tmp_path: Path, word: str
) -> None:
    call, path = world.alice.call, tmp_path / "hive.backup"
    await call("setchannel", {"id": world.scid, "feebase": 1_000, "feeppm": 1_000})
    old = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 1_100})
    await agent.rest(old)
    await call("hive-client-alias", {"action": "set", "alias": "fee doctor", "target": agent.npub})
    await call("hive-client-policy", {"action": "forbid", "peers": ["02" + "ab" * 32]})
    record = await call("hive-client-receipts", {"limit": 500})
    npub = (await call("hive-client-identity"))["npub"]
    done = await backed_up(world, path, word)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"fee doctor" not in path.read_bytes()
    assert {part for part, said in done["manifest"].items() if said["count"]} == {
        *("identity", "credentials", "receipts", "policy", "aliases")
    }

    await wiped(world)
    shown = await restore(world, path, word)
    assert shown["dry_run"] is True and by_part(shown)["receipts"]["restored"] == record["count"], shown
    assert (await call("hive-client-receipts"))["count"] == 0, "a dry run writes nothing"
    assert (await call("hive-mgmt-credential-list"))["count"] == 0
    with pytest.raises(DevnetRpcError, match="confirm=true"):
        await restore(world, path, word, dry_run=False)
    result = await restore(world, path, word, dry_run=False, confirm=True)
    assert [{**part, "note": ""} for part in result["parts"]] == [
        {**part, "note": ""} for part in shown["parts"]
    ]
    assert (await call("hive-client-identity"))["npub"] == npub

    verified = await call("hive-client-receipts-verify")
    assert verified["ok"] is True and verified["last_id"] == record["count"] + 2, verified
    newest, followed = (await call("hive-client-receipts", {"limit": 2}))["items"]
    assert (followed["action"], followed["params"]["source"]) == ("policy_followed", "restore")
    assert followed["params"]["differs"] == ["forbidden_peers"]
    assert newest["action"] == "restore" and newest["result"]["gap"]["from"] == done["created_at"]
    assert (await call("hive-client-policy"))["preset"] and "ab" * 32 in str(await call("hive-client-policy"))
    assert (await call("hive-client-credential", {"advisor": "fee doctor"}))["name"] == "fee doctor"

    refused = await agent.rest(old)
    assert refused["error"]["slug"] in ("nonce_too_low", "nonce_reuse"), refused
    again = await agent.rest(agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 1_200}))
    assert again["status"] == 0, again
    # A second restore finds nothing to do.
    second = by_part(await restore(world, path, word, dry_run=False, confirm=True))
    assert not any(second[part]["restored"] for part in second), second


async def test_what_is_newer_here_stays(world: World, agent: Agent, tmp_path: Path, word: str) -> None:
    call, path = world.alice.call, tmp_path / "hive.backup"
    await call("hive-client-alias", {"action": "set", "alias": "doc", "target": agent.npub})
    await backed_up(world, path, word)
    await call("hive-client-policy", {"action": "set-preset", "preset": "conservative"})
    await call("hive-client-revoke", {"advisor": agent.npub})
    for mode in ("merge", "replace"):
        result = by_part(await restore(world, path, word, dry_run=False, confirm=True, mode=mode))
        assert result["receipts"]["restored"] == 0 and "further" in result["receipts"]["note"], result
        # What was revoked stays revoked, in either mode.
        (row,) = (await call("hive-mgmt-credential-list"))["items"]
        assert row["status"] == "revoked", row
        preset = (await call("hive-client-policy"))["preset"]
        assert (preset == "conservative") is (mode == "merge"), mode
    copies = await asyncio.to_thread(lambda: list((world.alice.net_dir / "hive" / "backup").iterdir()))
    assert len(copies) == 1 and stat.S_IMODE(copies[0].stat().st_mode) == 0o600
    assert (await call("hive-client-receipts-verify"))["ok"] is True


async def test_single_parts_can_be_backed_up_and_skipped(
    world: World, agent: Agent, tmp_path: Path, word: str
) -> None:
    names, all_parts = tmp_path / "names.backup", tmp_path / "all.backup"
    await world.alice.call("hive-client-alias", {"action": "set", "alias": "doc", "target": agent.npub})
    done = await backed_up(world, names, word, components=["aliases"])
    assert list(done["manifest"]) == ["aliases"]
    await backed_up(world, all_parts, word)
    shown = by_part(await restore(world, all_parts, word, skip="receipts, policy"))
    assert set(shown) == {"identity", "credentials", "escrow", "payments", "aliases", "channels"}
    with pytest.raises(DevnetRpcError, match="no part of a backup"):
        await restore(world, all_parts, word, components=["wallet"])


async def test_an_imported_key_comes_back_with_replace(world: World, tmp_path: Path, word: str) -> None:
    call, path = world.alice.call, tmp_path / "hive.backup"
    rotated = await call("hive-client-identity", {"action": "rotate", "confirm": True})
    await backed_up(world, path, word)
    await wiped(world)
    assert (await call("hive-client-identity"))["npub"] != rotated["npub"]
    await restore(
        world, path, word, dry_run=False, confirm=True, components="identity,receipts", mode="replace"
    )
    assert (await call("hive-client-identity"))["npub"] == rotated["npub"]
    assert (await call("hive-client-receipts-verify"))["ok"] is True
    await world.alice.stop()
    await started(world)
    assert (await call("hive-client-identity"))["npub"] == rotated["npub"]


@pytest.mark.parametrize("what", ["wrong passphrase", "cut off", "changed", "not ours"])
async def test_a_backup_that_does_not_open_changes_nothing(
    world: World, tmp_path: Path, word: str, what: str
) -> None:
    path = tmp_path / "hive.backup"
    await backed_up(world, path, word)
    data = bytearray(path.read_bytes())
    if what == "wrong passphrase":
        Path(word).write_text("another passphrase")
    elif what == "cut off":
        path.write_bytes(data[:-40])
    elif what == "changed":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(b"x" * 500)
    with pytest.raises(DevnetRpcError) as refused:
        await restore(world, path, word, dry_run=False, confirm=True)
    assert refused.value.code == -32602 and WORD not in refused.value.message


async def test_another_nodes_backup_is_refused(world: World, tmp_path: Path, word: str) -> None:
    quiet = {"hive-comms-nostr-relays": world.relay.url, "hive-comms-nostr-profile-relays": ""}
    other = await world.network.add_node("mallory", quiet, [PLUGINS["cl-hive-comms"]])
    path = tmp_path / "other.backup"
    await other.call("hive-client-backup", {"path": str(path), "passphrase_file": word}, timeout=120)
    with pytest.raises(DevnetRpcError, match="can only be restored on its own node") as refused:
        await restore(world, path, word)
    assert refused.value.code == 4015


async def test_a_restore_brings_the_stop_and_the_override_back_and_thaws_nothing(
    world: World, agent: Agent, tmp_path: Path, word: str
) -> None:
    call, path = world.alice.call, tmp_path / "hive.backup"
    before = await channels(world)
    await call("hive-client-policy", {"action": "override", "overrides": {"max_danger": 7}, "duration": "2h"})
    await call(STOP, {"action": "engage", "reason": "theft", "freeze_forwarding": True})
    assert all_frozen(before, await channels(world))
    await backed_up(world, path, word)
    await wiped(world)
    shown = by_part(await restore(world, path, word))
    assert "theft" in shown["channels"]["note"] and "stay frozen" in shown["channels"]["note"]
    assert (await call("hive-client-status"))["emergency"]["engaged"] is False
    assert (await call("hive-client-alerts"))["count"] == 0, "a dry run tells nobody"
    result = by_part(await restore(world, path, word, dry_run=False, confirm=True))
    assert result == shown
    for again in (False, True):
        if again:
            await plugin_again(world)
        emergency = (await call("hive-client-status"))["emergency"]
        assert emergency["engaged"] is True and "theft" in emergency["reason"]
        refused = await agent.rest(agent.signed("channel_list", {}, "hive:monitor/v1"))
        assert refused["error"]["slug"] == "emergency_stop", refused
        assert all_frozen(before, await channels(world))
        assert (await call("hive-client-policy"))["override"]["values"] == {"max_danger": 7}
    codes = [row["code"] for row in (await call("hive-client-alerts"))["items"]]
    assert codes.count("emergency_stop") == 1 and codes.count("policy_loosened") == 1, codes
    token = (await call(STOP, {"action": "status"}))["release"]["token"]
    await call(STOP, {"action": "release", "token": token})
    assert await channels(world) == before
    assert (await agent.rest(agent.signed("channel_list", {}, "hive:monitor/v1")))["status"] == 0
    assert (await call("hive-client-receipts-verify"))["ok"] is True
