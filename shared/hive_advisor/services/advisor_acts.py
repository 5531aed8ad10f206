"""Plans and what the role advisor's acting tools do, under the guard (docs/protocol/11-advisor-kit.md §6,
§11.1). Nothing here confirms, approves or releases: that is the human's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from hive_shared.errors import InvalidParams
from hive_shared.registry.control import TELEMETRY_METRICS

from hive_advisor.domain.advisor_tools import CONTROL
from hive_advisor.domain.allow_list import AllowList
from hive_advisor.domain.cleaning import Own
from hive_advisor.domain.command_machine import CommandState
from hive_advisor.domain.tool_output import Outside, own
from hive_advisor.services.advisor_kit import AdvisorKit
from hive_advisor.services.advisor_reads import AdvisorReads, found_action, params_of
from hive_advisor.services.advisor_tools import AdvisorTools, Made, Said
from hive_advisor.services.guard import Halt
from hive_advisor.services.hiring_reads import HiringReads

ORIGIN: Final = "mcp"
WAIT_S: Final = 25
_DAY: Final = 86_400
Given = Mapping[str, Any]


class AdvisorActs:
    """``halt`` is the switch that stops everything; here it is only ever engaged."""

    def __init__(self, kit: AdvisorKit, reads: AdvisorReads, halt: Halt, *, now: Callable[[], int]) -> None:
        self._kit, self._reads, self._halt, self._now = kit, reads, halt, now

    @property
    def made(self) -> Mapping[str, Made]:
        """One function per tool."""
        return {
            "adv_plan": self._plan,
            "adv_halt": self._engage,
            "adv_commit": self._commit,
            "adv_cancel": self._cancel,
            "adv_telemetry_subscribe": self._subscribe,
            "adv_alert_ack": self._acknowledge,
            "adv_journal_add": self._note,
            "adv_ask_human": self._ask,
        }

    async def _plan(self, given: Given) -> Said:
        spec = found_action(given["action"])
        if spec.schema == CONTROL:
            raise InvalidParams(f"{spec.name} is the kit's own to send", data={"param": "action"})
        client = await self._kit.clients.named(given["client"])
        plan = await self._kit.plan(client, spec.schema, spec.name, params_of(given), note=given["note"])
        judged = await self._kit.guard.judged(plan, ORIGIN)
        draft = await self._kit.plans.draft(plan, ORIGIN)
        summary = {**judged.summary(), "client": Own(client.alias)}
        # The program's own values and the registry's; what the credential says is its node's.
        data: dict[str, Any] = {
            **own({name: value for name, value in summary.items() if name != "constraints"}),
            "constraints": Outside(f"client {client.alias}", summary["constraints"]),
            "plan_id": draft.command_id,
            "expires": draft.deadline,
        }
        if given["quote"]:
            said = await self._kit.quote(plan, WAIT_S)
            data["node_says"] = Outside(f"client {client.alias}", said["result"] or said)
        return Said(data, plan=draft.command_id)

    async def _commit(self, given: Given) -> Said:
        committed = await self._kit.plans.commit(given["plan_id"], ORIGIN)
        if committed.state == CommandState.HELD:
            question = await self._kit.questions.of_command(committed.command_id)
            data = {
                "held": True,
                "approval_id": question.approval_id,
                "plan_id": committed.command_id,
                "expires": question.expires,
                "reason": own(question.reason),
            }
            return Said(data, plan=committed.command_id)
        return await self._reads.shown(await self._kit.follow(committed, WAIT_S))

    async def _cancel(self, given: Given) -> Said:
        command = await self._kit.commands.get(given["command_id"])
        if not command.envelope:
            return await self._reads.shown(await self._kit.plans.withdraw(command))
        said = await self._kit.cancel(command, WAIT_S)
        alias = await self._kit.alias_of(command.client_id)
        return Said(said, alias, plan=command.command_id)

    async def _subscribe(self, given: Given) -> Said:
        metrics = given["metrics"]
        if (
            not isinstance(metrics, list)
            or not metrics
            or not set(map(str, metrics)) <= set(TELEMETRY_METRICS)
        ):
            raise InvalidParams(
                f"metrics takes a list of {', '.join(TELEMETRY_METRICS)}", data={"param": "metrics"}
            )
        client = await self._kit.clients.named(given["client"])
        wanted = tuple(dict.fromkeys(map(str, metrics)))
        said = await self._kit.telemetry.subscribe(
            client, wanted, given["interval_s"], given["days"] * _DAY, WAIT_S
        )
        return Said(said, client.alias)

    async def _acknowledge(self, given: Given) -> Said:
        alert = await self._kit.alerts.acknowledge(given["alert"])
        return Said({"alert": alert.number, "state": Own(alert.state)})

    async def _note(self, given: Given) -> Said:
        client = await self._kit.clients.named(given["client"])
        about = given["command_id"]
        decision = await self._kit.journal.decide(
            client,
            given["kind"],
            given["target"],
            given["reasoning"],
            confidence=given["confidence"],
            predicted=given["predicted"],
            command_id=None if about is None else (await self._kit.commands.get(about)).command_id,
            origin=ORIGIN,
        )
        return Said({"decision_id": decision.decision_id, "said": decision.said, "created": decision.created})

    async def _ask(self, given: Given) -> Said:
        question = await self._kit.questions.ask(given["kind"], given["object"], given["reason"], ORIGIN)
        return Said(
            {"approval_id": question.approval_id, "state": Own(question.state), "expires": question.expires}
        )

    async def _engage(self, given: Given) -> Said:
        fresh = self._halt.engage(given["reason"], self._now())
        return Said({"halted": True, "before": not fresh})


def advisor_toolbox(
    kit: AdvisorKit, halt: Halt, allow: Callable[[], AllowList], *, now: Callable[[], int]
) -> AdvisorTools:
    """The tools of the role advisor over an open kit."""
    reads = AdvisorReads(kit)
    hiring = HiringReads(kit)
    return AdvisorTools(
        {**reads.made, **hiring.made, **AdvisorActs(kit, reads, halt, now=now).made}, allow, now=now
    )
