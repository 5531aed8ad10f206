"""hive-client-setup on a running plugin: killed at its last step, and what an operator sees
(Protocol 08 §7)."""

from __future__ import annotations

import asyncio
import shlex
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from comms_world import PLUGIN, call, refused, until, world
from hive_devnet.node import DevnetRpcError, NodeHandle
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr.keys import npub_encode

KEYS = [xonly_pubkey(Secret(bytes([n]) * 32)) for n in (7, 8)]
NPUBS = [npub_encode(key) for key in KEYS]
HOOK = "http://127.0.0.1:9/secret-path"
ANSWERS = (
    *("continue", "fees", "conservative", {"max_fee_ppm": 2_500}, "none"),
    *(f"{NPUBS[1]} {HOOK}", f"{NPUBS[0]} fee doctor", 10),
)


async def typed(node: NodeHandle, line: str) -> dict[str, Any]:
    """Run a command as it stands in an answer: `lightning-cli -k method name=value ..`."""
    program, *rest = shlex.split(line)
    assert program == "lightning-cli", line
    method, *given = [word for word in rest if word != "-k"]
    return await node.call(method, dict(word.split("=", 1) for word in given))


async def effects(node: NodeHandle) -> dict[str, Any]:
    status = await call(node, "hive-client-status")
    configs = (await node.call("listconfigs"))["configs"]
    return {
        "preset": status["policy"]["preset"],
        "advisors": [row["name"] for row in status["advisors"]],
        "trials": [row["days_left"] for row in status["trials"]],
        "webhook": configs["hive-comms-alert-webhook"]["value_str"],
        "dm": configs["hive-comms-alert-nostr-dm"]["value_str"],
        "receipts": (await call(node, "hive-client-receipts"))["count"],
    }


async def killed_at(node: NodeHandle, faults: Path, point: str, session: str) -> None:
    """Confirm, and kill the plugin where it stands still at that point; then it is started again."""
    (faults / point).touch()
    confirming = asyncio.ensure_future(call(node, "hive-client-setup", session=session, answer="confirm"))
    reached = faults / f"{point}.reached"

    async def there() -> bool:
        assert not confirming.done(), confirming
        return reached.exists()

    await until(there, f"the plugin stands at {point}")
    await node.kill_plugin("cl-hive-comms.py")
    with suppress(DevnetRpcError, ConnectionError, OSError):
        await confirming
    (faults / point).unlink()
    await node.call("plugin", {"subcommand": "start", "plugin": str(PLUGIN)})
    await until(lambda: call(node, "hive-client-status"), "the plugin answers")


async def test_killed_in_the_last_step_it_is_all_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="hive-") as short:
        faults = Path(short) / "f"
        faults.mkdir()
        monkeypatch.setenv("HIVE_FAULT_DIR", str(faults))
        async with world(Path(short) / "n") as (_, node, _relay):
            before = await effects(node)
            session = (await call(node, "hive-client-setup"))["session"]
            for answer in ANSWERS:
                view = await call(node, "hive-client-setup", session=session, answer=answer)
            assert await effects(node) == before
            await killed_at(node, faults, "setup_before_commit", session)
            assert await effects(node) == before
            # The session is where it was, with the same question.
            assert await call(node, "hive-client-setup") == view
            # Killed after the commit: all of it stands, and what the node still has to take, it gets.
            await killed_at(node, faults, "setup_alert-nostr-dm", session)

            async def done() -> bool:
                return bool((await call(node, "hive-client-setup", session=session))["done"])

            await until(done, "the options were handed over", timeout=120)
            after = await effects(node)
            assert (after["preset"], after["advisors"], after["trials"]) == (
                "conservative",
                ["fee doctor"],
                [10],
            )
            assert (after["webhook"], after["dm"]) == (HOOK, NPUBS[1])
            assert after["receipts"] == before["receipts"] + 4
            again = await call(node, "hive-client-setup", session=session, answer="confirm")
            assert [part["state"] for part in again["report"]] == ["done"] * 4
            assert await effects(node) == after
            assert (await call(node, "hive-client-receipts-verify"))["ok"]

            # What was set is turned off again by the commands that the answers print.
            await typed_to_the_end(node, {"alerts": "off", "advisor": "fee doctor", "trial": "no"})
            after = await effects(node)
            assert (after["webhook"], after["dm"], after["trials"]) == ("", "", [])
            assert (after["preset"], after["advisors"]) == ("conservative", ["fee doctor"])
            # Options that were emptied do not keep the node from starting.
            await node.stop()
            await node.start()
            await until(lambda: call(node, "hive-client-status"), "the plugin answers")
            started = await effects(node)
            # The review of the trial that was replaced may have left its receipt by now.
            assert {**started, "receipts": 0} == {**after, "receipts": 0}


async def typed_to_the_end(node: NodeHandle, wanted: dict[str, str]) -> None:
    """Only by commands that stand in the answers, the first choice unless another one is wanted."""
    view = await call(node, "hive-client-setup")
    seen = []
    while not view["done"]:
        seen.append(view["step"])
        choices = {choice["answer"]: choice["command"] for choice in view["choices"]}
        for choice in view["choices"]:
            assert f"session={view['session']}" in choice["command"]
        answer = wanted.get(view["step"], view["choices"][0]["answer"])
        command = choices.get(answer) or next(
            line for line in choices.values() if line.endswith(shlex.quote(f"answer={answer}"))
        )
        view = await typed(node, command)
    assert seen == [
        *("self-check", "need", "preset", "limits", "payment", "alerts", "advisor", "trial", "confirm")
    ]


async def test_wrong_calls_are_refused_and_text_is_readable(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="hive-") as short:
        async with world(Path(short)) as (_, node, _relay):
            cases: list[tuple[dict[str, object], int, str]] = [
                ({"session": "s-0", "answer": "fees"}, 4001, "lightning-cli hive-client-setup begins one"),
                ({"session": "s-0"}, 4001, "s-0"),
                ({"cancel": True}, 4001, "no setup is open"),
                ({"answer": "fees"}, -32602, "no setup is open"),
                ({"answer": "fees", "cancel": True}, -32602, "not both"),
                ({"answer": ["fees"]}, -32602, "answer"),
                ({"answer": 1.5}, -32602, "answer"),
                ({"answer": "x" * 5_000}, -32602, "4000"),
            ]
            for params, code, word in cases:
                error = await refused(node, "hive-client-setup", **params)
                assert (error.code, word in error.message) == (code, True), error.message
            first = await call(node, "hive-client-setup")
            text = (await call(node, "hive-client-setup", format="text"))["text"]
            assert first["prompt"] in text and first["choices"][0]["command"] in text
            cancelled = await call(node, "hive-client-setup", cancel=True)
            assert (cancelled["step"], cancelled["done"]) == ("cancelled", True)
            assert cancelled["then"] == ["lightning-cli hive-client-setup"]
            assert (await call(node, "hive-client-receipts"))["count"] == 0
