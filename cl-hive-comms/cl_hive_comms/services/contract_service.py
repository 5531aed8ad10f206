"""Trials from start to review; so far those of a direct hire (docs/protocol/04-marketplace-and-nostr.md §10,
08-client-and-plugins.md §5.3, §7; docs/decisions/0180-trials-of-a-direct-hire.md).

A trial is a row beside a credential that ends by itself: nothing has to run at that moment, and a node that
was down reviews afterwards. It begins and is stopped in the transaction that stores or ends its credential.
Its review follows, with its receipt, in one transaction of its own.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue, encode
from hive_shared.cln import ClnError
from hive_shared.errors import Capacity, Conflict, NotFound
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Db, Tx

from cl_hive_comms.domain.advisor import CredentialRow
from cl_hive_comms.domain.trial import (
    BASELINE_S,
    MAX_TRIALS,
    PRICE_WINDOW_S,
    Baseline,
    Outcome,
    Trial,
    Work,
    evaluated,
    judged,
    next_number,
)
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.ports_identity import Clock, Log, RandomBytes
from cl_hive_comms.services.ports_trials import PresenceOf, Tally, TrialRows, WorkRows
from cl_hive_comms.services.receipt_service import ReceiptService, operator_event
from cl_hive_comms.services.trial_measure import TrialMeasure

_PATIENCE_S: Final = 3_600
"""How long after the end a review waits for a node that cannot tell its forwards."""
_BATCH: Final = 50


class Opening(msgspec.Struct, frozen=True):
    """A trial that is to begin with a credential: what it is compared with, and where it overlaps."""

    baseline: Baseline
    scope: str
    capabilities: tuple[str, ...]


class ContractService:
    """Runs trials. `name_of` gives an advisor's name by its DID, `drop_rune` ends a credential's rune."""

    def __init__(
        self,
        db: Db,
        store: TrialRows,
        work: WorkRows,
        presence: PresenceOf,
        *,
        measure: TrialMeasure,
        credentials: CredentialService,
        receipts: ReceiptService,
        alerts: AlertService,
        node_id: str,
        now: Clock,
        random_bytes: RandomBytes,
        log: Log,
    ) -> None:
        self._db, self._store, self._work, self._measure = db, store, work, measure
        self._presence = presence
        self._credentials, self._receipts, self._alerts = credentials, receipts, alerts
        self._node_id, self._now, self._random_bytes, self._log = node_id, now, random_bytes, log
        self._alone = RowByRow(log)
        self._lock = asyncio.Lock()
        self.name_of: Callable[[str], str] = lambda did: did
        self.drop_rune: Callable[[Tx, str], None] = lambda tx, credential_id: None

    # -- begin and stop, inside the caller's transaction ---------------------------------------------

    async def prepare(self, advisor_did: str, scope: str, capabilities: tuple[str, ...]) -> Opening:
        """Measure the baseline of a trial that may start now.

        Raises Conflict (trial_running, max_active_trials, trial_cooldown), Capacity, Internal.
        """
        await self.refuse(advisor_did, capabilities)
        return Opening(await self._measure.baseline(self._now()), scope, capabilities)

    async def refuse(self, advisor_did: str, capabilities: Sequence[str]) -> None:
        """Raises Conflict, Capacity as `prepare` does when no such trial may begin now."""
        await self._db.read(lambda tx: self._number(tx, advisor_did, capabilities, self._now()))

    def begin_in(self, tx: Tx, row: CredentialRow, opening: Opening) -> Trial:
        """Store the trial of a credential. Raises as `prepare`: another may have begun since."""
        document = row.credential
        number = self._number(tx, document.agent_id, opening.capabilities, document.valid_from)
        trial = Trial(
            trial_id=str(uuid.UUID(bytes=self._random_bytes(16), version=4)),
            advisor_did=document.agent_id,
            node_id=self._node_id,
            scope=opening.scope,
            capabilities=opening.capabilities,
            sequence_number=number,
            # No contract names a price, and this version pays nobody.
            flat_fee_sats=0,
            start_at=document.valid_from,
            end_at=document.valid_until,
            credential_id=row.credential_id,
            baseline=opening.baseline,
        )
        self._store.add_trial(tx, trial)
        self._receipt(
            tx,
            trial,
            row.advisor_id,
            "trial_start",
            {
                "trial_id": trial.trial_id,
                "scope": trial.scope,
                "sequence_number": number,
                "end_at": trial.end_at,
                "baseline": trial.baseline.to_doc(),
            },
        )
        return trial

    def _number(self, tx: Tx, advisor_did: str, capabilities: Sequence[str], now: int) -> int:
        known = self._store.trials_since(tx, now - PRICE_WINDOW_S)
        number = next_number(known, advisor_did, capabilities, now)
        if self._store.count_trials(tx) >= MAX_TRIALS:
            raise Capacity(f"{MAX_TRIALS} trials are kept, and no more; hire without trial")
        return number

    def stop_in(self, tx: Tx, credential_id: str) -> None:
        """A credential ends: so does its trial, if it runs. The review follows."""
        self._store.stop_trial(tx, credential_id, self._now())

    def trial_of(self, tx: Tx, credential_id: str) -> str | None:
        """The trial that a credential was issued for, by id."""
        return self._store.trial_of_credential(tx, credential_id)

    def none_live_in(self, tx: Tx, pubkey: str) -> None:
        """Raises Conflict while a contract names our present Nostr key: `pubkey` must not take its place."""
        if (contract_id := self._store.live_contract(tx, self._now())) is not None:
            raise Conflict(
                f"contract {contract_id} is signed with this node's present key and still live; end it first",
                reason="contract_live",
            )

    # -- reviews ---------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Review every trial that is over and has no review yet; run every half minute and after a stop."""
        async with self._lock:
            now = self._now()
            with self._alone.round("trials") as alone:
                for trial in await self._db.read(lambda tx: self._store.unreviewed(tx, now, _BATCH)):
                    with alone(trial.trial_id):
                        await self._settle(trial)

    async def _settle(self, trial: Trial) -> None:
        try:
            evaluation = await self._evaluate(trial, trial.until)
        except ClnError as error:
            if self._now() < trial.until + _PATIENCE_S:
                self._log("warning", "trial_review_postponed", trial=trial.trial_id, method=error.method)
                return
            work = await self._work_of(trial, trial.until)
            evaluation = evaluated(trial, work, None, trial.until)
        outcome = trial.outcome or judged(evaluation)
        await self._db.write(lambda tx: self._close(tx, trial, outcome, evaluation))

    def _close(self, tx: Tx, trial: Trial, outcome: Outcome, evaluation: dict[str, JsonValue]) -> None:
        if not self._store.store_review(tx, trial, outcome, encode(evaluation).decode()):
            return
        result: dict[str, JsonValue] = {
            "trial_id": trial.trial_id,
            "outcome": outcome.value,
            "review": evaluation,
        }
        row = self._credentials.row(trial.credential_id)
        self._receipt(tx, trial, "" if row is None else row.advisor_id, "trial_end", result)
        if outcome is Outcome.STOPPED:
            # Whoever stopped it knows.
            return
        self.drop_rune(tx, trial.credential_id)
        name = self.name_of(trial.advisor_did)
        self._alerts.raise_in(
            tx,
            Level.WARNING,
            "trial_ended",
            f"the trial of {name!a} is over: {outcome.value}. Its credential has ended and was not extended;"
            " see hive-client-trial action=review, say renew, neutral or revoke with action=decide within 7"
            " days, and authorize again if you want to go on",
        )

    def _receipt(
        self, tx: Tx, trial: Trial, advisor_id: str, action: str, result: dict[str, JsonValue]
    ) -> None:
        event = operator_event(
            action,
            result=result,
            advisor_id=advisor_id,
            agent_id=trial.advisor_did,
            credential_id=trial.credential_id,
        )
        self._receipts.append(tx, event)

    async def _evaluate(self, trial: Trial, until: int) -> dict[str, JsonValue]:
        income = await self._measure.income(max(trial.start_at, until - BASELINE_S), until)
        return evaluated(trial, await self._work_of(trial, until), income, until)

    async def _work_of(self, trial: Trial, until: int) -> Work:
        def body(tx: Tx) -> Work:
            span = (trial.credential_id, trial.start_at, until)
            done = self._work.tally(tx, *span)
            row = self._credentials.row(trial.credential_id)
            acked = None if row is None or row.acked_at is None else max(0, row.acked_at - row.created_at)
            return Work(done.taken, done.rejected, self._presence.presence(tx, *span), acked)

        return await self._db.read(body)

    async def tallies(self) -> dict[str, Tally]:
        """Writes done and commands refused under each credential, by its id."""
        return await self._db.read(self._work.tallies)

    # -- reads -----------------------------------------------------------------------------------------

    async def trials(self, advisor_did: str | None = None, limit: int = 100) -> list[Trial]:
        """Trials of one advisor or of all, newest first."""
        if advisor_did is None:
            return await self._db.read(lambda tx: self._store.newest_trials(tx, limit))
        return await self._db.read(lambda tx: self._store.trials_of(tx, advisor_did, limit))

    async def review(self, advisor_did: str) -> tuple[Trial, dict[str, JsonValue]]:
        """The newest trial of an advisor with its review: as stored, or so far while it runs.

        Raises NotFound without a trial, Internal when the node does not answer.
        """
        await self.settle()
        found = await self.trials(advisor_did, 1)
        if not found:
            raise NotFound(f"{self.name_of(advisor_did)!a} had no trial; action=start begins one")
        trial = found[0]
        if trial.evaluation is not None:
            return trial, dict(trial.evaluation)
        until = min(self._now(), trial.until)
        try:
            return trial, await self._evaluate(trial, until)
        except ClnError:
            return trial, evaluated(trial, await self._work_of(trial, until), None, until)
