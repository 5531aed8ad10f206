"""The guard as typed: what a script's command waits for, the PIN at a terminal, halt and release, exit codes
(11 §6, §10, §18.11, §18.12, §18.15).
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from approver_shell import PIN
from click.testing import CliRunner
from hive_advisor.cli.commands import ask_human, span_s
from hive_advisor.cli.context import Settings
from hive_advisor.cli.main import cli
from hive_advisor.cli.output import Terminal
from hive_advisor.domain.guard import Verdict
from hive_advisor.guard_files import replace_text
from hive_devnet.relay import RelayProcess
from hive_devnet.world import AdvisorFailed, AdvisorShell
from hive_shared.errors import ConfirmationRequired, Conflict, InvalidParams
from hive_shared.nostr.keys import parse_pubkey
from hive_shared.registry import Danger
from msgspec.structs import replace
from plan_world import PlanWorld
from scripted_node import ScriptedNode
from terminal import at_terminal

FEE = ("hive:fee-policy/set_single", "channel_id=103x1x0")
OK, USAGE, NOT_FOUND, REFUSED, PENDING, LOCKED = 0, 2, 3, 4, 5, 9


@pytest_asyncio.fixture
async def relay() -> AsyncIterator[RelayProcess]:
    process = await RelayProcess.start()
    yield process
    await process.stop()


@pytest_asyncio.fixture
async def node(relay: RelayProcess) -> AsyncIterator[ScriptedNode]:
    async with ScriptedNode(relay.url) as made:
        yield made


@pytest_asyncio.fixture
async def shell(relay: RelayProcess, node: ScriptedNode, tmp_path: Path) -> AdvisorShell:
    made = AdvisorShell(tmp_path / "advisor", [relay.url])
    key = parse_pubkey(str((await made.run("identity", "create"))["npub"]))
    await at_terminal(made, "identity", "pin", answers={"New PIN": PIN, "Repeat for confirmation": PIN})
    await node.send(key, node.offer(key, credential=node.credential(key, "everything")))
    await made.run("run", "--once")
    (offered,) = (await made.run("client", "list"))["items"]
    await made.run("client", "accept", offered["alias"], "--name", "alice")
    return made


async def fails(shell: AdvisorShell, *arguments: str, answers: dict[str, str] | None = None) -> Any:
    with pytest.raises(AdvisorFailed) as failed:
        if answers is None:
            await shell.run(*arguments)
        else:
            await at_terminal(shell, *arguments, answers=answers)
    return failed.value


def sent(node: ScriptedNode) -> list[str]:
    return [
        command.action for command in node.commands if not command.schema_type.startswith("hive:control/")
    ]


async def test_acceptance_11_15_11_11_a_held_command_and_a_halt_end_with_the_pin_at_a_terminal(
    shell: AdvisorShell, node: ScriptedNode
) -> None:
    held = await fails(shell, "send", "alice", *FEE, "fee_ppm=150", "--note", "flow moved")
    assert (held.code, held.error["state"]) == (PENDING, "held")
    assert "were not read in the last 10 minutes" in held.error["reason"]
    approval = held.error["approval_id"]
    (item,) = (await shell.run("approvals", "list"))["items"]
    assert (item["approval_id"], item["kind"], item["node"], item["danger"]) == (approval, "plan", "alice", 3)
    seen = await shell.run("approvals", "show", approval[:6])
    assert (seen["params"]["fee_ppm"], seen["note"], seen["origin"]) == (150, "flow moved", "cli")
    assert (await fails(shell, "--yes", "approvals", "approve", approval)).code == PENDING
    wrong = await fails(shell, "approvals", "approve", approval, answers={"PIN to approve": "000000"})
    assert wrong.code == LOCKED and "fee_ppm" in wrong.stderr
    assert sent(node) == []
    done = await at_terminal(shell, "approvals", "approve", approval, answers={"PIN to approve": PIN})
    assert (done["state"], done["command_id"]) == ("done", held.error["command_id"])
    # A person at a terminal is shown the reasons, and asked.
    no = await fails(shell, "send", "alice", *FEE, "fee_ppm=160", answers={"set_single on alice?": "n"})
    assert no.code == PENDING and "guard: the fees of 103x1x0 were not read" in no.stderr
    assert sent(node) == ["set_single"]
    # A halt is anybody's, its end the PIN's.
    on = await shell.run("guard", "halt", "--reason", "odd figures")
    assert (on["halted"], on["before"]) == (True, False)
    refused = await fails(shell, "--yes", "send", "alice", *FEE, "fee_ppm=170")
    assert (refused.code, refused.error["slug"]) == (REFUSED, "guard_denied")
    wrong = await fails(shell, "guard", "release", answers={"PIN to release": "000000"})
    assert wrong.code == LOCKED and (await shell.run("guard", "show"))["halt_reason"] == "odd figures"
    off = await at_terminal(shell, "guard", "release", answers={"PIN to release": PIN})
    assert (off["halted"], off["before"]) == (False, True)
    yes = await at_terminal(
        shell, "send", "alice", *FEE, "fee_ppm=170", answers={"set_single on alice?": "y"}
    )
    assert yes["state"] == "done" and sent(node) == ["set_single", "set_single"]
    assert (await shell.run("guard", "show", "alice"))["used"]["24h"] == {"fee_writes": 2}
    # To loosen a limit takes the PIN too, and a client that there is.
    nobody = await fails(shell, "guard", "set", "client.bob.fee_writes_3h", "2")
    file = shell.directory / "config" / "hive-advisor" / "default" / "guard.toml"
    assert nobody.code == NOT_FOUND and not file.exists()
    looser = ("guard", "set", "global.fee_step_pct", "30")
    assert (await fails(shell, "--yes", *looser)).code == PENDING
    wrong = await fails(shell, *looser, answers={"PIN to loosen": "000000"})
    assert wrong.code == LOCKED and "looser: global.fee_step_pct: 15 is now 30" in wrong.stderr
    assert not file.exists()
    done = await at_terminal(shell, *looser, answers={"PIN to loosen": PIN})
    assert (done["before"], done["after"], done["changed"]) == (15, 30, True)
    assert file.read_text() == "[global]\nfee_step_pct = 30\n"


async def test_acceptance_11_12_danger_7_wants_its_number_or_its_words(tmp_path: Path) -> None:
    """What ``send`` does before anything is planned for good; no terminal is there."""
    world = PlanWorld(tmp_path)
    asks = Settings(world.paths, Terminal(as_json=True, quiet=True), 1, 1, False, False, None, None)
    yes = dataclasses.replace(asks, yes=True)
    async with world.open() as kit:
        await world.read(kit)
        plan = await world.plan(kit)
        free = await kit.guard.judged(plan, "cli")
        assert await ask_human(asks, free, None) == (False, None) == await ask_human(yes, free, None)
        for total, vector in ((5, "5/5/3/3/3"), (6, "6/5/3/3/3"), (7, "7/7/7/3/6"), (8, "8/7/7/3/6")):
            judged = await kit.guard.judged(replace(plan, danger=Danger.of(vector)), "cli")
            assert judged.judgement.verdict is Verdict.HOLD
            assert await ask_human(asks, judged, None) == (False, None), "kept as held"
            assert (
                await ask_human(asks, judged, total) == (True, total) == await ask_human(yes, judged, total)
            )
            for settings in (asks, yes):
                with pytest.raises(
                    ConfirmationRequired, match=f"not this command's danger, which is {total}"
                ):
                    await ask_human(settings, judged, total - 1)
            if total < 7:
                assert await ask_human(yes, judged, None) == (True, None)
            else:
                with pytest.raises(ConfirmationRequired, match=f"add --confirm-danger {total}"):
                    await ask_human(yes, judged, None)
        # Free for a person at the command line as far as the guard goes; `send` asks all the same.
        brake = ("hive:emergency/v1", "disable_forwarding", {"reason": "x"})
        stop = await kit.guard.judged(await kit.plan(await world.alice(kit), *brake), "cli")
        assert stop.judgement.verdict is Verdict.ALLOW and await ask_human(yes, stop, None) == (True, None)
        with pytest.raises(ConfirmationRequired, match="add --yes"):
            await ask_human(asks, stop, None)


def test_a_guard_toml_is_checked_without_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    file = tmp_path / "config" / "hive-advisor" / "default" / "guard.toml"
    file.parent.mkdir(parents=True)

    def check(text: str) -> tuple[int, str]:
        file.write_text(text)
        file.chmod(0o600)
        result = CliRunner().invoke(cli, ["--json", "guard", "check"])
        return result.exit_code, result.stdout

    assert check("[global]\nfee_step_pct = 10\n")[0] == OK
    code, said = check('[global]\nfee_step_pct = 30\nout_24h_sats = "off"\n[origin.mcp]\nmax_danger = 5\n')
    assert code == OK
    for looser in ("global.fee_step_pct: 15 is now 30", "global.out_24h_sats: 0 is now off", "origin.mcp"):
        assert looser in said
    for text, wrong in (("[global]\nfee_stp = 1", "unknown key 'fee_stp'"), ("[", "not valid TOML")):
        code, said = check(text)
        assert code == USAGE and wrong in said


def test_a_limit_is_tightened_without_an_identity_and_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    file = tmp_path / "config" / "hive-advisor" / "default" / "guard.toml"

    def tighten(*arguments: str) -> tuple[int, dict[str, Any]]:
        result = CliRunner().invoke(cli, ["--json", "guard", "set", *arguments])
        body = json.loads(result.stdout)
        return result.exit_code, body["data"] if body["ok"] else body["error"]

    code, said = tighten("global.fee_step_pct", "10")
    assert (code, said["before"], said["after"], said["looser"]) == (OK, 15, 10, [])
    assert file.read_text() == "[global]\nfee_step_pct = 10\n" and file.stat().st_mode & 0o777 == 0o600
    code, said = tighten("global.fee_step_pct", "10")
    assert code == OK and said["changed"] is False
    before = file.read_text()
    for arguments, wrong in (
        (("global.fee_step_pct",), "give a value, or --unset"),
        (("global.fee_step_pct", "1", "--unset"), "give a value, or --unset"),
        (("global.fee_stp", "1"), "unknown key"),
        (("origin.lib.max_danger", "0"), "takes a number from 1 to 6"),
    ):
        code, said = tighten(*arguments)
        assert code == USAGE and wrong in said["message"]
    # A limit that would be looser wants an identity with a PIN first.
    code, said = tighten("global.fee_step_pct", "--unset")
    assert code == NOT_FOUND and file.read_text() == before
    # Somebody else's change in between is not written over.
    with pytest.raises(Conflict, match="changed meanwhile"):
        replace_text(file, "[global]\n", "[global]\nfee_step_pct = 1\n")
    held = os.open(file.parent, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    code, said = tighten("global.fee_step_pct", "9")
    assert code == REFUSED and "being changed" in said["message"]
    os.close(held)
    monkeypatch.setattr(os, "fsync", lambda _descriptor: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        replace_text(file, before, "[global]\nfee_step_pct = 1\n")
    assert file.read_text() == before


@pytest.mark.parametrize("text", ["", "10", "0s", "25h", "1d", "-1m", "1.5h", "90000s"])
def test_how_long_to_retry_is_a_plain_time(text: str) -> None:
    assert (span_s("90s"), span_s("30m"), span_s("24h")) == (90, 1_800, 86_400)
    with pytest.raises(InvalidParams, match="90s, 30m or 4h"):
        span_s(text)
