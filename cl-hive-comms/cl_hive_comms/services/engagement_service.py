"""From agreement to the end of a contract: both signatures, the credential, notice, termination
(docs/protocol/04-marketplace-and-nostr.md §10).

The node signs in the transaction of the agreement. The credential is issued in the transaction that makes the
contract active, under the id that the contract names: whatever dies in between, there is one or none, and
`settle` takes up what was left.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, Protocol

import msgspec
from hive_shared import vc
from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue
from hive_shared.errors import ConfirmationRequired, Conflict, HiveError, InvalidParams, NotFound
from hive_shared.market import contract as contracts
from hive_shared.market.contract_machine import RUNNING, ContractEvent, ContractState
from hive_shared.market.messages import (
    MAX_REASON,
    ContractSign,
    ContractSigned,
    EmergencyTermination,
    Message,
    TerminationAck,
    TerminationNotice,
)
from hive_shared.market.negotiation import Side
from hive_shared.registry import Tier
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Db, StoreError, Tx

from ..domain.advisor import CredentialRow
from ..domain.engagement import Engagement, check_open
from .advisor_requests import Dismissed, Hire, Hired, Issue
from .alert_service import AlertService
from .credential_service import CredentialService
from .market_mail import MarketMail
from .ports_engagements import EngagementRows
from .ports_identity import Clock, Log, NodeKeys, RandomBytes
from .receipt_service import ReceiptService, operator_event

DAY_S: Final = 86_400
PERIOD_S: Final = 30.0
_GRACE_S: Final = 3_600
_MAIL_S: Final = 7 * DAY_S
_BATCH: Final = 1_000
_REVOKED: Final = "the credential was revoked"


class Advisors(Protocol):
    """Who issues and ends credentials (services.advisor_service.AdvisorService)."""

    async def authorize(
        self, hire: Hire, also: Callable[[Tx, CredentialRow], None] | None = None
    ) -> Hired: ...
    async def revoke_credential(
        self, credential_id: str, reason: str, also: Callable[[Tx, int], None] | None = None
    ) -> Dismissed: ...


class EngagementService:
    """Signs, issues, ends. `name_for(name)` makes a name usable for a new advisor, or empty."""

    def __init__(
        self,
        db: Db,
        rows: EngagementRows,
        mail: MarketMail,
        *,
        advisors: Callable[[], Advisors],
        credentials: CredentialService,
        receipts: ReceiptService,
        alerts: AlertService,
        keys: NodeKeys,
        name_for: Callable[[str], str],
        now: Clock,
        random_bytes: RandomBytes,
        log: Log,
    ) -> None:
        self._db, self._rows, self._mail = db, rows, mail
        self._advisors, self._credentials = advisors, credentials
        self._receipts, self._alerts, self._keys = receipts, alerts, keys
        self._name_for, self._now, self._random_bytes, self._log = name_for, now, random_bytes, log
        self._alone = RowByRow(log)
        self._since = now()
        self._wake = asyncio.Event()
        self._settling = asyncio.Lock()
        # At start too: what was revoked while nobody looked ends its contract.
        self._credentials_changed = True
        credentials.on_change(self._look_at_credentials)
        self.changed: Callable[[], Awaitable[None]] = _nothing
        self.activated: Callable[[Tx, Engagement, str], None] = lambda _tx, _row, _advisor_id: None
        mail.verbs.update(
            {
                ContractSigned: self._signed,
                TerminationNotice: self._noticed,
                TerminationAck: self._acknowledged,
                EmergencyTermination: self._ended_by_advisor,
            }
        )

    def wake(self) -> None:
        """Look through the contracts now."""
        self._wake.set()

    async def run(self) -> None:
        """Settle what is due, until cancelled."""
        while True:
            self._wake.clear()
            await self.settle()
            try:
                async with asyncio.timeout(PERIOD_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    # -- signatures ----------------------------------------------------------------------------------

    def sign(self, tx: Tx, row: Engagement) -> Engagement:
        """Sign what was agreed and send it, in the caller's transaction. Raises Capacity."""
        now = self._now()
        contract = contracts.Contract(
            contract_id=row.contract_id,
            operator_key=self._keys.pubkey,
            advisor_key=row.peer_pubkey,
            credential_ref=str(uuid.UUID(bytes=self._random_bytes(16), version=4)),
            salt=self._random_bytes(32).hex(),
            node_ids=(row.node_id,),
            valid_from=now,
        )
        document = contracts.sign(contracts.build(contract, row.terms), self._keys.secret(), now)
        saved = self._rows.save(
            tx,
            row.after(
                ContractEvent.ON_OPERATOR_SIGNED,
                now,
                operator_id=vc.did_of(contract.operator_key),
                document=document,
                contract_hash=contracts.contract_hash(document),
                credential_id=contract.credential_ref,
                contract_start=now,
                contract_end=vc.unix(document["validUntil"], "validUntil"),
            ),
        )
        terms_hash = row.thread.agreed_round.terms_hash
        sent = ContractSign(row.contract_id, terms_hash, document)
        self._mail.send(tx, saved, sent, now + contracts.SIGNING_S)
        self._receipt(tx, "market_sign", saved, {"contract_hash": saved.contract_hash})
        return saved

    def _signed(self, tx: Tx, row: Engagement, message: Message, at: int) -> None:
        assert isinstance(message, ContractSigned)
        check_open(row)
        if row.status is not ContractState.SIGNING or row.document is None:
            raise Conflict(f"contract {row.contract_id} is {row.status.value}", reason="stale_state")
        if message.contract_hash != row.contract_hash:
            raise Conflict(
                f"contract_hash {message.contract_hash} is not {row.contract_hash}", reason="stale_terms"
            )
        document = {**row.document, "proof": [*row.document["proof"], message.proof]}
        operator = contracts.read_contract(row.document).operator_key
        contracts.check_proofs(document, operator, row.peer_pubkey)
        saved = self._rows.save(tx, row.after(ContractEvent.ON_SIGNED, self._now(), document=document))
        self._tell(tx, saved, "market_signed", "signed the contract")

    # -- the credential ------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Issue what both have signed, end what is due, give up what was not signed in time."""
        async with self._settling:
            now = self._now()
            due = await self._db.read(lambda tx: self._rows.due(tx, now, _BATCH))
            moved = False
            with self._alone.round("contracts") as alone:
                for row in (*due, *await self._revoked({row.contract_id for row in due})):
                    with alone(row.contract_id):
                        try:
                            moved = await self._settle_one(row) or moved
                        except (HiveError, StoreError) as error:
                            self._credentials_changed = True
                            await self._stuck(row, error)
        if moved:
            self._mail.kick()
            await self.changed()

    async def _revoked(self, others: Collection[str]) -> list[Engagement]:
        """Those that run, beside these others, and whose credential is revoked."""
        if not self._credentials_changed:
            return []
        self._credentials_changed = False
        running = await self._db.read(lambda tx: self._rows.credentials(tx, RUNNING))
        gone = [
            contract_id
            for contract_id, credential_id in running
            if contract_id not in others and self._is_revoked(credential_id)
        ]
        return await self._db.read(lambda tx: [self._rows.get(tx, contract_id) for contract_id in gone])

    async def _settle_one(self, row: Engagement) -> bool:
        now = self._now()
        if row.status is ContractState.SIGNED and row.effective_at is None:
            await self._issue(row)
            return True
        if row.status in (ContractState.AGREED, ContractState.SIGNING):
            begun = max(row.contract_start or row.updated_at, self._since - contracts.SIGNING_S)
            if now < begun + contracts.SIGNING_S + _GRACE_S:
                return False
            await self._move(row, ContractEvent.ON_EXPIRED, "market_expired", "did not sign in time")
            return True
        if row.contract_end is not None and now >= row.contract_end:
            await self._move(row, ContractEvent.ON_COMPLETED, "market_completed", "has reached its end")
            return True
        if row.effective_at is not None and now >= row.effective_at:
            await self._revoke(row, row.termination_reason or "notice ended", None)
            return True
        if row.credential_id is not None and self._is_revoked(row.credential_id):
            await self._revoke(row, _REVOKED, Side.OPERATOR)
            return True
        return False

    async def _issue(self, row: Engagement) -> None:
        """The credential and the active contract, in one transaction."""

        def also(tx: Tx, issued: CredentialRow) -> None:
            fresh = self._rows.get(tx, row.contract_id)
            active = self._rows.save(tx, fresh.after(ContractEvent.ON_ACTIVATED, self._now()))
            self._receipt(tx, "market_active", active, {"contract_hash": active.contract_hash})
            self.activated(tx, active, issued.advisor_id)
            self._tell(tx, active, "market_active", "works for this node from now on")

        await self._advisors().authorize(self._hire(row), also)

    def _hire(self, row: Engagement) -> Issue:
        scope, pay = row.terms["scope"], row.terms["compensation"]
        assert row.credential_id is not None and row.contract_end is not None
        return Issue(
            advisor=self._name_for(row.advisor_name) if self._new(row.peer_pubkey) else "",
            npub=row.peer_pubkey,
            confirm=True,
            note=f"contract {row.contract_id}",
            tier=Tier.parse(scope["permissionTier"]),
            schemas=tuple(scope["schemas"]),
            limits=dict(scope["constraints"]),
            action_cooldown_s=row.terms.get("coordination", {}).get("actionCooldownSeconds", 300),
            pay=credential_pay(pay),
            credential_id=row.credential_id,
            until=row.contract_end,
        )

    def _new(self, pubkey: str) -> bool:
        return all(advisor.pubkey != pubkey for advisor in self._credentials.advisors())

    async def _stuck(self, row: Engagement, error: HiveError | StoreError) -> None:
        self._log("warning", "contract_not_settled", contract=row.contract_id, why=str(error)[:200])
        if row.status is ContractState.SIGNED:
            text = f"contract {row.contract_id} with {row.advisor_name} is signed, but its credential"
            await self._alerts.alert(
                Level.WARNING,
                "market_not_issued",
                f"{text} cannot be issued: {str(error)[:200]}; it is tried again",
                f"market_not_issued:{row.contract_id}",
            )

    # -- the end -------------------------------------------------------------------------------------

    async def terminate(self, contract_id: str, reason: str, *, emergency: bool, confirm: bool) -> Engagement:
        """Give notice, or with `emergency` end it at once: from the commit on no command is taken.

        Raises InvalidParams, NotFound, Conflict, ConfirmationRequired.
        """
        if len(reason) > MAX_REASON:
            raise InvalidParams(f"reason is {len(reason)} characters, at most {MAX_REASON}")
        row = await self._db.read(lambda tx: self._rows.get(tx, contract_id))
        check_open(row)
        if row.status not in RUNNING:
            raise Conflict(
                f"contract {contract_id} is {row.status.value}: reject or abort it", reason="stale_state"
            )
        if emergency and not confirm:
            raise ConfirmationRequired(
                f"emergency=true ends the contract with {row.advisor_name} without notice; add confirm=true"
            )
        if emergency or row.status is ContractState.SIGNED:
            await self._revoke(row, reason, Side.OPERATOR)
        else:
            await self._db.write(lambda tx: self._give_notice(tx, contract_id, reason))
            self.wake()
        self._mail.kick()
        await self.changed()
        return await self._db.read(lambda tx: self._rows.get(tx, contract_id))

    def _give_notice(self, tx: Tx, contract_id: str, reason: str) -> None:
        row, now = self._rows.get(tx, contract_id), self._now()
        days = row.terms["duration"].get("noticePeriodDays", 7)
        effective = min(now + days * DAY_S, row.contract_end or now + days * DAY_S)
        saved = self._rows.save(
            tx,
            row.after(
                ContractEvent.ON_NOTICE,
                now,
                notice_at=now,
                effective_at=effective,
                termination_reason=reason,
            ),
        )
        self._mail.send(tx, saved, TerminationNotice(contract_id, effective, reason), now + _MAIL_S)
        self._receipt(tx, "market_notice", saved, {"effective_at": effective, "reason": reason})

    def _noticed(self, tx: Tx, row: Engagement, message: Message, at: int) -> None:
        assert isinstance(message, TerminationNotice)
        check_open(row)
        days = row.terms["duration"].get("noticePeriodDays", 7)
        least = min(at + days * DAY_S, row.contract_end or at)
        if message.effective_at < least:
            raise Conflict(
                f"effective_at {message.effective_at} is before {least}: the notice period is {days} days",
                reason="notice_too_short",
            )
        now = self._now()
        saved = self._rows.save(
            tx,
            row.after(
                ContractEvent.ON_NOTICE,
                now,
                notice_at=at,
                effective_at=message.effective_at,
                termination_reason=message.reason,
            ),
        )
        self._mail.answer(tx, saved, TerminationAck(row.contract_id, message.effective_at), now + DAY_S)
        self._tell(tx, saved, "market_notice", f"gave notice: {message.reason[:200]}", Level.WARNING)

    def _acknowledged(self, tx: Tx, row: Engagement, message: Message, at: int) -> None:
        """Kept as a message; silence changes nothing, nor does the answer."""

    def _ended_by_advisor(self, tx: Tx, row: Engagement, message: Message, at: int) -> None:
        assert isinstance(message, EmergencyTermination)
        check_open(row)
        if row.status not in RUNNING:
            raise Conflict(f"contract {row.contract_id} is {row.status.value}", reason="stale_state")
        # The credential goes with the next look, which is at once; the contract ends in that transaction.
        self._rows.save(tx, _due(row, self._now(), message.reason or "the advisor ended it"))
        self._tell(tx, row, "market_ended", f"ended it at once: {message.reason[:200]}", Level.WARNING)

    async def _revoke(self, row: Engagement, reason: str, by: Side | None) -> None:
        """End contract and credential in one transaction; `by` is who is told of an end without notice."""

        def also(tx: Tx, now: int) -> None:
            fresh = self._rows.get(tx, row.contract_id)
            saved = self._rows.save(
                tx,
                fresh.after(ContractEvent.ON_TERMINATED, now, terminated_at=now, termination_reason=reason),
            )
            if by is Side.OPERATOR:
                self._mail.send(tx, saved, EmergencyTermination(row.contract_id, reason), now + _MAIL_S)
            self._receipt(tx, "market_terminate", saved, {"reason": reason, "emergency": by is not None})

        try:
            await self._advisors().revoke_credential(row.credential_id or "", reason, also)
        except NotFound:
            # There is none any more, or not yet.
            await self._db.write(lambda tx: also(tx, self._now()))

    def _is_revoked(self, credential_id: str) -> bool:
        standing = self._credentials.row(credential_id)
        return standing is not None and standing.status == "revoked"

    def _look_at_credentials(self) -> None:
        self._credentials_changed = True
        self._wake.set()

    async def _move(self, row: Engagement, event: ContractEvent, code: str, what: str) -> None:
        def step(tx: Tx) -> None:
            saved = self._rows.save(tx, self._rows.get(tx, row.contract_id).after(event, self._now()))
            self._tell(tx, saved, code, what)

        await self._db.write(step)

    # -- inside --------------------------------------------------------------------------------------

    def _receipt(self, tx: Tx, action: str, row: Engagement, params: dict[str, JsonValue]) -> None:
        self._receipts.append(
            tx,
            operator_event(
                action,
                params={"contract_id": row.contract_id, **params},
                result={"status": row.status.value},
                agent_id=row.advisor_did,
                credential_id=row.credential_id,
            ),
        )

    def _tell(self, tx: Tx, row: Engagement, code: str, what: str, level: Level = Level.NOTICE) -> None:
        text = f"contract {row.contract_id}: {row.advisor_name} {what}"
        self._alerts.raise_in(tx, level, code, text, f"{code}:{row.contract_id}:{row.version}")


def credential_pay(pay: Any) -> dict[str, JsonValue] | None:
    """What a contract's compensation says in the credential (02 §2.1); None where no action is paid."""
    model = pay["model"]
    if model == "per_action":
        if not pay["perActionSats"]:
            return None
        return {
            "model": "per_action",
            "rate_sats": pay["perActionSats"],
            "accepted_methods": list(pay["acceptedMethods"]),
        }
    found: dict[str, JsonValue] = {"model": "subscription" if model == "subscription" else "performance"}
    if "baseMonthlySats" in pay:
        found["base_monthly_sats"] = pay["baseMonthlySats"]
    return {**found, "rate_sats": 0, "accepted_methods": list(pay["acceptedMethods"])}


def _due(row: Engagement, now: int, reason: str) -> Engagement:
    if row.status in (ContractState.NOTICE, ContractState.SIGNED, ContractState.TRIAL_REVIEW):
        return msgspec.structs.replace(row, effective_at=now, termination_reason=reason, updated_at=now)
    return row.after(ContractEvent.ON_NOTICE, now, notice_at=now, effective_at=now, termination_reason=reason)


async def _nothing() -> None:
    """Nobody wants to know."""
