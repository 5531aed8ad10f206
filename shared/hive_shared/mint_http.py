"""Mints over HTTP: the adapter of `cashu.ports.Mint` (docs/protocol/03-escrow-and-payments.md §2.1, §4.2).

No redirects, no cookies, no compressed answers, at most 4 MiB of each; TLS verified against the system's
certificates. A money call is sent exactly once; what its missing answer means is the caller's to find out.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar
from urllib.parse import quote, urlsplit

import httpcore
import msgspec

from hive_shared.cashu import wire
from hive_shared.cashu.keysets import Keyset
from hive_shared.cashu.mint_url import normal_mint_url
from hive_shared.cashu.ports import MintRefused, MintUnavailable, request_seconds
from hive_shared.cashu.reasons import MintNonconformant
from hive_shared.mint_lane import ALL_MINTS_AT_ONCE, ONE_MINT_AT_ONCE, MintLane, MintTraffic
from hive_shared.socks_http import ProxyOrDirect

__all__ = ["MintHttp", "Mints"]

RETRY_PAUSES_S: Final = (1.0, 4.0, 16.0)
_CONNECT_SECONDS: Final = 8.0
# Below the five seconds after which a common server closes an idle connection: a request written into a
# closing connection is one of which nobody knows whether it arrived.
_IDLE_SECONDS: Final = 4.0
_SAID_MAX: Final = 200
_ANY_MINT_READS: Final = 100
"""Elements of an array for which a mint is not asked how many it reads."""

_A = TypeVar("_A", bound=msgspec.Struct)
_E = TypeVar("_E")


class Mints:
    """All mints a process talks to, one connection pool each.

    `proxy` is a SOCKS5 `host:port`, for every mint or (`only_onion`) for onion ones; `trust` replaces the
    system's certificates. `monotonic`, `sleep` (seconds) and `jitter` (0 to 1) are clock and randomness.
    """

    def __init__(
        self,
        *,
        jitter: Callable[[], float],
        proxy: str | None = None,
        only_onion: bool = True,
        trust: ssl.SSLContext | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._jitter, self._trust = jitter, trust
        self._backend = ProxyOrDirect(proxy, only_onion=only_onion)
        self._monotonic, self._sleep = monotonic, sleep
        self._everywhere = asyncio.Semaphore(ALL_MINTS_AT_ONCE)
        self._known: dict[str, MintHttp] = {}

    def at(self, url: str) -> MintHttp:
        """The mint at an address; always the same object for the same mint. Raises ValueError."""
        address = normal_mint_url(url)
        if address not in self._known:
            lane = MintLane(address, self._everywhere, monotonic=self._monotonic, sleep=self._sleep)
            self._known[address] = MintHttp(
                address, lane, self._backend, trust=self._trust, sleep=self._sleep, jitter=self._jitter
            )
        return self._known[address]

    async def close(self) -> None:
        """Cuts every connection; a request under way ends as MintUnavailable."""
        for mint in self._known.values():
            await mint.close()


class MintHttp:
    """One mint; made by `Mints.at`."""

    def __init__(
        self,
        url: str,
        lane: MintLane,
        backend: httpcore.AsyncNetworkBackend,
        *,
        trust: ssl.SSLContext | None,
        sleep: Callable[[float], Awaitable[None]],
        jitter: Callable[[], float],
    ) -> None:
        self._url, self._lane, self._backend = url, lane, backend
        self._trust, self._sleep, self._jitter = trust, sleep, jitter
        self._pool: httpcore.AsyncConnectionPool | None = None
        self._most: int | None = None
        self._opening = asyncio.Lock()

    @property
    def url(self) -> str:
        """Its address in normal form."""
        return self._url

    @property
    def traffic(self) -> MintTraffic:
        """What is under way and held back on the way to it."""
        return self._lane.traffic

    async def close(self) -> None:
        """Cuts its connections."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()

    async def info(self) -> wire.MintInfo:
        """What it says about itself; `time` from the Date header where it gives none."""
        body, headers = await self._ask("GET", "info", repeat=True)
        info = wire.decode(body, wire.MintInfo)
        self._most = info.array_limit
        if info.time is None and (stated := _date(headers)) is not None:
            return msgspec.structs.replace(info, time=stated)
        return info

    async def keysets(self) -> Sequence[wire.KeysetInfo]:
        """All its keysets."""
        body, _ = await self._ask("GET", "keysets", repeat=True)
        return wire.decode(body, wire.KeysetList).keysets

    async def keyset(self, listed: wire.KeysetInfo) -> Keyset:
        """One of them with its keys, the id recomputed."""
        body, _ = await self._ask("GET", f"keys/{quote(listed.id, safe='')}", repeat=True)
        return wire.read_keyset(listed, wire.decode(body, wire.KeysAnswer))

    async def mint_quote(self, amount_sats: int, *, pubkey: str | None = None) -> wire.MintQuote:
        """An invoice that buys ecash."""
        request = wire.MintQuoteRequest(amount_sats, "sat", pubkey=pubkey)
        quoted = await self._post("mint/quote/bolt11", request, wire.MintQuote, money=True)
        if quoted.amount not in (None, amount_sats) or quoted.unit not in (None, "sat"):
            raise MintNonconformant(
                f"asked {self._url} for a quote of {amount_sats} sat, got {quoted.amount} {quoted.unit}"
            )
        return quoted

    async def mint_quote_state(self, quote_id: str) -> wire.MintQuote:
        """Where that invoice stands."""
        body, _ = await self._ask("GET", f"mint/quote/bolt11/{quote(quote_id, safe='')}", repeat=True)
        return self._same_quote(wire.decode(body, wire.MintQuote), quote_id)

    async def mint(
        self, quote_id: str, outputs: Sequence[wire.BlindedMessage], *, signature: str | None = None
    ) -> Sequence[wire.BlindSignature]:
        """Take what a paid quote bought."""
        request = wire.MintRequest(quote_id, outputs, signature=signature)
        answer = await self._post("mint/bolt11", request, wire.Signatures, money=True, elements=len(outputs))
        return answer.signatures

    async def melt_quote(self, invoice: str) -> wire.MeltQuote:
        """What the mint takes for paying an invoice."""
        request = wire.MeltQuoteRequest(invoice, "sat")
        return await self._post("melt/quote/bolt11", request, wire.MeltQuote, money=True)

    async def melt_quote_state(self, quote_id: str) -> wire.MeltQuote:
        """Where that payment stands."""
        body, _ = await self._ask("GET", f"melt/quote/bolt11/{quote(quote_id, safe='')}", repeat=True)
        return self._same_quote(wire.decode(body, wire.MeltQuote), quote_id)

    async def melt(
        self, quote_id: str, inputs: Sequence[wire.Proof], outputs: Sequence[wire.BlindedMessage]
    ) -> wire.MeltAnswer:
        """Have the invoice paid."""
        request = wire.MeltRequest(quote_id, wire.as_inputs(inputs), outputs)
        elements = max(len(inputs), len(outputs))
        return await self._post("melt/bolt11", request, wire.MeltAnswer, money=True, elements=elements)

    async def swap(
        self, inputs: Sequence[wire.Proof], outputs: Sequence[wire.BlindedMessage]
    ) -> Sequence[wire.BlindSignature]:
        """Exchange proofs for signatures on new outputs."""
        request = wire.SwapRequest(wire.as_inputs(inputs), outputs)
        elements = max(len(inputs), len(outputs))
        answer = await self._post("swap", request, wire.Signatures, money=True, elements=elements)
        return answer.signatures

    async def checkstate(self, ys: Sequence[str]) -> Sequence[wire.ProofState]:
        """What the mint knows of each, in the order asked; in as many questions as the mint needs."""
        found: list[wire.ProofState] = []
        for some in await self._parts(ys):
            found += await self._states(some)
        return found

    async def _states(self, ys: Sequence[str]) -> list[wire.ProofState]:
        request = wire.StateRequest(ys)
        answer = await self._post("checkstate", request, wire.StateAnswer, elements=len(ys))
        states = {state.Y: state for state in answer.states}
        if len(answer.states) != len(ys) or set(states) != set(ys):
            raise MintNonconformant(
                f"asked {self._url} about {len(ys)} proofs, its {len(answer.states)} answers are for others"
            )
        return [states[y] for y in ys]

    async def restore(self, outputs: Sequence[wire.BlindedMessage]) -> wire.RestoreAnswer:
        """Those of our outputs that the mint has signed, and its signatures; in as many questions as the
        mint needs."""
        found = wire.RestoreAnswer([], [])
        for some in await self._parts(outputs):
            request = wire.RestoreRequest(some)
            answer = await self._post("restore", request, wire.RestoreAnswer, elements=len(some))
            if len(answer.outputs) != len(answer.signatures):
                raise MintNonconformant(f"{self._url} restores outputs and signatures that do not pair")
            found = wire.RestoreAnswer(
                [*found.outputs, *answer.outputs], [*found.signatures, *answer.signatures]
            )
        return found

    async def _parts(self, elements: Sequence[_E]) -> list[Sequence[_E]]:
        """What is only asked about, in arrays that this mint reads: what it lets be locked it has to tell
        about, in however many questions."""
        if self._most is None and len(elements) > _ANY_MINT_READS:
            await self.info()
        most = self._most or _ANY_MINT_READS
        return [elements[at : at + most] for at in range(0, len(elements), most)] or [elements]

    def _same_quote(self, quoted: _Q, quote_id: str) -> _Q:
        if quoted.quote != quote_id:
            raise MintNonconformant(f"asked {self._url} for quote {quote_id!a}, got {quoted.quote!a}")
        return quoted

    async def _post(
        self, path: str, request: msgspec.Struct, kind: type[_A], *, money: bool = False, elements: int = 0
    ) -> _A:
        if elements > wire.MAX_ARRAY:
            raise ValueError(f"{elements} elements in one request to a mint, at most {wire.MAX_ARRAY}")
        body, _ = await self._ask(
            "POST", path, wire.encode(request), money=money, repeat=not money, elements=elements
        )
        return wire.decode(body, kind)

    async def _ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        repeat: bool,
        money: bool = False,
        elements: int = 0,
    ) -> tuple[bytes, Mapping[bytes, bytes]]:
        """The answer to one request, sent again after each pause where it may be `repeat`ed."""
        seconds = request_seconds(elements)
        for pause in RETRY_PAUSES_S if repeat else ():
            try:
                return await self._once(method, path, body, money=money, seconds=seconds)
            except MintUnavailable as error:
                if error.retry_after_s > pause:
                    raise
            await self._sleep(pause * (1 + self._jitter() / 4))
        return await self._once(method, path, body, money=money, seconds=seconds)

    async def _once(
        self, method: str, path: str, body: bytes, *, money: bool, seconds: float
    ) -> tuple[bytes, Mapping[bytes, bytes]]:
        pool = await self._connections()
        async with self._lane.turn(money=money):
            try:
                async with asyncio.timeout(seconds):
                    status, headers, answer = await self._exchange(pool, method, path, body)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                self._lane.failed()
                raise MintUnavailable(self._url, f"no connection: {error}", sent=False) from None
            except TimeoutError:
                self._lane.failed()
                raise MintUnavailable(self._url, f"no answer within {seconds:g} s", sent=True) from None
            except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
                self._lane.failed()
                why = f"the connection broke: {type(error).__name__}"
                raise MintUnavailable(self._url, why, sent=True) from None
            if status == 429 or status >= 500:
                wait = _retry_after(headers)
                self._lane.failed(wait)
                raise MintUnavailable(self._url, f"it answered HTTP {status}", sent=True, retry_after_s=wait)
            self._lane.answered()
        return self._accepted(status, answer), headers

    async def _exchange(
        self, pool: httpcore.AsyncConnectionPool, method: str, path: str, body: bytes
    ) -> tuple[int, Mapping[bytes, bytes], bytes]:
        headers = [
            (b"host", urlsplit(self._url).netloc.encode()),
            (b"accept", b"application/json"),
            (b"accept-encoding", b"identity"),
        ]
        if body:
            headers += [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
            ]
        request = httpcore.Request(
            method,
            f"{self._url}/v1/{path}",
            headers=headers,
            content=body,
            extensions={"timeout": {"connect": _CONNECT_SECONDS}},
        )
        response = await pool.handle_async_request(request)
        try:
            got = {name.lower(): value for name, value in response.headers}
            if got.get(b"content-encoding", b"identity") != b"identity":
                raise MintNonconformant(f"the mint {self._url} answers compressed, which was not asked for")
            answer = bytearray()
            async for chunk in response.aiter_stream():
                answer += chunk
                if len(answer) > wire.MAX_ANSWER_BYTES:
                    raise MintNonconformant(
                        f"the mint {self._url} answers more than {wire.MAX_ANSWER_BYTES} bytes; not read"
                    )
            return response.status, got, bytes(answer)
        finally:
            await response.aclose()

    def _accepted(self, status: int, answer: bytes) -> bytes:
        if status == 200:
            return answer
        if 400 <= status < 500:
            code, said = _said(answer)
            raise MintRefused(self._url, status, code, said)
        follow = "; redirects are not followed" if 300 <= status < 400 else ""
        raise MintNonconformant(f"the mint {self._url} answers HTTP {status}{follow}")

    async def _connections(self) -> httpcore.AsyncConnectionPool:
        async with self._opening:
            if self._pool is None:
                trust = self._trust
                if trust is None and self._url.startswith("https:"):
                    # Reads the system's certificates from disk.
                    trust = await asyncio.to_thread(ssl.create_default_context)
                self._pool = httpcore.AsyncConnectionPool(
                    ssl_context=trust,
                    max_connections=ONE_MINT_AT_ONCE,
                    keepalive_expiry=_IDLE_SECONDS,
                    network_backend=self._backend,
                )
            return self._pool


_Q = TypeVar("_Q", wire.MintQuote, wire.MeltQuote)


def _said(answer: bytes) -> tuple[int | None, str]:
    """The mint's own code and words, shortened and printable: for people only."""
    try:
        error = wire.decode(answer, wire.MintError)
    except MintNonconformant:
        return None, "no reason given"
    code = error.code if isinstance(error.code, int) and not isinstance(error.code, bool) else None
    return code, ascii(error.detail)[:_SAID_MAX]


def _retry_after(headers: Mapping[bytes, bytes]) -> float:
    text = headers.get(b"retry-after", b"").decode("latin-1").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0.0


def _date(headers: Mapping[bytes, bytes]) -> int | None:
    try:
        return int(parsedate_to_datetime(headers.get(b"date", b"").decode("latin-1")).timestamp())
    except (ValueError, TypeError):
        return None
