"""Reports on advisors' work by the clock, and the baselines they are compared with
(docs/protocol/02-fleet-management.md §10; docs/decisions/0431-who-is-pinged-and-what-a-report-says.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

from hive_shared import crypto
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import HiveError
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Db, Tx

from ..domain.advisor import DAY_S, CredentialRow
from ..domain.report import PERIODS, Span, baseline_digest, baseline_doc, built, due, period_start
from ..domain.telemetry import Subscription
from ..domain.trial import Baseline, Income, Work
from .action_log import StreamPage
from .credential_service import CredentialService
from .ports_commands import Fault, Identity, KillSwitch, no_fault
from .ports_identity import Log
from .ports_trials import PresenceOf, WorkRows
from .trial_measure import TrialMeasure

PERIOD_S: Final = 60
_PATIENCE_S: Final = 3_600
"""How long after its end a report waits for a node that cannot tell its forwards."""
_KEPT_S: Final = 400 * DAY_S


class ReportRows(Protocol):
    """The store (storage.report_store.ReportStore, where the methods are described)."""

    def add(
        self, tx: Tx, credential_id: str, kind: str, until: int, doc: Mapping[str, JsonValue], now: int
    ) -> bool: ...
    def ends(self, tx: Tx) -> dict[tuple[str, str], int]: ...
    def newest(self, tx: Tx, credential_id: str, kind: str, limit: int) -> list[dict[str, Any]]: ...
    def prune(self, tx: Tx, before: int) -> None: ...
    def with_baseline(self, tx: Tx) -> frozenset[str]: ...
    def add_baseline(
        self, tx: Tx, credential_id: str, doc: Mapping[str, JsonValue], signature: str, now: int
    ) -> bool: ...
    def baseline(self, tx: Tx, credential_id: str) -> tuple[dict[str, Any], str] | None: ...
    def of_trial(self, tx: Tx, credential_id: str) -> Baseline | None: ...


class SentRows(Protocol):
    """What of the store the stream needs."""

    def ends(self, tx: Tx) -> dict[tuple[str, str], int]: ...
    def next(self, tx: Tx, credential_id: str, kind: str, after: int) -> dict[str, Any] | None: ...


class ReportStream:
    """Reports of one kind as telemetry sends them: `told_to` is where the last one ended."""

    def __init__(self, rows: SentRows, kind: str) -> None:
        self._rows, self._kind = rows, kind

    def head(self, tx: Tx, row: Subscription) -> int:
        """Where the newest report ends: the stream begins with the next one."""
        return self._rows.ends(tx).get((row.credential_id, self._kind), 0)

    def waiting(self, tx: Tx, row: Subscription) -> bool:
        """Whether there is one to send."""
        return self._rows.next(tx, row.credential_id, self._kind, row.told_to) is not None

    def page(self, tx: Tx, row: Subscription) -> StreamPage | None:
        """The next report, None without one."""
        found = self._rows.next(tx, row.credential_id, self._kind, row.told_to)
        if found is None:
            return None
        until = int(found["to"])
        more = self._rows.next(tx, row.credential_id, self._kind, until) is not None
        return StreamPage(found, until, more)


class ReportService:
    """Makes a report of each live credential when a day or a week is over. `told` hears of new ones."""

    def __init__(
        self,
        *,
        db: Db,
        rows: ReportRows,
        work: WorkRows,
        presence: PresenceOf,
        measure: TrialMeasure,
        credentials: CredentialService,
        identity: Identity,
        kill_switch: KillSwitch,
        node_id: str,
        told: Callable[[], None],
        now: Callable[[], int],
        log: Log,
        fault: Fault = no_fault,
    ) -> None:
        self._fault = fault
        self._db, self._rows, self._work, self._presence = db, rows, work, presence
        self._measure, self._credentials, self._identity = measure, credentials, identity
        self._kill_switch, self._node_id, self._told = kill_switch, node_id, told
        self._now, self._log, self._alone = now, log, RowByRow(log)

    # -- the clock --------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Take the baselines of new hires, then make the reports that are due. Waits while the stop is on."""
        if self._kill_switch.engaged():
            return
        now = self._now()
        live = [row for row in self._credentials.live_rows() if row.credential.valid_from <= now]
        taken, ends = await self._db.read(lambda tx: (self._rows.with_baseline(tx), self._rows.ends(tx)))
        with self._alone.round("baselines") as alone:
            for row in live:
                if row.credential_id not in taken:
                    with alone(row.credential_id):
                        await self._take_baseline(row)
        incomes: dict[Span, Income | None] = {}
        made = False
        with self._alone.round("reports") as alone:
            for row in live:
                with alone(row.credential_id):
                    for kind in PERIODS:
                        last = ends.get((row.credential_id, kind))
                        for span in due(kind, row.credential.valid_from, last, now):
                            made |= await self._report(row, kind, span, incomes)
        if made:
            await self._db.write(lambda tx: self._rows.prune(tx, now - _KEPT_S))
            self._told()

    async def _take_baseline(self, row: CredentialRow) -> None:
        document = row.credential
        baseline = await self._db.read(lambda tx: self._rows.of_trial(tx, row.credential_id))
        if baseline is None:
            try:
                baseline = await self._measure.baseline(document.valid_from)
            except HiveError:
                # Forwards keep: the next look takes it.
                return
        doc = baseline_doc(baseline, self._node_id, document.agent_id, row.credential_id)
        signature = crypto.schnorr_sign(self._identity.secret(), baseline_digest(doc))
        await self._db.write(
            lambda tx: self._rows.add_baseline(tx, row.credential_id, doc, signature, self._now())
        )

    async def _report(
        self, row: CredentialRow, kind: str, span: Span, incomes: dict[Span, Income | None]
    ) -> bool:
        wanted = span.revenue(row.credential.valid_from)
        if wanted not in incomes:
            try:
                incomes[wanted] = await self._measure.income(wanted.since, wanted.until)
            except ClnError as error:
                if self._now() < span.until + _PATIENCE_S:
                    self._log("warning", "report_postponed", kind=kind, method=error.method)
                    return False
                incomes[wanted] = None
        write = partial(self._keep, row=row, kind=kind, span=span, income=incomes[wanted])
        made = await self._db.write(write)
        await self._fault("report_made")
        return made

    def _keep(self, tx: Tx, row: CredentialRow, kind: str, span: Span, income: Income | None) -> bool:
        doc = self._built(tx, row, kind, span, income)
        return self._rows.add(tx, row.credential_id, kind, span.until, doc, self._now())

    def _built(
        self, tx: Tx, row: CredentialRow, kind: str, span: Span, income: Income | None
    ) -> dict[str, JsonValue]:
        # Spans of commands include both ends.
        done = self._work.tally(tx, row.credential_id, span.since, span.until - 1)
        presence = self._presence.presence(tx, row.credential_id, span.since, span.until)
        kept = self._rows.baseline(tx, row.credential_id)
        baseline = None if kept is None else Baseline.from_doc(kept[0])
        doc = built(kind, span, Work(done.taken, done.rejected, presence, None), baseline, income)
        return {"credential_id": row.credential_id, **doc}

    # -- reads ------------------------------------------------------------------------------------------

    async def of(self, row: CredentialRow, kind: str, limit: int) -> list[dict[str, Any]]:
        """The newest reports of a credential first."""
        return await self._db.read(lambda tx: self._rows.newest(tx, row.credential_id, kind, limit))

    async def so_far(self, row: CredentialRow, kind: str) -> dict[str, JsonValue]:
        """The report of the period that runs, up to now."""
        now = self._now()
        span = Span(max(period_start(kind, now), row.credential.valid_from), now + 1)
        try:
            wanted = span.revenue(row.credential.valid_from)
            income = await self._measure.income(wanted.since, wanted.until)
        except ClnError:
            income = None
        return await self._db.read(lambda tx: self._built(tx, row, kind, span, income))

    async def taken(self, row: CredentialRow) -> dict[str, JsonValue] | None:
        """The signed baseline of a credential that has begun, measured now if it was not; None where the node
        cannot tell."""
        if (kept := await self.baseline(row)) is None and row.credential.valid_from <= self._now():
            await self._take_baseline(row)
            kept = await self.baseline(row)
        return kept

    async def baseline(self, row: CredentialRow) -> dict[str, JsonValue] | None:
        """The signed baseline of a credential; None before it was taken."""
        kept = await self._db.read(lambda tx: self._rows.baseline(tx, row.credential_id))
        return None if kept is None else {**kept[0], "signature": kept[1]}
