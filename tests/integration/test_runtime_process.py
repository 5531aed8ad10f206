"""The runtime as lightningd meets it: a subprocess on a pipe. No node is needed for these."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).parents[2] / "shared"

PLUGIN = """
import asyncio, sys, threading, time
sys.path.insert(0, {shared!r})
from hive_shared.errors import Conflict
from msgspec.structs import asdict
from hive_shared.runtime import MethodSpec, OptionSpec, Param, PluginApp

async def echo(p): return {{"params": p, "thread": threading.current_thread().name}}
async def slow(p): await asyncio.sleep(30); return {{}}
async def refuse(p): raise Conflict("already there", reason="trial_cooldown", data={{"id": "x"}})
async def crash(p): raise RuntimeError("/home/me/secret nsec1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq")
async def big(p): return {{"text": "x" * p["size"]}}
async def bad(p): return {{"x": float("nan")}}
async def block(p): time.sleep(0.2); return {{}}
async def chatter(p):
    for n in range(p["lines"]): app.log("info", "line", n=n)
    return {{}}
async def tell(p): app.notify("test_topic", {{"hello": 1}}); return {{}}
async def loops(p): return {{"loops": app.loops()}}

seen = []
async def event(payload): seen.append(payload)
async def events(p): return {{"seen": seen}}
async def hook(params): raise RuntimeError("hooked")

state = {{"info": None}}
async def on_init(info):
    state["info"] = info
    if info.options["test-disable"]: return info.options["test-disable"]
    app.spawn("tick", tick, every=0.01)
    app.spawn("fails", fails)
async def info(p): return {{"info": {{k: str(v) for k, v in asdict(state["info"]).items()}}}}
async def tick(): pass
async def fails(): raise ValueError("no")
async def on_setconfig(name, value):
    if value == 13: raise ValueError("13 is unlucky")
    state["info"].options[name] = value
async def on_stop(): app.log("info", "stopped"); await asyncio.sleep({stop_seconds})

def number(value):
    if not 1 <= value <= 20: raise ValueError(f"must be 1 to 20, not {{value}}")
    return value

app = PluginApp(
    name="test", version="1.2.3",
    options=[
        OptionSpec("test-number", "int", 5, "a number", dynamic=True, parse=number),
        OptionSpec("test-secret", "string-conceal", "", "a secret"),
        OptionSpec("test-disable", "string", "", "reason"),
        OptionSpec("test-many", "string", None, "several", multi=True),
        OptionSpec("test-flag", "flag", None, "a flag", dynamic=True),
    ],
    methods=[
        MethodSpec("test-echo", "R", (Param("request", "any", required=True),
                   Param("count", "int", default=7),
                   Param("yes", "bool", default=False), Param("doc", "json")), echo, "Echo."),
        MethodSpec("test-slow", "R", (), slow, "Slow."),
        MethodSpec("test-refuse", "R", (), refuse, "Refuse."),
        MethodSpec("test-crash", "R", (), crash, "Crash."),
        MethodSpec("test-big", "R", (Param("size", "int", required=True),), big, "Big."),
        MethodSpec("test-bad", "R", (), bad, "Bad."),
        MethodSpec("test-block", "R", (), block, "Block."),
        MethodSpec("test-chatter", "R", (Param("lines", "int", required=True),), chatter, "Chatter."),
        MethodSpec("test-tell", "R", (), tell, "Tell."),
        MethodSpec("test-loops", "R", (), loops, "Loops."),
        MethodSpec("test-events", "R", (), events, "Events."),
        MethodSpec("test-info", "R", (), info, "Info."),
        MethodSpec("test-sibling", "S", (Param("nonce", "str"), Param("x", "int"),), echo, "Sibling."),
    ],
    subscriptions={{"plugin_started": event, "hive_other": event}},
    hooks={{"custommsg": hook}}, notifications=["test_topic"],
    on_init=on_init, on_setconfig=on_setconfig, on_stop=on_stop)
app.run()
"""


class Pipe:
    """A plugin process and the JSON-RPC conversation with it."""

    def __init__(self, script: Path, **env: str) -> None:
        environ = {**os.environ, "LIGHTNINGD_PLUGIN": "1", "LIGHTNINGD_VERSION": "v26.06", **env}
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
        )
        self._left = b""
        self._number = 0
        self.others: list[dict[str, Any]] = []
        self.answers: dict[Any, dict[str, Any]] = {}

    def send(self, method: str, params: Any, *, notification: bool = False) -> str:
        self._number += 1
        request_id = f"cli:{method}#{self._number}"
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
        if not notification:
            message["id"] = request_id
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n\n")
        self.process.stdin.flush()
        return request_id

    def send_text(self, request_id: str, text: str) -> str:
        """A message as it stands: objects of Python cannot repeat a name."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n\n")
        self.process.stdin.flush()
        return request_id

    def pump(self, until: Callable[[], bool], seconds: float = 60.0) -> None:
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        while not until():
            left = deadline - time.monotonic()
            assert left > 0, f"nothing came within {seconds} s; got {self.others[-5:]}"
            if not select.select([self.process.stdout], [], [], left)[0]:
                continue
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            assert data, f"the plugin closed its output; exit {self.process.poll()}"
            *messages, self._left = (self._left + data).split(b"\n\n")
            for message in map(json.loads, messages):
                if "id" in message:
                    self.answers[message["id"]] = message
                else:
                    self.others.append(message)

    def answer(self, request_id: str, seconds: float = 60.0) -> dict[str, Any]:
        self.pump(lambda: request_id in self.answers, seconds)
        return self.answers.pop(request_id)

    def call(self, method: str, params: Any = None) -> dict[str, Any]:
        return self.answer(self.send(method, {} if params is None else params))

    def result(self, method: str, params: Any = None) -> Any:
        answer = self.call(method, params)
        assert "error" not in answer, answer
        return answer["result"]

    def init(self, **options: Any) -> dict[str, Any]:
        self.manifest = self.result("getmanifest", {"allow-deprecated-apis": False})
        configuration = {
            "lightning-dir": "/nowhere/regtest",
            "rpc-file": "lightning-rpc",
            "startup": True,
            "network": "regtest",
            "feature_set": {},
            "proxy": {"type": "ipv4", "address": "127.0.0.1", "port": 9050},
            "always_use_proxy": True,
        }
        result = self.result("init", {"options": options, "configuration": configuration})
        assert isinstance(result, dict)
        return result

    def log_lines(self) -> list[str]:
        return [m["params"]["message"] for m in self.others if m["method"] == "log"]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                pass


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "test_plugin.py"
    path.write_text(PLUGIN.format(shared=str(SHARED), stop_seconds=0))
    return path


@pytest.fixture
def pipe(script: Path) -> Iterator[Pipe]:
    pipe = Pipe(script)
    yield pipe
    pipe.close()


def test_manifest_declares_everything_and_needs_no_disk(pipe: Pipe) -> None:
    pipe.init()
    options = {o["name"]: o for o in pipe.manifest["options"]}
    assert options["test-secret"]["type"] == "string-conceal"
    assert options["test-number"]["dynamic"] is True and options["test-number"]["default"] == 5
    assert options["test-many"]["multi"] is True and "default" not in options["test-many"]
    assert "default" not in options["test-flag"]
    usages = {m["name"]: m["usage"] for m in pipe.manifest["rpcmethods"]}
    assert usages["test-echo"] == "request [count] [yes] [doc]"
    assert pipe.manifest["dynamic"] is True
    assert pipe.manifest["hooks"][0]["name"] == "custommsg"
    assert set(pipe.manifest["subscriptions"]) == {"shutdown", "plugin_started", "hive_other"}
    assert pipe.manifest["notifications"] == [{"method": "test_topic"}]


def test_init_hands_over_node_and_options(pipe: Pipe) -> None:
    assert pipe.init(**{"test-number": 6, "test-many": ["a", "b"]}) == {}
    info = pipe.result("test-info")["info"]
    assert info["net_dir"] == "/nowhere/regtest" and info["rpc_path"] == "/nowhere/regtest/lightning-rpc"
    assert info["proxy"] == "127.0.0.1:9050" and info["always_use_proxy"] == "True"
    assert "'test-number': 6" in info["options"] and "['a', 'b']" in info["options"]


def test_methods_before_init_answer_busy(pipe: Pipe) -> None:
    pipe.result("getmanifest", {"allow-deprecated-apis": False})
    assert pipe.call("test-info")["error"]["code"] == 4021


def test_parameters_named_request_arrive_and_defaults_fill(pipe: Pipe) -> None:
    pipe.init()
    named = pipe.result("test-echo", {"request": {"a": 1}, "yes": "true", "doc": '{"b":[1]}'})
    assert named["params"] == {"request": {"a": 1}, "count": 7, "yes": True, "doc": {"b": [1]}}
    assert named["thread"] == "MainThread"
    assert pipe.result("test-echo", ["r", 3])["params"]["count"] == 3


def test_refusals_carry_code_slug_reason_and_data(pipe: Pipe) -> None:
    pipe.init()
    assert pipe.call("test-refuse")["error"] == {
        "code": 4015,
        "message": "conflict: trial_cooldown: already there",
        "data": {"id": "x", "reason": "trial_cooldown"},
    }
    unknown = pipe.call("test-echo", {"request": 1, "speed": 2})["error"]
    assert unknown["code"] == -32602 and unknown["message"].startswith("invalid_params: unknown parameter")


def test_unexpected_failure_is_internal_without_its_text(pipe: Pipe) -> None:
    pipe.init()
    error = pipe.call("test-crash")["error"]
    assert error["code"] == 4020 and error["message"].startswith("internal: test-crash failed unexpectedly")
    pipe.pump(lambda: any("method_failed" in line for line in pipe.log_lines()))
    everything = json.dumps([error, pipe.others])
    assert "nsec1" not in everything and "/home" not in everything
    assert pipe.call("test-bad")["error"]["code"] == 4020


def test_sibling_methods_stay_shut_until_authentication_is_wired(pipe: Pipe) -> None:
    pipe.init()
    assert pipe.call("test-sibling", {"x": 1})["error"]["code"] == 4021


def test_slow_call_delays_no_other(pipe: Pipe) -> None:
    pipe.init()
    slow = pipe.send("test-slow", {})
    assert pipe.result("test-big", {"size": 3}) == {"text": "xxx"}
    assert slow not in pipe.answers


def test_large_answers_and_a_reader_that_lags_do_not_block_the_loop(pipe: Pipe) -> None:
    pipe.init()
    waiting = [pipe.send("test-big", {"size": 300_000}) for _ in range(5)]
    small = pipe.send("test-big", {"size": 1})
    assert pipe.answer(small)["result"] == {"text": "x"}
    assert all(len(pipe.answer(w)["result"]["text"]) == 300_000 for w in waiting)


def test_log_flood_is_dropped_and_counted(pipe: Pipe) -> None:
    pipe.init()
    waiting = pipe.send("test-chatter", {"lines": 20_000})
    pipe.answer(waiting)
    pipe.pump(
        lambda: (
            any(line.startswith("log_dropped count=") for line in pipe.log_lines())
            or sum(line.startswith("line ") for line in pipe.log_lines()) == 20_000
        )
    )


def test_setconfig_applies_or_refuses_with_reason(pipe: Pipe) -> None:
    pipe.init()
    assert pipe.result("setconfig", {"config": "test-number", "val": "9"}) == {}
    assert "'test-number': 9" in pipe.result("test-info")["info"]["options"]
    outside = pipe.call("setconfig", {"config": "test-number", "val": "21"})["error"]
    assert outside["message"] == "invalid_params: test-number: must be 1 to 20, not 21"
    refused = pipe.call("setconfig", {"config": "test-number", "val": "13"})["error"]
    assert refused["message"] == "invalid_params: test-number: 13 is unlucky"
    assert "'test-number': 9" in pipe.result("test-info")["info"]["options"]
    assert pipe.result("setconfig", {"config": "test-flag"}) == {}
    assert "'test-flag': True" in pipe.result("test-info")["info"]["options"]


def test_bad_option_or_own_reason_disables(script: Path) -> None:
    for options, reason in (
        ({"test-number": 99}, "option test-number: must be 1 to 20, not 99"),
        ({"test-disable": "too old"}, "too old"),
    ):
        pipe = Pipe(script)
        assert pipe.init(**options) == {"disable": reason}
        pipe.close()


def test_notifications_both_ways(pipe: Pipe) -> None:
    pipe.init()
    pipe.send("plugin_started", {"plugin_started": {"name": "x"}}, notification=True)
    pipe.send("hive_other", {"hive_other": {"y": 2}}, notification=True)
    pipe.send("hive_other", {"origin": "p", "payload": {"z": 3}}, notification=True)
    assert pipe.result("test-events")["seen"] == [{"name": "x"}, {"y": 2}, {"z": 3}]
    pipe.result("test-tell")
    told = [m for m in pipe.others if m["method"] == "test_topic"]
    assert [m["params"]["test_topic"] for m in told] == [{"hello": 1}]


def test_failing_hook_continues(pipe: Pipe) -> None:
    pipe.init()
    assert pipe.result("custommsg", {"peer_id": "02", "payload": "00"}) == {"result": "continue"}


def test_loops_run_and_failures_are_counted(pipe: Pipe) -> None:
    pipe.init()
    rows: dict[str, Any] = {}

    def both() -> bool:
        rows.update({r["name"]: r for r in pipe.result("test-loops")["loops"]})
        return bool(rows["tick"]["runs"] > 2 and rows["fails"]["failures"] >= 1)

    deadline = time.monotonic() + 60
    while not both():
        assert time.monotonic() < deadline
    assert rows["fails"]["last_error"] == "ValueError"
    assert sum("loop_failed" in line for line in pipe.log_lines()) <= 2


def test_watchdog_names_the_place_that_blocks(script: Path) -> None:
    pipe = Pipe(script, HIVE_DEV_WATCHDOG="1")
    pipe.init()
    pipe.result("test-block")
    pipe.pump(lambda: any("loop_stall" in line and "block" in line for line in pipe.log_lines()))
    pipe.close()


@pytest.mark.parametrize("how", ["eof", "shutdown", "sigterm"])
def test_every_way_of_stopping_is_orderly(pipe: Pipe, how: str) -> None:
    pipe.init()
    pending = pipe.send("test-slow", {})
    pipe.result("test-info")
    began = time.monotonic()
    assert pipe.process.stdin is not None
    match how:
        case "eof":
            pipe.process.stdin.close()
        case "shutdown":
            pipe.send("shutdown", {}, notification=True)
        case _:
            pipe.process.send_signal(signal.SIGTERM)
    assert pipe.answer(pending)["error"]["message"] == "busy: the plugin is stopping"
    assert pipe.process.wait(60) == 0
    assert time.monotonic() - began < 25, "the pending call itself takes 30 s"
    assert "stopped" in pipe.log_lines()


def test_stop_that_hangs_ends_after_the_drain(tmp_path: Path) -> None:
    script = tmp_path / "hanging.py"
    script.write_text(PLUGIN.format(shared=str(SHARED), stop_seconds=60))
    pipe = Pipe(script)
    pipe.init()
    began = time.monotonic()
    pipe.process.send_signal(signal.SIGTERM)
    assert pipe.process.wait(60) == 0
    assert time.monotonic() - began < 40, "what hangs takes 60 s"
    pipe.close()


def test_without_lightningd_it_prints_its_usage(script: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("LIGHTNINGD")}
    done = subprocess.run(
        [sys.executable, str(script)], env=env, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert b"test-echo request [count]" in done.stdout and b"--test-number=int" in done.stdout


def test_a_parameter_given_twice_is_refused(pipe: Pipe) -> None:
    # lightningd holds a rune against the first of them, json would keep the last.
    pipe.init()
    params = '{"request":"get","count":1,"request":"set"}'
    text = f'{{"jsonrpc":"2.0","id":"twice","method":"test-echo","params":{params}}}'
    answer = pipe.answer(pipe.send_text("twice", text))
    assert answer["error"]["code"] == -32602
    assert answer["error"]["message"] == 'invalid_params: parameter "request" is given twice; give it once'
    assert pipe.result("test-echo", {"request": {"inner": 1}})["params"]["request"] == {"inner": 1}
