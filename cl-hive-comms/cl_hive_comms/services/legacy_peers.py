"""Peers that write kind 4: they are answered alike (docs/protocol/02-fleet-management.md §6.2).

Who writes gift wraps again gets gift wraps again. Kept over restarts, so that an answer that waits for relays
is not sent in a form its receiver cannot read.
"""

from __future__ import annotations

import json
from typing import Final

from hive_shared.store import Db

from .ports_identity import Clock, FactStore

MAX_PEERS: Final = 500
_FACT: Final = "legacy_dm_peers"


class LegacyPeers:
    """Keys of known peers whose last message was of kind 4."""

    def __init__(self, db: Db, facts: FactStore, now: Clock) -> None:
        self._db, self._facts, self._now = db, facts, now
        self._peers: dict[str, None] = {}
        self._changed = False

    def __contains__(self, pubkey: object) -> bool:
        return pubkey in self._peers

    def note(self, pubkey: str, legacy: bool) -> None:
        """A known peer wrote in this form."""
        if legacy == (pubkey in self._peers):
            return
        self._changed = True
        if legacy:
            self._peers[pubkey] = None
            if len(self._peers) > MAX_PEERS:
                del self._peers[next(iter(self._peers))]
        else:
            del self._peers[pubkey]

    async def load(self) -> None:
        """Read them; call once before the first message."""
        text = await self._db.read(lambda tx: self._facts.get(tx, _FACT))
        self._peers = dict.fromkeys(json.loads(text or "[]"))

    async def save(self) -> None:
        """Store them when they changed; run every few seconds and at the end."""
        if not self._changed:
            return
        self._changed = False
        text, now = json.dumps([*self._peers]), self._now()
        try:
            await self._db.write(lambda tx: self._facts.put(tx, _FACT, text, now))
        except BaseException:
            self._changed = True
            raise
