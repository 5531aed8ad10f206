"""A fault front before a mint: an HTTP proxy on loopback that loses, delays and falsifies what the mint says.

A wallet is pointed at `MintFaultFront.url` instead of the mint. Without a switch set, everything passes
unchanged. `connections` counts who came at all; every request is numbered from 1 and kept in `requests`, so
that a test can first count the requests of an operation and then run it again with a fault at each of them.
Tests set switches by the methods; another process sets them over HTTP on the same port, under ``/devnet/``
(the mint's own paths all begin with ``/v1``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final

import h11
import httpx
import msgspec

__all__ = ["MintFault", "MintFaultFront", "MintFaultKind", "MintRequest"]

HUGE_BYTES: Final = 50 * 1024 * 1024
_CHUNK: Final = 64 * 1024
_MINT_SECONDS: Final = 60.0
_FALSE_KEYSET: Final = "00ffffffffffffff"
_FALSE_SCALAR: Final = "11" * 32


class MintFaultKind(StrEnum):
    """What happens to a request. BEFORE: the mint never sees it. AFTER: the mint acted on it."""

    LOSE_BEFORE = "lose_before"
    LOSE_AFTER = "lose_after"
    DELAY_BEFORE = "delay_before"
    DELAY_AFTER = "delay_after"
    HOLD_BEFORE = "hold_before"
    HOLD_AFTER = "hold_after"
    STATUS_BEFORE = "status_before"
    STATUS_AFTER = "status_after"
    GARBAGE = "garbage"
    DEEP = "deep"
    HUGE = "huge"
    REDIRECT = "redirect"
    WRONG_KEYSET = "wrong_keyset"
    BAD_DLEQ = "bad_dleq"
    CLOCK_AHEAD = "clock_ahead"


# Those after which the mint has not acted; every other kind passes the request on.
_NOT_FORWARDED: Final = frozenset(
    {
        MintFaultKind.LOSE_BEFORE,
        MintFaultKind.HOLD_BEFORE,
        MintFaultKind.STATUS_BEFORE,
        MintFaultKind.REDIRECT,
    }
)


class MintFault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One switch.

    It strikes requests whose path begins with `path`: of those that come after it was set the first `skip`
    pass, the next `times` are struck (0: all that follow). `seconds` is the length of a delay, and what
    CLOCK_AHEAD adds to the mint's clock; `status` and `retry_after` are what the STATUS kinds answer;
    `location` is where REDIRECT points.
    """

    kind: MintFaultKind
    path: str = "/v1/"
    times: int = 1
    skip: int = 0
    seconds: float = 3600.0
    status: int = 500
    retry_after: int | None = None
    location: str = "http://127.0.0.1:9/v1/info"


@dataclass(frozen=True, slots=True)
class MintRequest:
    """One request the front saw: `forwarded` is whether the mint got it, `status` what the mint answered
    (None: nothing), `fault` the kind that struck it."""

    number: int
    method: str
    path: str
    body: bytes = field(repr=False)
    forwarded: bool
    status: int | None
    fault: MintFaultKind | None


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class _Dropped(Exception):
    """The connection is to be cut without an answer."""


class MintFaultFront:
    """The proxy before the mint at `mint_url`; `async with MintFaultFront.before(mint.url) as front`."""

    def __init__(self, mint_url: str) -> None:
        self.mint_url = mint_url
        self.requests: list[MintRequest] = []
        self.connections = 0
        self.port = 0
        self._switches: list[_Switch] = []
        self._server: asyncio.Server | None = None
        self._client = httpx.AsyncClient(timeout=_MINT_SECONDS, trust_env=False, verify=False)
        self._connections: set[asyncio.Task[None]] = set()
        self._release = asyncio.Event()
        self._changed = asyncio.Condition()
        self._held = 0
        self._number = 0

    @classmethod
    @asynccontextmanager
    async def before(cls, mint_url: str, port: int = 0) -> AsyncIterator[MintFaultFront]:
        """A running front on `port` of loopback (0: any free one), closed at the end."""
        front = cls(mint_url)
        await front.start(port)
        try:
            yield front
        finally:
            await front.close()

    @property
    def url(self) -> str:
        """What a wallet takes for the mint's address."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self, port: int = 0) -> None:
        """Listens on loopback."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Cuts every connection and stops listening."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._client.aclose()

    def set(self, fault: MintFault) -> None:
        """Adds a switch; where several match a request, the one set first strikes."""
        self._switches.append(_Switch(fault, fault.skip, fault.times))

    def clear(self) -> int:
        """Turns every switch off and lets held requests go on; returns how often the switches struck."""
        struck = sum(switch.struck for switch in self._switches)
        self._switches.clear()
        self.release()
        return struck

    @property
    def struck(self) -> int:
        """How often the switches that are set have struck."""
        return sum(switch.struck for switch in self._switches)

    async def until_held(self, timeout: float = 120.0) -> None:
        """Waits until a request hangs at a HOLD switch: the moment to kill the wallet. TimeoutError."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(lambda: self._held > 0)

    def release(self) -> None:
        """Cuts the connections of held requests. One held BEFORE never reaches the mint."""
        self._release.set()
        self._release = asyncio.Event()

    def seen(self, path: str) -> tuple[MintRequest, ...]:
        """The requests so far whose path begins with `path`."""
        return tuple(request for request in self.requests if request.path.startswith(path))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.connections += 1
        try:
            with suppress(_Dropped, ConnectionError, h11.ProtocolError, asyncio.CancelledError):
                await self._connection(reader, writer)
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = h11.Connection(h11.SERVER)
        while (request := await _read_request(parser, reader)) is not None:
            method, path, headers, body = request
            if path.startswith("/devnet/"):
                answer = self._control(method, path, body)
            else:
                answer = await self._handle(method, path, headers, body)
            await _write(parser, writer, answer)
            if parser.our_state is not h11.DONE or parser.their_state is not h11.DONE:
                return
            parser.start_next_cycle()

    async def _handle(self, method: str, path: str, headers: dict[str, str], body: bytes) -> _Answer:
        self._number += 1
        number = self._number
        fault = self._strike(path)
        kind = fault.kind if fault is not None else None
        if fault is not None and kind is MintFaultKind.DELAY_BEFORE:
            await asyncio.sleep(fault.seconds)
        answer: _Answer | None = None
        if kind not in _NOT_FORWARDED:
            answer = await self._forward(method, path, headers, body)
        status = answer.status if answer is not None else None
        self.requests.append(MintRequest(number, method, path, body, answer is not None, status, kind))
        return answer if fault is None and answer is not None else await self._afflict(fault, answer)

    async def _forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> _Answer:
        kept = {name: value for name, value in headers.items() if name in ("content-type", "accept")}
        try:
            reply = await self._client.request(method, self.mint_url + path, content=body, headers=kept)
        except httpx.HTTPError as error:
            # A mint that is down behind its proxy, as a reverse proxy says it.
            return _Answer(502, json.dumps({"detail": f"mint unreachable: {type(error).__name__}"}).encode())
        passed = tuple(
            (name, value)
            for name, value in reply.headers.items()
            if name in ("content-type", "date", "retry-after")
        )
        return _Answer(reply.status_code, reply.content, passed)

    async def _afflict(self, fault: MintFault | None, answer: _Answer | None) -> _Answer:
        assert fault is not None
        match fault.kind:
            case MintFaultKind.LOSE_BEFORE | MintFaultKind.LOSE_AFTER:
                raise _Dropped
            case MintFaultKind.HOLD_BEFORE | MintFaultKind.HOLD_AFTER:
                await self._hold()
                raise _Dropped
            case MintFaultKind.STATUS_BEFORE | MintFaultKind.STATUS_AFTER:
                return _refusal(fault)
            case MintFaultKind.REDIRECT:
                return _Answer(307, b"", (("location", fault.location),))
            case MintFaultKind.GARBAGE:
                return _Answer(200, b"\x00\xff not JSON {[", (("content-type", "application/json"),))
            case MintFaultKind.DEEP:
                return _Answer(200, b"[" * 2000 + b"]" * 2000, (("content-type", "application/json"),))
            case MintFaultKind.HUGE:
                return _Answer(200, b'"' + b"a" * HUGE_BYTES + b'"', (("content-type", "application/json"),))
        assert answer is not None
        if fault.kind is MintFaultKind.DELAY_AFTER:
            await asyncio.sleep(fault.seconds)
        return answer if fault.kind in _DELAYS else _falsified(fault, answer)

    async def _hold(self) -> None:
        release = self._release
        async with self._changed:
            self._held += 1
            self._changed.notify_all()
        try:
            await release.wait()
        finally:
            self._held -= 1

    def _strike(self, path: str) -> MintFault | None:
        for switch in self._switches:
            if path.startswith(switch.fault.path) and switch.strikes():
                return switch.fault
        return None

    def _control(self, method: str, path: str, body: bytes) -> _Answer:
        """GET /devnet/requests; POST /devnet/faults {kind, path?, ...}; DELETE /devnet/faults."""
        match method, path:
            case "GET", "/devnet/requests":
                return _json(200, [_public(request) for request in self.requests])
            case "DELETE", "/devnet/faults":
                return _json(200, {"struck": self.clear()})
            case "POST", "/devnet/faults":
                try:
                    fault = msgspec.json.decode(body, type=MintFault)
                except msgspec.MsgspecError as error:
                    return _json(400, {"detail": f"not a fault: {error}"})
                self.set(fault)
                return _json(200, {"set": fault.kind.value, "path": fault.path})
        return _json(404, {"detail": "GET /devnet/requests, POST or DELETE /devnet/faults"})


_DELAYS: Final = frozenset({MintFaultKind.DELAY_BEFORE, MintFaultKind.DELAY_AFTER})


class _Switch:
    """A fault and how far it has come."""

    def __init__(self, fault: MintFault, skip: int, times: int) -> None:
        self.fault = fault
        self.struck = 0
        self._skip = skip
        self._left = times

    def strikes(self) -> bool:
        if self._skip > 0:
            self._skip -= 1
            return False
        if self.fault.times and self._left == 0:
            return False
        self._left -= 1
        self.struck += 1
        return True


def _public(request: MintRequest) -> dict[str, Any]:
    return {
        "number": request.number,
        "method": request.method,
        "path": request.path,
        "forwarded": request.forwarded,
        "status": request.status,
        "fault": request.fault,
    }


def _json(status: int, value: object) -> _Answer:
    return _Answer(status, json.dumps(value).encode(), (("content-type", "application/json"),))


def _refusal(fault: MintFault) -> _Answer:
    after = (("retry-after", str(fault.retry_after)),) if fault.retry_after is not None else ()
    body = json.dumps({"detail": "the development network says so", "code": 0}).encode()
    return _Answer(fault.status, body, (("content-type", "application/json"), *after))


def _falsified(fault: MintFault, answer: _Answer) -> _Answer:
    """`answer` with one untruth in it; an answer that has nothing to falsify passes as it is."""
    if answer.status != 200:
        return answer
    if fault.kind is MintFaultKind.CLOCK_AHEAD:
        return _clock_ahead(answer, int(fault.seconds))
    document = json.loads(answer.body)
    for entry in _signed(document):
        if fault.kind is MintFaultKind.WRONG_KEYSET:
            entry["id"] = _FALSE_KEYSET
        elif isinstance(entry.get("dleq"), dict):
            entry["dleq"]["e"] = _FALSE_SCALAR
    return replace(answer, body=json.dumps(document).encode())


def _signed(document: dict[str, Any]) -> list[dict[str, Any]]:
    """What carries a keyset id: signatures of swap, mint, restore; change of a melt; keysets themselves."""
    return [
        entry
        for name in ("signatures", "change", "keysets")
        for entry in document.get(name) or ()
        if isinstance(entry, dict)
    ]


def _clock_ahead(answer: _Answer, seconds: int) -> _Answer:
    """The mint's clock set ahead, in the `time` of its info and in the Date header."""
    headers = tuple(
        (name, _date_ahead(value, seconds) if name == "date" else value) for name, value in answer.headers
    )
    document = json.loads(answer.body)
    if isinstance(document, dict) and isinstance(document.get("time"), int):
        document["time"] += seconds
    return replace(answer, body=json.dumps(document).encode(), headers=headers)


def _date_ahead(value: str, seconds: int) -> str:
    return format_datetime(parsedate_to_datetime(value) + timedelta(seconds=seconds), usegmt=True)


async def _read_request(
    parser: h11.Connection, reader: asyncio.StreamReader
) -> tuple[str, str, dict[str, str], bytes] | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(await reader.read(_CHUNK))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            headers = {name.decode(): value.decode() for name, value in head.headers}
            return head.method.decode(), head.target.decode(), headers, bytes(body)
        else:
            return None


async def _write(parser: h11.Connection, writer: asyncio.StreamWriter, answer: _Answer) -> None:
    headers = [*answer.headers, ("content-length", str(len(answer.body)))]
    writer.write(parser.send(h11.Response(status_code=answer.status, headers=headers)) or b"")
    for start in range(0, len(answer.body), _CHUNK):
        writer.write(parser.send(h11.Data(data=answer.body[start : start + _CHUNK])) or b"")
        await writer.drain()
    writer.write(parser.send(h11.EndOfMessage()) or b"")
    await writer.drain()
