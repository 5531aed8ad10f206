"""What a command earns its agent: checked at step 15, reserved with the `executing` row, owed with the
receipt of its success (docs/protocol/02-fleet-management.md §7.1, §8; 03 §7.2, §7.3).

Nothing is paid here and nothing leaves here: `services.debts` pays what is owed after the commit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from hive_shared.canonical import JsonValue, encode
from hive_shared.crypto import sha256
from hive_shared.errors import HiveError, Internal, from_symbol
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain import compensation
from ..domain.compensation import (
    BOLT11,
    COMPENSATION,
    NOT_DUE,
    OWED,
    RESERVED,
    PayTerms,
    Reward,
    invalid,
)
from ..domain.lightning_invoice import Asked
from ..domain.payment import ADVISOR, OUT, Payment, Target, fee_limit_msat, id_of
from ..domain.payment_checks import LEAST_LEFT_S, check_asked
from ..domain.payment_choice import BEARER_DANGER, CASHU, ESCROW, PER_ACTION, ways
from ..domain.payment_choice import Case as PayCase
from ..domain.payment_machine import Event, State
from .access_fees import Priced
from .command_case import WAITING, Case
from .executors.action import Outcome
from .payment_limits import PaymentLimits
from .ports_commands import CommandRows, CredentialView, Database
from .ports_payments import PaymentRows
from .ticket_work import TicketWork
from .trust_service import TrustService

_LIGHTNING: Final = (BOLT11, CASHU)
"""Ways of the operator's list by which a command is paid."""


class BearerKeys(Protocol):
    """Whom ecash can be locked to (services.bearer_pay.BearerPay)."""

    def shared(self, tx: Tx, agent_key: str, credential_id: str) -> tuple[str, Sequence[str]] | None:
        """The key that an agent announced for a credential, and the mints that both sides take; None where
        there is no key or no mint."""
        ...


class Compensation:
    """Checks claims and books them. `read` is the node's reading of an invoice, `terms` the operator's of
    this moment; `on_owed` is told after the commit that there is something to pay."""

    def __init__(
        self,
        *,
        db: Database,
        rows: PaymentRows,
        limits: PaymentLimits,
        commands: CommandRows,
        trust: TrustService,
        read: Callable[[str], Awaitable[Asked]],
        node_id: str,
        terms: Callable[[], PayTerms],
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._limits, self._commands = db, rows, limits, commands
        self._trust, self._read, self._node_id, self._terms, self._now = trust, read, node_id, terms, now
        self.on_owed: Callable[[], None] = lambda: None
        self.tickets: TicketWork | None = None
        self.bearer: BearerKeys | None = None
        self._owed = False

    # -- what it earns ------------------------------------------------------------------------------------

    def methods(self, view: CredentialView, danger: int = BEARER_DANGER) -> tuple[str, ...]:
        """Ways to be paid for work of a danger that both the credential and this node take, the one to take
        first at the beginning (03 §7.1); a ticket is always the last."""
        accepted = compensation.accepted_of(view.credential.compensation)
        preferred = [name for name in self._terms().methods if name in _LIGHTNING]
        case = PayCase(PER_ACTION, danger=danger, shared_mint=self._shared(view) is not None)
        found = ways(case, preferred, accepted)
        return (*found, ESCROW) if self.tickets is not None and ESCROW in accepted else found

    def _shared(self, view: CredentialView) -> tuple[str, Sequence[str]] | None:
        bearer, document = self.bearer, view.credential
        if bearer is None:
            return None
        return self._db.peek(lambda tx: bearer.shared(tx, document.agent_key, document.credential_id))

    def quote(self, view: CredentialView | None, danger: int) -> dict[str, JsonValue] | None:
        """{price_sats, direction, methods, escrow} of an action that earns something; else None (02 §8)."""
        agreed = {} if view is None else view.credential.compensation
        price_sats = compensation.rate_sats(agreed, danger)
        if view is None or not price_sats:
            return None
        held = self._held(view, danger)
        found = [name for name in self.methods(view, danger) if not held or name == ESCROW]
        return {"price_sats": price_sats, "direction": COMPENSATION, "methods": [*found], "escrow": held}

    def agreed(self, view: CredentialView) -> dict[str, JsonValue] | None:
        """What capabilities say of an agent's pay; None where nothing is agreed."""
        terms = view.credential.compensation
        if terms.get("model") != "per_action" or terms.get("rate_sats") == 0:
            return None
        doc: dict[str, JsonValue] = {"model": "per_action", "methods": [*self.methods(view)]}
        doc["escrow_min_danger"] = self._terms().escrow_min_danger
        return doc if "rate_sats" not in terms else {**doc, "rate_sats": terms["rate_sats"]}

    def _held(self, view: CredentialView, danger: int) -> bool:
        agreed, least = view.credential.compensation, self._terms().escrow_min_danger
        return compensation.must_be_held(agreed, danger, self._trust.of(view), least)

    # -- step 15 ------------------------------------------------------------------------------------------

    async def check(self, case: Case, asked: Priced) -> Reward | None:
        """What a command earns if it succeeds; None when its agent claims nothing. Reserves nothing yet.

        Raises PaymentFailed (payment_invalid, payment_replayed, escrow_required), BudgetExhausted, ClnError
        when the node cannot be asked.
        """
        given = case.command.payment_proof
        if case.by_clock or case.view is None or not compensation.claims(given):
            return None
        if asked.spec.read_only:
            raise invalid(
                f"{asked.spec.name} changes nothing, and reads earn nothing; send it without a claim"
            )
        if given.get("method") == ESCROW:
            # A ticket is agreed with whom it was made for, and its price with it.
            if self.tickets is None:
                raise invalid("this node holds no pay in escrow")
            return await self.tickets.check(case, asked)
        danger = asked.danger.total
        price_sats = compensation.rate_sats(case.view.credential.compensation, danger)
        if not price_sats:
            raise invalid("your credential agrees no pay per action; send the command without a claim")
        method, taken = str(given["method"]), self.methods(case.view, danger)
        if method not in taken:
            raise self._not_by(case.view, method, danger, taken)
        if self._held(case.view, danger):
            raise from_symbol(
                "escrow_required",
                f"pay for danger {danger} is held in escrow: claim it by {ESCROW} with a ticket",
                danger=danger,
            )
        if method == CASHU:
            compensation.check_ecash_claim(given)
            return self._by_ecash(case, case.view, price_sats, taken)
        return await self._by_invoice(case, compensation.invoice_claimed(given), price_sats)

    def _not_by(self, view: CredentialView, method: str, danger: int, taken: Sequence[str]) -> HiveError:
        text = f"this node pays you by {', '.join(taken) or 'nothing'}, not by {method}"
        if method == CASHU and danger > BEARER_DANGER:
            text += f": ecash that nothing holds back is paid up to danger {BEARER_DANGER}, this is {danger}"
        elif method == CASHU and self.bearer is not None and self._shared(view) is None:
            text += ": you announced no key for your credential, or no mint that this node takes"
        return invalid(text, check="no_common_method", methods=[*taken])

    def _by_ecash(self, case: Case, view: CredentialView, price_sats: int, taken: Sequence[str]) -> Reward:
        shared = self._shared(view)
        assert shared is not None
        key, mints = shared
        then = BOLT11 if BOLT11 in taken else ""
        return self._fitting(case, Reward(CASHU, price_sats, payee=key, mints=tuple(mints), then=then))

    async def _by_invoice(self, case: Case, invoice: str, price_sats: int) -> Reward:
        waited = self._db.peek(lambda tx: self._waited(tx, case.command_id))
        try:
            asked = await self._read(invoice)
        except HiveError as error:
            raise invalid(error.detail.replace("bolt11 is no", "payment_proof.invoice is no", 1)) from None
        if asked.kind != "bolt11 invoice":
            raise invalid(f"payment_proof.invoice is a {asked.kind}; give a BOLT 11 invoice")
        if asked.amount_msat != price_sats * 1_000:
            # People may have reduced what was asked, and its danger with it: another invoice is asked for.
            if not waited:
                says = "no amount" if asked.amount_msat is None else f"{asked.amount_msat} msat"
                raise invalid(
                    f"the invoice names {says}; this command earns {price_sats} sat", price_sats=price_sats
                )
            return self._fitting(case, Reward(BOLT11, price_sats))
        if waited and asked.expires_at is not None and asked.expires_at < self._now() + LEAST_LEFT_S:
            return self._fitting(case, Reward(BOLT11, price_sats))
        try:
            check_asked(asked, price_sats * 1_000, self._node_id, None, self._now())
        except HiveError as error:
            raise invalid(error.detail.partition("; nothing was paid")[0]) from None
        payment_hash = str(asked.payment_hash)
        self._db.peek(lambda tx: self._check_unused(tx, payment_hash))
        return self._fitting(
            case, Reward(BOLT11, price_sats, payment_hash, asked.text, asked.payee, asked.expires_at)
        )

    def _waited(self, tx: Tx, command_id: str) -> bool:
        row = self._commands.get(tx, command_id)
        return row is not None and row.state in WAITING

    def _fitting(self, case: Case, reward: Reward) -> Reward:
        row = self._row(case, reward)

        def body(tx: Tx) -> None:
            # Payments outlive commands: these are forgotten after a time, and not in a backup.
            if self._rows.by_key(tx, row.key) is not None:
                raise from_symbol(
                    "payment_replayed",
                    "a command with this id has earned something before; give a new command a new id",
                )
            self._limits.check(tx, row)

        self._db.peek(body)
        return reward

    def _check_unused(self, tx: Tx, payment_hash: str) -> None:
        if any(row.state is not State.FAILED for row in self._rows.by_hash(tx, payment_hash, OUT)):
            raise from_symbol(
                "payment_replayed", "this invoice is that of another payment; make one for this command"
            )

    # -- steps 17 and 20, inside the caller's transaction -------------------------------------------------

    def reserve(self, tx: Tx, case: Case, reward: Reward | None) -> None:
        """The command starts: what it may earn counts from now on. Raises BudgetExhausted, PaymentFailed."""
        if reward is None:
            return
        if reward.method == ESCROW:
            self._ticket_work().start(tx, case, reward)
            return
        row = self._row(case, reward)
        if row.payment_hash is not None:
            self._check_unused(tx, row.payment_hash)
        self._limits.take(tx, row)
        self._rows.insert(tx, row)

    def _row(self, case: Case, reward: Reward) -> Payment:
        key, now, msat = compensation.key_of(case.command_id), self._now(), reward.amount_sats * 1_000
        payment_id = id_of(key)
        row = Payment(
            payment_id=payment_id,
            key=key,
            content_hash=sha256(encode(reward.to_json())).hex(),
            advisor_id=case.advisor_id,
            budget=ADVISOR,
            kind=reward.method,
            purpose=compensation.PURPOSE,
            direction=OUT,
            amount_msat=msat,
            max_fee_msat=fee_limit_msat(msat, self._limits.limits().max_fee_ppm, None),
            state=State.RESERVED,
            target=_target(reward),
            label=f"hive:{payment_id}",
            created_at=now,
            updated_at=now,
            payment_hash=reward.ref or None,
            bound_to=case.sender,
            expires_at=reward.expires_at,
        )
        return replace(row, counted_sats=row.reserve_sats)

    def finish(self, tx: Tx, case: Case, reward: Reward | None, outcome: Outcome) -> str:
        """The command ended, or is left to the node: what becomes of its pay, in the word of the receipt."""
        if reward is None:
            return NOT_DUE
        if reward.method == ESCROW:
            return self._ticket_work().state(outcome)
        row = self._rows.by_key(tx, compensation.key_of(case.command_id))
        if row is None or row.state is not State.RESERVED:
            return NOT_DUE
        if outcome.state in ("pending_external", "indeterminate"):
            # Nobody can say yet, or ever by himself, that it succeeded; nor that it did not.
            return RESERVED
        if compensation.earned(outcome.state, acted=outcome.acted):
            self._rows.move(tx, row, Event.ON_EARNED, self._now())
            self._owed = True
            return OWED
        self._rows.move(
            tx, row, Event.ON_REFUSED, self._now(), error=f"not_due: the command ended in {outcome.state}"
        )
        self._rows.count(tx, row, 0)
        return NOT_DUE

    def escrow_doc(self, tx: Tx, reward: Reward | None, outcome: Outcome) -> dict[str, JsonValue] | None:
        """The `escrow` of the command's receipt; None where no ticket pays for it."""
        if reward is None or reward.method != ESCROW:
            return None
        return self._ticket_work().doc(tx, reward, outcome)

    def release(
        self, tx: Tx, command_id: str, reward: Reward | None, outcome: Outcome, receipt_id: int
    ) -> str | None:
        """The receipt is written in this transaction: the preimage (hex) that the command has earned."""
        if reward is None or reward.method != ESCROW:
            return None
        return self._ticket_work().finish(tx, command_id, reward, outcome, receipt_id)

    def preimage_again(self, command_id: str, case: Case) -> str | None:
        """What a command has earned by a ticket, for who asks again what became of it."""
        tickets = self.tickets
        return None if tickets is None else self._db.peek(lambda tx: tickets.again(tx, command_id, case))

    def _ticket_work(self) -> TicketWork:
        if self.tickets is None:
            raise Internal("a command is paid by a ticket, but there is no escrow in this process")
        return self.tickets

    def kick(self) -> None:
        """Have paid what the transaction owed, if it did; call after the commit."""
        if self._owed:
            self._owed = False
            self.on_owed()


def _target(reward: Reward) -> Target:
    return Target(reward.invoice, reward.invoice or None, reward.payee, mints=reward.mints, then=reward.then)
