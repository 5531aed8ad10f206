"""The daily digest (docs/protocol/08-client-and-plugins.md §6 "Alerts").

A digest is an alert row of its own: it is stored with the note that it was made, in one transaction, and
`services.alert_delivery` takes it to the operator like any other, with tries and across restarts.
"""

from collections.abc import Callable, Collection
from typing import Final

from hive_shared.alerts import Level
from hive_shared.store import Db, Tx

from cl_hive_comms.domain.alert import Channel
from cl_hive_comms.domain.digest import DIGEST, digest_text, due, way_of
from cl_hive_comms.services.ports_alerts import DigestStore
from cl_hive_comms.services.ports_identity import Clock

_LAST: Final = "alert_digest"


class AlertDigest:
    """Makes the digest once a day at `hour` (UTC), by the quietest of the `channels` that are set."""

    def __init__(
        self,
        db: Db,
        store: DigestStore,
        *,
        channels: Callable[[], Collection[Channel]],
        hour: Callable[[], int],
        now: Clock,
    ) -> None:
        self._db, self._store = db, store
        self._channels, self._hour, self._now = channels, hour, now

    async def tick(self) -> bool:
        """Store the digest if it is time; run every minute. Whether there was one."""
        now = self._now()
        last = self._db.peek(self._last)
        if last is not None and not due(now, self._hour(), last):
            return False
        return await self._db.write(lambda tx: self._make(tx, now))

    def _last(self, tx: Tx) -> int | None:
        stored = self._store.get(tx, _LAST)
        return None if stored is None else int(stored)

    def _make(self, tx: Tx, now: int) -> bool:
        last = self._last(tx)
        self._store.put(tx, _LAST, str(now), now)
        way = way_of(self._channels())
        if last is None or way is None:
            # The first day has begun, or nobody wants to be told: what was is in hive-client-alerts.
            return False
        since = min(last, now)
        text = digest_text(self._store.alerts_between(tx, since, now), since)
        if text is None:
            return False
        self._store.add_alert(
            tx, Level.INFO, code=DIGEST, text=text, dedup_key=f"{DIGEST}:{now}", now=now, channels=(way,)
        )
        return True
