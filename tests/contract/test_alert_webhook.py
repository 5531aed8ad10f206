"""The webhook's client against real servers, kind and hostile (Protocol 08 §6 "Alerts")."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from cl_hive_comms.services.ports_alerts import WebhookFailed
from cl_hive_comms.transport.webhook import HttpWebhook
from local_tls import LocalTls

OK = b"HTTP/1.1 204 No Content\r\n\r\n"


@dataclass
class Server:
    """What a server got."""

    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0


@asynccontextmanager
async def serving(answer: bytes | None, trust: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A server that reads one request and gives this answer; None: it says nothing."""
    seen = Server()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            seen.requests.append(head + await reader.readexactly(length))
            if answer is None:
                await reader.read()
            else:
                writer.write(answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=trust)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> LocalTls:
    return LocalTls.made(tmp_path_factory.mktemp("webhook"))


async def why(webhook: HttpWebhook, url: str) -> str:
    with pytest.raises(WebhookFailed) as caught:
        await webhook.post(url, b"{}", {})
    return str(caught.value)


async def test_a_post_arrives_whole_over_tls(certificate: LocalTls) -> None:
    async with serving(OK, certificate.server()) as server:
        webhook = HttpWebhook(loopback=True, trust=certificate.trust())
        await webhook.post(
            f"https://localhost:{server.port}/hook?room=1", b'{"a":1}', {"X-Hive-Signature": "s"}
        )
    (request,) = server.requests
    assert request.startswith(b"POST /hook?room=1 HTTP/1.1\r\n")
    assert f"Host: localhost:{server.port}\r\n".encode() in request
    assert b"X-Hive-Signature: s\r\n" in request
    assert request.endswith(b'\r\n\r\n{"a":1}')


async def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: LocalTls) -> None:
    async with serving(OK, certificate.server()) as server:
        text = await why(HttpWebhook(loopback=True), f"https://localhost:{server.port}/")
    assert text.startswith("TLS: ") and server.requests == []


async def test_redirects_are_not_followed() -> None:
    async with serving(OK) as target:
        answer = f"HTTP/1.1 307 Elsewhere\r\nLocation: http://127.0.0.1:{target.port}/\r\n\r\n".encode()
        async with serving(answer) as server:
            text = await why(HttpWebhook(loopback=True), f"http://127.0.0.1:{server.port}/")
    assert "307" in text and "redirects are not followed" in text
    assert (server.connections, target.connections) == (1, 0)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 500 Broken\r\n\r\n", "answered 500"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\n\r\n", "answered 404"),
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP"),
        (b"", "not HTTP"),
        (b"x" * 100_000, "not HTTP"),
        (b"HTTP/1.1 2x0 \r\n\r\n", "not HTTP"),
    ],
)
async def test_other_answers_are_failures_with_a_reason(answer: bytes, reason: str) -> None:
    async with serving(answer) as server:
        assert reason in await why(HttpWebhook(loopback=True), f"http://127.0.0.1:{server.port}/")


async def test_a_silent_server_holds_us_no_longer_than_the_limit() -> None:
    async with serving(None) as server:
        text = await why(HttpWebhook(loopback=True, seconds=0.2), f"http://127.0.0.1:{server.port}/")
    assert text == "no answer within 0.2 seconds"


async def test_private_hosts_are_never_connected_to() -> None:
    async with serving(OK) as server:
        webhook = HttpWebhook(loopback=False)
        for host in ("localhost", "127.0.0.1", "[::1]", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]"):
            assert "private address" in await why(webhook, f"https://{host}:{server.port}/"), host
    assert server.connections == 0
    for host in ("10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "[fd00::1]", "0.0.0.0"):
        for loopback in (False, True):
            text = await why(HttpWebhook(loopback=loopback), f"https://{host}/")
            assert "private address" in text, host
        assert "private address" in await why(
            HttpWebhook(loopback=False, proxy="127.0.0.1:9"), f"https://{host}/"
        )


async def test_one_private_address_among_several_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [["8.8.8.8", "10.0.0.7"]]

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in answers.pop(0)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    text = await why(HttpWebhook(loopback=False), "https://example.com/")
    assert "10.0.0.7" in text


async def test_a_name_is_looked_up_once_and_the_checked_address_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    opened: list[str] = []

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", port))]

    async def open_connection(host: str, port: int, **_: Any) -> Any:
        opened.append(host)
        raise OSError("not from here")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(asyncio, "open_connection", open_connection)
    assert "not from here" in await why(HttpWebhook(loopback=False), "https://rebind.example/")
    assert asked == ["rebind.example"] and opened == ["8.8.8.8"]
    assert ipaddress.ip_address(opened[0]).is_global


async def test_plain_http_and_onion_addresses_have_their_conditions() -> None:
    assert "use https" in await why(HttpWebhook(loopback=False), "http://127.0.0.1:1/")
    assert "use https" in await why(HttpWebhook(loopback=True), "http://example.com/")
    assert "proxy" in await why(HttpWebhook(loopback=False), "http://abc.onion/")
