"""Batches: commands of a file in order, each once, over crashes too (docs/protocol/11-advisor-kit.md §10).

The first command of a line has an id that follows from batch, line and client; another try of it names the
one before (`retry_of`). So what a line came to is found again whenever the file is read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

import msgspec
from hive_shared.errors import Conflict, HiveError
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from hive_advisor.domain.batch import BatchLine, at_line, command_id_of, digest_of
from hive_advisor.domain.command_machine import CommandState, did_nothing
from hive_advisor.domain.plan import Judged, Plan
from hive_advisor.domain.rows import Client, StoredCommand
from hive_advisor.services.batch_pay import LinePay, PayFor
from hive_advisor.services.clients import ClientService
from hive_advisor.services.commands import CommandService
from hive_advisor.services.guard import GuardService, refuse
from hive_advisor.services.plans import UNSENT_S, PlanService
from hive_advisor.services.ports import CommandRows

Consent = Callable[[BatchLine, Judged], Awaitable[tuple[bool, int | None]]]
"""Whether a human said yes to a line, and the danger they confirmed; raises ConfirmationRequired."""

_NOTHING_SAID: Final = PayFor()
_UNDER_WAY: Final = (CommandState.READY, CommandState.SENT, CommandState.PENDING)


class BatchRows(Protocol):
    """adv_batches."""

    def digest(self, tx: Tx, batch_id: str) -> str | None: ...
    def add(self, tx: Tx, batch_id: str, digest: str, lines: int, now: int) -> None: ...


class Sends(Protocol):
    """Sends and follows (services.asking.AskService)."""

    async def execute(
        self,
        plan: Plan,
        *,
        wait_s: int,
        again: bool = False,
        origin: str = "lib",
        human: bool = False,
        confirmed_danger: int | None = None,
        retry_until: int | None = None,
        command_id: str | None = None,
    ) -> StoredCommand: ...
    async def follow(self, command: StoredCommand, wait_s: int) -> StoredCommand: ...


class BatchStep(msgspec.Struct, frozen=True):
    """A line with its client. ``command`` is its newest command, None before the first; ``judged`` is the
    guard's word on what is still to be planned."""

    line: BatchLine
    client: Client
    command: StoredCommand | None
    judged: Judged | None

    @property
    def done(self) -> bool:
        """Whether it ran, by an earlier call too."""
        return self.command is not None and self.command.state == CommandState.DONE


class BatchOutcome(msgspec.Struct, frozen=True):
    """How far a line came: its command, or why there is none. ``before``: it had run already."""

    line: BatchLine
    client: Client
    command: StoredCommand | None = None
    error: HiveError | None = None
    before: bool = False

    @property
    def ran(self) -> bool:
        """Whether the next line may go."""
        return self.command is not None and self.command.state == CommandState.DONE


class BatchService:
    """Sends batches. `pump` fetches answers, sends again what is open and asks after what died."""

    def __init__(
        self,
        db: Db,
        rows: BatchRows,
        command_rows: CommandRows,
        clients: ClientService,
        commands: CommandService,
        plans: PlanService,
        guard: GuardService,
        sends: Sends,
        pays: LinePay,
        *,
        pump: Callable[[], Awaitable[Any]],
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._command_rows = db, rows, command_rows
        self._clients, self._commands, self._plans = clients, commands, plans
        self._guard, self._sends, self._pays = guard, sends, pays
        self._pump, self._now = pump, now

    async def check(
        self, batch_id: str, lines: Sequence[BatchLine], origin: str, said: PayFor = _NOTHING_SAID
    ) -> tuple[BatchStep, ...]:
        """Every line against registry, credential, its ticket and guard; nothing is kept or sent.

        Raises what planning raises, for the first line that cannot go, and Conflict when the id was another
        batch's.
        """
        await self._plans.expire()
        digest = await self._db.read(lambda tx: self._rows.digest(tx, batch_id))
        if digest not in (None, digest_of(tuple(lines))):
            raise Conflict(
                f"batch id {batch_id!r} was used for another file; give --batch-id with a new one",
                reason="conflict",
            )
        steps = []
        for line in lines:
            try:
                steps.append(await self._step(batch_id, line, origin, said, early=True))
            except HiveError as error:
                raise at_line(line.number, error) from error
        return tuple(steps)

    async def run(
        self,
        batch_id: str,
        steps: Sequence[BatchStep],
        consent: Consent,
        said: PayFor = _NOTHING_SAID,
        *,
        origin: str,
        wait_s: int,
        again: bool = False,
        retry_until: int | None = None,
    ) -> AsyncIterator[BatchOutcome]:
        """Send what `check` found, each line after the end of the one before; ends with the first that did
        not run. Raises Conflict when the id was given to another batch meanwhile."""
        await self._db.write(lambda tx: self._begin(tx, batch_id, steps))
        if any(step.command is not None and step.command.state in _UNDER_WAY for step in steps):
            await self._pump()
        for step in steps:
            if step.done:
                yield BatchOutcome(step.line, step.client, step.command, before=True)
                continue
            try:
                fresh = await self._step(batch_id, step.line, origin, said)
                fresh, human = await self._agreed(batch_id, fresh, consent, said, wait_s)
                command = await self._sent(
                    batch_id, fresh, human, origin, wait_s, again or step.line.again, retry_until
                )
            except HiveError as error:
                yield BatchOutcome(step.line, step.client, error=at_line(step.line.number, error))
                return
            outcome = BatchOutcome(step.line, step.client, command)
            yield outcome
            if not outcome.ran:
                return

    def _begin(self, tx: Tx, batch_id: str, steps: Sequence[BatchStep]) -> None:
        digest = digest_of(tuple(step.line for step in steps))
        known = self._rows.digest(tx, batch_id)
        if known is None:
            self._rows.add(tx, batch_id, digest, len(steps), self._now())
        elif known != digest:
            raise Conflict(f"batch id {batch_id!r} was used for another file; give a new one")

    async def _step(
        self, batch_id: str, line: BatchLine, origin: str, said: PayFor, *, early: bool = False
    ) -> BatchStep:
        client = await self._clients.named(line.client)
        first = command_id_of(batch_id, line.number, client.client_id)
        command = await self._db.read(lambda tx: self._newest(tx, first))
        if command is not None and not did_nothing(command.state, command.slug):
            return BatchStep(line, client, command, None)
        plan = self._plans.plan(
            client,
            await self._clients.usable_credential(client),
            line.schema,
            line.action,
            line.params,
            note=line.note,
            retry_of=None if command is None else command.command_id,
            expected_policy_root=line.if_root,
        )
        plan = await self._pays.planned(plan, said.of(line, read=plan.spec.read_only), early=early)
        judged = await self._guard.judged(plan, origin)
        refuse(judged.judgement)
        return BatchStep(line, client, command, judged)

    async def _agreed(
        self, batch_id: str, step: BatchStep, consent: Consent, said: PayFor, wait_s: int
    ) -> tuple[BatchStep, tuple[bool, int | None]]:
        """A human's word on a line that is to be planned, and then what the node is to pay for it."""
        if step.judged is None:
            return step, (False, None)
        agreed = await consent(step.line, step.judged)
        first = command_id_of(batch_id, step.line.number, step.client.client_id)
        plan = step.judged.plan
        said = said.of(step.line, read=plan.spec.read_only)
        plan = await self._pays.claimed(plan, said, first, wait_s)
        return replace(step, judged=replace(step.judged, plan=plan)), agreed

    def _newest(self, tx: Tx, first: str) -> StoredCommand | None:
        command = self._command_rows.get(tx, first)
        while command is not None and (after := self._command_rows.retried_by(tx, command.command_id)):
            command = after
        return command

    async def _sent(
        self,
        batch_id: str,
        step: BatchStep,
        agreed: tuple[bool, int | None],
        origin: str,
        wait_s: int,
        again: bool,
        retry_until: int | None,
    ) -> StoredCommand:
        """Bring one line as far as it goes within `wait_s`."""
        command = step.command
        if step.judged is not None:
            human, confirmed = agreed
            known = (
                None
                if command is not None
                else command_id_of(batch_id, step.line.number, step.client.client_id)
            )
            command = await self._sends.execute(
                step.judged.plan,
                wait_s=wait_s,
                again=again,
                origin=origin,
                human=human,
                confirmed_danger=confirmed,
                retry_until=retry_until,
                command_id=known,
            )
        elif command is not None and command.state == CommandState.DRAFT:
            signed = await self._plans.commit(command.command_id, command.origin, again=again)
            command = await self._sends.follow(signed, wait_s)
        elif command is not None and command.state in _UNDER_WAY:
            command = await self._commands.settled(command.command_id, wait_s)
        assert command is not None
        return await self._in_turn(command, wait_s)

    async def _in_turn(self, command: StoredCommand, wait_s: int) -> StoredCommand:
        """Our own pace may keep bytes back for longer than one wait: a batch is what it is made for."""
        clock = asyncio.get_running_loop().time
        end = clock() + UNSENT_S
        while command.state == CommandState.READY and not self._guard.halted and wait_s and clock() < end:
            command = await self._sends.follow(command, wait_s)
        return command
