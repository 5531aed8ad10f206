"""Fees for access, step 15 and 18 of the pipeline: what a command costs its agent, whether it was paid, and
that it pays for one run only (docs/protocol/02-fleet-management.md §7.1, §8; 03 §7.5).

Nothing is taken before the command starts: a use is taken in the transaction of the `executing` row, or in
the one that puts the command before people, and given back in the one that ends a command that did nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from typing import Any, Final, Protocol

import msgspec
from hive_shared import l402
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.crypto import Secret
from hive_shared.errors import HiveError, from_symbol
from hive_shared.registry import ActionSpec, Danger, Tier, glob_names
from hive_shared.registry.price import access_modifier, access_price_sats, base_price_sats
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Tx

from ..domain.access_fee import (
    ACCESS,
    ACCESS_FEE,
    ACTION,
    BOLT11,
    BOLT12,
    CASHU,
    CHALLENGE_S,
    FEE_GOOD_S,
    HELD,
    L402,
    MAX_OPEN,
    OPEN,
    PAID,
    PERIODS,
    REDEEMED,
    SERVED,
    SUBSCRIPTION,
    AccessTerms,
    AccessToken,
    Fee,
    Proof,
)
from ..domain.access_income import income_of
from ..domain.access_proof import check_rights, read_proof
from ..domain.payment import IN, LATE_S, Payment
from .command_case import Case
from .credential_lineage import lineage
from .ecash_fees import EcashFees
from .executors.action import Outcome
from .period_access import PeriodAccess
from .ports_commands import Credentials, CredentialView, Database, Log, Node
from .trust_service import TrustService

_LABEL: Final = "hive:access:"
_DAY_S: Final = 86_400
_KEPT_S: Final = 90 * _DAY_S
_BATCH: Final = 100


class Priced(msgspec.Struct, frozen=True):
    """A command that every rule before payment allows: what it is, how dangerous, for which tier."""

    spec: ActionSpec
    params: Mapping[str, Any]
    danger: Danger
    tier: Tier


class AccessRows(Protocol):
    """The store of sold access (storage.access_store.AccessStore, where the methods are described)."""

    def add(self, tx: Tx, token: AccessToken) -> None: ...
    def of_hash(self, tx: Tx, payment_hash: str) -> AccessToken | None: ...
    def period_of(self, tx: Tx, agent_key: str, now: int) -> AccessToken | None: ...
    def get(self, tx: Tx, token_id: str) -> AccessToken | None: ...
    def open_of(self, tx: Tx, agent_key: str, now: int) -> int: ...
    def overdue(self, tx: Tx, now: int, limit: int) -> tuple[AccessToken, ...]: ...
    def paid(self, tx: Tx, token_id: str, expires_at: int) -> bool: ...
    def forget(self, tx: Tx, token_id: str) -> None: ...
    def prune(self, tx: Tx, before: int, limit: int) -> int: ...
    def fee_of(self, tx: Tx, command_id: str) -> Fee | None: ...
    def take(self, tx: Tx, command_id: str, fee: Fee, state: str, now: int) -> bool: ...
    def give_back(self, tx: Tx, command_id: str, now: int) -> bool: ...


class Income(Protocol):
    """The record of payments (storage.payment_store.PaymentStore)."""

    def insert(self, tx: Tx, row: Payment) -> None: ...
    def by_hash(self, tx: Tx, payment_hash: str, direction: str) -> tuple[Payment, ...]: ...


class AccessFees:
    """Sells access and checks that it was paid. `terms` are the operator's of this moment."""

    def __init__(
        self,
        *,
        db: Database,
        rows: AccessRows,
        income: Income,
        node: Node,
        credentials: Credentials,
        trust: TrustService,
        key: Secret,
        node_id: str,
        terms: Callable[[], AccessTerms],
        random_bytes: Callable[[int], bytes],
        now: Callable[[], int],
        log: Log,
    ) -> None:
        self._db, self._rows, self._node, self._credentials = db, rows, node, credentials
        self._trust, self._key, self._node_id, self._terms = trust, key, node_id, terms
        self._random, self._now, self._log, self._income = random_bytes, now, log, income
        self._alone = RowByRow(log)
        self._selling: Counter[str] = Counter()
        self._periods = PeriodAccess(db, rows, income, node, now)
        self.ecash: EcashFees | None = None
        """Set where this node has a wallet."""

    # -- what it costs ----------------------------------------------------------------------------------

    def price_sats(self, view: CredentialView, danger: int) -> int:
        """What an action of this danger costs the agent of a credential now."""
        access = view.credential.access
        if access.get("model", "none") == "none":
            return 0
        table = access.get("price_table")
        base = base_price_sats(danger)
        if isinstance(table, list) and len(table) == 10:
            price = table[danger - 1]
            assert isinstance(price, int)
            base = price
        if access.get("model") == SUBSCRIPTION:
            return self._terms().l402_price_sats if base else 0
        # No dispute is on record at this node, nor a history that clears it: the operator's modifier is 1.
        return access_price_sats(base, access_modifier(self._trust.of(view)), Fraction(1))

    def methods(self, view: CredentialView) -> tuple[str, ...]:
        """Ways to pay that both the credential and this node take, in the node's order."""
        taken = view.credential.access.get("accepted_methods")
        served = PERIODS if view.credential.access.get("model") == SUBSCRIPTION else SERVED
        return tuple(
            method
            for method in self._taken()
            if method in served and (not isinstance(taken, list) or not taken or method in taken)
        )

    def node_methods(self) -> tuple[str, ...]:
        """Ways to pay that this node takes."""
        return tuple(method for method in self._taken() if method in SERVED)

    def _taken(self) -> tuple[str, ...]:
        return tuple(method for method in self._terms().methods if method != CASHU or self.mints())

    def mints(self) -> tuple[str, ...]:
        """Mints whose ecash pays for commands here; none where it does not."""
        if self.ecash is None or CASHU not in self._terms().methods:
            return ()
        return self.ecash.mints

    def quote(self, view: CredentialView | None, danger: int) -> dict[str, JsonValue]:
        """{price_sats, direction, methods} of an action (02 §8)."""
        price_sats = 0 if view is None else self.price_sats(view, danger)
        if view is None or not price_sats:
            return {"price_sats": 0, "direction": "none", "methods": []}
        return {"price_sats": price_sats, "direction": ACCESS_FEE, "methods": [*self.methods(view)]}

    # -- step 15 ----------------------------------------------------------------------------------------

    async def check(self, case: Case, asked: Priced) -> Fee | None:
        """What pays for a command; None when nothing is due. Takes nothing yet.

        Raises PaymentFailed (payment_required with what to pay, payment_invalid, payment_replayed),
        RateLimited, ClnError when the node cannot be asked.
        """
        # What the node gives itself by an agent's rule was paid for with the command that set the rule.
        if case.by_clock or case.view is None:
            return None
        given = case.command.payment_proof
        price_sats = self.price_sats(case.view, asked.danger.total)
        model = case.view.credential.access.get("model")
        if not price_sats:
            free = ("none", SUBSCRIPTION, BOLT12) if model == SUBSCRIPTION else ("none",)
            if given.get("method") not in free:
                raise from_symbol(
                    "payment_invalid",
                    f"nothing is to be paid; payment method {str(given.get('method'))[:32]!a} was refused",
                )
            return None
        held = self._db.peek(lambda tx: self._held(tx, case.command_id))
        if held is not None:
            return held
        if model == SUBSCRIPTION:
            return await self._by_period(case, case.view, price_sats, given)
        if given.get("method") == "none":
            raise await self._required(case, case.view, price_sats, asked.spec)
        # What was sold is good whatever is sold now.
        proof = read_proof(given, SERVED)
        if proof.method == CASHU:
            return await self._by_ecash(case, case.view, asked, price_sats, proof)
        if proof.method == L402:
            return await self._by_macaroon(case, case.view, asked, proof)
        return await self._by_invoice(case, price_sats, proof)

    async def _by_period(
        self, case: Case, view: CredentialView, price_sats: int, given: Mapping[str, JsonValue]
    ) -> Fee:
        if given.get("method") == BOLT12:
            proof = read_proof(given, PERIODS)
            return await self._periods.by_proof(case.sender, case.credential_id, case.advisor_id, proof)
        if given.get("method") not in ("none", SUBSCRIPTION):
            raise from_symbol("payment_invalid", "access is paid by the period; use bolt12 or subscription")
        running = self._periods.running(case.sender)
        if running is not None:
            return running
        methods, data = self.methods(view), {}
        if methods:
            days = self._terms().l402_days
            data[BOLT12] = await self._periods.offer(case.sender, price_sats, days)
        raise from_symbol(
            "payment_required",
            f"no period of yours runs; one costs {price_sats} sat",
            price_sats=price_sats,
            methods=[*methods],
            **data,
        )

    def _held(self, tx: Tx, command_id: str) -> Fee | None:
        held = self._rows.fee_of(tx, command_id)
        return self.ecash.brought(tx, command_id) if held is None and self.ecash is not None else held

    async def _by_ecash(
        self, case: Case, view: CredentialView, asked: Priced, price_sats: int, proof: Proof
    ) -> Fee:
        if self.ecash is None or CASHU not in self.methods(view):
            ways = " or ".join(self.methods(view)) or "none"
            raise from_symbol("payment_invalid", f"payment method 'cashu' is not taken here; use {ways}")
        if asked.spec.read_only:
            raise from_symbol("payment_invalid", "a read is not paid by ecash; use bolt11 or l402")
        return await self.ecash.check(case.command_id, proof.token, price_sats)

    async def _by_invoice(self, case: Case, price_sats: int, proof: Proof) -> Fee:
        payment_hash = hashlib.sha256(bytes.fromhex(proof.preimage)).hexdigest()
        if proof.payment_hash not in ("", payment_hash):
            raise from_symbol("payment_invalid", "the preimage is not that of payment_hash")
        token = self._db.peek(lambda tx: self._rows.of_hash(tx, payment_hash))
        if token is None or token.service != ACTION or token.agent_key != case.sender:
            raise from_symbol(
                "payment_invalid",
                "this node asked you for no such payment; send the command without a proof and pay the"
                " invoice of payment_required",
            )
        if token.price_sats < price_sats:
            raise from_symbol(
                "payment_invalid",
                f"{token.price_sats} sat were paid, this command costs {price_sats} sat; the fee stays good"
                " for a cheaper one",
                price_sats=price_sats,
            )
        return await self._fee(BOLT11, token, token.max_uses)

    async def _by_macaroon(self, case: Case, view: CredentialView, asked: Priced, proof: Proof) -> Fee:
        macaroon = l402.decode(proof.macaroon)
        if not l402.check_signature(macaroon, l402.root_key(self._key, macaroon.identifier.token_id)):
            raise from_symbol("payment_invalid", "this node did not issue this macaroon, or it was changed")
        rights = l402.rights_of(macaroon.caveats)
        check_rights(
            rights,
            node_id=self._node_id,
            agents=(case.sender, case.agent_id),
            credentials=await lineage(self._credentials, case, rights.credential),
            tier=asked.tier,
            action=(asked.spec.schema, asked.spec.name, glob_names(asked.spec, asked.params)),
            danger=asked.danger.total,
            now=self._now(),
        )
        l402.check_preimage(macaroon, proof.preimage)
        token = self._db.peek(lambda tx: self._rows.get(tx, macaroon.identifier.token_id.hex()))
        if token is None or token.payment_hash != macaroon.identifier.payment_hash.hex():
            raise from_symbol("payment_invalid", "this token ended; send the command without a proof")
        limit = token.max_uses if rights.max_actions is None else min(token.max_uses, rights.max_actions)
        if token.status == PAID and token.uses >= limit:
            # Not a replay: the token is used up, and here is what to pay for the next one.
            price_sats = self.price_sats(view, asked.danger.total)
            raise await self._required(case, view, price_sats, asked.spec)
        return await self._fee(L402, token, limit)

    async def _fee(self, method: str, token: AccessToken, limit: int) -> Fee:
        if token.status == OPEN:
            await self._see_paid(token)
        elif token.status != PAID:
            raise from_symbol("payment_invalid", "this token was revoked")
        elif self._now() >= token.expires_at:
            raise from_symbol("payment_invalid", f"what was paid for ended at {token.expires_at}")
        if token.uses >= limit:
            raise _replayed()
        return Fee(
            method=method,
            amount_sats=token.price_sats if method == BOLT11 else 0,
            ref=token.payment_hash,
            token_id=token.token_id,
            limit=limit,
        )

    async def _see_paid(self, token: AccessToken) -> None:
        """Note that the node has the money of an open token. Raises PaymentFailed while it has not."""
        if not await self._is_paid(token):
            raise from_symbol("payment_invalid", "the invoice is not paid")
        await self._db.write(partial(self._got, token=token, advisor_id=await self._advisor(token)))

    async def _is_paid(self, token: AccessToken) -> bool:
        found = await self._node.call("listinvoices", {"payment_hash": token.payment_hash})
        return any(
            row.get("status") == "paid"
            and row.get("label") == _LABEL + token.token_id
            and int(row.get("amount_received_msat", 0)) >= token.price_sats * 1_000
            for row in found["invoices"]
        )

    # -- asking for payment -------------------------------------------------------------------------------

    async def _required(
        self, case: Case, view: CredentialView, price_sats: int, spec: ActionSpec
    ) -> HiveError:
        """The refusal that says what to pay; invoices are made here, and known here before they leave."""
        methods = self.methods(view)
        if not methods:
            return from_symbol(
                "payment_required",
                f"{spec.name} costs {price_sats} sat, but this node takes none of the ways to pay that the"
                " credential names; tell its operator",
                price_sats=price_sats,
                methods=[],
            )
        waiting = self._db.peek(lambda tx: self._rows.open_of(tx, case.sender, self._now()))
        # Those that the node is being asked for are nowhere else yet.
        waiting += self._selling[case.sender]
        invoices = len(set(methods) - {CASHU})
        if waiting + invoices > MAX_OPEN:
            return from_symbol(
                "rate_limited",
                f"{waiting} invoices wait for your payment, {MAX_OPEN} may; pay one or let them expire",
                retry_after=CHALLENGE_S,
            )
        self._selling[case.sender] += invoices
        try:
            data = await self._challenge(case, view, price_sats, methods)
        finally:
            self._selling[case.sender] -= invoices
            if not self._selling[case.sender]:
                del self._selling[case.sender]
        return from_symbol("payment_required", f"{spec.name} costs {price_sats} sat", **data)

    async def _challenge(
        self, case: Case, view: CredentialView, price_sats: int, methods: tuple[str, ...]
    ) -> dict[str, JsonValue]:
        terms = self._terms()
        data: dict[str, JsonValue] = {
            "price_sats": price_sats,
            "methods": [*methods],
            "expires_at": self._now() + CHALLENGE_S,
        }
        if BOLT11 in methods:
            invoice, token = await self._sell(case, ACTION, price_sats, 1, ())
            data[BOLT11] = {
                "invoice": invoice,
                "amount_sats": price_sats,
                "payment_hash": token.payment_hash,
            }
        if CASHU in methods and self.ecash is not None:
            data[CASHU] = self.ecash.asked(price_sats)
        if L402 in methods:
            caveats = self._caveats(case, view, terms)
            invoice, token = await self._sell(
                case, ACCESS, terms.l402_price_sats, terms.l402_actions, caveats
            )
            identifier = l402.Identifier(bytes.fromhex(token.payment_hash), bytes.fromhex(token.token_id))
            root = l402.root_key(self._key, identifier.token_id)
            data |= {
                "macaroon": l402.mint(root, identifier, caveats).text(),
                "invoice": invoice,
                "amount_sats": terms.l402_price_sats,
            }
        return data

    def _caveats(self, case: Case, view: CredentialView, terms: AccessTerms) -> tuple[str, ...]:
        credential = view.credential
        until = self._now() + CHALLENGE_S + terms.l402_days * _DAY_S
        return (
            f"node={self._node_id}",
            f"agent={case.sender}",
            f"credential={credential.credential_id}",
            f"tier={credential.effective_tier.word}",
            f"expires={until}",
            f"max_actions={terms.l402_actions}",
        )

    async def _sell(
        self, case: Case, service: str, price_sats: int, uses: int, caveats: tuple[str, ...]
    ) -> tuple[str, AccessToken]:
        token_id = self._random(32).hex()
        made = await self._node.call(
            "invoice",
            {
                "amount_msat": price_sats * 1_000,
                "label": _LABEL + token_id,
                "description": "management access: one action" if service == ACTION else "management access",
                "expiry": CHALLENGE_S,
            },
        )
        token = AccessToken(
            token_id=token_id,
            service=service,
            agent_key=case.sender,
            credential_id=case.credential_id,
            payment_hash=str(made["payment_hash"]),
            caveats=caveats,
            price_sats=price_sats,
            max_uses=uses,
            uses=0,
            # Not our own sum: a node that took its time takes the money for as long after.
            expires_at=int(made["expires_at"]),
            status=OPEN,
        )
        await self._db.write(lambda tx: self._rows.add(tx, token))
        return str(made["bolt11"]), token

    # -- steps 16 to 20, each inside the caller's transaction ---------------------------------------------

    def check_shown(self, case: Case, fee: Fee | None) -> None:
        """Whether a command that this pays for may be shown to others than the operator. Raises PaymentFailed
        (payment_invalid)."""
        if self.ecash is not None and fee is not None and fee.method == CASHU:
            self.ecash.check_shown(case)

    def hold(self, tx: Tx, case: Case, fee: Fee | None) -> None:
        """Keep a use for a command that waits for people. Raises PaymentFailed when none is left."""
        if self.ecash is not None and fee is not None and fee.method == CASHU:
            self.ecash.hold(tx, case, fee)
        else:
            self._take(tx, case.command_id, fee, HELD)

    async def begin(self, case: Case, fee: Fee | None, start: Callable[[Tx], None]) -> None:
        """Start a command in one transaction with taking what pays for it. Raises PaymentFailed when that is
        used up, what `start` does, StoreError."""
        if self.ecash is not None and fee is not None and fee.method == CASHU:
            await self.ecash.begin(case, fee, start)
            return

        def body(tx: Tx) -> None:
            start(tx)
            self.redeem(tx, case.command_id, fee)

        await self._db.write(body)

    async def redeemed(self, command_id: str, fee: Fee | None) -> Outcome | None:
        """None when the command may run, else how it stands for want of its fee."""
        if self.ecash is None or fee is None or fee.method != CASHU:
            return None
        return await self.ecash.redeemed(command_id)

    async def found(self, command_id: str) -> Outcome | None:
        """How a command stands that has certainly not run for want of its fee; None for every other."""
        return None if self.ecash is None else await self.ecash.found(command_id)

    def end(self, tx: Tx, command_id: str, *, refunded: bool) -> Mapping[str, JsonValue]:
        """A command that was begun has ended: what its response gives back beside its result."""
        if refunded:
            self._rows.give_back(tx, command_id, self._now())
        return {} if self.ecash is None else self.ecash.end(tx, command_id, refunded=refunded)

    def redeem(self, tx: Tx, command_id: str, fee: Fee | None) -> None:
        """The command starts: its use is gone. Raises PaymentFailed when none is left."""
        self._take(tx, command_id, fee, REDEEMED)

    def _take(self, tx: Tx, command_id: str, fee: Fee | None, state: str) -> None:
        if fee is not None and not self._rows.take(tx, command_id, fee, state, self._now()):
            raise _replayed()

    def give_back(self, tx: Tx, command_id: str) -> None:
        """The command ended and did nothing: what paid for it is good again."""
        self.end(tx, command_id, refunded=True)

    # -- by the clock -------------------------------------------------------------------------------------

    async def tidy(self) -> None:
        """Forget invoices that nobody paid, keep those that were paid and not presented yet."""
        now = self._now()
        if self.ecash is not None:
            await self.ecash.tidy()
        overdue = await self._db.read(lambda tx: self._rows.overdue(tx, now - LATE_S, _BATCH))
        with self._alone.round("invoices for access", ClnError) as alone:
            for token in overdue:
                with alone(token.token_id):
                    try:
                        paid = await self._is_paid(token)
                    except ClnError:
                        return
                    if paid:
                        advisor_id = await self._advisor(token)
                        await self._db.write(partial(self._got, token=token, advisor_id=advisor_id))
                    else:
                        await self._db.write(partial(self._rows.forget, token_id=token.token_id))
        await self._db.write(lambda tx: self._rows.prune(tx, now - _KEPT_S, _BATCH), durable=False)

    async def _advisor(self, token: AccessToken) -> str | None:
        view = await self._credentials.current(token.credential_id)
        return None if view is None else view.advisor_id

    def _got(self, tx: Tx, token: AccessToken, advisor_id: str | None) -> None:
        """The node has the money: the token is good, and the operator's list of payments has the income."""
        now = self._now()
        if not self._rows.paid(tx, token.token_id, _good_until(token, now)):
            return
        if not self._income.by_hash(tx, token.payment_hash, IN):
            self._income.insert(tx, income_of(token, advisor_id, now))


def _good_until(token: AccessToken, now: int) -> int:
    expires = l402.rights_of(token.caveats).expires
    return now + FEE_GOOD_S if expires is None else expires


def _replayed() -> HiveError:
    return from_symbol("payment_replayed", "what was paid is used up; send the command without a proof")
