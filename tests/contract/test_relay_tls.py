"""`wss` for real: certificates are checked, and a relay cannot send us somewhere else (Protocol 04 §7.1)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import websockets
from hive_shared.crypto import Secret
from hive_shared.nostr.dialer import dial
from hive_shared.nostr.event import Event, build
from hive_shared.nostr.relay import RelayLimits, RelayPool
from local_tls import LocalTls

EVENT = build(Secret(b"\x01" * 32), 1, [], "x", 1_700_000_000)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> LocalTls:
    return LocalTls.made(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def _tls_relay(certificate: LocalTls) -> AsyncIterator[int]:
    async def serve(socket: Any) -> None:
        async for message in socket:
            await socket.send(json.dumps(["OK", json.loads(message)[1]["id"], True, ""]))

    async with websockets.serve(serve, "127.0.0.1", 0, ssl=certificate.server()) as server:
        yield server.sockets[0].getsockname()[1]


async def _publish(url: str) -> tuple[str, str]:
    async def nobody(relay: str, name: str, event: Event) -> None:
        """Take nothing."""

    pool = RelayPool(on_event=nobody, private_relays=True)
    await pool.start()
    try:
        result = (await pool.publish(EVENT, [url], timeout=60))[url]
        return result.state, result.message
    finally:
        await pool.stop()


async def test_a_trusted_certificate_works(certificate: LocalTls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
    async with _tls_relay(certificate) as port:
        assert (await _publish(f"wss://localhost:{port}"))[0] == "ok"


async def test_an_unknown_certificate_is_refused(certificate: LocalTls) -> None:
    async with _tls_relay(certificate) as port:
        state, message = await _publish(f"wss://localhost:{port}")
        assert state == "unreachable" and "CERTIFICATE_VERIFY_FAILED" in message


async def test_a_certificate_of_another_name_is_refused(
    certificate: LocalTls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
    async with _tls_relay(certificate) as port:
        state, message = await _publish(f"wss://127.0.0.1:{port}")
        assert state == "unreachable" and "CERTIFICATE_VERIFY_FAILED" in message


async def test_a_redirect_to_another_place_is_not_followed() -> None:
    visited = asyncio.Event()

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visited.set()
        writer.close()

    other = await asyncio.start_server(visit, "127.0.0.1", 0)
    target = other.sockets[0].getsockname()[1]

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        location = f"ws://127.0.0.1:{target}/"
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()

    server = await asyncio.start_server(redirect, "127.0.0.1", 0)
    try:
        state, _ = await _publish(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert state == "unreachable" and not visited.is_set()
    finally:
        server.close()
        other.close()


async def test_a_name_that_resolves_to_a_private_address_is_not_contacted() -> None:
    with pytest.raises(OSError, match="private address"):
        await dial("ws://localhost:9", limits=RelayLimits(), proxy=None, public_only=True)


async def test_environment_proxies_are_ignored(
    certificate: LocalTls, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
    async with _tls_relay(certificate) as port:
        assert (await _publish(f"wss://localhost:{port}"))[0] == "ok"
