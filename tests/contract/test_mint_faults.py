"""The fault front before the real mint: each switch does what it says, where it says, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from email.utils import parsedate_to_datetime

import httpx
import pytest
import pytest_asyncio
from hive_devnet.mint_faults import HUGE_BYTES, MintFault, MintFaultFront, MintFaultKind

pytestmark = pytest.mark.asyncio(loop_scope="module")
_QUOTE = "/v1/mint/quote/bolt11"
_BODY = {"amount": 8, "unit": "sat"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(mint_url: str) -> AsyncIterator[MintFaultFront]:
    async with MintFaultFront.before(mint_url) as front:
        yield front


@pytest.fixture
def front(running: MintFaultFront) -> Iterator[MintFaultFront]:
    running.clear()
    running.requests.clear()
    yield running
    running.clear()


async def _call(front: MintFaultFront, method: str, path: str, body: object = None) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        return await client.request(method, front.url + path, json=body)


async def test_without_a_switch_everything_passes_and_is_numbered(front: MintFaultFront) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        direct = await client.get(f"{front.mint_url}/v1/keysets")
        through = [await client.get(f"{front.url}/v1/keysets") for _ in range(2)]
        refused = await client.post(f"{front.url}/v1/swap", json={"inputs": [], "outputs": []})
    assert [reply.json() for reply in through] == [direct.json()] * 2
    assert refused.status_code >= 400
    last = front.requests[-1].number
    assert [(r.number, r.path, r.forwarded, r.fault) for r in front.requests] == [
        (last - 2, "/v1/keysets", True, None),
        (last - 1, "/v1/keysets", True, None),
        (last, "/v1/swap", True, None),
    ]
    assert front.seen("/v1/swap")[0].status == refused.status_code


@pytest.mark.parametrize(
    ("kind", "forwarded"), [(MintFaultKind.LOSE_BEFORE, False), (MintFaultKind.LOSE_AFTER, True)]
)
async def test_a_lost_request_and_a_lost_answer_differ_in_whether_the_mint_acted(
    front: MintFaultFront, kind: MintFaultKind, forwarded: bool
) -> None:
    front.set(MintFault(kind, path=_QUOTE, skip=1))
    assert (await _call(front, "POST", _QUOTE, _BODY)).status_code == 200
    with pytest.raises(httpx.RemoteProtocolError):
        await _call(front, "POST", _QUOTE, _BODY)
    assert (await _call(front, "POST", _QUOTE, _BODY)).status_code == 200
    assert [r.forwarded for r in front.requests] == [True, forwarded, True]
    assert (front.requests[1].status, front.requests[1].fault) == (200 if forwarded else None, kind)
    assert front.clear() == 1


async def test_a_held_request_hangs_until_it_is_let_go(front: MintFaultFront) -> None:
    front.set(MintFault(MintFaultKind.HOLD_AFTER, path=_QUOTE))
    reader, writer = await _raw(front, "POST", _QUOTE, b'{"amount":8,"unit":"sat"}')
    await front.until_held()
    assert front.requests[-1].status == 200
    front.release()
    assert await reader.read() == b""
    writer.close()


async def test_statuses_carry_their_retry_after_and_the_mint_may_have_acted(front: MintFaultFront) -> None:
    front.set(MintFault(MintFaultKind.STATUS_BEFORE, path=_QUOTE, status=429, retry_after=7))
    front.set(MintFault(MintFaultKind.STATUS_AFTER, path=_QUOTE, status=500))
    limited = await _call(front, "POST", _QUOTE, _BODY)
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "7")
    assert (await _call(front, "POST", _QUOTE, _BODY)).status_code == 500
    assert [r.forwarded for r in front.requests] == [False, True]


async def test_answers_that_no_client_may_take(front: MintFaultFront) -> None:
    for kind in (MintFaultKind.GARBAGE, MintFaultKind.DEEP, MintFaultKind.REDIRECT, MintFaultKind.HUGE):
        front.set(MintFault(kind, path="/v1/info"))
    garbage = await _call(front, "GET", "/v1/info")
    with pytest.raises(ValueError):
        garbage.json()
    assert (await _call(front, "GET", "/v1/info")).content.startswith(b"[" * 2000)
    redirect = await _call(front, "GET", "/v1/info")
    assert (redirect.status_code, redirect.headers["location"]) == (307, "http://127.0.0.1:9/v1/info")
    assert len((await _call(front, "GET", "/v1/info")).content) == HUGE_BYTES + 2


async def test_falsified_answers_differ_from_the_true_one_in_one_thing(front: MintFaultFront) -> None:
    true = (await _call(front, "GET", "/v1/keysets")).json()
    front.set(MintFault(MintFaultKind.WRONG_KEYSET, path="/v1/keysets"))
    false = (await _call(front, "GET", "/v1/keysets")).json()
    assert false["keysets"][0].pop("id") != true["keysets"][0].pop("id")
    assert false == true

    info = (await _call(front, "GET", "/v1/info")).json()
    front.set(MintFault(MintFaultKind.CLOCK_AHEAD, path="/v1/info"))
    reply = await _call(front, "GET", "/v1/info")
    ahead = reply.json()
    assert 3600 <= ahead.pop("time") - info.pop("time") < 3700
    assert ahead == info
    now = (await _call(front, "GET", "/v1/info")).headers["date"]
    shift = parsedate_to_datetime(reply.headers["date"]) - parsedate_to_datetime(now)
    assert 3500 < shift.total_seconds() <= 3600


async def test_another_process_sets_and_reads_switches_over_http(front: MintFaultFront) -> None:
    switch = {"kind": "status_before", "path": "/v1/info", "status": 503}
    assert (await _call(front, "POST", "/devnet/faults", switch)).json() == {
        "set": "status_before",
        "path": "/v1/info",
    }
    assert (await _call(front, "GET", "/v1/info")).status_code == 503
    (seen,) = (await _call(front, "GET", "/devnet/requests")).json()
    assert (seen["path"], seen["forwarded"], seen["fault"]) == ("/v1/info", False, "status_before")
    assert (await _call(front, "DELETE", "/devnet/faults")).json() == {"struck": 1}
    for wrong in (
        {"kind": "explode"},
        {"path": "/v1/"},
        {"kind": "huge", "tims": 2},
        {"kind": "huge", "times": "2"},
    ):
        reply = await _call(front, "POST", "/devnet/faults", wrong)
        assert reply.status_code == 400
        assert reply.json()["detail"].startswith("not a fault: ")
    assert (await _call(front, "GET", "/v1/info")).status_code == 200


async def test_a_mint_that_is_down_is_a_bad_gateway() -> None:
    async with MintFaultFront.before("http://127.0.0.1:9") as front:
        reply = await _call(front, "GET", "/v1/info")
    assert (reply.status_code, reply.json()) == (502, {"detail": "mint unreachable: ConnectError"})


async def _raw(
    front: MintFaultFront, method: str, path: str, body: bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    fields = f"host: mint\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    head = f"{method} {path} HTTP/1.1\r\n{fields}\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return reader, writer
