"""What the rules that agents leave with a node have in common, whatever they do (docs/decisions/0426, 0427):
whose they are and whether they still stand, one command of theirs, and what is told of refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import CredentialInvalid, HiveError, from_symbol
from hive_shared.registry import CONFIG
from hive_shared.store import StoreError, Tx
from msgspec.structs import replace

from ..domain.approval import Workflow, rank
from ..domain.command_machine import State
from ..domain.command_record import TimerRow
from .command_case import Case, RuleRefusal, received_row
from .command_outcome import CommandOutcomes, Response, StateMoved
from .decision import DecisionService, Verdict
from .execution import ExecutionService
from .executors.action import Caller
from .executors.node_errors import node_error
from .intake import Intake
from .node_command import NodeCommands
from .ports_commands import CommandRows, Credentials, CredentialView, Database, Log
from .receipt_service import ReceiptService
from .timer_end import timer_event

RETRY_S: Final = 300
"""A rule that was refused is tried again after this, or when the refusal says."""
RETRY_FAILED_S: Final = 3_600
"""What the node refused is tried again after this."""
_ENDS: Final = frozenset({"credential_revoked", "credential_superseded", "credential_expired"})


@dataclass(slots=True)
class Standing:
    """Rules of a credential that stand at this moment. `approved` says by whom they were allowed; `told` is
    what each was refused last and when to try again, by key: (begin of its hours or day, slug, time)."""

    timer: TimerRow
    payload: Mapping[str, Any]
    view: CredentialView
    approved: Workflow
    told: dict[str, tuple[int, str, int]]
    refused: list[JsonValue] = field(default_factory=list)

    def waits(self, key: str, since: int, now: int) -> bool:
        """Whether a rule was refused and is not to be tried again yet."""
        told = self.told.get(key)
        return told is not None and told[0] == since and now < told[2]

    def acted(self, key: str) -> None:
        """A rule did what it should: nothing waits any more."""
        self.told.pop(key, None)

    def pause(self, key: str, since: int, until: int, word: str) -> None:
        """Try a rule again after this time; what it did has its receipt."""
        self.told[key] = (since, word, until)

    def refuse(self, key: str, since: int, error: HiveError, now: int, **about: JsonValue) -> None:
        """Note a refusal. Each reason is told once for a key and `since`."""
        told, after = self.told.get(key), error.data.get("retry_after")
        wait = after if isinstance(after, int) and after > 0 else RETRY_S
        if error.symbol == "invalid_params":
            # What a channel cannot do at this moment, its peer being away, it may at the next look.
            wait = 0
        self.told[key] = (since, error.symbol, now + wait)
        if told is None or told[:2] != (since, error.symbol):
            self.refused.append({**about, "error": error.symbol, "message": error.detail})


class RuleRuns:
    """Runs what rules want as commands of the node under the credential that set them."""

    def __init__(
        self,
        *,
        db: Database,
        commands: CommandRows,
        credentials: Credentials,
        intake: Intake,
        decision: DecisionService,
        execution: ExecutionService,
        outcomes: CommandOutcomes,
        receipts: ReceiptService,
        node_commands: NodeCommands,
        now: Callable[[], int],
        log: Log,
    ) -> None:
        self._db, self._commands, self._credentials, self._intake = db, commands, credentials, intake
        self._decision, self._execution, self._outcomes = decision, execution, outcomes
        self._receipts, self._node_commands, self._now, self._log = receipts, node_commands, now, log

    async def standing(self, timer: TimerRow, action: tuple[str, str]) -> Standing | None:
        """The rules of a timer, None when they may not act now. Ends those whose credential ended."""
        payload = json.loads(timer.payload_json)
        view = await self._credentials.current(payload["credential_id"])
        try:
            if view is None:
                raise from_symbol("credential_revoked", "the credential is gone")
            self._intake.check_standing(view)
            await self._intake.verify(view, *action)
        except CredentialInvalid as error:
            if error.symbol in _ENDS:
                slug = error.symbol
                await self._db.write(lambda tx: self._ended(tx, timer, slug))
            return None
        except HiveError as error:
            self._log("warning", "rules_postponed", kind=timer.kind, slug=error.symbol)
            return None
        told = {key: tuple(each) for key, each in payload.get("told", {}).items()}
        approved = await self._db.read(lambda tx: self._approved(tx, timer.timer_id))
        return Standing(timer, payload, view, approved, told)

    def _approved(self, tx: Tx, command_id: str) -> Workflow:
        """By whom the rules were allowed: by themselves, or by people."""
        row = self._commands.get(tx, command_id)
        judged = json.loads((row.hold_json if row is not None else None) or "{}").get("judged", {})
        return Workflow(judged.get("workflow", Workflow.AUTO.value))

    def _ended(self, tx: Tx, timer: TimerRow, slug: str) -> None:
        if self._commands.timer_done(tx, timer.timer_id, self._now()):
            self._tell(tx, timer, "success", {"state": "ended", "reason": slug})

    def _tell(self, tx: Tx, timer: TimerRow, status: str, result: JsonValue) -> None:
        payload = json.loads(timer.payload_json)
        caller = Caller(timer.timer_id, "", payload["advisor_id"], payload["credential_id"], self._now())
        # The kind of a timer that keeps rules is the action that sets them.
        fields = timer_event(
            CONFIG, timer.kind, status, timer=timer, caller=caller, error=None, result=result
        )
        self._receipts.append(tx, fields)

    async def remember(self, rules: Standing) -> None:
        """Keep what was refused, and tell what was not told yet."""
        if rules.told != {key: tuple(each) for key, each in rules.payload.get("told", {}).items()}:
            await self._db.write(lambda tx: self._remember(tx, rules))

    def _remember(self, tx: Tx, rules: Standing) -> None:
        text = json.dumps({**rules.payload, "told": rules.told})
        changed = self._commands.change_timer(tx, replace(rules.timer, payload_json=text))
        if changed and rules.refused:
            self._tell(tx, rules.timer, "rejected", {"refused": rules.refused})

    async def run(
        self, rules: Standing, action: tuple[str, str], params: dict[str, JsonValue]
    ) -> Response | HiveError | None:
        """One command: its response, the refusal, or None when nothing is known to tell."""
        try:
            return await self._run(rules, action, params)
        except RuleRefusal as refusal:
            return refusal.error
        except HiveError as error:
            return error
        except ClnError as error:
            return node_error(error)
        except (StoreError, StateMoved) as failure:
            self._log("warning", "rule_postponed", action=action[1], reason=type(failure).__name__)
            return None

    async def _run(self, rules: Standing, action: tuple[str, str], params: dict[str, JsonValue]) -> Response:
        case = await self._node_commands.make(*action, params, rules.view)
        with self._decision.prepare(case, params) as preparation:
            async with self._decision.judge(case, preparation) as verdict:
                _check_allowed(verdict, rules.approved)
                self._execution.claim(case.command_id)
                try:
                    await self._db.write(lambda tx: self._admit(tx, case), durable=False)
                    return await self._execution.run(
                        case, verdict.judged, verdict.caps, verdict.spend, from_state=State.RECEIVED
                    )
                except HiveError as error:
                    # Refused at the last moment, or its outcome waits for the disk: then it is executing.
                    refusal, danger = error, verdict.judged.danger
                    await self._db.write(
                        lambda tx: self._outcomes.refuse(tx, case, refusal, danger=danger, spec=action)
                    )
                    raise
                finally:
                    self._execution.disclaim(case.command_id)

    def _admit(self, tx: Tx, case: Case) -> None:
        self._commands.burn(tx, case.sender, case.command.nonce)
        self._commands.insert(tx, received_row(case, self._now(), read_only=False))


def _check_allowed(verdict: Verdict, approved: Workflow) -> None:
    """Raises what stands against a command that was not denied: others at work, or people to be asked who
    were not asked about the rules."""
    if verdict.held_by is not None:
        raise from_symbol("conflict_held", "another advisor's command about this channel is under way")
    asked = Workflow(verdict.judged.workflow)
    if rank(asked) > rank(approved):
        raise from_symbol(
            "policy_blocked",
            f"the operator's policy asks people ({asked.value}) about this, and the rules were set without"
            " them; set them again to have them approved",
            rule="approval",
        )
