"""Tools of the role advisor: what a program may do for an advisor, by class
(docs/protocol/11-advisor-kit.md §11.1). Of the market's those that read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Literal

import msgspec
from hive_shared.registry.control import TELEMETRY_METRICS
from hive_shared.runtime_spec import Param

from hive_advisor.domain.journal import DECISION_KINDS
from hive_advisor.domain.tool_schema import Tool, schema_of

CONTROL: Final = "hive:control/v1"


class AdvisorTool(msgspec.Struct, frozen=True):
    """One tool; ``within_s`` is how long it may take."""

    name: str
    klass: Literal["R", "A"]
    description: str
    params: tuple[Param, ...] = ()
    within_s: int = 30

    @property
    def tool(self) -> Tool:
        acts = self.klass == "A"
        text = self.description + (" Acts." if acts else " Reads only.")
        return Tool(text, acts, schema_of(self.params), self.within_s)


_CLIENT: Final = Param("client", "str", required=True, maximum=64)
_SOME_CLIENT: Final = Param("client", "str", maximum=64)
_ACTION: Final = Param("action", "str", required=True, maximum=80)
_PARAMS: Final = Param("params", "json", default=None)
_COMMAND: Final = Param("command_id", "str", required=True, maximum=36)
_SINCE: Final = Param("since", "int", default=0, minimum=0, maximum=(1 << 53))


def _limit(default: int, most: int) -> Param:
    return Param("limit", "int", default=default, minimum=1, maximum=most)


ADVISOR_TOOLS: Final[Mapping[str, AdvisorTool]] = {
    tool.name: tool
    for tool in (
        AdvisorTool(
            "adv_status", "R", "What a session needs to know first: clients, open commands, what waits."
        ),
        AdvisorTool("adv_clients", "R", "Every client by alias: state, network, receipts."),
        AdvisorTool("adv_client", "R", "One client: credential, limits, what its node serves.", (_CLIENT,)),
        AdvisorTool(
            "adv_schemas",
            "R",
            "Actions that can be asked of a node, with tier and danger; words narrow them.",
            (Param("words", "str", maximum=200), Param("served", "bool", default=True), _limit(60, 200)),
        ),
        AdvisorTool(
            "adv_schema",
            "R",
            "One action, e.g. hive:fee-policy/set_single: parameters, ranges, danger, tier.",
            (_ACTION,),
        ),
        AdvisorTool(
            "adv_plan",
            "R",
            "Check a command against registry, credential and guard; nothing is signed or sent. adv_commit"
            " takes the plan_id within 10 minutes. quote=true also asks the node what it would say.",
            (
                _CLIENT,
                _ACTION,
                _PARAMS,
                Param("note", "str", default="", maximum=500),
                Param("quote", "bool", default=False),
            ),
        ),
        AdvisorTool(
            "adv_read",
            "R",
            "Ask a node something that changes nothing, e.g. hive:monitor/channel_list, and wait for it.",
            (_CLIENT, _ACTION, _PARAMS),
        ),
        AdvisorTool(
            "adv_commands",
            "R",
            "Commands sent, the newest first.",
            (_SOME_CLIENT, Param("state", "str", maximum=20), _limit(20, 100)),
        ),
        AdvisorTool("adv_command", "R", "One command: state, refusal, result.", (_COMMAND,)),
        AdvisorTool(
            "adv_wait",
            "R",
            "Wait until a command is final or waits at its node.",
            (_COMMAND, Param("seconds", "int", default=30, minimum=1, maximum=55)),
            60,
        ),
        AdvisorTool(
            "adv_receipts",
            "R",
            "What a node did, as it signed it; more with since=next_since.",
            (_CLIENT, _SINCE, _limit(50, 200)),
        ),
        AdvisorTool("adv_verify", "R", "Check every stored receipt of a client again.", (_CLIENT,)),
        AdvisorTool(
            "adv_telemetry",
            "R",
            "Figures that a node sent by itself, the newest first; since is Unix seconds.",
            (_CLIENT, Param("metric", "str", choices=TELEMETRY_METRICS), _SINCE, _limit(50, 500)),
        ),
        AdvisorTool("adv_trend", "R", "How a client's sums went over 7 and 30 days.", (_CLIENT,)),
        AdvisorTool(
            "adv_velocity",
            "R",
            "How fast a client's channels drain and fill, the most urgent first.",
            (_CLIENT, _limit(50, 200)),
        ),
        AdvisorTool(
            "adv_journal",
            "R",
            "Decisions noted so far and what came of them, the newest first.",
            (_SOME_CLIENT, Param("open", "bool", default=False), _limit(20, 100)),
        ),
        AdvisorTool(
            "adv_alerts",
            "R",
            "What nodes and this advisor found worth a look, the newest first.",
            (Param("closed", "bool", default=False), _limit(50, 200)),
        ),
        AdvisorTool(
            "adv_threads",
            "R",
            "Operators who want to hire, the one changed last first: how far, whose turn, what it pays.",
            (_limit(20, 100),),
        ),
        AdvisorTool(
            "adv_thread",
            "R",
            "One negotiation by its contract_id: terms, what each round changed, where it widened the scope.",
            (Param("contract_id", "str", required=True, maximum=36),),
        ),
        AdvisorTool(
            "adv_contracts",
            "R",
            "Contracts that their operators signed, the newest first.",
            (_limit(20, 100),),
        ),
        AdvisorTool(
            "adv_balances",
            "R",
            "Ecash of this advisor in sat by mint: free, held by what is under way, not yet counted.",
        ),
        AdvisorTool(
            "adv_events",
            "R",
            "What happened, in order; more with since=next_since.",
            (_SINCE, _limit(50, 200)),
        ),
        AdvisorTool("adv_approvals", "R", "What waits for the human: plans held, votes asked for."),
        AdvisorTool(
            "adv_tools_search",
            "R",
            "Tools and actions that hold all the words.",
            (Param("words", "str", required=True, maximum=200),),
        ),
        AdvisorTool(
            "adv_halt",
            "R",
            "Stop all sending of commands, at once; only the human releases it.",
            (Param("reason", "str", default="", maximum=200),),
        ),
        AdvisorTool(
            "adv_commit",
            "A",
            "Send exactly what a plan says, once; where the guard holds it a human decides first.",
            (Param("plan_id", "str", required=True, maximum=36),),
        ),
        AdvisorTool("adv_cancel", "A", "Withdraw a command that waits at its node.", (_COMMAND,)),
        AdvisorTool(
            "adv_telemetry_subscribe",
            "A",
            "Have a node send figures by itself.",
            (
                _CLIENT,
                Param("metrics", "json", required=True),
                Param("interval_s", "int", default=3_600, minimum=300, maximum=86_400),
                Param("days", "int", default=30, minimum=1, maximum=365),
            ),
        ),
        AdvisorTool(
            "adv_alert_ack",
            "A",
            "Say that an alert was seen; its node is told.",
            (Param("alert", "int", required=True, minimum=1, maximum=(1 << 53)),),
        ),
        AdvisorTool(
            "adv_journal_add",
            "A",
            "Note a decision and why; what came of it is measured later.",
            (
                _CLIENT,
                Param("kind", "str", required=True, choices=DECISION_KINDS),
                Param("target", "str", required=True, maximum=200),
                Param("reasoning", "str", required=True, maximum=2_000),
                Param("confidence", "int", minimum=0, maximum=100),
                Param("predicted", "str", default="", maximum=500),
                Param("command_id", "str", maximum=36),
            ),
        ),
        AdvisorTool(
            "adv_ask_human",
            "A",
            "Put a question to the human who runs this advisor; it waits with the approvals.",
            (
                Param(
                    "kind",
                    "str",
                    required=True,
                    choices=("question", "approval", "credential", "money", "problem"),
                ),
                Param("object", "str", default="", maximum=64),
                Param("reason", "str", required=True, maximum=500),
            ),
        ),
    )
}


def listed_tools(allowed: Collection[str]) -> dict[str, Tool]:
    """What a program is shown: what reads, and what the human listed."""
    return {
        name: declared.tool
        for name, declared in ADVISOR_TOOLS.items()
        if declared.klass == "R" or name in allowed
    }


HUMANS_OWN: Final = frozenset(
    f"adv_{name}"
    for name in (
        *("identity", "keys", "backup", "wallet", "pay", "bid_submit", "accept", "sign", "publish", "rate"),
        *("dispute", "handoff", "confirm", "approve", "guard", "release"),
    )
)
"""Class X: no list opens them."""
