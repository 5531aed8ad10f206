"""Telemetry: figures that agents subscribed to, sent by the clock (docs/protocol/02-fleet-management.md §10).

A push and its number are one transaction. Without a subscription nothing runs and nobody is asked; while the
emergency stop is on, nothing is sent (docs/decisions/0390-telemetry-shows-what-reads-show.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from hive_shared.canonical import JsonValue
from hive_shared.errors import HiveError, from_symbol
from hive_shared.registry import find, parse_params
from hive_shared.registry.control import ACTION_LOG, REPORTS, TELEMETRY_NAMES, TELEMETRY_STREAMS
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.spend import CLASSES
from ..domain.telemetry import DAY_S, MAX_PER_CREDENTIAL, OF_NODE, READ_OF, Subscription
from .action_log import ActionLog, StreamPage
from .command_case import Case
from .command_push import CommandPush
from .decision import DecisionService, Who
from .executors.action import Params
from .ports_commands import CommandRows, Credentials, Database, KillSwitch, Messages, ReceiptRows
from .spend_limits import SpendRows

MAX_QUEUED: Final = 1_000
"""With more messages waiting to be sent, telemetry is dropped."""
MAX_QUEUED_EACH: Final = 200
"""The same for messages to the one agent: figures must not push out its answers."""
_LOOK_S: Final = 300
"""With a subscription the clock is looked at so often: it may be set."""
_STOPPED_S: Final = 30
_TOGETHER_S: Final = 1
"""What ends within it is told by one push."""


class TelemetryRows(Protocol):
    """The store (storage.telemetry_store.TelemetryStore, where the methods are described)."""

    def add(self, tx: Tx, row: Subscription) -> None: ...
    def all(self, tx: Tx) -> tuple[Subscription, ...]: ...
    def of_credential(self, tx: Tx, credential_id: str) -> tuple[Subscription, ...]: ...
    def get(self, tx: Tx, sub_id: str) -> Subscription | None: ...
    def prolong(self, tx: Tx, sub_id: str, until: int) -> None: ...
    def advance(self, tx: Tx, sub_id: str, seq: int, next_at: int, *, dropped: bool) -> None: ...
    def tell(self, tx: Tx, sub_id: str, seq: int, next_at: int, told_to: int) -> None: ...
    def end(self, tx: Tx, sub_id: str) -> None: ...
    def actions(self, tx: Tx, credential_id: str, since: int) -> Mapping[str, int]: ...


class Measure(Protocol):
    """Figures of the node (services.telemetry_measure.TelemetryMeasure)."""

    def forget(self) -> None: ...
    async def take(self, wanted: Collection[str], now: int) -> dict[str, JsonValue]: ...


class Stream(Protocol):
    """What is told when there is something to tell; `told_to` of a subscription is how far it was."""

    def head(self, tx: Tx, row: Subscription) -> int: ...
    def waiting(self, tx: Tx, row: Subscription) -> bool: ...
    def page(self, tx: Tx, row: Subscription) -> StreamPage | None: ...


class TelemetryService:
    """Answers telemetry_subscribe and telemetry_unsubscribe, and pushes."""

    def __init__(
        self,
        *,
        db: Database,
        rows: TelemetryRows,
        commands: CommandRows,
        spends: SpendRows,
        receipt_rows: ReceiptRows,
        credentials: Credentials,
        decision: DecisionService,
        kill_switch: KillSwitch,
        measure: Measure,
        push: CommandPush,
        messages: Messages,
        reports: Mapping[str, Stream],
        measured: Callable[[], None],
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._commands, self._spends = db, rows, commands, spends
        self._receipt_rows, self._credentials, self._decision = receipt_rows, credentials, decision
        self._kill_switch, self._measure, self._push = kill_switch, measure, push
        self._messages, self._now = messages, now
        self._streams: Mapping[str, Stream] = {ACTION_LOG: ActionLog(receipt_rows), **reports}
        self._measured = measured
        self._changed = asyncio.Event()
        self._streaming = False

    # -- commands ---------------------------------------------------------------------------------------

    async def subscribe(self, case: Case, params: Params) -> dict[str, JsonValue]:
        """Begin telemetry, or let one with the same metrics and interval go on until another time.

        Raises HiveError: a read the credential does not have, a time that is over, a fourth subscription.
        """
        who = Who.of(case)
        assert who.view is not None
        asked, interval = params["metrics"], params.get("interval_s", 3_600)
        assert isinstance(asked, list) and isinstance(interval, int)
        metrics = tuple(name for name in TELEMETRY_NAMES if name in asked)
        _check_streams(metrics)
        self._check(who, metrics)
        until, now = params["until"], self._now()
        assert isinstance(until, int)
        if until <= now:
            raise from_symbol(
                "invalid_params",
                f"until {until} is over; the node's time is {now}",
                param="until",
                expected=f"unix seconds after {now}",
            )
        wanted = Subscription(
            sub_id=case.command_id,
            credential_id=case.credential_id,
            advisor_id=case.advisor_id,
            recipient=case.sender,
            metrics=metrics,
            interval_s=interval,
            # Where the credential ends, telemetry does; the answer says so.
            until=min(until, who.view.credential.valid_until),
            seq=0,
            dropped=0,
            next_at=now,
            created_at=now,
        )
        kept = await self._db.write(lambda tx: self._keep(tx, wanted, now))
        self._changed.set()
        if kept.stream in REPORTS:
            self._measured()
        return {
            "sub_id": kept.sub_id,
            "metrics": [*kept.metrics],
            "interval_s": kept.interval_s,
            "until": wanted.until,
            "seq": kept.seq,
            "renewed": kept.sub_id != wanted.sub_id,
        }

    def _keep(self, tx: Tx, wanted: Subscription, now: int) -> Subscription:
        if self._credentials.standing(tx, wanted.credential_id) != "active":
            raise from_symbol("credential_revoked", "the credential ended while this was asked")
        running = []
        for row in self._rows.of_credential(tx, wanted.credential_id):
            if row.until <= now:
                self._rows.end(tx, row.sub_id)
            else:
                running.append(row)
        for row in running:
            if row.same_as(wanted):
                self._rows.prolong(tx, row.sub_id, wanted.until)
                return row
        figures = [row for row in running if row.stream is None]
        if wanted.stream is None and len(figures) >= MAX_PER_CREDENTIAL:
            ids: list[JsonValue] = [row.sub_id for row in figures]
            raise from_symbol(
                "constraint_violated",
                f"{MAX_PER_CREDENTIAL} telemetry subscriptions run under this credential, the most there may"
                f" be; end one with telemetry_unsubscribe: {', '.join(row.sub_id for row in figures)}",
                running=ids,
            )
        if wanted.stream is not None:
            wanted = replace(wanted, told_to=self._streams[wanted.stream].head(tx, wanted))
        self._rows.add(tx, wanted)
        return wanted

    def _check(self, who: Who, metrics: Sequence[str]) -> None:
        for action in dict.fromkeys(READ_OF[name] for name in metrics):
            spec = find("hive:monitor/v1", action)
            self._decision.check_read(who, spec, parse_params(spec, {}))

    async def unsubscribe(self, case: Case, params: Params) -> dict[str, JsonValue]:
        """End telemetry. Raises InvalidParams for one that this credential does not have."""
        sub_id = str(params["sub_id"])

        def body(tx: Tx) -> int:
            row = self._rows.get(tx, sub_id)
            if row is None or row.credential_id != case.credential_id:
                raise from_symbol(
                    "invalid_params",
                    f"no telemetry {sub_id} runs under this credential; it may have ended by itself",
                    param="sub_id",
                    expected="the sub_id that telemetry_subscribe answered",
                )
            self._rows.end(tx, sub_id)
            return row.seq

        return {"sub_id": sub_id, "ended": True, "seq": await self._db.write(body)}

    async def of(self, advisor_id: str) -> list[dict[str, JsonValue]]:
        """What an advisor is sent, for people: {metrics, interval_s, until, sent, dropped}."""
        return [
            {
                "metrics": [*row.metrics],
                "interval_s": row.interval_s,
                "until": row.until,
                "sent": row.seq - row.dropped,
                "dropped": row.dropped,
            }
            for row in await self._db.read(self._rows.all)
            if row.advisor_id == advisor_id and row.until > self._now()
        ]

    # -- the clock --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Push what is due, for ever. Without a subscription this only waits for one."""
        while True:
            if self._changed.is_set():
                # What ends together is told together.
                await asyncio.sleep(_TOGETHER_S)
            self._changed.clear()
            pause = await self.tick()
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def something_to_tell(self) -> None:
        """A command ended or a report was made: a stream may have something to tell."""
        if self._streaming:
            self._changed.set()

    async def tick(self) -> int | None:
        """Push what is due; seconds until it is time to look again, None: when there is a subscription."""
        rows, now = await self._db.read(self._rows.all), self._now()
        self._streaming = any(row.stream is not None for row in rows)
        if not rows:
            self._measure.forget()
            return None
        if self._kill_switch.engaged():
            return _STOPPED_S
        due = await self._db.read(lambda tx: [row for row in rows if self._is_due(tx, row, now)])
        allowed = {row.sub_id: await self._allowed(row) for row in due}
        wanted = {name for row in due if allowed[row.sub_id] for name in row.metrics if name in OF_NODE}
        figures = await self._measure.take(wanted, now) if wanted else {}
        more = False
        for row in due:
            more |= await self._db.write(
                partial(self._due, seen=row, allowed=allowed[row.sub_id], figures=figures, now=now)
            )
        if due:
            self._push.kick()
            rows = await self._db.read(self._rows.all)
        return 1 if more else max(1, min([_LOOK_S, *(row.next_at - self._now() for row in rows)]))

    def _is_due(self, tx: Tx, row: Subscription, now: int) -> bool:
        if row.until <= now or row.due(now):
            return True
        return row.stream is not None and self._streams[row.stream].waiting(tx, row)

    async def _allowed(self, row: Subscription) -> bool:
        """Whether credential and policy of this moment let the agent read these figures."""
        view = await self._credentials.current(row.credential_id)
        try:
            self._check(Who(view, row.advisor_id, row.credential_id), row.metrics)
        except HiveError:
            return False
        return view is not None

    def _due(
        self, tx: Tx, seen: Subscription, allowed: bool, figures: Mapping[str, JsonValue], now: int
    ) -> bool:
        """Push what is due of one subscription; whether it has more to tell at once."""
        row = self._rows.get(tx, seen.sub_id)
        # It ended, or the stop was pulled, while the node was asked.
        if row is None or self._kill_switch.engaged():
            return False
        if row.until <= now or self._credentials.standing(tx, row.credential_id) != "active":
            self._rows.end(tx, row.sub_id)
            return False
        following = row.after(now)
        waiting, to_this_one = self._messages.queued(tx, row.recipient)
        dropped = waiting > MAX_QUEUED or to_this_one > MAX_QUEUED_EACH
        if not allowed or (dropped and row.stream is not None):
            # Figures of a moment are dropped, a log waits: nothing is missing in it.
            self._rows.advance(tx, row.sub_id, row.seq, following, dropped=False)
            return False
        if row.stream is not None:
            return self._tell(tx, row, row.stream, following, now)
        seq = row.seq + 1
        if not dropped:
            own = {name: self._own(tx, row, name, now) for name in row.metrics if name not in OF_NODE}
            metrics: dict[str, JsonValue] = {
                name: own[name] if name in own else figures[name] for name in row.metrics
            }
            body: dict[str, JsonValue] = {"sub_id": row.sub_id, "seq": seq, "at": now, "metrics": metrics}
            self._push.push(tx, row.recipient, "telemetry", body)
        self._rows.advance(tx, row.sub_id, seq, following, dropped=dropped)
        return False

    def _tell(self, tx: Tx, row: Subscription, stream: str, following: int, now: int) -> bool:
        page = self._streams[stream].page(tx, row)
        if page is None:
            self._rows.advance(tx, row.sub_id, row.seq, following, dropped=False)
            return False
        metrics: dict[str, JsonValue] = {stream: page.value}
        body: dict[str, JsonValue] = {"sub_id": row.sub_id, "seq": row.seq + 1, "at": now, "metrics": metrics}
        self._push.push(tx, row.recipient, "telemetry", body)
        # An interval without anything to tell is told as well: the agent sees that it hears everything.
        self._rows.tell(tx, row.sub_id, row.seq + 1, now + row.interval_s, page.told_to)
        return page.more

    def _own(self, tx: Tx, row: Subscription, name: str, now: int) -> JsonValue:
        if name == "actions":
            states = self._rows.actions(tx, row.credential_id, now - DAY_S)
            return {f"{state}_24h": count for state, count in states.items()}
        if name == "spend":
            mine = row.credential_id
            spent = sum(self._spends.of_credential(tx, mine, kind, now - DAY_S) for kind in CLASSES)
            fees = sum(self._spends.fees_of(tx, mine, kind, now - DAY_S) for kind in CLASSES)
            return {"amount_24h_sat": spent, "fees_24h_sat": fees}
        if name == "pending":
            return {"count": self._commands.count_pending(tx, row.advisor_id)}
        head = self._receipt_rows.head(tx)
        return None if head is None else {"receipt_id": head.receipt_id, "receipt_hash": head.receipt_hash}


def _check_streams(metrics: Sequence[str]) -> None:
    streams = [name for name in metrics if name in TELEMETRY_STREAMS]
    if streams and len(metrics) > 1:
        raise from_symbol(
            "invalid_params",
            f"{streams[0]} is a subscription of its own, with no other metric; subscribe to the others by"
            " another telemetry_subscribe",
            param="metrics",
            expected=f"{streams[0]} alone, or metrics without it",
        )
