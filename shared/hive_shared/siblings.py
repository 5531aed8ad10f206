"""How the three plugins find, trust and call each other on one node.

Presence is a completed handshake, never a file name; any start order works, and a plugin may come and go
while the others run. docs/protocol/08-client-and-plugins.md section 3.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from hive_shared.breaker import OPEN_SECONDS, Breaker
from hive_shared.cln import READ_TIMEOUT, ClnClient, ClnError
from hive_shared.errors import Busy, HiveError, SiblingUnavailable, VersionIncompatible, by_code
from hive_shared.runtime_loops import Log
from hive_shared.runtime_spec import MethodSpec, Param
from hive_shared.siblings_auth import SiblingAuth, load_sibling_key

__all__ = ["HELLO", "PLUGIN", "PROTO", "Sibling", "SiblingHub", "load_sibling_key"]

Sibling = Literal["comms", "archon", "hive"]

PLUGIN: Final[Mapping[Sibling, str]] = {
    "comms": "cl-hive-comms",
    "archon": "cl-hive-archon",
    "hive": "cl-hive",
}
HELLO: Final[Mapping[Sibling, str]] = {
    "comms": "hive-comms-hello",
    "archon": "hive-archon-hello",
    "hive": "hive-hello",
}
PROTO_MIN: Final = 1
PROTO: Final = 1
# Seconds after init at which the others are probed; from then on every PROBE_EVERY.
PROBES_AT: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
PROBE_EVERY: Final = 60.0
# While a sibling recovers or is still starting.
_PROBE_SOON: Final = 1.0
_TEXT_MAX: Final = 200


@dataclass
class _Peer:
    """What we know about one sibling."""

    who: Sibling
    breaker: Breaker
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    session: dict[str, Any] | None = None
    error: str | None = None
    last_ok: int | None = None
    starting: bool = False


class SiblingHub:
    """Our side of the sibling contract: hello, probing, authenticated calls, one breaker per sibling.

    ``identity`` returns what hello tells about us: ``node_id`` and, where known, ``npub`` and ``did``.
    ``state`` is told too; the plugin may set it. ``emergency`` is comms' own: whether the stop is on. Feed
    ``plugin_started``/``plugin_stopped`` to the methods of that name.
    """

    def __init__(
        self,
        *,
        me: Sibling,
        version: str,
        capabilities: Sequence[str],
        cln: ClnClient,
        key: bytes,
        now: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        identity: Callable[[], Mapping[str, str]],
        db_schema: int,
        log: Log,
        emergency: Callable[[], bool] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        breaker_open_seconds: float = OPEN_SECONDS,
    ) -> None:
        self.state = "local_ready"
        self._me = me
        self._version = version
        self._capabilities = tuple(capabilities)
        self._cln = cln
        self._auth = SiblingAuth(key, now, random_bytes)
        self._now = now
        self._random = random_bytes
        self._identity = identity
        self._emergency = emergency
        self._db_schema = db_schema
        self._log = log
        self._monotonic = monotonic
        self._peers: dict[Sibling, _Peer] = {
            who: _Peer(who, Breaker(monotonic, open_seconds=breaker_open_seconds))
            for who in PLUGIN
            if who != me
        }
        self._listeners: list[Callable[[Sibling, bool], None]] = []

    # -- our hello -------------------------------------------------------------------------

    def hello_method(self) -> MethodSpec:
        """Declaration of our hello, for the manifest of a plugin that builds its hub before it runs."""
        return hello_spec(self._me, self.hello)

    async def hello(self, params: dict[str, Any]) -> dict[str, Any]:
        """Answer a sibling's hello; it was authenticated before. Raises ``VersionIncompatible``."""
        proto = min(PROTO, params["proto_max"])
        if proto < max(PROTO_MIN, params["proto_min"]):
            raise VersionIncompatible(
                f"{PLUGIN[self._me]} {self._version} speaks sibling protocol {PROTO_MIN} to {PROTO}, "
                f"the caller {params['proto_min']} to {params['proto_max']}; install the same release of both"
            )
        for peer in self._peers.values():
            if PLUGIN[peer.who] == params["plugin"] and peer.session is None:
                # Whoever greets us is there: no need to wait for our next probe.
                peer.wake.set()
        return {
            "plugin": PLUGIN[self._me],
            "version": self._version,
            "proto": proto,
            "capabilities": list(self._capabilities),
            "db_schema": self._db_schema,
            "state": self.state,
            **self._identity(),
            **({} if self._emergency is None else {"emergency": self._emergency()}),
            "proof": self._auth.proof(params["nonce"]),
        }

    def verify(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Check ``auth`` of a class S call; returns the rest of the parameters or raises ``Unauthorized``."""
        return self._auth.verify(method, params)

    # -- what we know ----------------------------------------------------------------------

    def present(self, who: Sibling) -> bool:
        """Whether the sibling has completed a handshake and has not left since."""
        return who == self._me or self._peers[who].session is not None

    def has(self, who: Sibling, capability: str, v: int = 1) -> bool:
        """Whether the sibling is present and advertises ``capability.v<v>``."""
        if who == self._me:
            return f"{capability}.v{v}" in self._capabilities
        session = self._peers[who].session
        return session is not None and f"{capability}.v{v}" in session["capabilities"]

    def combo(self) -> str:
        """The running combination: ``comms``, ``comms+archon``, ``comms+hive``, ``all``, ``archon``,
        ``hive``, .."""
        names = [who for who in PLUGIN if self.present(who)]
        return "all" if len(names) == len(PLUGIN) else "+".join(names)

    def session(self, who: Sibling) -> Mapping[str, Any] | None:
        """The sibling's answer to our last hello (version, npub, did, ..), or None when absent."""
        return self._peers[who].session

    def emergency(self) -> bool | None:
        """Whether the emergency stop is on, in comms' last word; None while comms is absent."""
        session = self._peers["comms"].session if self._me != "comms" else None
        return None if session is None else session.get("emergency")

    def status(self) -> list[dict[str, Any]]:
        """One truthful row per sibling, for status methods."""
        rows = []
        for peer in self._peers.values():
            session = peer.session or {}
            row = {
                "plugin": PLUGIN[peer.who],
                "present": peer.session is not None,
                "version": session.get("version"),
                "proto": session.get("proto"),
                "capabilities": list(session.get("capabilities", ())),
                "state": session.get("state"),
                "breaker": peer.breaker.state,
                "last_ok": peer.last_ok,
            }
            if peer.error is not None:
                row["error"] = peer.error
            rows.append(row)
        return rows

    def on_change(self, callback: Callable[[Sibling, bool], None]) -> None:
        """Have ``callback(who, present)`` called when a sibling comes or goes. It must return at once."""
        self._listeners.append(callback)

    # -- calls -----------------------------------------------------------------------------

    async def call(
        self, who: Sibling, method: str, params: Mapping[str, Any], *, timeout: float = 30.0
    ) -> dict[str, Any]:
        """Call a class S method of a sibling; ``auth`` is added here.

        Raises the sibling's own refusal as the matching ``HiveError``, and ``SiblingUnavailable``, naming the
        missing part, when it is absent, does not answer within ``timeout`` s, or its breaker is open.
        """
        peer = self._peers[who]
        if peer.session is None:
            raise _unavailable(who, method, peer.error or "it is not running; start it")
        return await self._guarded(peer, method, params, timeout)

    async def _guarded(
        self, peer: _Peer, method: str, params: Mapping[str, Any], timeout: float
    ) -> dict[str, Any]:
        breaker = peer.breaker
        if not breaker.admit():
            wait = int(breaker.open_for) + 1
            raise _unavailable(
                peer.who, method, f"it failed repeatedly; next try in {wait} s", retry_after=wait
            )
        try:
            result = await self._cln.call(method, self._auth.sign(method, params), timeout=timeout)
        except ClnError as error:
            raise self._refusal(peer, method, error) from error
        except BaseException:
            breaker.abandoned()
            raise
        breaker.succeeded()
        peer.error = None
        peer.last_ok = self._now()
        return result

    def _refusal(self, peer: _Peer, method: str, error: ClnError) -> HiveError:
        if error.is_unknown_command:
            peer.breaker.abandoned()
            if method == HELLO[peer.who]:
                peer.starting = False
                self._lost(peer, None)
            else:
                peer.wake.set()
            return _unavailable(peer.who, method, "it is not running, or too old to serve this call")
        known = _hive_error(error)
        if known is not None:
            peer.breaker.succeeded()
            return known
        was = peer.breaker.state
        peer.breaker.failed()
        if was == "closed" and peer.breaker.state == "open":
            self._log("warning", "sibling_breaker_opened", sibling=PLUGIN[peer.who], method=method)
        peer.wake.set()
        return _unavailable(peer.who, method, error.message[:_TEXT_MAX])

    # -- detection -------------------------------------------------------------------------

    async def run(self) -> None:
        """Probe the siblings until cancelled."""
        began = self._monotonic()
        await asyncio.gather(*(self._watch(peer, began) for peer in self._peers.values()))

    async def on_plugin_started(self, payload: Mapping[str, Any]) -> None:
        """A plugin came: if it serves a hello, probe it at once."""
        for peer in self._served_by(payload):
            peer.breaker.reset()
            peer.wake.set()

    async def on_plugin_stopped(self, payload: Mapping[str, Any]) -> None:
        """A plugin went: if it served a hello, its session ends."""
        for peer in self._served_by(payload):
            peer.breaker.reset()
            self._lost(peer, None)

    async def on_emergency(self, _payload: Mapping[str, Any]) -> None:
        """``hive_emergency`` is a hint that anybody could send: ask comms itself (§3.4)."""
        self._peers["comms"].wake.set()

    def _served_by(self, payload: Mapping[str, Any]) -> list[_Peer]:
        methods = payload.get("methods")
        names = methods if isinstance(methods, list) else []
        return [peer for peer in self._peers.values() if HELLO[peer.who] in names]

    async def _watch(self, peer: _Peer, began: float) -> None:
        schedule = list(PROBES_AT)
        while True:
            elapsed = self._monotonic() - began
            while schedule and schedule[0] <= elapsed:
                schedule.pop(0)
            await self._until_due(peer, schedule[0] - elapsed if schedule else PROBE_EVERY)
            if peer.breaker.state == "open":
                # It also holds back probes; opening it woke us only to learn the new date.
                continue
            await self._probe(peer)
            if self.state == "local_ready":
                self.state = "ready"

    async def _until_due(self, peer: _Peer, delay: float) -> None:
        if peer.breaker.state == "open":
            delay = min(delay, peer.breaker.open_for)
        elif peer.breaker.state == "half-open" or peer.starting:
            delay = min(delay, _PROBE_SOON)
        try:
            async with asyncio.timeout(delay):
                await peer.wake.wait()
        except TimeoutError:
            pass
        peer.wake.clear()

    async def _probe(self, peer: _Peer) -> None:
        nonce = self._random(16).hex()
        params = {
            "plugin": PLUGIN[self._me],
            "version": self._version,
            "proto_min": PROTO_MIN,
            "proto_max": PROTO,
            "nonce": nonce,
        }
        try:
            answer = await self._guarded(peer, HELLO[peer.who], params, READ_TIMEOUT)
            session = self._session(peer, nonce, answer)
        except SiblingUnavailable as error:
            # Not answering in time is the breaker's business: the session ends when the plugin does.
            if peer.session is not None or peer.breaker.state != "closed":
                peer.error = error.detail
            return
        except HiveError as error:
            peer.starting = isinstance(error, Busy)
            self._lost(peer, str(error))
            return
        peer.starting = False
        came = peer.session is None
        peer.session, peer.error = session, None
        if came:
            self._log("info", "sibling_present", sibling=PLUGIN[peer.who], version=session["version"])
            self._tell(peer.who, True)

    def _session(self, peer: _Peer, nonce: str, answer: Mapping[str, Any]) -> dict[str, Any]:
        if not self._auth.is_proof(nonce, answer.get("proof")):
            raise _unavailable_proof(peer.who)
        proto = answer.get("proto")
        if isinstance(proto, bool) or not isinstance(proto, int) or not PROTO_MIN <= proto <= PROTO:
            raise VersionIncompatible(f"{PLUGIN[peer.who]} answered with sibling protocol {proto!r}")
        capabilities = answer.get("capabilities")
        names = capabilities if isinstance(capabilities, list) else []
        kept = {
            k: answer[k]
            for k in ("version", "state", "npub", "did", "node_id")
            if isinstance(answer.get(k), str)
        }
        if isinstance(answer.get("emergency"), bool):
            kept["emergency"] = answer["emergency"]
        return {
            "version": "unknown",
            **kept,
            "proto": proto,
            "db_schema": answer.get("db_schema"),
            "capabilities": tuple(name for name in names if isinstance(name, str)),
        }

    def _lost(self, peer: _Peer, why: str | None) -> None:
        had, peer.session, peer.error = peer.session, None, why
        if had is not None:
            self._log("info", "sibling_absent", sibling=PLUGIN[peer.who], why=why or "stopped")
            self._tell(peer.who, False)

    def _tell(self, who: Sibling, present: bool) -> None:
        for listener in self._listeners:
            try:
                listener(who, present)
            except Exception as error:
                self._log("error", "sibling_listener_failed", sibling=PLUGIN[who], error=type(error).__name__)


def hello_spec(me: Sibling, handler: Callable[[dict[str, Any]], Any]) -> MethodSpec:
    """Declaration of a plugin's hello method; the handler may reach the hub late (it exists only after
    init)."""
    params = (
        Param("plugin", "str", required=True, maximum=64),
        Param("version", "str", required=True, maximum=64),
        Param("proto_min", "int", required=True, minimum=0),
        Param("proto_max", "int", required=True, minimum=0),
        Param("nonce", "str", required=True),
        Param("ts", "int", required=True),
    )
    return MethodSpec(HELLO[me], "S", params, handler, "Handshake between the hive plugins of one node.")


def _unavailable(who: Sibling, method: str, why: str, **data: Any) -> SiblingUnavailable:
    return SiblingUnavailable(f"{method} needs {PLUGIN[who]}: {why}", data={"sibling": PLUGIN[who], **data})


def _unavailable_proof(who: Sibling) -> HiveError:
    return VersionIncompatible(
        f"{HELLO[who]} is answered by a plugin that does not hold this node's sibling key; remove it"
    )


def _hive_error(error: ClnError) -> HiveError | None:
    """The sibling's refusal as our own exception; None when CLN, not the sibling, spoke."""
    try:
        kind = by_code(error.code)
    except (KeyError, ValueError):
        return None
    data = error.data if isinstance(error.data, dict) else {}
    reason = data.get("reason") if isinstance(data.get("reason"), str) else None
    detail = error.message
    for prefix in (kind.slug, reason):
        detail = detail.removeprefix(f"{prefix}: ")
    return kind(detail, reason=reason, data={k: v for k, v in data.items() if k != "reason"})
