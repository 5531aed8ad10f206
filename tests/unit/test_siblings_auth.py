"""Authentication of sibling calls, the shared key, the breaker."""

from __future__ import annotations

import asyncio
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from hive_shared.breaker import Breaker
from hive_shared.cln import ClnClient
from hive_shared.errors import Unauthorized
from hive_shared.siblings_auth import NONCES_MAX, SiblingAuth, load_sibling_key
from hypothesis import given
from hypothesis import strategies as st

KEY = bytes(range(32))


class Clock:
    def __init__(self) -> None:
        self.time = 1_700_000_000.0

    def unix(self) -> int:
        return int(self.time)

    def monotonic(self) -> float:
        return self.time


class Counter:
    """Distinct 'random' bytes."""

    def __init__(self) -> None:
        self.value = 0

    def __call__(self, size: int) -> bytes:
        self.value += 1
        return self.value.to_bytes(size, "big")


def pair(clock: Clock, key: bytes = KEY) -> tuple[SiblingAuth, SiblingAuth]:
    return SiblingAuth(key, clock.unix, Counter()), SiblingAuth(KEY, clock.unix, Counter())


def test_signed_call_verifies_once_and_keeps_its_parameters() -> None:
    caller, callee = pair(Clock())
    call = caller.sign("hive-comms-send-dm", {"recipient": "ab", "amount": 5})
    rest = callee.verify("hive-comms-send-dm", json.loads(json.dumps(call, indent=2)))
    assert rest["recipient"] == "ab" and rest["amount"] == 5 and "auth" not in rest
    with pytest.raises(Unauthorized, match="nonce repeated"):
        callee.verify("hive-comms-send-dm", call)


def test_a_methods_own_nonce_is_shared() -> None:
    caller, callee = pair(Clock())
    call = caller.sign("hive-comms-sign-binding", {"nonce": "0f" * 16})
    assert call["nonce"] == "0f" * 16
    assert callee.verify("hive-comms-sign-binding", call)["nonce"] == "0f" * 16


@given(st.sampled_from(["method", "value", "extra", "missing", "ts", "nonce", "auth", "key"]))
def test_any_change_is_unauthorized(change: str) -> None:
    caller, callee = pair(Clock(), bytes(32) if change == "key" else KEY)
    method, call = "hive-x", caller.sign("hive-x", {"a": 1, "b": "text"})
    match change:
        case "method":
            method = "hive-y"
        case "value":
            call["a"] = True
        case "extra":
            call["c"] = None
        case "missing":
            del call["b"]
        case "ts":
            call["ts"] += 1
        case "nonce":
            call["nonce"] = "00" * 16
        case "auth":
            call["auth"] = call["auth"][:-1] + ("0" if call["auth"][-1] != "0" else "1")
    with pytest.raises(Unauthorized):
        callee.verify(method, call)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["auth", "nonce", "ts", "a", "\ud800"]), json_values))
def test_garbage_is_unauthorized_and_nothing_else(params: dict[str, Any]) -> None:
    with pytest.raises(Unauthorized):
        pair(Clock())[1].verify("hive-x", params)


@pytest.mark.parametrize(("skew", "ok"), [(-61, False), (-60, True), (60, True), (61, False)])
def test_time_window_is_sixty_seconds(skew: int, ok: bool) -> None:
    clock = Clock()
    caller, callee = pair(clock)
    call = caller.sign("hive-x", {})
    clock.time -= skew
    if ok:
        callee.verify("hive-x", call)
    else:
        with pytest.raises(Unauthorized, match="60 s"):
            callee.verify("hive-x", call)


def test_nonce_memory_is_bounded_and_not_fillable_without_the_key() -> None:
    clock = Clock()
    caller, callee = pair(clock)
    stranger = SiblingAuth(bytes(32), clock.unix, Counter())
    first = caller.sign("hive-x", {})
    callee.verify("hive-x", first)
    for _ in range(10):
        with pytest.raises(Unauthorized):
            callee.verify("hive-x", stranger.sign("hive-x", {}))
    assert len(callee._seen) == 1
    for _ in range(NONCES_MAX + 10):
        callee.verify("hive-x", caller.sign("hive-x", {}))
    assert len(callee._seen) == NONCES_MAX


def test_proof_needs_the_key() -> None:
    caller, callee = pair(Clock())
    assert caller.is_proof("11" * 16, callee.proof("11" * 16))
    assert not caller.is_proof("11" * 16, SiblingAuth(bytes(32), int, bytes).proof("11" * 16))
    assert not caller.is_proof("11" * 16, None)
    assert not caller.is_proof("11" * 16, "ä")


async def serve_makesecret(path: Path, answer: dict[str, Any]) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = json.loads(await reader.readuntil(b"\n\n"))
                writer.write(json.dumps({"jsonrpc": "2.0", "id": request["id"], **answer}).encode() + b"\n\n")
        except asyncio.IncompleteReadError:
            writer.close()

    return await asyncio.start_unix_server(serve, str(path))


async def test_key_comes_from_the_seed(tmp_path: Path) -> None:
    server = await serve_makesecret(tmp_path / "rpc", {"result": {"secret": "01" * 32}})
    client = ClnClient(tmp_path / "rpc")
    key = await load_sibling_key(client, tmp_path)
    # HKDF-SHA256 by the letter of RFC 5869: extract under a zero salt, expand with empty info.
    extracted = hmac.digest(bytes(32), b"\x01" * 32, "sha256")
    assert key == hmac.digest(extracted, b"\x01", "sha256")
    assert not (tmp_path / "hive").exists()
    await client.close()
    server.close()


async def test_without_makesecret_all_plugins_share_one_private_file(tmp_path: Path) -> None:
    error = {"error": {"code": -32601, "message": "Unknown command 'makesecret'"}}
    server = await serve_makesecret(tmp_path / "rpc", error)
    clients = [ClnClient(tmp_path / "rpc") for _ in range(3)]
    keys = await asyncio.gather(*(load_sibling_key(client, tmp_path) for client in clients))
    path = tmp_path / "hive" / "sibling.key"
    assert len(set(keys)) == 1 and len(keys[0]) == 32
    assert path.stat().st_mode & 0o777 == 0o600 and [p.name for p in path.parent.iterdir()] == ["sibling.key"]
    path.chmod(0o644)
    with pytest.raises(ValueError, match="readable by others"):
        await load_sibling_key(clients[0], tmp_path)
    for client in clients:
        await client.close()
    server.close()


def test_breaker_opens_after_three_waits_and_closes_after_three() -> None:
    clock = Clock()
    breaker = Breaker(clock.monotonic)
    for _ in range(2):
        assert breaker.admit()
        breaker.failed()
    assert breaker.admit()
    breaker.succeeded()
    for _ in range(3):
        assert breaker.state == "closed" and breaker.admit()
        breaker.failed()
    assert breaker.state == "open" and not breaker.admit() and breaker.open_for == 60
    clock.time += 60
    assert breaker.state == "half-open"
    for _ in range(3):
        assert breaker.admit() and not breaker.admit()
        breaker.succeeded()
    assert breaker.state == "closed" and breaker.admit() and breaker.admit()


def test_breaker_half_open_failure_opens_again_and_abandoned_call_frees_the_trial() -> None:
    clock = Clock()
    breaker = Breaker(clock.monotonic)
    for _ in range(3):
        breaker.admit()
        breaker.failed()
    clock.time += 61
    assert breaker.admit()
    breaker.abandoned()
    assert breaker.admit()
    breaker.failed()
    assert breaker.state == "open"
    clock.time += 61
    assert breaker.admit()
    breaker.succeeded()
    breaker.reset()
    assert breaker.state == "closed"
