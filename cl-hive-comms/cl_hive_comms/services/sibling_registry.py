"""Transports and handlers of sibling plugins: registered, remembered over restarts, gone with their plugin
(docs/protocol/08-client-and-plugins.md §3.4, docs/protocol/02-fleet-management.md §6.4).

Memory answers; the tables follow every change. A plugin that stops takes its registrations along, but for
ten minutes they are remembered, so that messages are held for it (08 §1.2).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, Protocol

from hive_shared.canonical import JsonValue, encode
from hive_shared.cln import ClnError
from hive_shared.crypto import sha256
from hive_shared.errors import Capacity, Conflict, InvalidParams, NotFound
from hive_shared.siblings import PLUGIN
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.sibling_names import check_pattern, owner_of
from ..domain.sibling_routes import (
    BUILT_IN,
    BY_CLOCK,
    HELD_S,
    MAX_HANDLERS,
    MAX_TRANSPORTS,
    Handler,
    Transport,
    handler_of,
    is_transport_name,
)
from .ports_commands import Database, Log

MAX_METADATA_BYTES: Final = 4_096


class Rows(Protocol):
    """comms_transports and comms_handlers (storage.sibling_store)."""

    def transports(self, tx: Tx) -> list[Transport]: ...
    def put_transport(self, tx: Tx, row: Transport) -> None: ...
    def delivered(self, tx: Tx, name: str, now: int) -> None: ...
    def handlers(self, tx: Tx) -> list[Handler]: ...
    def put_handler(self, tx: Tx, row: Handler) -> None: ...
    def gone(self, tx: Tx, methods: Collection[str], now: int) -> None: ...
    def forget(self, tx: Tx, before: int) -> None: ...


class Methods(Protocol):
    """The node's own list of methods (hive_shared.cln)."""

    async def call(self, method: str, params: dict[str, JsonValue], *, timeout: float) -> object: ...


class SiblingRegistry:
    """Knows what siblings serve for us. `load` once before it is asked."""

    def __init__(self, db: Database, rows: Rows, node: Methods, *, now: Callable[[], int], log: Log) -> None:
        self._db, self._rows, self._node, self._now, self._log = db, rows, node, now, log
        self._transports: dict[str, Transport] = {}
        self._handlers: dict[str, Handler] = {}
        self._listeners: list[Callable[[], None]] = []
        # Methods that were there since this start; of all others the node has to be asked.
        self._seen: set[str] = set()

    async def load(self) -> None:
        """Read the tables; registrations of the last run stand until their plugin says otherwise."""
        transports, handlers = await self._db.read(
            lambda tx: (self._rows.transports(tx), self._rows.handlers(tx))
        )
        self._transports = {row.name: row for row in transports}
        self._handlers = {row.pattern: row for row in handlers}

    def on_change(self, listener: Callable[[], None]) -> None:
        """`listener` runs after a registration; it must return at once."""
        self._listeners.append(listener)

    # -- asking --------------------------------------------------------------------------------------

    def handler_for(self, schema: str) -> Handler | None:
        """The handler of a message's schema, also one whose plugin is away for less than ten minutes."""
        return handler_of(self._handlers.values(), schema, self._now())

    def transport(self, name: str) -> Transport | None:
        """A registered transport by name, whatever its state."""
        return self._transports.get(name)

    def transports(self) -> list[Transport]:
        """Registered transports, first to try first."""
        return sorted(self._transports.values(), key=lambda row: (row.priority, row.name))

    def usable(self) -> list[Transport]:
        """Those over which messages go now."""
        return [row for row in self.transports() if row.usable]

    def handlers(self) -> list[Handler]:
        """All handlers, by pattern."""
        return sorted(self._handlers.values(), key=lambda row: row.pattern)

    # -- changes -------------------------------------------------------------------------------------

    async def register_handler(self, pattern: str, method: str) -> Handler:
        """Have messages of these schemas handed to a method; again: the same handler_id.

        Raises InvalidParams, Unauthorized (not this plugin's schemas), NotFound (the node has no such
        method), Capacity.
        """
        check_pattern(pattern, owner_of(method))
        await self._must_exist(method)
        if pattern not in self._handlers and len(self._handlers) >= MAX_HANDLERS:
            raise Capacity(
                f"{MAX_HANDLERS} handlers are registered; claim a wildcard instead of single schemas"
            )
        handler = Handler(pattern, sha256(f"{pattern} {method}".encode()).hex()[:16], method, self._now())
        await self._db.write(lambda tx: self._rows.put_handler(tx, handler))
        self._handlers[pattern] = handler
        self._log("info", "handler_registered", pattern=pattern, method=method)
        self._tell()
        return handler

    async def register_transport(
        self,
        name: str,
        send_method: str,
        *,
        enabled: bool,
        max_bytes: int,
        priority: int,
        metadata: JsonValue,
    ) -> Transport:
        """Make a transport known, or change one; again with the same values: nothing changes.

        Raises InvalidParams, Conflict (a transport of comms itself, or another plugin's), NotFound (the
        node has no such method), Capacity.
        """
        if not is_transport_name(name):
            raise InvalidParams(f"name {name[:80]!a} is not 1 to 64 letters, digits and . _ -")
        if name in (*BUILT_IN, BY_CLOCK):
            raise Conflict(
                f"{name} is a transport of cl-hive-comms itself; only the operator switches it, with"
                " hive-comms-nostr-relays and hive-comms-rest-enabled",
                reason="builtin_transport",
            )
        owner, before = owner_of(send_method), self._transports.get(name)
        if before is not None and before.owner != owner:
            raise Conflict(f"{name} is a transport of {PLUGIN[before.owner]} already; choose another name")
        if before is None and len(self._transports) >= MAX_TRANSPORTS:
            raise Capacity(f"{MAX_TRANSPORTS} transports are registered, and no more are taken")
        await self._must_exist(send_method)
        row = Transport(
            name,
            send_method,
            enabled,
            max_bytes,
            priority,
            _metadata(metadata),
            self._now(),
            last_ok=None if before is None else before.last_ok,
        )
        await self._db.write(lambda tx: self._rows.put_transport(tx, row))
        self._transports[name] = row
        self._log("info", "transport_registered", name=name, method=send_method, enabled=enabled)
        self._tell()
        return row

    async def stopped(self, methods: Collection[str]) -> None:
        """A plugin that served these methods stopped."""
        now, names = self._now(), frozenset(methods)
        self._seen -= names
        touched = [row.name for row in self._transports.values() if row.send_method in names]
        touched += [row.pattern for row in self._handlers.values() if row.method in names]
        if not touched:
            return
        for name, transport in self._transports.items():
            if transport.send_method in names and transport.gone_at is None:
                self._transports[name] = replace(transport, gone_at=now)
        for pattern, handler in self._handlers.items():
            if handler.method in names and handler.gone_at is None:
                self._handlers[pattern] = replace(handler, gone_at=now)
        await self._db.write(lambda tx: self._rows.gone(tx, names, now))
        self._log("info", "sibling_registrations_gone", names=", ".join(sorted(touched)))

    async def delivered(self, name: str) -> None:
        """Note that a message went over a transport."""
        row, now = self._transports.get(name), self._now()
        if row is not None and row.last_ok != now:
            self._transports[name] = replace(row, last_ok=now)
            await self._db.write(lambda tx: self._rows.delivered(tx, name, now), durable=False)

    async def prune(self) -> None:
        """Forget what is gone for more than ten minutes; run every few minutes.

        A plugin may also have gone while comms did not run: nobody told us, so the node is asked.
        """
        await self.stopped(await self._gone_meanwhile())
        before = self._now() - HELD_S
        rows: list[Transport | Handler] = [*self._transports.values(), *self._handlers.values()]
        if not any(_stale(row, before) for row in rows):
            return
        await self._db.write(lambda tx: self._rows.forget(tx, before))
        self._transports = {k: row for k, row in self._transports.items() if not _stale(row, before)}
        self._handlers = {k: row for k, row in self._handlers.items() if not _stale(row, before)}

    # -- inside --------------------------------------------------------------------------------------

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    async def _gone_meanwhile(self) -> list[str]:
        served = {row.send_method for row in self._transports.values() if row.gone_at is None}
        served |= {row.method for row in self._handlers.values() if row.gone_at is None}
        gone = []
        for method in sorted(served - self._seen):
            try:
                await self._must_exist(method)
            except NotFound:
                gone.append(method)
        return gone

    async def _must_exist(self, method: str) -> None:
        try:
            await self._node.call("help", {"command": method}, timeout=5.0)
            self._seen.add(method)
        except ClnError as error:
            if error.is_unknown_command:
                raise NotFound(f"the node has no method {method}; register after your plugin is up") from None
            raise


def _stale(row: Transport | Handler, before: int) -> bool:
    return row.gone_at is not None and row.gone_at < before


def _metadata(metadata: JsonValue) -> str:
    if not isinstance(metadata, dict):
        raise InvalidParams("metadata_json must be a JSON object")
    try:
        text = encode(metadata).decode()
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidParams(f"metadata_json has no canonical form: {error}") from None
    if len(text) > MAX_METADATA_BYTES:
        raise InvalidParams(f"metadata_json has {len(text)} bytes; {MAX_METADATA_BYTES} is the most")
    return text
