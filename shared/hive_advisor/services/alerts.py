"""Alerts of nodes and of the kit: kept, shown, acknowledged by a human only
(docs/protocol/11-advisor-kit.md §7 "Duties", §16.12).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from hive_shared.errors import Conflict, HiveError, NotFound
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from hive_advisor.domain.rows import Alert, AlertState, Client
from hive_advisor.services.ports import ClientRows, Control, RecordRows

OWN = ""
"""In the place of a client: what is about the kit itself, such as its wallet."""
_RETRY_S = 600
_PER_ROUND = 20
_WAIT_S = 10


class AlertRows(Protocol):
    """adv_alerts."""

    def add(self, tx: Tx, alert: Alert) -> bool: ...
    def get(self, tx: Tx, number: int) -> Alert | None: ...
    def named(self, tx: Tx, client_id: str, origin: str, alert_id: str) -> Alert | None: ...
    def listed(self, tx: Tx, *, closed: bool, limit: int) -> list[Alert]: ...
    def move(self, tx: Tx, alert: Alert, to: AlertState, now: int, ack_next: int | None = None) -> bool: ...
    def ack_due(self, tx: Tx, now: int, limit: int) -> list[Alert]: ...


class AlertService:
    """Nothing here acknowledges by itself: acknowledgements feed reputation."""

    def __init__(
        self, db: Db, rows: AlertRows, clients: ClientRows, records: RecordRows, now: Callable[[], int]
    ) -> None:
        self._db, self._rows, self._clients, self._records = db, rows, clients, records
        self._now = now

    def raise_in(self, tx: Tx, client: Client, level: str, code: str, text: str, subject: str) -> bool:
        """The kit's own alert about a client, once per code and subject while it is open; in the caller's
        transaction."""
        return self._raise(tx, client.client_id, client.alias, level, code, text, subject)

    def raise_own(self, tx: Tx, level: str, code: str, text: str, subject: str) -> bool:
        """The same about the kit itself."""
        return self._raise(tx, OWN, "-", level, code, text, subject)

    def _raise(
        self, tx: Tx, client_id: str, name: str, level: str, code: str, text: str, subject: str
    ) -> bool:
        now = self._now()
        alert_id = f"{code}:{subject}"
        known = self._rows.named(tx, client_id, "kit", alert_id)
        if known is not None:
            again = known.state == "resolved" and self._rows.move(tx, known, "open", now)
        else:
            again = self._rows.add(
                tx, Alert(0, client_id, "kit", alert_id, level, code, text, subject, "open", now, now)
            )
        if again:
            self._records.add_event(tx, "alert", name, f"{level} {code}: {text}", now)
        return again

    def resolve_in(self, tx: Tx, client_id: str, code: str, subject: str) -> None:
        """What the kit raised an alert for is over; in the caller's transaction."""
        known = self._rows.named(tx, client_id, "kit", f"{code}:{subject}")
        if known is not None and known.state == "open":
            self._rows.move(tx, known, "resolved", self._now())

    async def take(self, client: Client, params: Mapping[str, Any]) -> None:
        """An alert that a node pushed; one that came before changes nothing."""

        def body(tx: Tx) -> None:
            now = self._now()
            level, code, text = (str(params[name]) for name in ("level", "code", "text"))
            subject = str(params.get("subject", ""))
            made = Alert(
                0,
                client.client_id,
                "node",
                str(params["alert_id"]),
                level,
                code,
                text,
                subject,
                "open",
                now,
                now,
            )
            if self._rows.add(tx, made):
                self._records.add_event(tx, "alert", client.alias, f"{level} {code}: {text}", now)

        await self._db.write(body)

    async def listed(self, *, closed: bool, limit: int) -> list[Alert]:
        """Newest first; with `closed` also those that were dealt with."""
        return await self._db.read(lambda tx: self._rows.listed(tx, closed=closed, limit=limit))

    async def get(self, number: int) -> Alert:
        """By its local number. Raises NotFound."""
        found = await self._db.read(lambda tx: self._rows.get(tx, number))
        if found is None:
            raise NotFound(f"no alert {number}; see 'hive-advisor alerts list --all'")
        return found

    async def acknowledge(self, number: int) -> Alert:
        """A human saw it. A node's alert is told to the node by `tell`. Raises NotFound, Conflict."""

        def body(tx: Tx) -> Alert:
            alert = self._named(tx, number)
            if alert.state != "open":
                raise Conflict(f"alert {number} is {alert.state} already")
            now = self._now()
            to: AlertState = "acking" if alert.origin == "node" else "acked"
            self._rows.move(tx, alert, to, now, now if to == "acking" else None)
            return replace(alert, state=to, updated=now)

        return await self._db.write(body)

    async def resolve(self, number: int) -> Alert:
        """A human dealt with what it is about; nobody is told. Raises NotFound, Conflict."""

        def body(tx: Tx) -> Alert:
            alert = self._named(tx, number)
            if alert.state not in ("open", "acked"):
                raise Conflict(f"alert {number} is {alert.state}, not open or acked")
            self._rows.move(tx, alert, "resolved", self._now())
            return replace(alert, state="resolved", updated=self._now())

        return await self._db.write(body)

    def _named(self, tx: Tx, number: int) -> Alert:
        alert = self._rows.get(tx, number)
        if alert is None:
            raise NotFound(f"no alert {number}; see 'hive-advisor alerts list --all'")
        return alert

    async def tell(self, control: Control, number: int | None = None, wait_s: int = _WAIT_S) -> int:
        """Send `alert_ack` for what a human acknowledged and the node has not heard; how many it heard.

        With `number` that one only, and what keeps it from being sent is raised.
        """
        now, told = self._now(), 0
        due = await self._db.read(lambda tx: self._rows.ack_due(tx, now, _PER_ROUND))
        silent: set[str] = set()
        for alert in due:
            if alert.client_id in silent or number not in (None, alert.number):
                continue
            await self._db.write(
                partial(self._rows.move, alert=alert, to="acking", now=now, ack_next=now + _RETRY_S)
            )
            try:
                answer = await control(alert.client_id, "alert_ack", {"alert_id": alert.alert_id}, wait_s)
            except HiveError:
                # Paused, suspect, or without a credential now: it may be otherwise later.
                if number is not None:
                    raise
                silent.add(alert.client_id)
                continue
            if isinstance(answer["result"], dict):
                await self._db.write(
                    partial(self._rows.move, alert=alert, to="acked", now=self._now(), ack_next=None)
                )
                told += 1
            else:
                silent.add(alert.client_id)
        return told
