"""Subscriptions on this node's adapters; part of the composition root."""

from collections.abc import Callable, Sequence

from hive_shared import vc
from hive_shared.market.contract_machine import RUNNING
from hive_shared.market.dues import monthly_of_credential, monthly_of_terms, takes_bolt11
from hive_shared.store import Db, Tx

from cl_hive_comms.domain.engagement import Engagement
from cl_hive_comms.domain.subscription import Subscription
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.debts import Letters, Pushes
from cl_hive_comms.services.engagement_service import EngagementService
from cl_hive_comms.services.messenger_signed import RESTORED_AT
from cl_hive_comms.services.payment_service import PaymentService
from cl_hive_comms.services.period_invoices import PeriodInvoices, Whom
from cl_hive_comms.services.ports_commands import Alerts, KillSwitch
from cl_hive_comms.services.ports_identity import Log
from cl_hive_comms.services.ports_payments import Lightning, Offers, PaymentRows
from cl_hive_comms.services.subscription_service import Dues, SubscriptionService
from cl_hive_comms.storage.contract_store import ContractStore
from cl_hive_comms.storage.state_store import StateStore
from cl_hive_comms.storage.subscription_store import SubscriptionStore


class Agreed:
    """Contracts, and credentials that name a monthly fee."""

    def __init__(self, credentials: CredentialService) -> None:
        self._credentials, self._contracts = credentials, ContractStore()

    def whom(self, tx: Tx, row: Subscription) -> Whom | None:
        """The agent of the contract that began it, else of the advisor's newest credential with this fee."""
        if row.contract_id is not None:
            contract = self._contracts.find(tx, row.contract_id)
            if contract is None or contract.status not in RUNNING:
                return None
            ends = [at for at in (contract.contract_end, contract.effective_at) if at is not None]
            held = self._credentials.row(contract.credential_id or "")
            there = held is not None and held.acked_at is not None
            return Whom(contract.peer_pubkey, row.contract_id, min(ends, default=None), there)
        for own in reversed(self._credentials.rows()):
            if own.advisor_id != row.advisor_id or own.status != "active":
                continue
            pay = own.credential.compensation
            if monthly_of_credential(pay) == row.amount_sats and takes_bolt11(pay.get("accepted_methods")):
                contract_id = self._contracts.of_credential(tx, own.credential_id)
                return Whom(own.agent_key, contract_id or own.credential_id)
        return None

    def over(self, tx: Tx, contract_id: str) -> bool:
        """Whether a contract has ended, or is none of ours."""
        contract = self._contracts.find(tx, contract_id)
        return contract is None or contract.status not in RUNNING


def compose_subscriptions(
    db: Db,
    rows: PaymentRows,
    payments: PaymentService,
    node: tuple[Lightning, Offers],
    methods: Callable[[], Sequence[str]],
    credentials: CredentialService,
    name_of: Callable[[str], str],
    mail: tuple[Letters, Pushes],
    around: tuple[KillSwitch, Alerts, Log],
) -> SubscriptionService:
    """What pays period by period; a subscription lives as long as its advisor has a credential."""
    return SubscriptionService(
        db=db,
        rows=SubscriptionStore(),
        payments=payments,
        lightning=node[0],
        offers=node[1],
        invoices=PeriodInvoices(
            *(db, SubscriptionStore(), rows, node[0], *mail, Agreed(credentials)), now=unix_now
        ),
        hired=lambda advisor_id: credentials.active_of(advisor_id) is not None,
        name_of=name_of,
        methods=methods,
        kill_switch=around[0],
        alerts=around[1],
        now=unix_now,
        log=around[2],
    )


def monthly_fees(
    contracts: EngagementService, credentials: CredentialService, subscriptions: SubscriptionService
) -> None:
    """Contracts that become active begin what they cost by the month, and that is looked at as soon as the
    agent says that it holds its credential."""

    def begin(tx: Tx, row: Engagement, advisor_id: str) -> None:
        pay, document = row.terms["compensation"], row.document
        assert document is not None
        term = document["credentialSubject"]["duration"]["fullTermStart"]
        # As its conversation goes on above every number that may have been used.
        restored = row.created_at <= int(StateStore().get(tx, RESTORED_AT) or 0)
        start = vc.unix(term, "fullTermStart")
        dues = Dues(monthly_of_terms(pay), tuple(pay["acceptedMethods"]), start, restored)
        subscriptions.begin(tx, row.contract_id, row.advisor_name, advisor_id, dues)

    contracts.activated = begin
    credentials.on_change(subscriptions.kick)
