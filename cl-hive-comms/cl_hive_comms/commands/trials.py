"""hive-client-trial (docs/protocol/08-client-and-plugins.md §5.2, 04-marketplace-and-nostr.md §10)."""

from collections.abc import Callable
from typing import Any

from hive_shared.canonical import JsonValue
from hive_shared.errors import InvalidParams, NotFound
from hive_shared.runtime_spec import ClassBy, MethodSpec, Param

from cl_hive_comms.commands.advisors import shown_hire
from cl_hive_comms.commands.rendering import as_text
from cl_hive_comms.commands.status import FORMAT
from cl_hive_comms.domain.advisor import days_left
from cl_hive_comms.domain.trial import DEFAULT_DAYS, MAX_DAYS, MIN_DAYS, Trial, multiplier, trial_days
from cl_hive_comms.services.advisor_requests import Hire
from cl_hive_comms.services.advisor_service import AdvisorService
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.contract_service import ContractService

_ACTIONS = ("list", "start", "stop", "review")
_STOPPED = "trial stopped"


class TrialCommands:
    """list, start, stop, review."""

    def __init__(
        self,
        trials: Callable[[], ContractService],
        advisors: Callable[[], AdvisorService],
        aliases: Callable[[], AliasService],
        now: Callable[[], int],
    ) -> None:
        self._trials, self._advisors, self._aliases, self._now = trials, advisors, aliases, now

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
                    FORMAT,
                ),
                self._trial,
                f"A first engagement of {MIN_DAYS} to {MAX_DAYS} days: list, start, stop, review.",
                by=ClassBy("action", {"list": "R", "start": "X", "stop": "X", "review": "R"}),
            )
        ]

    async def _trial(self, params: dict[str, Any]) -> dict[str, Any]:
        action, advisor = params["action"], params["advisor"].strip()
        if params["days"] is not None and action != "start":
            raise InvalidParams(f"days belongs to action=start, not to {action}")
        if action != "list" and not advisor:
            raise InvalidParams(f"action={action} needs advisor=: a name or a key")
        if action == "start":
            result = await self._start(advisor, params["days"])
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
        # Who stops or reviews asks for the figures, so they stand before the criteria they were judged by.
        return {**self._row(trial), "stored": trial.evaluation is not None, "review": evaluation}

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
