"""What is owed to us by the month: which contract or credential says so, how much for which period
(docs/protocol/11-advisor-kit.md §8, §15.10; docs/decisions/0641).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec
from hive_shared import vc
from hive_shared.errors import Conflict, HiveError, InvalidParams, NotFound
from hive_shared.invoice_messages import InvoiceRequest, Purpose
from hive_shared.market.contract_machine import RUNNING
from hive_shared.market.dues import (
    PERIOD_S,
    monthly_of_credential,
    monthly_of_terms,
    period_due,
    takes_bolt11,
)
from hive_shared.store import Tx

from hive_advisor.domain.earning import Earning, EarningState, period_name
from hive_advisor.domain.engagement import Engagement, Thread
from hive_advisor.domain.rows import Client
from hive_advisor.services.ports import ClientRows

_EARLY_S: Final = 31 * 86_400
"""A period is asked for at most so long before it begins."""
_SLACK_S: Final = 3_600
"""How far clocks and the seconds of an agreement may be apart."""


class AgreementRows(Protocol):
    """Contracts (storage.engagement_store.EngagementStore)."""

    def of_contract(self, tx: Tx, contract_id: str) -> Thread | None: ...
    def contract(self, tx: Tx, contract_id: str) -> Engagement | None: ...


class PeriodRows(Protocol):
    """Earnings (storage.invoice_store.InvoiceStore)."""

    def of_command(self, tx: Tx, command_id: str) -> Earning | None: ...
    def of_context(self, tx: Tx, context: str) -> list[Earning]: ...


class Agreed(msgspec.Struct, frozen=True):
    """A monthly fee (sat): periods begin from `begun` to before `ends`; one that `until` cuts short costs
    less. Times are Unix seconds."""

    monthly_sats: int
    methods: object
    begun: int
    ends: int
    until: int | None = None


class MonthlyFees:
    """Judges requests for a period's invoice."""

    def __init__(
        self,
        agreements: AgreementRows,
        clients: ClientRows,
        rows: PeriodRows,
        now: Callable[[], int],
    ) -> None:
        self._agreements, self._clients, self._rows, self._now = agreements, clients, rows, now

    def owed(self, tx: Tx, client: Client, request: InvoiceRequest) -> Earning | str:
        """What was noted for the period that is asked for, or the name under which it is to be noted.

        Raises NotFound (no agreement of this client), InvalidParams (nothing, or another amount, is owed for
        that), Conflict (the contract does not run, or the time was invoiced before).
        """
        context = str(request.contract_id)
        agreed = self._agreed(tx, client, context)
        if request.purpose not in (Purpose.PERIOD, Purpose.PRORATED) or request.period_start is None:
            raise InvalidParams(
                f"{request.purpose} of a contract is not invoiced on request; period and prorated are, with"
                " their period_start"
            )
        start = request.period_start
        known = self._rows.of_command(tx, period_name(context, start))
        if known is None:
            self._check_time(tx, context, agreed, start)
        purpose, sats = period_due(agreed.monthly_sats, start, agreed.until)
        sats = sats if known is None else known.amount_sats
        if not takes_bolt11(agreed.methods):
            sats = 0
        if sats != request.amount_sats:
            raise other_amount(request, sats)
        if known is None and purpose != request.purpose:
            raise InvalidParams(f"{sats} sat are owed as {purpose}, not as {request.purpose}")
        return period_name(context, start) if known is None else known

    def _agreed(self, tx: Tx, client: Client, context: str) -> Agreed:
        thread, contract = self._agreements.of_contract(tx, context), self._agreements.contract(tx, context)
        if thread is not None and contract is not None and thread.peer_key == client.node_key:
            return self._of_contract(contract)
        credential = self._clients.credential(tx, context)
        if credential is None or credential.client_id != client.client_id:
            raise NotFound(f"contract {context} is none of ours", reason="not_found")
        if credential.contract_id:
            raise InvalidParams(f"the fee of that credential is agreed in contract {credential.contract_id}")
        if credential.state != "active":
            raise Conflict(f"credential {context} is {credential.state}")
        document: dict[str, Any] = credential.document
        pay = document.get("compensation")
        pay = pay if isinstance(pay, dict) else {}
        return Agreed(
            monthly_of_credential(pay),
            pay.get("accepted_methods"),
            int(document["valid_from"]),
            credential.valid_until,
        )

    def _of_contract(self, contract: Engagement) -> Agreed:
        if contract.state not in RUNNING:
            raise Conflict(f"contract {contract.contract_id} is {contract.state.value}")
        subject = contract.document["credentialSubject"]
        pay, begun = subject["compensation"], vc.unix(subject["duration"]["fullTermStart"], "fullTermStart")
        until = contract.ends_at
        if contract.effective_at is not None:
            until = min(until, contract.effective_at)
        return Agreed(monthly_of_terms(pay), pay["acceptedMethods"], begun, until, until)

    def _check_time(self, tx: Tx, context: str, agreed: Agreed, start: int) -> None:
        if not agreed.begun - _SLACK_S <= start < agreed.ends:
            raise InvalidParams(
                f"no period begins at {start}: it was agreed from {agreed.begun} to {agreed.ends}"
            )
        if start > self._now() + _EARLY_S:
            raise InvalidParams(f"the period of {start} is more than 31 days away")
        for other in self._rows.of_context(tx, context):
            if other.state != EarningState.VOID and abs(other.period_start - start) < PERIOD_S - _SLACK_S:
                raise Conflict(
                    f"the period of {other.period_start} was invoiced already", reason="already_invoiced"
                )


def other_amount(request: InvoiceRequest, owed: int) -> HiveError:
    """The refusal of an amount that is not what is owed."""
    return InvalidParams(
        f"an invoice of {request.amount_sats} sat was asked for; {owed} sat are owed",
        reason="amount_mismatch",
    )
