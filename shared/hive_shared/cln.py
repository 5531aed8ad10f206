"""One async client for Core Lightning's JSON-RPC socket: every call with a deadline and one error type.

pyln's client waits without limit and blocks its thread (docs/decisions/0040-own-rpc-client.md).
Timeouts: docs/protocol/08-client-and-plugins.md section 2 (5 s reads, 30 s, 120 s payments).
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from .cln_release import release_of

__all__ = [
    "MINIMUM_VERSION",
    "PAY_TIMEOUT",
    "READ_TIMEOUT",
    "UNKNOWN_COMMAND",
    "WRITE_TIMEOUT",
    "ClnClient",
    "ClnError",
    "ClnLost",
    "ClnTimeout",
    "version_problem",
]

READ_TIMEOUT: Final = 5.0
WRITE_TIMEOUT: Final = 30.0
PAY_TIMEOUT: Final = 120.0
UNKNOWN_COMMAND: Final = -32601
# Code of a call whose answer did not arrive.
LOST: Final = -1
# plugin_started and plugin_stopped, on which sibling detection rests, came with v25.02.
MINIMUM_VERSION: Final = (25, 2)
IN_FLIGHT_MAX: Final = 32
_IDLE_MAX: Final = 4
# listforwards and listpays of a busy node run to many megabytes; beyond this the caller should page.
_ANSWER_MAX: Final = 256 * 1024 * 1024


class ClnError(Exception):
    """CLN refused a call, or could not be reached (``ClnLost``: the outcome is unknown).

    ``code`` and ``data`` are CLN's; ``message`` is its text; ``method`` is what we called.
    """

    def __init__(self, method: str, code: int, message: str, data: object = None) -> None:
        super().__init__(f"{method}: {message} (code {code})")
        self.method = method
        self.code = code
        self.message = message
        self.data = data

    @property
    def is_unknown_command(self) -> bool:
        """The node has no such command: an older CLN, or the plugin that serves it is absent."""
        return self.code == UNKNOWN_COMMAND

    @property
    def outcome_unknown(self) -> bool:
        """The call may or may not have acted: ask the node before repeating it. Not told by ``code``: CLN
        itself answers -1 for many a refusal."""
        return False


class ClnLost(ClnError):
    """The node could not be reached, or its answer did not arrive or was none."""

    def __init__(self, method: str, message: str) -> None:
        super().__init__(method, LOST, message)

    @property
    def outcome_unknown(self) -> bool:
        """Always."""
        return True


class ClnTimeout(ClnLost):
    """No answer before the deadline. The node may still act: the outcome is unknown."""

    def __init__(self, method: str, seconds: float) -> None:
        super().__init__(method, f"no answer within {seconds:g} s")


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @property
    def usable(self) -> bool:
        return not self.reader.at_eof() and not self.writer.is_closing()

    async def exchange(self, request: bytes) -> bytes:
        self.writer.write(request)
        await self.writer.drain()
        return await self.reader.readuntil(b"\n\n")


class ClnClient:
    """JSON-RPC over CLN's unix socket. Bound to the loop it is first used on; safe for many callers at
    once."""

    def __init__(self, rpc_path: Path, *, id_prefix: str = "hive") -> None:
        self._path = rpc_path
        self._prefix = id_prefix
        self._numbers = itertools.count(1)
        self._idle: list[_Connection] = []
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._closed = False

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, timeout: float = WRITE_TIMEOUT
    ) -> dict[str, Any]:
        """Call a command and return its result object.

        Parameters that are None are left out. Raises ``ClnError``, or ``ClnTimeout`` after ``timeout``
        seconds, which include waiting for one of the 32 connections.
        """
        given = {k: v for k, v in (params or {}).items() if v is not None}
        return await self._call(method, given, timeout)

    async def _call(
        self, method: str, params: dict[str, object] | list[str], timeout: float
    ) -> dict[str, Any]:
        request_id = f"{self._prefix}:{method}#{next(self._numbers)}"
        body = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
        # Raw UTF-8, minimal escapes: `signmessage` signs the text as it stands in the request.
        text = json.dumps(body, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
        data = text.encode() + b"\n\n"
        try:
            async with asyncio.timeout(timeout), self._slots:
                answer = await self._exchange(method, data)
        except TimeoutError:
            raise ClnTimeout(method, timeout) from None
        return _result(method, request_id, answer)

    async def _exchange(self, method: str, data: bytes) -> bytes:
        connection: _Connection | None = None
        try:
            connection = await self._connect()
            answer = await connection.exchange(data)
        except asyncio.IncompleteReadError:
            raise ClnLost(method, "the node closed the connection before it answered") from None
        except asyncio.LimitOverrunError:
            raise ClnLost(method, f"the answer is larger than {_ANSWER_MAX} bytes; ask for less") from None
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise ClnLost(method, f"the node's RPC socket failed: {why}") from error
        else:
            if not self._closed and len(self._idle) < _IDLE_MAX:
                self._idle.append(connection)
                connection = None
            return answer
        finally:
            # Also after a timeout or cancellation: a late answer must not be read as that of the next call.
            if connection is not None:
                connection.writer.close()

    async def _connect(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.writer.close()
        return _Connection(*await asyncio.open_unix_connection(str(self._path), limit=_ANSWER_MAX))

    async def close(self) -> None:
        """Close the idle connections; calls in flight end on their own."""
        self._closed = True
        while self._idle:
            self._idle.pop().writer.close()

    # -- the node --------------------------------------------------------------------------------------

    async def getinfo(self) -> dict[str, Any]:
        """Identity, alias, height, version of the node."""
        return await self.call("getinfo", timeout=READ_TIMEOUT)

    async def help_names(self) -> frozenset[str]:
        """Names of all commands the node serves now, plugins' included: the capability check."""
        answer = await self.call("help", timeout=READ_TIMEOUT)
        return frozenset(str(item["command"]).split(" ", 1)[0] for item in answer["help"])

    async def listconfigs(self, config: str | None = None) -> dict[str, Any]:
        """Options in force, under the key ``configs``."""
        return await self.call("listconfigs", {"config": config}, timeout=READ_TIMEOUT)

    async def setconfig(
        self, config: str, val: object = None, *, transient: bool | None = None
    ) -> dict[str, Any]:
        """Change a dynamic option; without ``transient`` CLN also writes it to its configuration file."""
        return await self.call("setconfig", {"config": config, "val": val, "transient": transient})

    async def plugin_list(self) -> list[dict[str, Any]]:
        """Plugins of the node: name, active, dynamic."""
        answer = await self.call("plugin", {"subcommand": "list"}, timeout=READ_TIMEOUT)
        return list(answer["plugins"])

    async def plugin_start(self, path: str, *, timeout: float) -> dict[str, Any]:
        """Start a plugin. By position: named parameters send CLN up to v26.06 through all settings, also
        those of plugins that are gone, which it does not survive (docs/decisions/0021)."""
        return await self._call("plugin", ["start", path], timeout)

    # -- channels --------------------------------------------------------------------------------------

    async def listpeerchannels(
        self, peer_id: str | None = None, short_channel_id: str | None = None
    ) -> list[dict[str, Any]]:
        """Channels of the node, of one peer, or the one with this scid."""
        params = {"id": peer_id, "short_channel_id": short_channel_id}
        answer = await self.call("listpeerchannels", params, timeout=READ_TIMEOUT)
        return list(answer["channels"])

    async def setchannel(
        self,
        id: str,
        feebase: int | None = None,
        feeppm: int | None = None,
        htlcmin: int | None = None,
        htlcmax: int | None = None,
        enforcedelay: int | None = None,
    ) -> list[dict[str, Any]]:
        """Set fees (msat, ppm) and HTLC bounds (msat) of a channel, a peer's channels or ``all``."""
        params = {
            "id": id,
            "feebase": feebase,
            "feeppm": feeppm,
            "htlcmin": htlcmin,
            "htlcmax": htlcmax,
            "enforcedelay": enforcedelay,
        }
        return list((await self.call("setchannel", params))["channels"])

    # -- keys and runes --------------------------------------------------------------------------------

    async def makesecret(self, string: str) -> bytes:
        """32 bytes derived from the node's seed and this label."""
        answer = await self.call("makesecret", {"string": string}, timeout=READ_TIMEOUT)
        return bytes.fromhex(answer["secret"])

    async def signmessage(self, text: str) -> str:
        """The node key's signature over the text, in zbase32 form."""
        return str((await self.call("signmessage", {"message": text}))["zbase"])

    async def createrune(self, restrictions: list[list[str]], rune: str | None = None) -> dict[str, Any]:
        """A rune with these restrictions (outer AND, inner OR), derived from ``rune`` if given."""
        return await self.call("createrune", {"rune": rune, "restrictions": restrictions})

    async def blacklistrune(self, start: int | None = None, end: int | None = None) -> list[dict[str, Any]]:
        """Blacklist the runes numbered start..end; returns the whole blacklist."""
        return list((await self.call("blacklistrune", {"start": start, "end": end}))["blacklist"])

    async def checkrune(
        self, rune: str, method: str, params: object = None, nodeid: str | None = None
    ) -> bool:
        """Whether the rune allows the call. Raises ``ClnError`` 1501, 1502 or 1503 when it does not."""
        fields = {"rune": rune, "nodeid": nodeid, "method": method, "params": params}
        return bool((await self.call("checkrune", fields, timeout=READ_TIMEOUT))["valid"])


def version_problem(version: str) -> str | None:
    """Why this CLN version cannot carry the hive plugins, or None. A version we cannot read is let pass."""
    release = release_of(version)
    if release is None or release >= MINIMUM_VERSION:
        return None
    year, month = MINIMUM_VERSION
    return f"Core Lightning {version} is too old: v{year}.{month:02d} or newer is needed"


def _result(method: str, request_id: str, answer: bytes) -> dict[str, Any]:
    try:
        body = _decoded(answer)
        if body["id"] != request_id:
            raise ValueError
        if "error" in body:
            error = body["error"]
            raise ClnError(method, int(error["code"]), str(error["message"]), error.get("data"))
        result = body["result"]
    except (ValueError, KeyError, TypeError):
        raise ClnLost(method, "the node's answer is not JSON-RPC") from None
    if not isinstance(result, dict):
        raise ClnLost(method, "the node's result is not an object")
    return result


def _decoded(answer: bytes) -> Any:
    # A listing of a thousand channels is megabytes: the C decoder takes a quarter of the time. What it
    # refuses and the standard library reads (a lone surrogate in an alias) is no reason to lose an answer.
    try:
        return msgspec.json.decode(answer)
    except msgspec.DecodeError:
        return json.loads(answer)
