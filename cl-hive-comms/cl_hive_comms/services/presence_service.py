"""Pings: whether an agent whose work is measured is there (docs/protocol/02-fleet-management.md §10,
11-advisor-kit.md §15.8; docs/decisions/0431-who-is-pinged-and-what-a-report-says.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from hive_shared.canonical import JsonValue
from hive_shared.store import Tx

from ..domain.presence import PING_ANSWER_S, PING_PERIOD_S, Presence
from .command_case import Case
from .command_push import CommandPush
from .executors.action import Params
from .ports_commands import Credentials, Database, KillSwitch, Messages
from .telemetry_service import MAX_QUEUED, MAX_QUEUED_EACH

PERIOD_S: Final = 60
"""How often it is looked who is due."""
_EARLY_S: Final = 10
"""A look that comes a little early must not make it the next one's."""
_KEPT_S: Final = 40 * 86_400
"""The longest trial and its review."""


class PresenceRows(Protocol):
    """The store (storage.presence_store.PresenceStore, where the methods are described)."""

    def asked_for(self, tx: Tx, now: int) -> frozenset[str]: ...
    def last_sent(self, tx: Tx, credential_id: str) -> int | None: ...
    def add(self, tx: Tx, ping_id: str, credential_id: str, now: int) -> None: ...
    def answer(self, tx: Tx, ping_id: str, credential_id: str, now: int, sent_since: int) -> bool: ...
    def prune(self, tx: Tx, before: int, limit: int = ...) -> int: ...
    def presence(self, tx: Tx, credential_id: str, since: int, until: int) -> Presence: ...


class PresenceService:
    """Sends pings every five minutes to those that are measured, and notes their answers."""

    def __init__(
        self,
        *,
        db: Database,
        rows: PresenceRows,
        credentials: Credentials,
        kill_switch: KillSwitch,
        push: CommandPush,
        messages: Messages,
        random_bytes: Callable[[int], bytes],
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._credentials, self._kill_switch = db, rows, credentials, kill_switch
        self._push, self._messages, self._random_bytes, self._now = push, messages, random_bytes, now
        self._new = asyncio.Event()

    def somebody_new(self) -> None:
        """An agent asked to be measured: its first ping need not wait."""
        self._new.set()

    async def run(self) -> None:
        """Ping by the clock, for ever."""
        while True:
            self._new.clear()
            await self.tick()
            try:
                async with asyncio.timeout(PERIOD_S):
                    await self._new.wait()
            except TimeoutError:
                pass

    async def tick(self) -> None:
        """Ping who is due; a ping and its row are one transaction. The emergency stop holds all back."""
        now = self._now()
        if self._kill_switch.engaged():
            return
        pinged = False
        for credential_id in sorted(await self._db.read(lambda tx: self._rows.asked_for(tx, now))):
            view = await self._credentials.current(credential_id)
            if view is None or not view.credential.valid_from <= now < view.credential.valid_until:
                continue
            agent = view.credential.agent_key
            pinged |= await self._db.write(partial(self._ping, credential_id=credential_id, agent=agent))
        if pinged:
            self._push.kick()
            await self._db.write(lambda tx: self._rows.prune(tx, now - _KEPT_S))

    def _ping(self, tx: Tx, credential_id: str, agent: str) -> bool:
        now = self._now()
        last = self._rows.last_sent(tx, credential_id)
        # A clock that was set back holds nothing up.
        if last is not None and 0 <= now - last < PING_PERIOD_S - _EARLY_S:
            return False
        waiting, to_this_one = self._messages.queued(tx, agent)
        if waiting > MAX_QUEUED or to_this_one > MAX_QUEUED_EACH or self._kill_switch.engaged():
            return False
        if self._credentials.standing(tx, credential_id) != "active":
            return False
        ping_id = self._random_bytes(16).hex()
        self._rows.add(tx, ping_id, credential_id, now)
        self._push.push(tx, agent, "ping", {"ping_id": ping_id}, ttl=PING_ANSWER_S)
        return True

    async def ping_ack(self, case: Case, params: Params) -> dict[str, JsonValue]:
        """An agent answers; `counted` says whether a ping of this credential was waiting for it."""
        ping_id, now = str(params["ping_id"]), self._now()
        counted = await self._db.write(
            lambda tx: self._rows.answer(tx, ping_id, case.credential_id, now, now - PING_ANSWER_S)
        )
        return {"noted": True, "counted": counted}
