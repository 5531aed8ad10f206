"""Both kinds of node: general behaviour of the RPC, its parameters, its errors and its framing."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hive_devnet import rpc

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_getinfo_names_the_node_and_its_network(trio: Any) -> None:
    info = await trio.alice.call("getinfo")
    assert info["id"] == trio.alice.id
    assert (info["alias"], info["network"]) == ("alice", "regtest")
    assert (info["num_peers"], info["num_active_channels"]) == (1, 1)
    assert Path(info["lightning-dir"]) == trio.alice.handle.net_dir
    assert info["version"].startswith("v26.")


async def test_help_lists_and_finds_commands(trio: Any) -> None:
    everything = await trio.alice.call("help")
    assert any(entry["command"].startswith("setchannel id ") for entry in everything["help"])
    one = await trio.alice.call("help", {"command": "setchannel"})
    usage = "setchannel id [feebase] [feeppm] [htlcmin] [htlcmax] [enforcedelay] [ignorefeelimits]"
    assert one["help"] == [{"command": usage}]
    missing = await trio.alice.error("help", {"command": "zzz"})
    assert (missing.code, missing.message) == (-32601, "Unknown command zzz")


@pytest.mark.parametrize(
    ("method", "params", "code", "message"),
    [
        ("nonsense", {}, -32601, "Unknown command 'nonsense'"),
        ("getinfo", [1], -32602, "too many parameters: got 1, expected 0"),
        ("connect", {}, -32602, "missing required parameter: id"),
        ("listpeers", {"id": "zz"}, -32602, "id: should be a node id: invalid token '\"zz\"'"),
        ("plugin", {"subcommand": "zz"}, -32602, "Unknown subcommand 'zz'"),
        ("plugin", {"subcommand": "start"}, -32602, "missing required parameter: plugin"),
        ("plugin", ["start", "/nope"], -32602, "/nope is not executable: No such file or directory"),
        ("plugin", ["stop", "nope"], -32602, "Could not find plugin nope"),
        ("check", {"command_to_check": "zz"}, -32601, "Unknown command 'zz'"),
        ("waitblockheight", {"blockheight": 9999, "timeout": 1}, 2000, "Timed out."),
        (
            "newaddr",
            {"addresstype": "x"},
            -32602,
            "'addresstype' should be 'p2tr', 'bech32', or 'all', not 'x'",
        ),
    ],
)
async def test_errors_have_clns_code_and_words(
    trio: Any, method: str, params: Any, code: int, message: str
) -> None:
    error = await trio.alice.error(method, params)
    assert (error.code, error.message) == (code, message)


async def test_an_unknown_parameter_is_named(trio: Any) -> None:
    error = await trio.alice.error("getinfo", {"x": 1})
    assert error.code == -32602
    assert error.message.startswith("unknown parameter: x, this may be caused by a failure to autodetect")


async def test_check_validates_without_acting(trio: Any) -> None:
    params = {"command_to_check": "setchannel", "id": "all", "feebase": "x"}
    error = await trio.alice.error("check", params)
    assert error.code == -32602
    assert error.message == "feebase: should be a millisatoshi amount: invalid token '\"x\"'"
    await trio.alice.call("check", {"command_to_check": "setchannel", "id": "all", "feebase": 77777})
    (channel,) = (await trio.alice.call("listpeerchannels"))["channels"]
    assert channel["fee_base_msat"] != 77777


async def test_the_socket_is_for_its_owner_only(trio: Any) -> None:
    assert stat.S_IMODE(trio.alice.handle.rpc_path.stat().st_mode) == 0o600


async def _exchange(path: Path, sent: bytes, answers: int) -> list[dict[str, Any]]:
    reader, writer = await rpc.open_unix(path)
    splitter = rpc.ObjectSplitter()
    writer.write(sent)
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(60):
        while len(found) < answers:
            data = await reader.read(65536)
            assert data, f"the node hung up after {found}"
            assert data.endswith(b"\n\n")
            found += [json.loads(text) for text in splitter.feed(data)]
    writer.close()
    return found


async def test_pipelined_requests_are_answered_each_with_its_own_id(trio: Any) -> None:
    sent = (
        b'{"jsonrpc":"2.0","id":1,"method":"check","params":{"command_to_check":"getinfo"}}'
        b'{"jsonrpc":"2.0","id":"x","method":"nope","params":[]}'
    )
    first, second = await _exchange(trio.alice.handle.rpc_path, sent, 2)
    assert first == {"jsonrpc": "2.0", "id": 1, "result": {"command_to_check": "getinfo"}}
    error = {"code": -32601, "message": "Unknown command 'nope'"}
    assert second == {"jsonrpc": "2.0", "id": "x", "error": error}


async def test_a_request_without_params_is_refused(trio: Any) -> None:
    sent = b'{"jsonrpc":"2.0","id":2,"method":"nope"}\n\n'
    (reply,) = await _exchange(trio.alice.handle.rpc_path, sent, 1)
    assert reply == {"jsonrpc": "2.0", "id": 2, "error": {"code": -32600, "message": "No params"}}


async def test_a_request_in_pieces_is_put_together(trio: Any) -> None:
    reader, writer = await rpc.open_unix(trio.alice.handle.rpc_path)
    for piece in (b'{"jsonrpc":"2.0","id":"p', b'","meth', b'od":"getinfo","params":{}', b"}"):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    answer = json.loads(await asyncio.wait_for(reader.readuntil(b"\n\n"), 60))
    assert answer["id"] == "p"
    writer.close()


async def test_a_filter_cuts_the_result(trio: Any) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "getinfo", "params": {}, "filter": {"alias": True}}
    (reply,) = await _exchange(trio.alice.handle.rpc_path, json.dumps(request).encode(), 1)
    assert reply["result"] == {"alias": "alice"}


async def test_a_slow_call_does_not_hold_up_a_quick_one(trio: Any) -> None:
    slow = {
        "jsonrpc": "2.0",
        "id": "slow",
        "method": "waitblockheight",
        "params": {"blockheight": 10**6, "timeout": 2},
    }
    quick = {"jsonrpc": "2.0", "id": "quick", "method": "getinfo", "params": {}}
    sent = json.dumps(slow).encode() + json.dumps(quick).encode()
    replies = await _exchange(trio.alice.handle.rpc_path, sent, 2)
    assert [reply["id"] for reply in replies] == ["quick", "slow"]


async def test_listconfigs_and_setconfig_keep_a_dynamic_option(trio: Any) -> None:
    before = await trio.bob.call("listconfigs", {"config": "min-capacity-sat"})
    assert before["configs"]["min-capacity-sat"]["value_int"] == 10000
    changed = await trio.bob.call("setconfig", {"config": "min-capacity-sat", "val": 1234})
    source = f"{trio.bob.handle.net_dir}/config.setconfig:2"
    expected = {"config": "min-capacity-sat", "value_int": 1234, "source": source, "dynamic": True}
    assert changed["config"] == expected
    passing = await trio.bob.call("setconfig", {"config": "min-capacity-sat", "val": 7, "transient": True})
    assert passing["config"]["source"] == "setconfig transient"
    everything = await trio.bob.call("listconfigs")
    assert everything["configs"]["network"]["value_str"] == "regtest"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"config": "min-capacity-sat", "val": "x"}, "Error setting min-capacity-sat: 'x' is not a number"),
        ({"config": "alias", "val": "x"}, "config: Not a dynamic config option: invalid token '\"alias\"'"),
        ({"config": "zzz", "val": "x"}, "config: Unknown config option: invalid token '\"zzz\"'"),
        ({"config": "min-capacity-sat"}, "min-capacity-sat requires a value"),
    ],
)
async def test_setconfig_refuses_with_clns_words(trio: Any, params: Any, message: str) -> None:
    error = await trio.bob.error("setconfig", params)
    assert (error.code, error.message) == (-32602, message)


async def test_feerates_and_heights(trio: Any) -> None:
    rates = await trio.alice.call("feerates", {"style": "perkb"})
    assert rates["perkb"]["floor"] >= 1000
    assert (await trio.alice.call("parsefeerate", ["1000perkw"]))["perkw"] == 1000
    assert (await trio.alice.call("waitblockheight", {"blockheight": 1}))["blockheight"] > 100


async def test_getlog_has_lines(trio: Any) -> None:
    lines = (await trio.alice.call("getlog", {"level": "info"}))["log"]
    assert any("Server started" in line.get("log", "") for line in lines)
