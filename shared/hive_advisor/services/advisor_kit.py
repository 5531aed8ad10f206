"""What the tools of the role advisor need of the kit (docs/protocol/11-advisor-kit.md §11.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from hive_advisor.domain.plan import Plan
from hive_advisor.domain.rows import Client, Event, StoredCommand
from hive_advisor.services.alerts import AlertService
from hive_advisor.services.approvals import ApprovalService
from hive_advisor.services.clients import ClientService
from hive_advisor.services.commands import CommandService
from hive_advisor.services.contracts import ContractService
from hive_advisor.services.guard import GuardService
from hive_advisor.services.journal import JournalService
from hive_advisor.services.negotiating import NegotiationService
from hive_advisor.services.plans import PlanService
from hive_advisor.services.questions import QuestionService
from hive_advisor.services.receipts import ReceiptService
from hive_advisor.services.telemetry import TelemetryService


class Hiring(Protocol):
    """Negotiations and contracts (marketing.Market)."""

    negotiations: NegotiationService
    contracts: ContractService

    @property
    def now(self) -> Callable[[], int]: ...


class Balances(Protocol):
    """The wallet, as far as a program may look at it (ecash.Ecash)."""

    async def balances(self) -> list[dict[str, Any]]: ...


class AdvisorKit(Protocol):
    """The open kit (advisor.Advisor): its services, and what it does with them."""

    clients: ClientService
    commands: CommandService
    plans: PlanService
    guard: GuardService
    questions: QuestionService
    receipts: ReceiptService
    telemetry: TelemetryService
    journal: JournalService
    alerts: AlertService
    approvals: ApprovalService

    @property
    def ecash(self) -> Balances: ...

    @property
    def market(self) -> Hiring: ...

    async def brief(self) -> dict[str, Any]: ...

    async def plan(
        self, client: Client, schema_id: str, action: str, params: Mapping[str, Any], *, note: str = ""
    ) -> Plan: ...

    async def execute(self, plan: Plan, *, wait_s: int, origin: str) -> StoredCommand: ...

    async def follow(self, command: StoredCommand, wait_s: int) -> StoredCommand: ...

    async def quote(self, plan: Plan, wait_s: int) -> dict[str, Any]: ...

    async def cancel(self, command: StoredCommand, wait_s: int) -> dict[str, Any]: ...

    async def alias_of(self, client_id: str) -> str: ...

    async def past_events(self, since: int, limit: int) -> list[Event]: ...
