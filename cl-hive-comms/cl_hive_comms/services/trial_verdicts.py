"""The end of a trial: what its figures suggest, what the operator says, and the signed summary of it
(docs/protocol/02-fleet-management.md §10 "Period end"; docs/decisions/0432-what-ends-a-trial.md)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from hive_shared.canonical import JsonValue, encode
from hive_shared.errors import Conflict, EmergencyStop, FeatureDisabled, HiveError, NotFound, RateLimited
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from ..domain.trial import Trial
from ..domain.trial_verdict import (
    DECIDE_WITHIN_S,
    SUMMARY_KIND,
    Verdict,
    event_tags,
    suggested,
    summary_of,
)
from .credential_service import CredentialService
from .event_publisher import Published
from .ports_commands import Identity, ReceiptRows
from .ports_identity import Clock, Log
from .receipt_service import ReceiptService, operator_event

_BATCH = 50
_MOST_RECEIPTS = 100_000


class VerdictRows(Protocol):
    """Trials and their ends (storage.marketplace_store.MarketplaceStore)."""

    def verdict(self, tx: Tx, trial_id: str) -> Verdict | None: ...
    def add_verdict(self, tx: Tx, row: Verdict) -> bool: ...
    def set_published(self, tx: Tx, trial_id: str, published: str, event_id: str | None) -> None: ...
    def to_publish(self, tx: Tx, limit: int) -> list[Verdict]: ...
    def undecided(self, tx: Tx, ended_before: int, limit: int) -> list[Trial]: ...
    def trials_of(self, tx: Tx, advisor_did: str, limit: int) -> list[Trial]: ...


class TrialVerdicts:
    """Keeps verdicts. `publish` signs an event and gives it to the relays; `private` is the operator's
    option that nothing of relationships is published."""

    def __init__(
        self,
        *,
        db: Db,
        rows: VerdictRows,
        receipt_rows: ReceiptRows,
        receipts: ReceiptService,
        credentials: CredentialService,
        identity: Identity,
        publish: Callable[[Mapping[str, JsonValue]], Awaitable[Published]],
        private: Callable[[], bool],
        now: Clock,
        log: Log,
    ) -> None:
        self._db, self._rows, self._receipt_rows, self._receipts = db, rows, receipt_rows, receipts
        self._credentials, self._identity, self._publish = credentials, identity, publish
        self._private, self._now, self._log, self._alone = private, now, log, RowByRow(log)

    def suggestion(self, trial: Trial, evaluation: Mapping[str, Any]) -> dict[str, JsonValue]:
        """{outcome, why}: what the figures speak for."""
        outcome, why = suggested(trial, evaluation)
        return {"outcome": outcome, "why": why}

    async def of(self, trial_id: str) -> Verdict | None:
        """The verdict on a trial."""
        return await self._db.read(lambda tx: self._rows.verdict(tx, trial_id))

    async def decide(self, advisor_did: str, name: str, verdict: str, reason: str) -> Verdict:
        """The operator's word on the newest trial of an advisor; its summary is published.

        Raises NotFound without a trial, Conflict for one that runs or was decided.
        """

        def body(tx: Tx) -> Verdict:
            found = self._rows.trials_of(tx, advisor_did, 1)
            if not found:
                raise NotFound(f"{name!a} had no trial; hive-client-trial action=start begins one")
            (trial,) = found
            if trial.evaluation is None:
                raise Conflict(
                    f"the trial of {name!a} is not over and reviewed yet; decide then, or end it with"
                    " action=stop first",
                    reason="trial_running",
                )
            if (before := self._rows.verdict(tx, trial.trial_id)) is not None:
                raise Conflict(
                    f"the last trial of {name!a} ended with {before.verdict} (by {before.by}); that stands in"
                    " the receipts and is not changed",
                    reason="already_decided",
                )
            published = "private" if self._private() else "due"
            return self._decided(tx, trial, verdict, "operator", reason, published)

        row = await self._db.write(body)
        await self.settle()
        return await self.of(row.trial_id) or row

    async def settle(self) -> None:
        """Publish what is due; say neutral where nobody said anything in time. Run every half minute."""
        before = self._now() - DECIDE_WITHIN_S

        def silent(tx: Tx, trial: Trial) -> None:
            self._decided(tx, trial, "neutral", "time", "", "not asked for")

        with self._alone.round("trials without a verdict") as alone:
            for trial in await self._db.read(lambda tx: self._rows.undecided(tx, before, _BATCH)):
                with alone(trial.trial_id), suppress(Conflict):  # decided meanwhile
                    await self._db.write(partial(silent, trial=trial))
        with self._alone.round("verdicts to publish") as alone:
            for row in await self._db.read(lambda tx: self._rows.to_publish(tx, _BATCH)):
                with alone(row.trial_id):
                    await self._send(row)

    def _decided(self, tx: Tx, trial: Trial, verdict: str, by: str, reason: str, published: str) -> Verdict:
        row = self._credentials.row(trial.credential_id)
        advisor_id = "" if row is None else row.advisor_id
        mine = [
            each
            for each in self._receipt_rows.of_advisor(tx, advisor_id, 0, _MOST_RECEIPTS)
            if each.credential_id == trial.credential_id
        ]
        ids = [each.receipt_id for each in mine] or [0]
        summary = summary_of(
            trial, verdict, self._identity.pubkey, [each.receipt_hash for each in mine], ids[0], ids[-1]
        )
        made = Verdict(trial.trial_id, verdict, by, reason, summary, self._now(), published)
        # One per trial, also when two say something at once.
        if not self._rows.add_verdict(tx, made):
            raise Conflict("somebody decided this trial at the same moment", reason="already_decided")
        result: dict[str, JsonValue] = {"trial_id": trial.trial_id, "by": by, "summary": summary}
        self._receipts.append(
            tx,
            operator_event(
                "trial_decided",
                params={"outcome": verdict, "reason": reason},
                result=result,
                advisor_id=advisor_id,
                agent_id=trial.advisor_did,
                credential_id=trial.credential_id,
            ),
        )
        return made

    async def _send(self, row: Verdict) -> None:
        # Made of what is stored alone, so that it is the same event again after a crash.
        event: dict[str, JsonValue] = {
            "kind": SUMMARY_KIND,
            "created_at": row.decided_at,
            "content": encode(dict(row.summary)).decode(),
            "tags": [list(tag) for tag in event_tags(row.summary)],
        }
        try:
            sent = await self._publish(event)
            told = replace(row, published="queued", event_id=sent.id)
        except (EmergencyStop, RateLimited):
            return
        except FeatureDisabled:
            told = replace(row, published="marketplace-publish is false")
        except HiveError as error:
            self._log("warning", "summary_not_published", trial=row.trial_id, slug=error.symbol)
            told = replace(row, published="refused")
        await self._db.write(
            lambda tx: self._rows.set_published(tx, told.trial_id, told.published, told.event_id)
        )
