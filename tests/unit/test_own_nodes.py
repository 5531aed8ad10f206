"""nodes.toml and mcp-allow.json as operators write them, right and wrong (11 §11.3, §13)."""

from __future__ import annotations

import asyncio
import json
import stat
import tempfile
from pathlib import Path

import pytest
from hive_advisor.nodes import OwnNode, load_nodes, read_rune
from hive_advisor.operator_files import read_allow_file, write_allow_file
from hive_advisor.services.ports import NodeRefused
from hive_advisor.transport.own_node import OwnNodes
from hive_devnet.certificates import make_certificates
from hive_shared.errors import HiveError, InvalidParams, NotFound, TransportUnavailable

REST = 'rest_url = "https://10.0.0.2:3010"\nrune_file = "own.rune"\n'


def write(directory: Path, text: str) -> Path:
    path = directory / "nodes.toml"
    path.write_text(text)
    return path


def test_a_socket_and_two_ways_of_clnrest(tmp_path: Path) -> None:
    make_certificates(tmp_path, "127.0.0.1")
    nodes = load_nodes(
        write(
            tmp_path,
            '[nodes.home]\nsocket = "~/.lightning/bitcoin/lightning-rpc"\n'
            f'[nodes.pinned]\n{REST}tls_sha256 = "{"AB:" * 31}AB"\n'
            f'[nodes."with.ca"]\n{REST}ca_cert = "ca.pem"\n',
        )
    )
    assert list(nodes) == ["home", "pinned", "with.ca"]
    assert nodes["home"].socket == Path.home() / ".lightning/bitcoin/lightning-rpc"
    pinned, trusted = nodes["pinned"].rest, nodes["with.ca"].rest
    assert pinned is not None and pinned.tls_sha256 == "ab" * 32 and pinned.ca_cert is None
    assert trusted is not None and trusted.ca_cert == (tmp_path / "ca.pem").read_text()
    assert nodes["pinned"].rune_file == tmp_path / "own.rune"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"\[nodes.NAME\]"),
        ("nodes = 3", r"\[nodes.NAME\]"),
        ("[nodes]", "0 nodes"),
        ("[nodes.a]\n", "either"),
        ("[nodes.a", "TOML"),
        ('[nodes.a]\nsocket = "x"\n[other]\n', "nothing else"),
        ('[nodes.a]\nsocket = "x"\ninsecure = "yes"', "unknown key 'insecure'"),
        ("[nodes.a]\nsocket = 7", "takes texts"),
        ('[nodes.a]\nsocket = "x"\nrest_url = "https://h"', "either"),
        ('[nodes.a]\nsocket = "x"\nrune_file = "r"', "either"),
        ('[nodes."a b"]\nsocket = "x"', "node name"),
        ('[nodes.a]\nrest_url = "https://h"', "rune_file is missing"),
        ('[nodes.a]\nrest_url = "http://10.0.0.2"\nrune_file = "r"', "https"),
        ('[nodes.a]\nrest_url = "https://u:p@h"\nrune_file = "r"', "user name"),
        (f'[nodes.a]\n{REST}ca_cert = "none.pem"', "cannot be read"),
        (f'[nodes.a]\n{REST}ca_cert = "nodes.toml"', "no certificate"),
        (f'[nodes.a]\n{REST}tls_sha256 = "abc"', "64 hex"),
        (f'[nodes.a]\n{REST}ca_cert = "c"\ntls_sha256 = "d"', "not both"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(HiveError, match=words):
        load_nodes(write(tmp_path, text))


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (-4, TransportUnavailable, "ended before it answered"),
        (-5, TransportUnavailable, "ended before it answered"),
        (4001, NodeRefused, "the node's words"),
        (-32601, NodeRefused, "the node's words"),
    ],
)
async def test_a_plugin_that_died_is_no_refusal(code: int, kind: type[Exception], words: str) -> None:
    # A short path: sockets take no long ones.
    with tempfile.TemporaryDirectory(prefix="hive-") as directory:
        socket = Path(directory) / "rpc"

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked = json.loads(await reader.readuntil(b"\n\n"))
            error = {"code": code, "message": "the node's words"}
            writer.write(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": error}).encode() + b"\n\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_unix_server(answer, socket):
            nodes = OwnNodes({"a": OwnNode("a", socket=socket)})
            with pytest.raises(kind, match=words):
                await nodes.call("a", "hive-client-revoke", {"all": True})


def test_without_a_file_it_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="lightning-rpc"):
        load_nodes(tmp_path / "nodes.toml")


def test_a_rune_is_read_only_from_a_private_file(tmp_path: Path) -> None:
    node = load_nodes(write(tmp_path, f"[nodes.a]\n{REST}"))["a"]
    rune = tmp_path / "own.rune"
    with pytest.raises(InvalidParams, match="cannot be read"):
        read_rune(node)
    rune.write_text("x" * 60 + "\n")
    rune.chmod(0o640)
    with pytest.raises(InvalidParams, match="chmod 600"):
        read_rune(node)
    rune.chmod(0o600)
    assert read_rune(node) == "x" * 60
    rune.write_text("not a rune")
    with pytest.raises(InvalidParams, match="no rune"):
        read_rune(node)


def test_acceptance_08_21_a_list_that_others_may_write_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "config" / "mcp-allow.json"
    assert read_allow_file(path) == read_allow_file(path) and read_allow_file(path).warnings == ()
    write_allow_file(path, ["hive-client-revoke"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert read_allow_file(path).names == {"hive-client-revoke"}
    for mode in (0o620, 0o602, 0o666):
        path.chmod(mode)
        found = read_allow_file(path)
        assert found.names == frozenset() and "others" in found.warnings[0]
    path.unlink()
    path.mkdir()
    assert read_allow_file(path).names == frozenset() and read_allow_file(path).warnings
