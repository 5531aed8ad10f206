"""The command line without a node: help, completion, JSON of every refusal, exit codes, broken ends
(11 §10, §18.12, §18.22).
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from hive_advisor.advisor import MIGRATIONS
from hive_advisor.cli import output
from hive_advisor.cli.commands import describe, finish
from hive_advisor.cli.context import Settings
from hive_advisor.cli.main import cli
from hive_advisor.cli.output import Terminal, exit_code_of
from hive_advisor.domain.command_machine import CommandState
from hive_advisor.domain.names import check_alias
from hive_advisor.domain.rows import Client, StoredCommand
from hive_advisor.identity import Locked, create_identity, write_identity
from hive_advisor.paths import ProfilePaths
from hive_advisor.services.receipts import VerificationFailed
from hive_advisor.storage.client_store import ClientStore
from hive_advisor.storage.command_store import CommandStore
from hive_devnet.world import AdvisorFailed, AdvisorShell
from hive_shared import errors
from hive_shared.crypto import Sealer, Secret
from hive_shared.store import Db, Tx
from msgspec.structs import replace
from terminal import at_terminal

PASSPHRASE = "correct horse battery staple"
ALICE = Client("c-1", "alice", "aa" * 32, "02" + "ab" * 32, "regtest", (), 300, "active", 1, 1)
ALBERT = replace(ALICE, client_id="c-2", alias="albert", node_key="cc" * 32, state="paused")
COMMAND = StoredCommand(
    "5f1c0000-0000-4000-8000-000000000001",
    "c-1",
    "cred-1",
    "hive:fee-policy/v1",
    "set_single",
    {"channel_id": "103x1x0", "fee_ppm": 150},
    (2, 2, 2, 2, 1),
    "cli",
    7,
    1,
    "ab" * 32,
    {"sender": "bb" * 32},
    CommandState.SENT,
    1,
    1,
)


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A profile with an identity, two clients and a command, **held open** as by a running agent."""
    data = tmp_path / "data" / "hive-advisor" / "default"
    data.mkdir(parents=True)
    write_identity(data / "identity.json", create_identity(), PASSPHRASE, now=1)
    db = Db.open(data / "advisor.db", MIGRATIONS)

    def body(tx: Tx) -> None:
        for client in (ALICE, ALBERT):
            ClientStore().add(tx, client, check_alias(client.alias)[1])
        CommandStore(Sealer({1: Secret(bytes(32))}, 1)).add(tx, COMMAND)

    asyncio.run(db.write(body))
    try:
        yield {"XDG_DATA_HOME": str(tmp_path / "data"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    finally:
        db.close()


def completed(words: list[str], incomplete: str) -> list[str]:
    found = ShellComplete(cli, {}, "hive-advisor", "_X").get_completions(words, incomplete)
    return [item.value for item in found]


@pytest.mark.parametrize(
    ("words", "incomplete", "wanted"),
    [
        (["client", "show"], "al", ["albert", "alice"]),
        (["send"], "ALI", ["alice"]),
        (["command", "list", "--client"], "b", []),
        (["receipt", "sync"], "", ["albert", "alice"]),
        (["command", "show"], "5f1", [COMMAND.command_id]),
        (["command", "cancel"], "6", []),
        (["send", "alice"], "fee-policy/set_s", ["fee-policy/set_single"]),
        (["send", "alice"], "hive:fee-policy/set_s", ["hive:fee-policy/set_single"]),
        (["send", "alice", "hive:fee-policy/set_single"], "fee", ["fee_ppm="]),
        (["send", "alice", "fee-policy/set_single", "fee_ppm=1"], "fee", []),
        (["send", "alice", "monitor/health_summary"], "format=", ["format=brief", "format=full"]),
        (["send", "alice", "no/such"], "", []),
        (["schema", "show"], "emergency/revoke", ["emergency/revoke_all_credentials"]),
        (["--profile", "none", "client", "show"], "", []),
        (["identity"], "pass", ["passphrase"]),
    ],
)
def test_acceptance_11_22_completion_knows_names_while_the_profile_is_locked_and_in_use(
    profile: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    incomplete: str,
    wanted: list[str],
) -> None:
    for name, value in profile.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HIVE_ADVISOR_PASSPHRASE_FILE", raising=False)
    assert completed(words, incomplete) == wanted


def test_a_database_that_is_none_completes_nothing(
    profile: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in profile.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "data" / "hive-advisor" / "odd").mkdir()
    (tmp_path / "data" / "hive-advisor" / "odd" / "advisor.db").write_bytes(b"not a database" * 100)
    assert completed(["--profile", "odd", "client", "show"], "") == []


def every_command(group: Any = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    import click

    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        yield (*path, name)
        if isinstance(found, click.Group):
            yield from every_command(found, (*path, name))


def test_acceptance_11_22_help_of_every_command_needs_nothing(tmp_path: Path) -> None:
    env = {"XDG_DATA_HOME": str(tmp_path / "none"), "XDG_CONFIG_HOME": str(tmp_path / "none")}
    paths = list(every_command())
    assert len(paths) > 50
    for path in paths:
        result = CliRunner().invoke(cli, [*path, "--help"], env=env)
        assert result.exit_code == 0, (path, result.output)
        # A command that says nothing of what it does is no help.
        assert len(result.stdout.split("\n\n")[1].strip()) > 10, (path, result.stdout)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_acceptance_11_22_the_completion_script_is_printed(shell: str) -> None:
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0 and "_HIVE_ADVISOR_COMPLETE" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], "No such command"),
        (["--nope"], "No such option"),
        (["send"], "Missing argument 'CLIENT'"),
        (["client", "list", "--state", "odd"], "is not one of"),
        (["--wait", "soon", "status"], "is not a valid int"),
        (["--profile", "../x", "status"], "take 1 to 64 letters"),
        (["receipt", "show", "alice", "first"], "is not a valid int"),
    ],
)
def test_acceptance_11_12_usage_errors_are_json_where_it_is_asked_for(
    arguments: list[str], said: str
) -> None:
    result = CliRunner().invoke(cli, ["--json", *arguments])
    assert result.exit_code == 2 and result.stderr == ""
    body = json.loads(result.stdout)
    assert (body["schema"], body["ok"]) == ("hive-advisor/1", False)
    assert body["error"]["slug"] == "usage" and said in body["error"]["message"]
    people = CliRunner().invoke(cli, arguments)
    assert people.exit_code == 2 and people.stdout == "" and said in people.stderr


EXITS = {
    errors.InvalidParams: 2,
    errors.NotFound: 3,
    errors.Ambiguous: 3,
    errors.Conflict: 4,
    errors.PolicyDenied: 4,
    errors.CredentialInvalid: 4,
    errors.Unsupported: 4,
    errors.ConfirmationRequired: 5,
    errors.SiblingUnavailable: 6,
    errors.TransportUnavailable: 6,
    VerificationFailed: 7,
    errors.BudgetExhausted: 8,
    errors.PaymentFailed: 8,
    Locked: 9,
    errors.Internal: 1,
}


@pytest.mark.parametrize("kind", EXITS, ids=lambda kind: kind.__name__)
def test_acceptance_11_12_each_refusal_has_its_exit_code_and_json(
    kind: type[errors.HiveError], capsys: pytest.CaptureFixture[str]
) -> None:
    error = kind("what was wrong\x1b[31m", data={"which": "this\u202e"})
    assert exit_code_of(error) == EXITS[kind]
    with pytest.raises(SystemExit) as ended:
        Terminal(as_json=True).fail(error)
    assert ended.value.code == EXITS[kind]
    assert json.loads(capsys.readouterr().out) == {
        "schema": "hive-advisor/1",
        "ok": False,
        "error": {
            "code": error.code,
            "slug": error.symbol,
            "message": "what was wrong",
            "data": {"which": "this"},
        },
    }


ENDS = {
    "draft": 6,
    "held": 5,
    "ready": 6,
    "sent": 11,
    "pending": 5,
    "done": 0,
    "partial": 10,
    "rejected": 4,
    "error": 4,
    "cancelled": 4,
    "expired": 4,
    "indeterminate": 11,
    "lost": 6,
}


@pytest.mark.parametrize("state", CommandState, ids=str)
def test_acceptance_11_12_each_end_of_a_command_has_its_exit_code_and_json(
    state: CommandState, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    paths = ProfilePaths("test", tmp_path, tmp_path)
    settings = Settings(paths, Terminal(as_json=True, quiet=True), 0, 0, False, False, None, None)
    command = replace(COMMAND, state=state)
    with pytest.raises(SystemExit) as ended:
        finish(settings, command, "alice")
    assert ended.value.code == ENDS[str(state)]
    body = json.loads(capsys.readouterr().out)
    assert body["ok"] is (ended.value.code == 0) and body["data"] == describe(command, "alice")
    assert body["data"]["state"] == str(state)


def test_acceptance_11_12_a_closed_pipe_is_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "hive_advisor", "schema", "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(60) == output.INTERNAL and said == b""
    process.stderr.close()


async def test_acceptance_11_12_ctrl_c_at_a_prompt_ends_with_130_and_changes_nothing(tmp_path: Path) -> None:
    person = AdvisorShell(tmp_path / "p", ["ws://127.0.0.1:9"])
    person.env.pop("HIVE_ADVISOR_PASSPHRASE_FILE")
    with pytest.raises(AdvisorFailed) as ended:
        await at_terminal(person, "identity", "create", answers={"Passphrase": "\x03"})
    assert ended.value.code == output.INTERRUPTED
    assert "report it" not in ended.value.stderr and not list(tmp_path.rglob("identity.json"))
