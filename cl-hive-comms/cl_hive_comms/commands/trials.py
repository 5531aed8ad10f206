"""hive-client-trial (docs/protocol/08-client-and-plugins.md §5.2, 04-marketplace-and-nostr.md §10)."""

from collections.abc import Callable
from typing import Any

from hive_shared.canonical import JsonValue
from hive_shared.errors import ConfirmationRequired, InvalidParams, NotFound
from hive_shared.runtime_spec import ClassBy, MethodSpec, Param

from cl_hive_comms.commands.advisors import shown_hire
from cl_hive_comms.commands.rendering import as_text
from cl_hive_comms.commands.status import FORMAT
from cl_hive_comms.domain.advisor import days_left
from cl_hive_comms.domain.trial import DEFAULT_DAYS, MAX_DAYS, MIN_DAYS, Trial, multiplier, trial_days
from cl_hive_comms.domain.trial_verdict import VERDICTS, Verdict
from cl_hive_comms.services.advisor_requests import Hire
from cl_hive_comms.services.advisor_service import AdvisorService
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.contract_service import ContractService
from cl_hive_comms.services.trial_verdicts import TrialVerdicts

_ACTIONS = ("list", "start", "stop", "review", "decide")
_STOPPED = "trial stopped"
_MAX_REASON = 500


class TrialCommands:
    """list, start, stop, review, decide."""

    def __init__(
        self,
        trials: Callable[[], ContractService],
        verdicts: Callable[[], TrialVerdicts],
        advisors: Callable[[], AdvisorService],
        aliases: Callable[[], AliasService],
        now: Callable[[], int],
    ) -> None:
        self._trials, self._advisors, self._aliases, self._now = trials, advisors, aliases, now
        self._verdicts = verdicts

    def specs(self) -> list[MethodSpec]:
        """The method of this family."""
        return [
            MethodSpec(
                "hive-client-trial",
                "X",
                (
                    Param("advisor", "str", default=""),
                    Param("action", "str", default="list", choices=_ACTIONS),
                    Param("days", "any"),
                    Param("outcome", "str", choices=VERDICTS),
                    Param("reason", "str", default=""),
                    Param("confirm", "bool", default=False),
                    FORMAT,
                ),
                self._trial,
                f"A first engagement of {MIN_DAYS} to {MAX_DAYS} days: list, start, stop, review, decide"
                " (outcome=renew, revoke or neutral once it is over).",
                by=ClassBy("action", {"list": "R", "start": "X", "stop": "X", "review": "R", "decide": "X"}),
            )
        ]

    async def _trial(self, params: dict[str, Any]) -> dict[str, Any]:
        action, advisor = params["action"], params["advisor"].strip()
        if params["days"] is not None and action != "start":
            raise InvalidParams(f"days belongs to action=start, not to {action}")
        if action != "list" and not advisor:
            raise InvalidParams(f"action={action} needs advisor=: a name or a key")
        if action != "decide" and (params["outcome"] or params["reason"] or params["confirm"]):
            raise InvalidParams(f"outcome, reason and confirm belong to action=decide, not to {action}")
        if action == "start":
            result = await self._start(advisor, params["days"])
        elif action == "decide":
            result = await self._decide(advisor, params)
        elif action == "stop":
            result = await self._stop(advisor)
        elif action == "review":
            result = await self._review(self._did(advisor))
        else:
            result = await self._list(advisor)
        return as_text(result) if params["format"] == "text" else result

    async def _list(self, advisor: str) -> dict[str, Any]:
        found = await self._trials().trials(self._did(advisor) if advisor else None)
        items = [self._row(trial) for trial in found]
        return {"count": len(items), "items": items}

    async def _start(self, advisor: str, days: object) -> dict[str, Any]:
        length = trial_days(DEFAULT_DAYS if days is None else days)
        if not length:
            raise InvalidParams(f"days is a number from {MIN_DAYS} to {MAX_DAYS}")
        hired = await self._advisors().authorize(Hire(advisor=advisor, access="fees", trial_days=length))
        return shown_hire(hired)

    async def _stop(self, advisor: str) -> dict[str, Any]:
        did = self._did(advisor)
        running = [trial for trial in await self._trials().trials(did, 1) if trial.running(self._now())]
        if not running:
            raise NotFound(f"no trial of {self._trials().name_of(did)!a} is running")
        done = await self._advisors().revoke_credential(running[0].credential_id, _STOPPED)
        return {**await self._review(did), "revoked": True, "cancelled": done.cancelled}

    async def _review(self, did: str) -> dict[str, Any]:
        trial, evaluation = await self._trials().review(did)
        decided = await self._verdicts().of(trial.trial_id)
        # Who stops or reviews asks for the figures, so they stand before the criteria they were judged by.
        return {
            **self._row(trial),
            "stored": trial.evaluation is not None,
            "suggestion": self._verdicts().suggestion(trial, evaluation),
            "decision": None if decided is None else shown_verdict(decided),
            "review": evaluation,
        }

    async def _decide(self, advisor: str, params: dict[str, Any]) -> dict[str, Any]:
        outcome, reason = params["outcome"], params["reason"].strip()
        if not outcome:
            raise InvalidParams(f"action=decide needs outcome=: {', '.join(VERDICTS)}")
        if len(reason) > _MAX_REASON or any(ord(char) < 32 for char in reason):
            raise InvalidParams(f"reason is at most {_MAX_REASON} characters on one line")
        did = self._did(advisor)
        name = self._trials().name_of(did)
        if outcome == "revoke" and not params["confirm"]:
            raise ConfirmationRequired(
                f"outcome=revoke warns others of {name!a}, for good, where summaries are published; add"
                " confirm=true, or say neutral"
            )
        await self._trials().settle()
        return {"name": name, **shown_verdict(await self._verdicts().decide(did, name, outcome, reason))}

    def _did(self, text: str) -> str:
        advisor = self._aliases().resolve(text)
        if advisor.pubkey is None:
            raise NotFound(f"{text[:80]!a} has no Nostr key, and trials are for those who have one")
        return f"did:nostr:{advisor.pubkey}"

    def _row(self, trial: Trial) -> dict[str, JsonValue]:
        now = self._now()
        running = trial.running(now)
        unjudged = "running" if running else "over"
        state = unjudged if trial.outcome is None else trial.outcome.value
        return {
            "name": self._trials().name_of(trial.advisor_did),
            "state": state,
            "scope": trial.scope,
            "started": trial.start_at,
            "ends" if running else "ended": trial.until,
            "days_left": days_left(trial.end_at, now) if running else 0,
            "fee_sats": trial.flat_fee_sats,
            "sequence_number": trial.sequence_number,
            "price_multiplier": multiplier(trial.sequence_number),
            "trial_id": trial.trial_id,
        }


def shown_verdict(row: Verdict) -> dict[str, JsonValue]:
    """A verdict for people: what was said, by whom, and what became of its summary."""
    return {
        "outcome": row.verdict,
        "by": row.by,
        "reason": row.reason,
        "decided_at": row.decided_at,
        "published": row.published,
        "event_id": row.event_id,
        "summary": dict(row.summary),
    }
