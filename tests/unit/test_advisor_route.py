"""Other ways to a client: which addresses are taken, and what a server may answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hive_advisor.config import load_config
from hive_advisor.domain.route import (
    OfferedRest,
    RestRoute,
    check_fingerprint,
    check_rest_url,
    offered_rest,
)
from hive_advisor.transport.rest import RestLink
from hive_shared.errors import InvalidParams, TransportUnavailable

RUNE = "A" * 48
OFFERED = OfferedRest("https://node.example.com:3010", RUNE)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://node.example.com:3010", "must use https"),
        ("https://10.0.0.5:3010", "--allow-private"),
        ("https://127.0.0.1:3010", "--allow-private"),
        ("https://2130706433/", "--allow-private"),
        ("https://node.local", "--allow-private"),
        ("https://user:pw@node.example.com", "user name"),
        ("https://node.example.com/?x=1", "query"),
        ("ftp://node.example.com", "must look like"),
        ("https://node.example.com:99999", "cannot be read"),
        ("https://node.example.com/a\nRune: x", "odd characters"),
    ],
)
def test_addresses_that_are_refused_say_why(url: str, why: str) -> None:
    with pytest.raises(InvalidParams, match=why):
        check_rest_url(url, allow_private=False)


def test_private_addresses_are_taken_when_allowed_and_http_on_this_machine() -> None:
    assert check_rest_url("https://10.0.0.5:3010/", allow_private=True) == "https://10.0.0.5:3010"
    assert check_rest_url("http://127.0.0.1:3010", allow_private=True) == "http://127.0.0.1:3010"
    with pytest.raises(InvalidParams, match="must use https"):
        check_rest_url("http://10.0.0.5:3010", allow_private=True)


def test_a_fingerprint_is_taken_as_openssl_prints_it() -> None:
    assert check_fingerprint(":".join(["AB"] * 32)) == "ab" * 32
    with pytest.raises(InvalidParams):
        check_fingerprint("ab" * 20)


@pytest.mark.parametrize(
    "value",
    [
        "x",
        {"url": "https://node.example.com"},
        {"url": "https://node.example.com", "rune": RUNE, "more": 1},
        {"url": "https://node.example.com", "rune": f"{RUNE}\r\nX: y"},
        {"url": "gopher://node.example.com", "rune": RUNE},
        {"url": "https://node.example.com", "rune": RUNE, "tls_sha256": "zz"},
    ],
)
def test_a_malformed_rest_part_of_an_offer_is_refused(value: object) -> None:
    with pytest.raises(InvalidParams):
        offered_rest(value)


def test_the_order_of_transports_is_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    assert load_config(path).transport_order == ("nostr", "rest", "local", "commando")
    path.write_text('[transport]\norder = ["rest", "nostr"]\n')
    assert load_config(path).transport_order == ("rest", "nostr")
    for bad in ("[]", '["rest", "rest"]', '["carrier-pigeon"]', '"rest"', "[1]"):
        path.write_text(f"[transport]\norder = {bad}\n")
        with pytest.raises(InvalidParams, match=r"transport\.order"):
            load_config(path)


@asynccontextmanager
async def server(answer: Callable[[], bytes]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A plain HTTP server on this machine that says `answer` to everything."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer())
        try:
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    made = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with made:
        yield f"http://127.0.0.1:{made.sockets[0].getsockname()[1]}", heard


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", "redirects"),
        (
            b"HTTP/1.1 401 Unauthorized\r\n\r\n" + b'{"code":1503,"message":"Not\\u0007 now"}',
            "HTTP 401, Not now",
        ),
        (b"HTTP/1.1 500 Oops\r\n\r\nnot json", "HTTP 500"),
        (b"SSH-2.0-OpenSSH\r\n", "no HTTP"),
        (b"", "no HTTP"),
        (b"HTTP/1.1 201 Created\r\n\r\n\xff\xfe", "cannot be reached"),
        (b"HTTP/1.1 201 Created\r\n\r\n" + b"x" * 2_000_000, "more than"),
    ],
)
async def test_whatever_is_no_answer_is_refused_with_its_reason(answer: bytes, why: str) -> None:
    async with server(lambda: answer) as (url, heard):
        with pytest.raises(TransportUnavailable, match=why):
            await RestLink().call(RestRoute(url, allow_private=True), OFFERED, "{}", "ab" * 32)
        assert len(heard) == 1


async def test_a_call_names_the_method_the_rune_and_the_sender() -> None:
    async with server(lambda: b"HTTP/1.1 201 Created\r\nX: y\r\n\r\n{}") as (url, heard):
        assert await RestLink().call(RestRoute(url, allow_private=True), OFFERED, "{}", "ab" * 32) == "{}"
        assert heard[0].startswith(b"POST /v1/hive-comms-rpc HTTP/1.0\r\n")
        assert f"\r\nRune: {RUNE}\r\n".encode() in heard[0]


async def test_a_name_that_means_a_private_address_is_not_contacted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(2, 1, 6, "", ("192.168.1.7", 443))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    with pytest.raises(TransportUnavailable, match="private address"):
        await RestLink().call(RestRoute("https://node.example.com"), OFFERED, "{}", "ab" * 32)


async def test_a_pinned_server_that_shows_another_certificate_learns_no_rune(tmp_path: Path) -> None:
    import ssl

    from hive_devnet.certificates import make_certificates

    make_certificates(tmp_path, "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server-key.pem")
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.close()

    made = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with made:
        url = f"https://127.0.0.1:{made.sockets[0].getsockname()[1]}"
        for route in (RestRoute(url, None, "00" * 32, True), RestRoute(url, None, None, True)):
            with pytest.raises(TransportUnavailable, match="certificate"):
                await RestLink().call(route, OFFERED, "{}", "ab" * 32)
    assert b"".join(heard) == b""
