"""Types the walkthrough of docs/operator-guide.md, line by line, and compares what comes back.

What differs from node to node (keys, ids, channels, tokens) is put in the guide's place. Of an output that
is shown, every name must be in the answer, and every word and truth value with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hive_devnet.node import DevnetRpcError
from hive_devnet.world import AdvisorFailed, World
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr.keys import npub_encode

GUIDE = Path(__file__).parents[1] / "docs" / "operator-guide.md"
SECTION = "From install to the first advisor in ten minutes"
INSTALLS = ("git", "python3", "cp", "sed", "echo", "reckless", "mkdir", "pip")
PATIENCE_S = 60.0

_FENCE = re.compile(r"^```\n(.*?)^```$|^\*\*([^*]+)\*\*", re.MULTILINE | re.DOTALL)
_WORD_OR_TRUTH = re.compile(r'"(\w+)":\s*(true|false|"[a-z_]+")')
_KINDS = {
    "npub": re.compile(r"npub1[a-z0-9]{58}"),
    "session": re.compile(r"\bs-[0-9a-f]{8}\b"),
    "action": re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"),
    "scid": re.compile(r"\b[0-9]+x[0-9]+x[0-9]+\b"),
    "client": re.compile(r"\bnode-[0-9a-f]{12}\b"),
    "token": re.compile(r"\b[0-9]{10}-[0-9a-f]{24}\b"),
    "rule": re.compile(r"\brule-[0-9a-f]{8}\b"),
}


@dataclass(frozen=True)
class Typed:
    """One command of the guide, the output that it shows, if any, and the step it belongs to."""

    line: str
    output: str
    step: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line, comments=True)

    @property
    def comment(self) -> str:
        """What the guide says about it behind `#`."""
        return self.line.partition(" # ")[2].strip()

    @property
    def installs(self) -> bool:
        program = Path(self.words[0]).name
        return program in INSTALLS or self.words[:3] == ["lightning-cli", "plugin", "start"]


def walkthrough() -> list[Typed]:
    """The section's commands in their order."""
    text = GUIDE.read_text(encoding="utf-8")
    section = text.split(f"\n## {SECTION}\n", 1)[1].split("\n## ", 1)[0]
    found: list[Typed] = []
    step = ""
    for block, title in _FENCE.findall(section):
        if title:
            step = title.strip(" .")
        elif not block.startswith("$ "):
            found += [Typed(line, "", step) for line in block.splitlines() if line.strip()]
        else:
            for part in block[2:].split("\n$ "):
                line, _, output = part.partition("\n")
                found.append(Typed(line, output, step))
    return found


class Refused(dict[str, Any]):
    """The answer to a command that was refused."""


@dataclass
class Terminal:
    """Types commands on the operator's node and on the advisor's machine."""

    world: World
    seen: dict[str, str] = field(default_factory=dict)
    people: dict[str, str] = field(default_factory=dict)
    channels: dict[str, str] = field(default_factory=dict)
    free: list[str] = field(default_factory=list)
    took: Counter[str] = field(default_factory=Counter)
    """Seconds from typing to the answer that the guide shows, by step."""

    def real(self, line: str) -> str:
        """The line with this world's values in the place of the guide's."""
        for kind, pattern in _KINDS.items():
            line = pattern.sub(lambda found, kind=kind: self._value(kind, found[0]), line)
        return line

    def _value(self, kind: str, shown: str) -> str:
        if kind == "scid":
            return self.channels.setdefault(shown, self.free.pop(0) if shown not in self.channels else "")
        if kind == "npub":
            # The first key of the guide is the advisor who was made; the others are anybody's.
            fresh = npub_encode(xonly_pubkey(Secret(os.urandom(32))))
            return self.people.setdefault(shown, self.seen["npub"] if not self.people else fresh)
        assert kind in self.seen, f"the guide uses {shown} before any answer showed such a value"
        return self.seen[kind]

    def learn(self, command: list[str], answer: Any) -> None:
        """Keep what later commands refer to."""
        text = json.dumps(answer)
        for kind in ("session", "token", "rule"):
            if found := _KINDS[kind].findall(text):
                self.seen[kind] = found[-1]
        if command[:2] == ["hive-advisor", "identity"]:
            self.seen["npub"] = answer["npub"]
        if "hive-client-pending" in command:
            self.seen["action"] = answer["items"][0]["action_id"]
        if command[:3] == ["hive-advisor", "client", "list"]:
            self.seen["client"] = answer["items"][0]["alias"]

    async def type(self, typed: Typed) -> Any:
        """Run it; reading commands again until the answer shows what the guide shows."""
        began = time.monotonic()
        try:
            return await self._type(typed, began + PATIENCE_S)
        finally:
            self.took[typed.step] += time.monotonic() - began

    async def _type(self, typed: Typed, deadline: float) -> Any:
        line = self.real(typed.line)
        words = shlex.split(line, comments=True)
        while True:
            if words[0] == "hive-advisor":
                answer = await self._advisor(words[1:])
            else:
                assert words[0] == "lightning-cli", f"the guide types {words[0]}: install, or advisor?"
                answer = await self._operator(words[1:])
            missing = self.missing(typed, answer)
            if not missing:
                self.learn(words, answer)
                return answer
            again = words[0] == "lightning-cli" and words[-1].startswith(("format=", "hive-client-pending"))
            again = again or words[:3] == ["hive-advisor", "client", "list"]
            assert again and time.monotonic() < deadline, f"{line}\nlacks {missing} in {answer}"
            if words[0] == "hive-advisor":
                await self._advisor(["run", "--once"])
            await asyncio.sleep(0.2)

    async def _advisor(self, words: list[str]) -> Any:
        try:
            return await self.world.advisor.run(*words)
        except AdvisorFailed as failed:
            return Refused(failed.error)

    async def _operator(self, words: list[str]) -> Any:
        method, *given = [word for word in words if word != "-k"]
        # As lightning-cli: names when they are asked for or stand there, else positions.
        named = words[0] == "-k" or bool(given and "=" in given[0])
        values = [_value(word.partition("=")[2] if named else word) for word in given]
        names = [word.partition("=")[0] for word in given]
        params: Any = dict(zip(names, values, strict=True)) if named else values
        try:
            answer = await self.world.alice.call(method, params)
        except DevnetRpcError as error:
            return Refused(code=error.code, message=error.message)
        return answer.get("text", answer)

    def times(self) -> str:
        """How long each step took."""
        steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in self.took.items())
        return f"operator guide, {self.world.network.kind}: {steps}; {sum(self.took.values()):.0f} s in all"

    def missing(self, typed: Typed, answer: Any) -> list[str]:
        """What the guide shows and the answer does not have."""
        shown = typed.output
        if isinstance(answer, str):
            wanted = [line.strip() for line in shown.splitlines() if line.strip() not in ("", "…")]
            return [line for line in wanted if not _in_text(line, answer)]
        text = json.dumps(answer)
        absent = [name for name in re.findall(r'"(\w+)":', shown) if f'"{name}": ' not in text]
        absent += [
            f"{name}={value}"
            for name, value in _WORD_OR_TRUTH.findall(shown)
            if f'"{name}": {value}' not in text
        ]
        if typed.words[0] == "hive-advisor" and typed.comment and f'"{typed.comment}"' not in text:
            absent.append(typed.comment)
        if isinstance(answer, Refused) and '"code"' not in shown and not typed.comment:
            absent.append("success")
        return absent


def _in_text(line: str, answer: str) -> bool:
    """A line of text output: the same name, with the same value if that is a word; of a receipt the same
    advisor, outcome and action."""
    if re.match(r"[0-9]+ +[0-9]{4}-", line):
        return re.sub(r".*Z ", "", line).strip() in answer
    lines = {each.strip() for each in answer.splitlines()}
    if re.fullmatch(r"(- )?\w+: [a-z_]+", line):
        return line in lines
    return line.partition(":")[0] in {each.partition(":")[0] for each in lines}


def _value(text: str) -> Any:
    """As lightning-cli hands over a value: JSON where it is some, else text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


async def two_channels(world: World) -> Terminal:
    """A terminal on a node with two channels: the second change is about another one, because a channel is
    left alone for an hour."""
    second = await world.network.open_channel(world.alice, world.bob, 500_000)
    await world.alice.call("setchannel", {"id": second, "feebase": 1_000, "feeppm": 500})
    return Terminal(world, free=[world.scid, second])


async def check_outcome(world: World) -> None:
    """What the walkthrough leaves behind."""
    receipts = (await world.alice.call("hive-client-receipts", {"limit": 100}))["items"]
    done = {item["action"] for item in receipts}
    assert {"setup", "set_single", "emergency_engage", "authorize", "revoke"} <= done, done
    assert (await world.alice.call("hive-client-pending"))["count"] == 0
    assert (await world.alice.call("hive-client-emergency-stop", {"action": "status"}))["engaged"] is False
