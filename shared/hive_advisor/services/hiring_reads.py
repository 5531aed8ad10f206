"""What the role advisor's tools tell of negotiations and contracts (docs/protocol/11-advisor-kit.md §11.1,
§11.2). What operators wrote is left unmarked, so that it ends beside the data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from hive_shared.market import terms as term_rules

from hive_advisor.domain.cleaning import Own
from hive_advisor.domain.engagement import Engagement, Thread
from hive_advisor.domain.names import offered_alias
from hive_advisor.domain.rows import Client
from hive_advisor.domain.thread_rows import contract_row, thread_row, thread_view
from hive_advisor.domain.tool_output import Outside, own
from hive_advisor.services.advisor_kit import AdvisorKit
from hive_advisor.services.advisor_tools import Made, Said

Given = Mapping[str, Any]
_SECTIONS: Final = (
    term_rules.Terms,
    term_rules.Scope,
    term_rules.Compensation,
    term_rules.Sla,
    term_rules.Penalty,
    term_rules.Duration,
    term_rules.TrialEvaluation,
    term_rules.Criterion,
    term_rules.Coordination,
    term_rules.Referral,
    term_rules.Dispute,
    term_rules.NodeInfo,
)
_NAMES: Final = frozenset(field.name for kind in _SECTIONS for field in msgspec.structs.fields(kind))
_PATH: Final = re.compile(r"[A-Za-z]{1,40}(\.[A-Za-z_]{1,64}){0,5}")
_OURS: Final = ("contract_id", "operator", "state", "turn", "model", "tier", "ended_by", "by", "verb", "from")


class HiringReads:
    """Reads of the kit's own store; nothing is asked of anybody."""

    def __init__(self, kit: AdvisorKit) -> None:
        self._kit = kit

    @property
    def made(self) -> Mapping[str, Made]:
        """One function per tool."""
        return {
            "adv_threads": self._threads,
            "adv_thread": self._thread,
            "adv_contracts": self._contracts,
        }

    async def _threads(self, given: Given) -> Said:
        now = self._kit.market.now()
        items = []
        for thread, engagement in await self._kit.market.negotiations.listed(given["limit"]):
            name = await self._operator(thread)
            items.append(Outside(f"operator {name}", _marked(thread_row(thread, engagement, name, now))))
        return Said({"items": items, "count": len(items)})

    async def _thread(self, given: Given) -> Said:
        view = await self._kit.market.negotiations.view(given["contract_id"])
        name = await self._operator(view.thread)
        now = self._kit.market.now()
        whole = thread_view(view.thread, view.messages, view.engagement, name, now)
        return Said({"thread": Outside(f"operator {name}", _marked(whole))})

    async def _contracts(self, given: Given) -> Said:
        items = []
        for thread, engagement in await self._kit.market.contracts.listed(given["limit"]):
            name = await self._operator(thread)
            items.append(Outside(f"operator {name}", _marked(_contract(thread, engagement, name))))
        return Said({"items": items, "count": len(items)})

    async def _operator(self, thread: Thread) -> str:
        client: Client | None = await self._kit.clients.with_node_key(thread.peer_key)
        return offered_alias(thread.peer_key) if client is None else client.alias


def _contract(thread: Thread, engagement: Engagement, operator: str) -> dict[str, Any]:
    row = contract_row(thread, engagement, operator)
    return {**row, "contract_hash": engagement.contract_hash}


def _marked(value: Any, key: str = "") -> Any:
    """Names of the terms' own fields, and words that were chosen here, marked as ours."""
    if isinstance(value, Mapping):
        return {_name(str(name)): _marked(item, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return own(value) if key == "widened" else [_marked(item, key) for item in value]
    return Own(value) if isinstance(value, str) and key in _OURS else value


def _name(name: str) -> str:
    known = name in _NAMES or (
        _PATH.fullmatch(name) is not None and name.partition(".")[0] in _NAMES and "Targets" not in name
    )
    return Own(name) if known else name
