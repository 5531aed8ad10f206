"""The HTTP adapter against the real mint: the whole round of the wallet's calls, and everything a mint or a
network can do wrong (docs/protocol/03-escrow-and-payments.md §2.1, §4.2)."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_shared.cashu.curve import y_of
from hive_shared.cashu.keysets import Keyset, fee_sats, split
from hive_shared.cashu.outputs import Output, finish, output, restored
from hive_shared.cashu.ports import Mint, MintRefused, MintUnavailable
from hive_shared.cashu.reasons import MintNonconformant
from hive_shared.cashu.wire import BlindedMessage, Proof, QuoteState, SpendState
from hive_shared.mint_http import MintHttp, Mints
from local_tls import LocalTls
from socks_proxy import SocksServer

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture(loop_scope="module")
async def mints(clock: Clock) -> AsyncIterator[Mints]:
    opened = Mints(jitter=lambda: 0.0, monotonic=clock.monotonic, sleep=clock.sleep)
    yield opened
    await opened.close()


@pytest_asyncio.fixture(loop_scope="module")
async def front(mint_url: str) -> AsyncIterator[MintFaultFront]:
    async with MintFaultFront.before(mint_url) as opened:
        yield opened


@pytest.fixture
def mint(mints: Mints, front: MintFaultFront) -> MintHttp:
    return mints.at(front.url)


def _outputs(amounts: Sequence[int], keyset: Keyset) -> list[Output]:
    return [output(each, keyset.id, secrets.token_hex(32), secrets.token_bytes(32)) for each in amounts]


async def _active(mint: Mint) -> Keyset:
    (listed,) = [each for each in await mint.keysets() if each.active]
    return await mint.keyset(listed)


async def _funded(mint: Mint, sats: int, keyset: Keyset) -> tuple[Proof, ...]:
    quote = await mint.mint_quote(sats)
    assert (await mint.mint_quote_state(quote.quote)).status is QuoteState.PAID
    outs = _outputs(split(sats, keyset.denominations), keyset)
    signed = await mint.mint(quote.quote, [each.message for each in outs])
    assert (await mint.mint_quote_state(quote.quote)).status is QuoteState.ISSUED
    return finish(outs, signed, {keyset.id: keyset})


async def test_the_wallets_calls_in_their_order(mint: MintHttp, front: MintFaultFront) -> None:
    info = await mint.info()
    assert info.version == "Nutshell/0.19.2" and info.supports(14) and info.time is not None
    keyset = await _active(mint)
    assert (keyset.unit, keyset.input_fee_ppk) == ("sat", 100)
    proofs = await _funded(mint, 24, keyset)
    ys = [_y(each) for each in proofs]
    assert [each.state for each in await mint.checkstate(ys)] == [SpendState.UNSPENT] * 2

    left = 24 - fee_sats([keyset.input_fee_ppk] * 2)
    outs = _outputs(split(left, keyset.denominations), keyset)
    messages = [each.message for each in outs]
    assert (await mint.restore(messages)).signatures == []
    new = finish(outs, await mint.swap(proofs, messages), {keyset.id: keyset})
    assert sum(each.amount for each in new) == left == 23
    states = await mint.checkstate([_y(new[0]), ys[1], ys[0]])
    assert [each.state for each in states] == [SpendState.UNSPENT, SpendState.SPENT, SpendState.SPENT]
    answer = await mint.restore(messages)
    again = restored(outs, answer.outputs, answer.signatures, {keyset.id: keyset})
    assert {each.C for each in again.values()} == {each.C for each in new}
    assert all(b'"dleq"' not in request.body for request in front.seen("/v1/swap"))


async def test_a_refusal_is_an_answer_with_the_mints_words(mint: MintHttp, front: MintFaultFront) -> None:
    keyset = await _active(mint)
    (proof,) = await _funded(mint, 8, keyset)
    outs = [each.message for each in _outputs([8], keyset)]
    with pytest.raises(MintRefused, match=r"refused \(HTTP 400, code \d+\): ") as caught:
        await mint.swap([proof], outs)  # the fee is missing
    assert caught.value.status == 400 and caught.value.reason == "mint_refused"
    assert len(front.seen("/v1/swap")) == 1
    for _ in range(6):
        with pytest.raises(MintRefused):
            await mint.swap([proof], outs)
    assert mint.traffic.breaker == "closed"


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (MintFaultKind.LOSE_BEFORE, "the connection broke"),
        (MintFaultKind.LOSE_AFTER, "the connection broke"),
        (MintFaultKind.STATUS_AFTER, "it answered HTTP 500"),
    ],
)
async def test_money_is_sent_once_and_reading_again(
    mint: MintHttp, front: MintFaultFront, clock: Clock, kind: MintFaultKind, why: str
) -> None:
    front.set(MintFault(kind, path="/v1/mint/quote/bolt11"))
    with pytest.raises(MintUnavailable, match=why) as caught:
        await mint.mint_quote(8)
    assert caught.value.sent and clock.slept == []
    assert len(front.seen("/v1/mint/quote")) == 1
    front.set(MintFault(kind, path="/v1/info", times=3))
    await mint.info()
    assert len(front.seen("/v1/info")) == 4 and clock.slept == [1, 4, 16]


async def test_nothing_is_sent_where_there_is_no_connection(mints: Mints) -> None:
    mint = mints.at("http://127.0.0.1:9")
    with pytest.raises(MintUnavailable, match="no connection: ") as caught:
        await mint.mint_quote(8)
    assert not caught.value.sent


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (MintFaultKind.HUGE, "more than 4194304 bytes; not read"),
        (MintFaultKind.GARBAGE, "not JSON"),
        (MintFaultKind.DEEP, "nested deeper than 16"),
        (MintFaultKind.REDIRECT, "HTTP 307; redirects are not followed"),
    ],
)
async def test_what_no_mint_answers_is_not_read(
    mint: MintHttp, front: MintFaultFront, kind: MintFaultKind, why: str
) -> None:
    front.set(MintFault(kind, path="/v1/info"))
    with pytest.raises(MintNonconformant, match=why):
        await mint.info()
    assert len(front.seen("/v1/info")) == 1
    assert (await mint.info()).version == "Nutshell/0.19.2"
    assert mint.traffic.breaker == "closed"


async def test_falsified_signatures_and_ids_are_seen(mint: MintHttp, front: MintFaultFront) -> None:
    keyset = await _active(mint)
    for kind, why in (
        (MintFaultKind.WRONG_KEYSET, "of keyset 00ffffffffffffff"),
        (MintFaultKind.BAD_DLEQ, "DLEQ does not hold"),
    ):
        (proof,) = await _funded(mint, 8, keyset)
        outs = _outputs([1, 2, 4], keyset)
        front.set(MintFault(kind, path="/v1/swap"))
        signed = await mint.swap([proof], [each.message for each in outs])
        with pytest.raises(MintNonconformant, match=why):
            finish(outs, signed, {keyset.id: keyset})
    (listed,) = [each for each in await mint.keysets() if each.active]
    front.set(MintFault(MintFaultKind.WRONG_KEYSET, path=f"/v1/keys/{keyset.id}"))
    with pytest.raises(MintNonconformant, match="the mint's answer has it 0 times"):
        await mint.keyset(listed)


async def test_five_failures_open_the_breaker_and_three_answers_close_it(
    mint: MintHttp, front: MintFaultFront, clock: Clock
) -> None:
    front.set(MintFault(MintFaultKind.STATUS_BEFORE, path="/v1/mint/quote", times=5))
    for _ in range(5):
        with pytest.raises(MintUnavailable):
            await mint.mint_quote(8)
    with pytest.raises(
        MintUnavailable, match="failed 5 times in a row and is left alone; try again in 60 s"
    ) as caught:
        await mint.info()
    assert not caught.value.sent and caught.value.retry_after_s == 60
    assert len(front.requests) == 5
    clock.now += 60
    for state in ("half-open", "half-open", "half-open"):
        assert mint.traffic.breaker == state
        await mint.mint_quote(8)
    assert mint.traffic.breaker == "closed"


async def test_half_open_lets_one_call_through_and_a_failure_shuts_it(
    mint: MintHttp, front: MintFaultFront, clock: Clock
) -> None:
    front.set(MintFault(MintFaultKind.STATUS_BEFORE, path="/v1/mint/quote", times=5))
    for _ in range(5):
        with pytest.raises(MintUnavailable):
            await mint.mint_quote(8)
    clock.now += 60
    front.set(MintFault(MintFaultKind.HOLD_AFTER, path="/v1/mint/quote"))
    trial = asyncio.create_task(mint.mint_quote(8))
    await front.until_held()
    with pytest.raises(MintUnavailable, match="one call at a time after failures"):
        await mint.info()
    front.release()
    with pytest.raises(MintUnavailable):
        await trial
    assert mint.traffic.breaker == "open"


async def test_a_mint_that_asks_to_be_left_alone_is(
    mint: MintHttp, front: MintFaultFront, clock: Clock
) -> None:
    front.set(MintFault(MintFaultKind.STATUS_BEFORE, path="/v1/info", status=429, retry_after=90))
    with pytest.raises(MintUnavailable, match="HTTP 429") as caught:
        await mint.info()
    assert caught.value.retry_after_s == 90
    with pytest.raises(MintUnavailable, match=r"asked to be left alone \(Retry-After\)") as held:
        await mint.mint_quote(8)
    assert not held.value.sent and len(front.requests) == 1
    clock.now += 70
    await mint.mint_quote(8)
    assert clock.slept[-1] == 20


async def test_a_slow_mint_is_waited_for_by_the_size_of_the_request(
    mint: MintHttp, front: MintFaultFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hive_shared.mint_http.request_seconds", lambda elements: 0.2)
    front.set(MintFault(MintFaultKind.HOLD_AFTER, path="/v1/mint/quote"))
    with pytest.raises(MintUnavailable, match=r"no answer within 0\.2 s") as caught:
        await mint.mint_quote(8)
    assert caught.value.sent


async def test_an_onion_mint_is_reached_by_the_proxy_and_by_nothing_else(front: MintFaultFront) -> None:
    async with SocksServer(front.port).running() as proxy:
        mints = Mints(jitter=lambda: 0.0, proxy=f"127.0.0.1:{proxy.port}")
        try:
            info = await mints.at("http://hiddenmint.onion").info()
            await mints.at(front.url).info()
        finally:
            await mints.close()
    assert info.version == "Nutshell/0.19.2"
    assert proxy.asked == [("hiddenmint.onion", 80)]
    without = Mints(jitter=lambda: 0.0)
    with pytest.raises(MintUnavailable, match="an onion address needs the node's proxy option"):
        await without.at("http://hiddenmint.onion").mint_quote(8)
    await without.close()


async def _canned(answer: bytes) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}", "answers compressed"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "HTTP 204"),
        (b'HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{"keysets":[1]}', "KeysetList is not as it must be"),
    ],
)
async def test_answers_of_strange_servers(mints: Mints, answer: bytes, why: str) -> None:
    server = await _canned(answer)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(MintNonconformant, match=why):
            await mints.at(f"http://127.0.0.1:{port}").keysets()


class _Narrow:
    """A mint that reads arrays of `most` elements and refuses longer ones, as nutshell does with 1001. It
    calls every proof unspent and signed every second output."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.asked: list[int] = []
        self.infos = 0

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if path == "/v1/info":
            self.infos += 1
            return 200, {"time": 1, "max_array_length": self.most}
        (elements,) = json.loads(body).values()
        self.asked.append(len(elements))
        if len(elements) > self.most:
            return 422, {"detail": "List should have fewer items"}
        if path == "/v1/checkstate":
            return 200, {"states": [{"Y": y, "state": "UNSPENT"} for y in elements]}
        signed = elements[::2]
        answers = [{"amount": 1, "id": each["id"], "C_": each["B_"]} for each in signed]
        return 200, {"outputs": signed, "signatures": answers}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(n[15:]) for n in head.lower().split(b"\r\n") if n.startswith(b"content-length")), 0
        )
        status, document = self.answer(head.split(b" ")[1].decode(), await reader.readexactly(length))
        text = json.dumps(document).encode()
        writer.write(
            b"HTTP/1.1 %d X\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (status, len(text))
        )
        writer.write(text)
        await writer.drain()
        writer.close()


async def test_no_more_is_asked_at_once_than_a_mint_reads(mints: Mints) -> None:
    ys = [f"02{number:064x}" for number in range(1_150)]
    for most, parts in ((70, [70] * 16 + [30]), (1_000, [1_000, 150]), (5_000, [1_000, 150])):
        narrow = _Narrow(most)
        server = await asyncio.start_server(narrow.serve, "127.0.0.1", 0)
        async with server:
            mint = mints.at(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            assert [state.Y for state in await mint.checkstate(ys)] == ys
            assert narrow.asked == parts and narrow.infos == 1
            outputs = [BlindedMessage(0, "00" * 8, y) for y in ys[:150]]
            answer = await mint.restore(outputs)
            # Half of each question, in its order.
            assert [each.B_ for each in answer.outputs] == [each.C_ for each in answer.signatures]
            assert {each.B_ for each in answer.outputs} == set(ys[:150:2])
            assert narrow.infos == 1 and max(narrow.asked) <= most


async def test_a_server_that_does_not_speak_http_is_no_answer(mints: Mints) -> None:
    server = await _canned(b"SSH-2.0-OpenSSH_9.9\r\n")
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(MintUnavailable, match="RemoteProtocolError") as caught:
            await mints.at(f"http://127.0.0.1:{port}").mint_quote(8)
    assert caught.value.sent


async def test_tls_is_verified(tmp_path: Path, front: MintFaultFront) -> None:
    tls = LocalTls.made(tmp_path)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n" + b'{"keysets":[]}')
        await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls.server())
    async with server:
        port = server.sockets[0].getsockname()[1]
        for trust, reached in ((tls.trust(), True), (None, False)):
            mints = Mints(jitter=lambda: 0.0, trust=trust, sleep=_at_once)
            try:
                if reached:
                    assert await mints.at(f"https://localhost:{port}").keysets() == []
                else:
                    with pytest.raises(MintUnavailable, match="no connection: TLS") as caught:
                        await mints.at(f"https://localhost:{port}").mint_quote(8)
                    assert not caught.value.sent
            finally:
                await mints.close()


async def _at_once(seconds: float) -> None:
    await asyncio.sleep(0)


def _y(proof: Proof) -> str:
    return y_of(proof.secret)
