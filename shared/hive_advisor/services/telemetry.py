"""Figures that nodes send by themselves: subscribed to, checked, kept, renewed (11 §7 "Duties", §12)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from hive_shared.errors import HiveError, InvalidParams
from hive_shared.registry.control import ACTION_LOG, PUSHES, TELEMETRY_NAMES
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from hive_advisor.domain.rows import Client
from hive_advisor.domain.telemetry import Figure, Followed, LogEntry, log_entries, renewal, subscribed
from hive_advisor.services.clients import ClientService
from hive_advisor.services.ports import Control, RecordRows
from hive_advisor.services.receipts import VerificationFailed

_RETRY_S = 3_600
_RENEW_WAIT_S = 10
_GAP_S = 60


class TelemetryRows(Protocol):
    """adv_telemetry and adv_telemetry_subs."""

    def add(self, tx: Tx, figures: Sequence[Figure]) -> None: ...
    def last_seq(self, tx: Tx, client_id: str, sub_id: str) -> int: ...
    def figures(self, tx: Tx, client_id: str, metric: str | None, since: int, limit: int) -> list[Figure]: ...
    def mark(self, tx: Tx) -> int: ...
    def since(self, tx: Tx, client_id: str, mark: int, limit: int) -> list[tuple[int, Figure]]: ...
    def follow(self, tx: Tx, row: Followed) -> None: ...
    def followed(self, tx: Tx, client_id: str | None = None) -> list[Followed]: ...
    def unfollow(self, tx: Tx, sub_id: str) -> None: ...


class ActionLogRows(Protocol):
    """adv_action_log."""

    def add(self, tx: Tx, entry: LogEntry) -> None: ...
    def get(self, tx: Tx, client_id: str, receipt_id: int) -> LogEntry | None: ...
    def trim(self, tx: Tx, client_id: str) -> None: ...
    def after(self, tx: Tx, client_id: str, receipt_id: int, limit: int) -> list[LogEntry]: ...
    def newest(self, tx: Tx, client_id: str, limit: int) -> list[LogEntry]: ...


class TelemetryService:
    """Telemetry of all clients."""

    def __init__(
        self,
        db: Db,
        rows: TelemetryRows,
        log_rows: ActionLogRows,
        records: RecordRows,
        clients: ClientService,
        control: Control,
        *,
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._log, self._records = db, rows, log_rows, records
        self._clients, self._control, self._now = clients, control, now
        self._first = dict[str, tuple[int, int]]()

    async def take(self, client: Client, body: Mapping[str, Any]) -> None:
        """Keep a push whose signature was checked. Raises InvalidParams for what is no telemetry."""
        parsed: dict[str, Any] = PUSHES["telemetry"].parse(dict(body))
        if unknown := sorted(set(parsed["metrics"]) - set(TELEMETRY_NAMES)):
            raise InvalidParams(f"telemetry with a metric that does not exist: {unknown[0][:40]!r}")
        sub_id, seq = str(parsed["sub_id"]), int(parsed["seq"])
        entries: list[LogEntry] = []
        if ACTION_LOG in parsed["metrics"]:
            entries, up_to = log_entries(client.client_id, parsed["metrics"][ACTION_LOG])
            # The entries have a place of their own; what is left says that the log was heard.
            parsed["metrics"][ACTION_LOG] = {"up_to": up_to, "entries": len(entries)}
        figures = [
            Figure(client.client_id, metric, int(parsed["at"]), value, sub_id, seq)
            for metric, value in sorted(parsed["metrics"].items())
        ]

        def keep(tx: Tx) -> str | None:
            if client.client_id not in self._first:
                self._first[client.client_id] = self._places(tx, client)
            last = self._rows.last_seq(tx, client.client_id, sub_id)
            self._rows.add(tx, figures)
            for entry in entries:
                if (other := self._differs(tx, entry)) is not None:
                    return other
                self._log.add(tx, entry)
            if entries:
                self._log.trim(tx, client.client_id)
            if last and seq > last + 1:
                text = f"{seq - last - 1} before number {seq} of {sub_id}"
                self._records.add_event(tx, "telemetry_missing", client.alias, text, self._now())
            return None

        if (difference := await self._db.write(keep)) is not None:
            await self._clients.suspect(client, difference)

    def _differs(self, tx: Tx, entry: LogEntry) -> str | None:
        """What the node has said otherwise of this receipt before: it keeps two records."""
        told = self._log.get(tx, entry.client_id, entry.receipt_id)
        kept = self._records.receipt(tx, entry.client_id, entry.receipt_id)
        known = told.receipt_hash if told is not None else None if kept is None else kept.hash
        if known is None or known == entry.receipt_hash:
            return None
        return (
            f"receipt {entry.receipt_id} has the hash {entry.receipt_hash} in the action log and had {known}"
            " before; 'receipt verify' and 'receipt export' show what is kept"
        )

    async def subscribe(
        self, client: Client, metrics: Sequence[str], interval_s: int, span_s: int, wait_s: int
    ) -> dict[str, Any]:
        """Have a node send figures for ``span_s`` seconds, and go on until unsubscribed.

        Raises VerificationFailed when the node's answer is none that it may give.
        """
        now = self._now()
        params = {"metrics": [*metrics], "interval_s": interval_s, "until": now + client.offset_s + span_s}
        answer = await self._control(client.client_id, "telemetry_subscribe", params, wait_s)
        result = answer["result"]
        if isinstance(result, dict):
            try:
                sub_id, until = subscribed(result)
            except InvalidParams as error:
                raise VerificationFailed(
                    f"{client.alias!r} answered telemetry_subscribe with something that is no subscription:"
                    f" {error.detail}"
                ) from error
            row = Followed(
                sub_id,
                client.client_id,
                tuple(metrics),
                interval_s,
                span_s,
                until,
                max(renewal(now, until - client.offset_s), now + _GAP_S),
            )
            await self._db.write(lambda tx: self._rows.follow(tx, row))
        return answer

    async def unsubscribe(self, client: Client, sub_id: str, wait_s: int) -> dict[str, Any]:
        """Have a node stop. What it does not know any more is forgotten here too."""
        answer = await self._control(client.client_id, "telemetry_unsubscribe", {"sub_id": sub_id}, wait_s)
        if answer["result"] is not None or answer["slug"] == "invalid_params":
            await self._db.write(lambda tx: self._rows.unfollow(tx, sub_id))
        return answer

    async def renew(self) -> int:
        """Renew what has run for 80 % of its time; how many. One that is over is forgotten."""
        renewed, now = 0, self._now()
        clients = {client.client_id: client for client in await self._clients.all()}
        for row in await self._db.read(self._rows.followed):
            client = clients.get(row.client_id)
            if client is None or row.until + client.offset_s <= now or client.state == "ended":
                await self._db.write(partial(self._rows.unfollow, sub_id=row.sub_id))
            elif row.renew_at <= now and client.state == "active":
                # Noted first: a node that does not answer is asked once an hour.
                later = replace(row, renew_at=now + _RETRY_S)
                await self._db.write(partial(self._rows.follow, row=later))
                try:
                    answer = await self.subscribe(
                        client, row.metrics, row.interval_s, row.span_s, _RENEW_WAIT_S
                    )
                except HiveError:
                    # Without a credential or a way to the node now; it may be otherwise in an hour.
                    continue
                renewed += answer["result"] is not None
        return renewed

    async def figures(self, client: Client, metric: str | None, since: int, limit: int) -> list[Figure]:
        """What came, the newest first."""
        return await self._db.read(lambda tx: self._rows.figures(tx, client.client_id, metric, since, limit))

    async def log(self, client: Client, after: int | None, limit: int) -> list[LogEntry]:
        """The action log: after a receipt, or the newest entries; the oldest of them first."""
        if after is None:
            return await self._db.read(lambda tx: self._log.newest(tx, client.client_id, limit))
        return await self._db.read(lambda tx: self._log.after(tx, client.client_id, after, limit))

    async def mark(self) -> int:
        """The place of the newest figure of all, to look from with `since`."""
        return await self._db.read(self._rows.mark)

    async def places(self, client: Client, *, at_start: bool) -> tuple[int, int]:
        """The newest receipt of a client's log and the place of the newest figure: now, or before the first
        that this process took in. Relays give what they hold as soon as they are connected, so who has just
        opened the kit and asks for what is new cannot tell by looking now."""
        if at_start and (first := self._first.get(client.client_id)) is not None:
            return first
        return await self._db.read(lambda tx: self._places(tx, client))

    def _places(self, tx: Tx, client: Client) -> tuple[int, int]:
        newest = self._log.newest(tx, client.client_id, 1)
        return newest[-1].receipt_id if newest else 0, self._rows.mark(tx)

    async def since(self, client: Client, mark: int, limit: int) -> list[tuple[int, Figure]]:
        """Figures that came after a mark, in the order they came, each with its own mark."""
        return await self._db.read(lambda tx: self._rows.since(tx, client.client_id, mark, limit))

    async def followed(self, client: Client) -> list[Followed]:
        """What runs at a node."""
        return await self._db.read(lambda tx: self._rows.followed(tx, client.client_id))

    async def running(self) -> list[Followed]:
        """What runs at all nodes."""
        return await self._db.read(self._rows.followed)
