"""Both kinds of node: the life of plugins, options, hooks, notifications, messages between peers."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cln_contract import Probe
from hive_devnet import rpc
from hive_devnet.node import DevnetRpcError

pytestmark = pytest.mark.asyncio(loop_scope="module")
OPTIONS = [
    {"name": "probe-text", "type": "string", "default": "none", "description": "d", "dynamic": True},
    {"name": "probe-secret", "type": "string-conceal", "default": "hush", "description": "d"},
    {"name": "probe-number", "type": "int", "default": 7, "description": "d"},
    {"name": "probe-switch", "type": "bool", "default": False, "description": "d"},
    {"name": "probe-flag", "type": "flag", "description": "d"},
    {"name": "probe-many", "type": "string", "multi": True, "description": "d", "dynamic": True},
]


async def until(ready: Callable[[], Any], seconds: float = 60) -> Any:
    async with asyncio.timeout(seconds):
        while not (found := ready()):
            await asyncio.sleep(0.02)
    return found


async def _start(node: Any, probe: Probe, **options: object) -> None:
    # By position where possible: CLN v26.06 crashes on a start by name once an option that `setconfig`
    # touched has gone with its plugin (docs/decisions/0021).
    if options:
        await node.handle.call("plugin", {"subcommand": "start", "plugin": str(probe.path), **options})
    else:
        await node.handle.call("plugin", ["start", str(probe.path)])


async def _stop(node: Any, probe: Probe) -> dict[str, Any]:
    return dict(await node.handle.call("plugin", {"subcommand": "stop", "plugin": probe.name}))


def _method(name: str) -> dict[str, str]:
    return {"name": name, "usage": "[arg]", "description": "d"}


async def test_a_plugin_comes_and_goes(trio: Any, tmp_path: Path) -> None:
    probe = Probe(
        tmp_path,
        "come.py",
        manifest={"rpcmethods": [_method("probe-come")]},
        answers={"probe-come": {"a": 1}},
    )
    await _start(trio.alice, probe)
    listed = (await trio.alice.call("plugin", {"subcommand": "list"}))["plugins"]
    assert {"name": str(probe.path), "active": True, "dynamic": True} in listed
    assert await trio.alice.handle.call("probe-come") == {"a": 1}
    assert (await trio.alice.call("help", {"command": "probe-come"}))["help"] == [
        {"command": "probe-come [arg]"}
    ]
    again = await trio.alice.error("plugin", {"subcommand": "start", "plugin": str(probe.path)})
    assert again.code == -32602
    assert again.message.startswith(f"{probe.path}: ")
    assert await _stop(trio.alice, probe) == {"command": "stop", "result": "Successfully stopped come.py."}
    gone = await trio.alice.error("probe-come")
    assert (gone.code, gone.message) == (-32601, "Unknown command 'probe-come'")


async def test_getmanifest_and_init_carry_what_cln_sends(trio: Any, tmp_path: Path) -> None:
    probe = Probe(tmp_path, "intro.py")
    await _start(trio.alice, probe)
    manifest, init = probe.received("getmanifest")[0], probe.received("init")[0]
    assert "allow-deprecated-apis" in manifest["params"]
    configuration = init["params"]["configuration"]
    assert configuration["lightning-dir"] == str(trio.alice.handle.net_dir)
    assert (configuration["rpc-file"], configuration["network"]) == ("lightning-rpc", "regtest")
    assert configuration["startup"] is False
    assert configuration["feature_set"].keys() >= {"init", "node", "channel", "invoice", "bolt12_invoice"}
    assert init["params"]["options"] == {}
    await _stop(trio.alice, probe)


async def test_options_reach_init_typed_and_with_defaults(trio: Any, tmp_path: Path) -> None:
    probe = Probe(tmp_path, "opts.py", manifest={"options": OPTIONS})
    await _start(trio.alice, probe, **{"probe-number": 12, "probe-text": "hi", "probe-flag": True})
    assert probe.received("init")[0]["params"]["options"] == {
        "probe-text": "hi",
        "probe-secret": "hush",
        "probe-number": 12,
        "probe-switch": False,
        "probe-flag": True,
    }
    configs = (await trio.alice.call("listconfigs"))["configs"]
    assert configs["probe-secret"]["value_str"] == "..."
    assert configs["probe-number"] == {
        "value_int": 12,
        "source": "pluginstart",
        "plugin": str(probe.path),
    }
    assert configs["probe-flag"]["set"] is True
    assert configs["probe-many"]["values_str"] == []
    await _stop(trio.alice, probe)
    error = await trio.alice.error("listconfigs", {"config": "probe-text"})
    assert error.code == -32602


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"probe-number": "x"}, "'x' is not a number"),
        ({"probe-switch": "perhaps"}, "Invalid argument 'perhaps'"),
        ({"probe-unknown": 1}, "unknown parameter probe-unknown"),
    ],
)
async def test_a_bad_start_option_stops_the_start(
    trio: Any, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    probe = Probe(tmp_path, "bad.py", manifest={"options": OPTIONS})
    with pytest.raises(DevnetRpcError) as caught:
        await _start(trio.alice, probe, **options)
    assert caught.value.code == -3
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (
            {"rpcmethods": [_method("pay")]},
            'Could not register method "pay", a method with that name',
        ),
        (
            {"options": [{"name": "alias", "type": "string", "description": "d"}]},
            'Option "alias" already registered',
        ),
        (
            {"options": [{"name": "Bad", "type": "string", "description": "d"}]},
            'Option "name" must be lowercase',
        ),
        (
            {"options": [{"name": "p", "type": "float", "description": "d"}]},
            'Only "string", "int", "bool", and "flag"',
        ),
        (
            {"options": [{"name": "p", "type": "int", "default": "x", "description": "d"}]},
            "Invalid default 'x'",
        ),
        ({"hooks": ["no_such_hook"]}, "Unknown hook name no_such_hook"),
        ({"hooks": ["custommsg", "custommsg"]}, "Registered for hook custommsg multiple times"),
        ({"notifications": [{"method": "connect"}]}, "attempted to register a native notification topic"),
        ({"dynamic": False}, "Not a dynamic plugin"),
        ({"disable": "no mood"}, "disabled itself: no mood"),
    ],
)
async def test_a_bad_manifest_kills_the_plugin(
    trio: Any, tmp_path: Path, manifest: dict[str, Any], words: str
) -> None:
    probe = Probe(tmp_path, "broken.py", manifest=manifest)
    with pytest.raises(DevnetRpcError) as caught:
        await _start(trio.alice, probe)
    assert caught.value.code == -3
    assert words in caught.value.message
    listed = (await trio.alice.call("plugin", {"subcommand": "list"}))["plugins"]
    assert str(probe.path) not in {entry["name"] for entry in listed}


async def test_a_plugin_may_disable_itself_at_init(trio: Any, tmp_path: Path) -> None:
    probe = Probe(tmp_path, "shy.py", init={"disable": "too old"})
    with pytest.raises(DevnetRpcError) as caught:
        await _start(trio.alice, probe)
    assert caught.value.message == f"{probe.path}: disabled itself at init: too old"


async def test_setconfig_asks_the_plugin_first(trio: Any, tmp_path: Path) -> None:
    probe = Probe(tmp_path, "dyn.py", manifest={"options": OPTIONS}, answers={"setconfig": {}})
    await _start(trio.carol, probe)
    result = await trio.carol.call("setconfig", {"config": "probe-text", "val": "new", "transient": True})
    assert result["config"]["value_str"] == "new"
    assert probe.received("setconfig")[0]["params"] == {"config": "probe-text", "val": "new"}
    refusal = {"__error__": {"code": -32602, "message": "not that"}}
    probe.set(manifest={"options": OPTIONS}, answers={"setconfig": refusal})
    error = await trio.carol.error("setconfig", {"config": "probe-text", "val": "x", "transient": True})
    assert (error.code, error.message) == (-32602, "not that")
    kept = (await trio.carol.call("listconfigs", {"config": "probe-text"}))["configs"]["probe-text"]
    assert kept["value_str"] == "new"
    await _stop(trio.carol, probe)


async def test_errors_of_a_plugin_pass_through(trio: Any, tmp_path: Path) -> None:
    failure = {"code": 4711, "message": "no", "data": {"why": [1]}}
    probe = Probe(
        tmp_path,
        "fail.py",
        manifest={"rpcmethods": [_method("probe-fail"), _method("probe-exit")]},
        answers={"probe-fail": {"__error__": failure}, "probe-exit": {"__exit__": 3}},
    )
    await _start(trio.alice, probe)
    error = await trio.alice.error("probe-fail")
    assert (error.code, error.message, error.data) == (4711, "no", {"why": [1]})
    died = await trio.alice.error("probe-exit")
    assert (died.code, died.message) == (-4, "Plugin terminated before replying to RPC call.")
    assert (await trio.alice.error("probe-fail")).code == -32601


async def test_the_id_of_a_call_tells_where_it_came_from(trio: Any, tmp_path: Path) -> None:
    probe = Probe(
        tmp_path, "ids.py", manifest={"rpcmethods": [_method("probe-id")]}, answers={"probe-id": {}}
    )
    await _start(trio.alice, probe)
    await trio.alice.handle.call("probe-id")
    identity = probe.received("probe-id")[0]["id"]
    assert identity.startswith("devnet:probe-id#")
    assert "/cln:probe-id#" in identity
    await _stop(trio.alice, probe)


async def test_a_killed_plugin_is_noticed_and_the_node_lives(trio: Any, tmp_path: Path) -> None:
    watcher = Probe(tmp_path, "watch.py", manifest={"subscriptions": ["plugin_started", "plugin_stopped"]})
    victim = Probe(tmp_path, "victim.py", manifest={"rpcmethods": [_method("probe-victim")]})
    await _start(trio.alice, watcher)
    await _start(trio.alice, victim)
    pid = await trio.alice.handle.plugin_pid("victim.py")
    os.kill(pid, 0)
    await trio.alice.handle.kill_plugin("victim.py")
    stopped = await until(lambda: _about(watcher, "plugin_stopped", "victim.py"))
    assert stopped["plugin_path"] == str(victim.path)
    assert stopped["methods"] == ["probe-victim"]
    assert _about(watcher, "plugin_started", "victim.py")
    assert (await trio.alice.error("probe-victim")).code == -32601
    await _start(trio.alice, victim)
    with pytest.raises(LookupError):
        await trio.alice.handle.plugin_pid("nobody.py")
    for probe in (victim, watcher):
        await _stop(trio.alice, probe)


def _about(probe: Probe, topic: str, name: str) -> dict[str, Any] | None:
    for message in probe.received(topic):
        payload = dict(message["params"][topic])
        if payload["plugin_name"] == name:
            return payload
    return None


async def test_custom_messages_reach_hook_and_notification(trio: Any, tmp_path: Path, schemas: Any) -> None:
    hook = Probe(tmp_path, "hook.py", manifest={"hooks": ["custommsg"]})
    picky = Probe(tmp_path, "picky.py", manifest={"hooks": [{"name": "custommsg", "filters": [0x8085]}]})
    news = Probe(tmp_path, "news.py", manifest={"subscriptions": ["custommsg"]})
    for probe in (hook, picky, news):
        await _start(trio.bob, probe)
    for message in ("8083aa", "8085bb"):
        await trio.alice.call("sendcustommsg", {"node_id": trio.bob.id, "msg": message})
    await until(lambda: len(news.received("custommsg")) == 2)
    payloads = [message["params"] for message in hook.received("custommsg")]
    assert [payload["payload"] for payload in payloads] == ["8083aa", "8085bb"]
    assert payloads[0]["peer_id"] == trio.alice.id
    assert [message["params"]["payload"] for message in picky.received("custommsg")] == ["8085bb"]
    note = news.received("custommsg")[0]["params"]["custommsg"]
    assert note == {"peer_id": trio.alice.id, "payload": "8083aa"}
    if schemas is not None:
        schemas.check_hook("custommsg", payloads[0])
        schemas.check_notification("custommsg", note)
    for probe in (hook, picky, news):
        await _stop(trio.bob, probe)


async def test_hook_chains_keep_before_and_after(trio: Any, tmp_path: Path) -> None:
    late = Probe(tmp_path, "late.py", manifest={"hooks": [{"name": "custommsg", "after": ["early.py"]}]})
    early = Probe(tmp_path, "early.py", manifest={"hooks": ["custommsg"]})
    for probe in (late, early):
        await _start(trio.bob, probe)
    await trio.alice.call("sendcustommsg", {"node_id": trio.bob.id, "msg": "8087cc"})
    await until(lambda: late.received("custommsg") and early.received("custommsg"))
    assert early.received("custommsg")[0]["__time__"] < late.received("custommsg")[0]["__time__"]
    hooks = [{"name": "custommsg", "before": ["early.py"], "after": ["late.py"]}]
    stuck = Probe(tmp_path, "stuck.py", manifest={"hooks": hooks})
    with pytest.raises(DevnetRpcError, match="Cannot meet required hook dependencies"):
        await _start(trio.bob, stuck)
    for probe in (late, early):
        await _stop(trio.bob, probe)


async def test_a_plugin_publishes_only_what_it_declared(trio: Any, tmp_path: Path) -> None:
    listener = Probe(tmp_path, "listen.py", manifest={"subscriptions": ["probe_news", "probe_secret"]})
    emit = {
        "probe-say": [
            {"method": "probe_news", "params": {"a": 1}},
            {"method": "probe_secret", "params": {"b": 2}},
            {"method": "log", "params": {"level": "info", "message": "said\nit"}},
        ]
    }
    speaker = Probe(
        tmp_path,
        "speak.py",
        manifest={"rpcmethods": [_method("probe-say")], "notifications": [{"method": "probe_news"}]},
        answers={"probe-say": {}},
        emit=emit,
    )
    await _start(trio.alice, listener)
    await _start(trio.alice, speaker)
    await trio.alice.handle.call("probe-say")
    (news,) = await until(lambda: listener.received("probe_news"))
    assert (news["origin"], news["params"]) == ("speak.py", {"a": 1})
    assert listener.received("probe_secret") == []
    log = await until(
        lambda: (text := trio.alice.handle.log_text()) and "plugin-speak.py: it" in text and text
    )
    assert "plugin-speak.py: said" in log
    assert 'topic "probe_secret" it hasn' in log
    for probe in (listener, speaker):
        await _stop(trio.alice, probe)


async def test_a_star_subscription_hears_everything_but_the_log(trio: Any, tmp_path: Path) -> None:
    ear = Probe(tmp_path, "ear.py", manifest={"subscriptions": ["*"]})
    await _start(trio.alice, ear)
    await trio.network.mine(1)
    await until(lambda: ear.received("block_added"))
    block = ear.received("block_added")[-1]["params"]["block_added"]
    assert block["height"] > 100
    assert ear.received("log") == []
    await _stop(trio.alice, ear)


async def test_rpc_command_may_answer_fail_or_replace(trio: Any, tmp_path: Path) -> None:
    replace = {
        "replace": {"jsonrpc": "2.0", "id": "r", "method": "check", "params": {"command_to_check": "getinfo"}}
    }
    for answer, expected in (
        ({"return": {"result": {"mine": True}}}, {"mine": True}),
        (replace, {"command_to_check": "getinfo"}),
    ):
        probe = Probe(
            tmp_path,
            f"rpc{len(expected)}{'mine' in expected}.py",
            manifest={"hooks": [{"name": "rpc_command", "filters": ["feerates"]}]},
            answers={"rpc_command": answer},
        )
        await _start(trio.carol, probe)
        assert await trio.carol.handle.call("feerates", ["perkb"]) == expected
        seen = probe.received("rpc_command")[0]["params"]["rpc_command"]
        assert (seen["method"], seen["params"]) == ("feerates", ["perkb"])
        await _stop(trio.carol, probe)
    failing = Probe(
        tmp_path,
        "rpcfail.py",
        manifest={"hooks": ["rpc_command"]},
        answers={"rpc_command": {"return": {"error": {"code": 99, "message": "never"}}}},
    )
    await _start(trio.carol, failing)
    error = await trio.carol.error("feerates", ["perkb"])
    assert (error.code, error.message) == (99, "never")
    await trio.carol.handle.kill_plugin("rpcfail.py")


async def test_connect_and_disconnect_are_announced(trio: Any, tmp_path: Path, schemas: Any) -> None:
    ear = Probe(tmp_path, "peers.py", manifest={"subscriptions": ["connect", "disconnect"]})
    await _start(trio.carol, ear)
    await trio.network.connect(trio.alice.handle, trio.carol.handle)
    await until(lambda: ear.received("connect"))
    event = ear.received("connect")[0]["params"]["connect"]
    assert (event["id"], event["direction"]) == (trio.alice.id, "in")
    await trio.alice.call("disconnect", {"id": trio.carol.id, "force": True})
    await until(lambda: ear.received("disconnect"))
    assert ear.received("disconnect")[0]["params"]["disconnect"] == {"id": trio.alice.id}
    if schemas is not None:
        schemas.check_notification("disconnect", {"id": trio.alice.id})
    await _stop(trio.carol, ear)


async def test_peer_connected_may_hang_up(trio: Any, tmp_path: Path, schemas: Any) -> None:
    guard = Probe(
        tmp_path,
        "guard.py",
        manifest={"hooks": ["peer_connected"]},
        answers={"peer_connected": {"result": "disconnect", "error_message": "go away"}},
    )
    await _start(trio.carol, guard)
    address = (await trio.carol.call("getinfo"))["binding"][0]
    try:
        await trio.alice.handle.call("connect", [f"{trio.carol.id}@127.0.0.1:{address['port']}"])
    except DevnetRpcError as error:
        assert error.code == 402  # whether the dialler hears of it before or after its own success is a race
    payload = (await until(lambda: guard.received("peer_connected")))[0]["params"]
    assert payload["peer"]["id"] == trio.alice.id
    if schemas is not None:
        schemas.check_hook("peer_connected", payload)
    async with asyncio.timeout(60):
        while any(p["connected"] for p in (await trio.alice.call("listpeers", [trio.carol.id]))["peers"]):
            await asyncio.sleep(0.05)
    await _stop(trio.carol, guard)


async def test_openchannel_may_refuse(trio: Any, tmp_path: Path, schemas: Any) -> None:
    guard = Probe(
        tmp_path,
        "gate.py",
        manifest={"hooks": ["openchannel"]},
        answers={"openchannel": {"result": "reject", "error_message": "not today"}},
    )
    await _start(trio.bob, guard)
    error = await trio.alice.error("fundchannel", {"id": trio.bob.id, "amount": 100_000})
    assert "not today" in error.message
    payload = guard.received("openchannel")[0]["params"]
    assert payload["openchannel"]["funding_msat"] == 100_000_000
    if schemas is not None:
        schemas.check_hook("openchannel", payload)
    await _stop(trio.bob, guard)


async def test_a_payment_runs_through_hooks_and_events(trio: Any, tmp_path: Path, schemas: Any) -> None:
    ear = Probe(
        tmp_path,
        "flow.py",
        manifest={
            "hooks": ["htlc_accepted", "invoice_payment"],
            "subscriptions": ["forward_event", "invoice_payment"],
        },
    )
    far = Probe(
        tmp_path,
        "final.py",
        manifest={"hooks": ["htlc_accepted", "invoice_payment"], "subscriptions": ["invoice_payment"]},
    )
    await _start(trio.bob, ear)
    await _start(trio.carol, far)
    params = {"amount_msat": 1_000_000, "label": "flow", "description": "d"}
    made = await trio.carol.call("invoice", params)
    await trio.alice.call("xpay", [made["bolt11"]])
    await until(lambda: len(ear.received("forward_event")) == 2 and far.received("invoice_payment"))
    events = [message["params"]["forward_event"] for message in ear.received("forward_event")]
    assert [event["status"] for event in events] == ["offered", "settled"]
    middle, final = ear.received("htlc_accepted")[0]["params"], far.received("htlc_accepted")[0]["params"]
    assert middle["onion"]["short_channel_id"] == trio.far_scid
    assert middle["htlc"]["amount_msat"] == events[0]["in_msat"]
    assert final["onion"]["payment_secret"] == made["payment_secret"]
    assert final["onion"]["total_msat"] == 1_000_000
    hooks = [m for m in far.received("invoice_payment") if "id" in m]
    assert hooks[0]["params"]["payment"]["msat"] == 1_000_000
    notes = await until(lambda: [m for m in far.received("invoice_payment") if "id" not in m])
    assert notes[0]["params"]["invoice_payment"]["label"] == "flow"
    if schemas is not None:
        for event in events:
            schemas.check_notification("forward_event", event)
        schemas.check_hook("htlc_accepted", final)
        schemas.check_hook("invoice_payment", hooks[0]["params"])
    await _stop(trio.bob, ear)
    await _stop(trio.carol, far)


@pytest.mark.parametrize("kind", ["fail", "resolve"])
async def test_htlc_accepted_may_fail_or_resolve(trio: Any, tmp_path: Path, kind: str) -> None:
    params = {"amount_msat": 2_000_000, "label": f"hook {kind}", "description": "d", "preimage": "ab" * 32}
    if kind == "fail":
        params["preimage"] = "cd" * 32
    made = await trio.bob.call("invoice", params)
    answer = (
        {"result": "resolve", "payment_key": "ab" * 32}
        if kind == "resolve"
        else {"result": "fail", "failure_message": "400f00000000001e848000000071"}
    )
    judge = Probe(
        tmp_path, f"{kind}.py", manifest={"hooks": ["htlc_accepted"]}, answers={"htlc_accepted": answer}
    )
    await _start(trio.bob, judge)
    if kind == "resolve":
        paid = await trio.alice.call("xpay", [made["bolt11"]])
        assert paid["payment_preimage"] == "ab" * 32
    else:
        error = await trio.alice.error("xpay", [made["bolt11"]])
        assert error.code == 203
    (row,) = (await trio.bob.call("listinvoices", {"label": f"hook {kind}"}))["invoices"]
    assert row["status"] == "unpaid"
    await _stop(trio.bob, judge)


async def test_progress_notifications_reach_a_caller_that_wants_them(trio: Any, tmp_path: Path) -> None:
    note = {"method": "message", "params": {"id": "__id__", "level": "info", "message": "working"}}
    probe = Probe(
        tmp_path,
        "prog.py",
        manifest={"rpcmethods": [_method("probe-work")]},
        answers={"probe-work": {"done": 1}},
        emit={"probe-work": [note]},
    )
    await _start(trio.alice, probe)
    reader, writer = await rpc.open_unix(trio.alice.handle.rpc_path)
    for request in (
        {"jsonrpc": "2.0", "id": "n", "method": "notifications", "params": [True]},
        {"jsonrpc": "2.0", "id": "w", "method": "probe-work", "params": {}},
    ):
        writer.write(json.dumps(request).encode())
    seen = [json.loads(await asyncio.wait_for(reader.readuntil(b"\n\n"), 60)) for _ in range(3)]
    assert seen[0]["id"] == "n"
    assert seen[1]["method"] == "message"
    assert seen[1]["params"] == {"id": "w", "level": "info", "message": "working"}
    assert (seen[2]["id"], seen[2]["result"]) == ("w", {"done": 1})
    writer.close()
    await _stop(trio.alice, probe)


async def test_a_plugin_is_asked_to_shut_down_and_then_killed(trio: Any, tmp_path: Path) -> None:
    polite = Probe(tmp_path, "polite.py", manifest={"subscriptions": ["shutdown"]})
    await _start(trio.carol, polite)
    await _stop(trio.carol, polite)
    assert len(polite.received("shutdown")) == 1
    rude = Probe(tmp_path, "rude.py")
    await _start(trio.carol, rude)
    await _stop(trio.carol, rude)
    assert rude.received("shutdown") == []


async def test_a_directory_of_plugins_is_started_at_once(trio: Any, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    probes = [Probe(folder, name) for name in ("one.py", "two.py")]
    result = await trio.carol.call("plugin", {"subcommand": "startdir", "directory": str(folder)})
    active = {entry["name"] for entry in result["plugins"] if entry["active"]}
    assert {str(probe.path) for probe in probes} <= active
    for probe in probes:
        await _stop(trio.carol, probe)
    error = await trio.carol.error("plugin", ["startdir", "/nowhere"])
    assert (error.code, error.message) == (-32602, "Could not open /nowhere")
