"""The backend plugin as lightningd sees it: a process that speaks JSON-RPC on standard input and output."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hive_devnet.lightningd import bitcoin_backend
from hive_devnet.lightningd.chain import PREMINED_BLOCKS, RegtestChain

ALICE = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"


class Lightningd:
    """The other end of the plugin's pipes."""

    def __init__(self) -> None:
        script = Path(bitcoin_backend.__file__)
        # -S proves the point of the plugin's own imports: it needs nothing that had to be installed.
        self.process = subprocess.Popen(
            [sys.executable, "-S", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._next_id = 0

    def send(self, raw: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(raw)
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert self.process.stdout.readline() == b"\n"
        reply: dict[str, Any] = json.loads(line)
        return reply

    def request(self, method: str, params: object) -> dict[str, Any]:
        self._next_id += 1
        identity = f"cln:{method}#{self._next_id}"
        message = {"jsonrpc": "2.0", "id": identity, "method": method, "params": params}
        self.send(json.dumps(message, indent=2).encode() + b"\n\n")
        reply = self.receive()
        assert reply["id"] == identity
        return reply

    def result(self, method: str, params: object = None) -> dict[str, Any]:
        reply = self.request(method, {} if params is None else params)
        assert "error" not in reply, reply
        result: dict[str, Any] = reply["result"]
        return result

    def init(self, options: dict[str, object]) -> dict[str, Any]:
        self.result("getmanifest", {"allow-deprecated-apis": False})
        return self.result("init", {"options": options, "configuration": {}})


@pytest.fixture
def started() -> Iterator[Lightningd]:
    lightningd = Lightningd()
    yield lightningd
    assert lightningd.process.stdin is not None and lightningd.process.stdout is not None
    lightningd.process.stdin.close()
    assert lightningd.process.wait(60) == 0
    lightningd.process.stdout.close()


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[RegtestChain]:
    opened = RegtestChain(tmp_path / "chain.sqlite3", create=True)
    yield opened
    opened.close()


@pytest.fixture
def backend(started: Lightningd, chain: RegtestChain, tmp_path: Path) -> Lightningd:
    assert started.init({"hive-chain": str(tmp_path / "chain.sqlite3")}) == {}
    return started


def test_manifest_offers_the_five_backend_methods_and_our_two(started: Lightningd) -> None:
    manifest = started.result("getmanifest", {})
    assert {method["name"] for method in manifest["rpcmethods"]} == {
        "getchaininfo",
        "estimatefees",
        "getrawblockbyheight",
        "getutxout",
        "sendrawtransaction",
        "mine",
        "faucet",
    }
    assert [option["name"] for option in manifest["options"]] == ["hive-chain", "hive-owner"]
    assert manifest["dynamic"] is False


def test_missing_chain_disables_the_plugin_with_the_reason(started: Lightningd, tmp_path: Path) -> None:
    assert "no chain at" in started.init({"hive-chain": str(tmp_path / "none")})["disable"]
    assert "hive-chain is not set" in started.init({})["disable"]


def test_chain_info_is_regtest_and_synced(backend: Lightningd) -> None:
    assert backend.result("getchaininfo", {"last_height": 0}) == {
        "chain": "regtest",
        "headercount": PREMINED_BLOCKS,
        "blockcount": PREMINED_BLOCKS,
        "ibd": False,
    }


def test_feerates_ascend_in_blocks_and_never_pass_the_floor(backend: Lightningd) -> None:
    fees = backend.result("estimatefees")
    blocks = [item["blocks"] for item in fees["feerates"]]
    rates = [item["feerate"] for item in fees["feerates"]]
    assert blocks == sorted(set(blocks)) and rates == sorted(rates, reverse=True)
    assert min(rates) >= fees["feerate_floor"] > 0


def test_blocks_are_served_and_null_above_the_tip(backend: Lightningd, chain: RegtestChain) -> None:
    block = chain.block_at(7)
    assert block is not None
    served = backend.result("getrawblockbyheight", {"height": 7})
    assert served == {"blockhash": block.hash, "block": block.raw.hex()}
    above = backend.result("getrawblockbyheight", {"height": PREMINED_BLOCKS + 1})
    assert above == {"blockhash": None, "block": None}


def test_output_is_served_until_spent(backend: Lightningd) -> None:
    txid = backend.result("faucet", {"address": ALICE, "amount_sat": 77_000})["txid"]
    found = backend.result("getutxout", {"txid": txid, "vout": 0})
    assert found == {"amount": 77_000, "script": "0014751e76e8199196d454941c45d1b3a323f1433bd6"}
    assert backend.result("getutxout", {"txid": txid, "vout": 9}) == {"amount": None, "script": None}
    unknown = backend.result("getutxout", {"txid": "00" * 32, "vout": 0})
    assert unknown == {"amount": None, "script": None}


def test_sent_transaction_is_accepted_twice_and_garbage_explained(
    backend: Lightningd, chain: RegtestChain
) -> None:
    found = chain.transaction(chain.faucet(ALICE, 10_000))
    assert found is not None
    params = {"tx": found[0].encode().hex(), "allowhighfees": True}
    assert backend.result("sendrawtransaction", params) == {"success": True, "errmsg": ""}
    refused = backend.result("sendrawtransaction", {"tx": "zz", "allowhighfees": False})
    assert refused["success"] is False and "hexadecimal" in refused["errmsg"]
    refused = backend.result("sendrawtransaction", {"tx": "0200", "allowhighfees": False})
    assert refused["success"] is False and refused["errmsg"].startswith("TX decode failed")


def test_mine_and_faucet_take_positional_text_as_lightning_cli_sends_it(
    backend: Lightningd, chain: RegtestChain
) -> None:
    backend.result("faucet", [ALICE, "25000"])
    assert len(chain.mempool()) == 1
    assert backend.result("mine", []) == {"blockheight": PREMINED_BLOCKS + 1}
    assert backend.result("mine", ["3"]) == {"blockheight": PREMINED_BLOCKS + 4}
    assert chain.mempool() == []


@pytest.mark.parametrize(
    ("method", "params", "code", "words"),
    [
        ("mine", [0], -1, "must be 1 or more"),
        ("mine", {"blocks": "many"}, -32602, "blocks: should be a non-negative integer, not 'many'"),
        ("mine", [1, 2], -32602, "takes at most these parameters: blocks"),
        ("faucet", {"address": "bc1q", "amount_sat": 1000}, -1, "not of regtest"),
        ("faucet", {"address": ALICE}, -32602, "amount_sat: should be a non-negative integer"),
        ("faucet", {"amount_sat": 1000}, -32602, "address: should be a string"),
        ("getutxout", {"txid": "xyz", "vout": 0}, -32602, "is not hexadecimal"),
        ("nonsense", {}, -32601, "Unknown command"),
    ],
)
def test_wrong_call_is_answered_with_its_reason(
    backend: Lightningd, method: str, params: object, code: int, words: str
) -> None:
    error = backend.request(method, params)["error"]
    assert error["code"] == code
    assert words in error["message"]
    assert backend.result("getchaininfo", {"last_height": 0})["chain"] == "regtest"


def test_requests_may_arrive_joined_or_in_pieces(backend: Lightningd) -> None:
    one = b'{"jsonrpc":"2.0","id":1,"method":"estimatefees","params":{}}\n\n'
    two = b'{"jsonrpc":"2.0","id":2,"method":"getchaininfo","params":{"last_height":0}}\n\n'
    backend.send(one + two[:20])
    assert backend.receive()["id"] == 1
    backend.send(two[20:])
    assert backend.receive()["id"] == 2


def test_backend_leaves_with_the_owner_of_the_network(chain: RegtestChain, tmp_path: Path) -> None:
    owner = subprocess.Popen(["sleep", "60"])
    lightningd = Lightningd()
    lightningd.init({"hive-chain": str(tmp_path / "chain.sqlite3"), "hive-owner": owner.pid})
    assert lightningd.result("getchaininfo", {"last_height": 0})["blockcount"] == PREMINED_BLOCKS
    owner.kill()
    owner.wait()
    lightningd.send(b'{"jsonrpc":"2.0","id":9,"method":"estimatefees","params":{}}\n\n')
    assert lightningd.process.wait(60) == 0
    assert lightningd.process.stdin is not None and lightningd.process.stdout is not None
    assert lightningd.process.stdout.read() == b""
    lightningd.process.stdin.close()
    lightningd.process.stdout.close()
