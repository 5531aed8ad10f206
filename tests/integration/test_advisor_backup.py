"""A profile in one sealed file and back (docs/protocol/11-advisor-kit.md §12, §18.7). No relay."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hive_advisor.advisor import Advisor
from hive_advisor.config import AdvisorConfig
from hive_advisor.identity import create_identity, write_identity
from hive_advisor.paths import ProfilePaths
from hive_advisor.profile_backup import create, restore, verify
from hive_shared import envelope
from hive_shared.canonical import encode
from hive_shared.errors import Conflict, InvalidParams
from hive_shared.nostr.giftwrap import Message
from hive_shared.sealed_file import SealedFileError
from scripted_node import ScriptedNode

PASSPHRASE = "correct horse battery staple"
FEE = ("hive:fee-policy/v1", "set_single")
WEEK = 7 * 86_400


class Profile:
    """One identity, one scripted node on its socket; any number of directories."""

    def __init__(self, directory: Path) -> None:
        self.identity, self.node = create_identity(), ScriptedNode("ws://127.0.0.1:1")
        self.ahead = 0
        self.paths = self.place(directory)
        write_identity(self.paths.identity, self.identity, PASSPHRASE, now=self.now())

    @staticmethod
    def place(directory: Path) -> ProfilePaths:
        made = ProfilePaths("test", directory / "config", directory / "data")
        made.make()
        return made

    def now(self) -> int:
        return int(time.time()) + self.ahead

    @asynccontextmanager
    async def open(self, paths: ProfilePaths | None = None) -> AsyncIterator[Advisor]:
        config = AdvisorConfig(relays=("ws://127.0.0.1:1",), transport_order=("local",))
        where = paths or self.paths

        def clock() -> int:
            return self.now() * 1_000_000

        async with Advisor.open(
            where, self.identity, config, online=False, now=self.now, now_us=clock
        ) as kit:
            kit.delivery._local = self
            yield kit

    async def call(self, _socket: str, text: str, _rune: str | None, _sender: str) -> str:
        command = envelope.decode_command(text)
        self.node.commands.append(command)
        return encode(self.node.response(command, 0, result={"ok": True})).decode()

    async def hired(self, kit: Advisor) -> None:
        text = encode(self.node.offer(kit.pubkey)).decode()
        await kit._mail.receive(Message(self.node.key, "ab" * 32, text, self.now(), (), ""), kit.pubkey)
        (client,) = await kit.clients.all()
        client, _ = await kit.clients.accept(client, "alice")
        await kit.delivery.set_socket(client, "/nowhere")


async def fee(kit: Advisor, ppm: int) -> Any:
    client = await kit.clients.named("alice")
    plan = await kit.plan(client, *FEE, {"channel_id": "103x1x0", "fee_ppm": ppm})
    return await kit.execute(plan, wait_s=1, human=True, again=True)


async def test_acceptance_11_07_a_week_old_backup_goes_on_and_sends_nothing_old(tmp_path: Path) -> None:
    profile = Profile(tmp_path / "one")
    profile.paths.guard.write_text("")
    async with profile.open() as kit:
        await profile.hired(kit)
        assert (await fee(kit, 150)).state == "done"
        params = {"channel_id": "104x1x0", "fee_ppm": 160}
        plan = await kit.plan(await kit.clients.named("alice"), *FEE, params)
        unsent = await kit.plans.issue(plan, origin="cli", human=True)
        assert unsent.state == "ready"
        # Beside the process that has the profile open.
        made = create(profile.paths, tmp_path / "week.hive", PASSPHRASE, profile.now())
        later = [(await fee(kit, ppm)).nonce for ppm in (170, 180)]
    assert verify(tmp_path / "week.hive", PASSPHRASE) == made
    profile.ahead = WEEK
    heard = len(profile.node.commands)
    there = profile.place(tmp_path / "two")
    done = await restore(there, tmp_path / "week.hive", PASSPHRASE, replace_all=False, now=profile.now)
    assert (done["drafts"], done["clients"], done["put_aside"]) == (1, 1, None)
    assert there.guard.exists() and not (there.data_dir / ".restore").exists()
    assert {path.name for path in there.data_dir.iterdir() if path.name.startswith(".")} == set()
    async with profile.open(there) as kit:
        await kit.pump()
        told = [command for command in profile.node.commands[heard:] if command.schema_type == FEE[0]]
        assert told == [], "nothing old is sent"
        assert (await kit.commands.get(unsent.command_id)).state in ("draft", "expired")
        client = await kit.clients.named("alice")
        # What the guard counted since the copy is not known: a program has to wait for a human.
        plan = await kit.plan(client, *FEE, {"channel_id": "103x1x0", "fee_ppm": 190})
        judged = await kit.guard.judged(plan, "mcp")
        assert {reason.rule for reason in judged.judgement.reasons} >= {"fee_writes"}
        again = await fee(kit, 200)
        assert again.state == "done" and again.nonce > max(later)
        assert any(event.kind == "restored" for event in await kit.past_events(0, 500))
    profile.ahead += 86_401
    async with profile.open(there) as kit:
        plan = await kit.plan(
            await kit.clients.named("alice"), *FEE, {"channel_id": "103x1x0", "fee_ppm": 210}
        )
        judged = await kit.guard.judged(plan, "mcp")
        assert "fee_writes" not in {reason.rule for reason in judged.judgement.reasons}


async def test_a_database_that_is_there_is_put_aside_and_only_when_asked(tmp_path: Path) -> None:
    profile = Profile(tmp_path / "one")
    async with profile.open() as kit:
        await profile.hired(kit)
    create(profile.paths, tmp_path / "a.hive", PASSPHRASE, profile.now())
    async with profile.open() as kit:
        await kit.clients.rename(await kit.clients.named("alice"), "later")
        with pytest.raises(Conflict, match="in use by another"):
            await restore(profile.paths, tmp_path / "a.hive", PASSPHRASE, replace_all=True)
    with pytest.raises(Conflict, match="add --replace"):
        await restore(profile.paths, tmp_path / "a.hive", PASSPHRASE, replace_all=False)
    async with profile.open() as kit:
        assert (await kit.clients.named("later")).alias == "later"
    done = await restore(profile.paths, tmp_path / "a.hive", PASSPHRASE, replace_all=True)
    assert done["put_aside"] is not None and Path(done["put_aside"]).stat().st_mode & 0o77 == 0
    async with profile.open() as kit:
        assert (await kit.clients.named("alice")).alias == "alice"
    names = sorted(path.name for path in profile.paths.data_dir.iterdir())
    assert not any(name.startswith(".restore") for name in names), names


async def test_what_is_no_whole_backup_of_this_identity_changes_nothing(tmp_path: Path) -> None:
    profile = Profile(tmp_path / "one")
    async with profile.open() as kit:
        await profile.hired(kit)
    file = tmp_path / "a.hive"
    create(profile.paths, file, PASSPHRASE, profile.now())
    with pytest.raises(InvalidParams, match="exists already"):
        create(profile.paths, file, PASSPHRASE, profile.now())
    assert file.stat().st_mode & 0o77 == 0
    body = file.read_bytes()
    for name, changed in {
        "flipped": body[:-9] + bytes([body[-9] ^ 1]) + body[-8:],
        "cut": body[: len(body) // 2],
        "longer": body + b"x",
        "empty": b"",
        "other": b"SQLite format 3\0" * 10,
    }.items():
        path = tmp_path / name
        path.write_bytes(changed)
        with pytest.raises(InvalidParams):
            verify(path, PASSPHRASE)
    with pytest.raises(InvalidParams):
        await restore(profile.place(tmp_path / "new"), tmp_path / "flipped", PASSPHRASE, replace_all=False)
    with pytest.raises(SealedFileError):
        verify(file, "another passphrase")
    assert list((tmp_path / "new" / "data").iterdir()) == []
    stranger = Profile(tmp_path / "stranger")
    with pytest.raises(Conflict, match="take another --profile"):
        await restore(stranger.paths, file, PASSPHRASE, replace_all=True)
    assert [path.name for path in stranger.paths.data_dir.iterdir()] == ["identity.json"]
    assert json.loads(stranger.paths.identity.read_text())["npub"] == stranger.identity.npub
