"""hive-client-pay, -payments, -budget; hive-comms-pay, -payment-status, -request, -verify
(docs/protocol/08-client-and-plugins.md §5.2, 03-escrow-and-payments.md §9)."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from hive_shared.errors import InvalidParams, NotFound, PaymentFailed
from hive_shared.public_web import WebAnswer
from hive_shared.runtime_spec import ClassBy, MethodSpec, Param
from hive_shared.unreadable import Unreadable

from ..domain.advisor import Advisor
from ..domain.lightning_invoice import sats_up
from ..domain.payment import (
    ADVISOR,
    BOLT11,
    BOLT12,
    KEYSEND,
    L402,
    METHODS,
    SIBLING_BUDGETS,
    Order,
    Payment,
)
from ..domain.payment_checks import check_tlvs, method_of
from ..domain.payment_machine import State
from ..domain.payment_query import PaymentQuery
from ..domain.subscription import Subscription
from ..domain.subscription_machine import State as SubscriptionState
from ..services.alias_service import AliasService
from ..services.debts import Debts
from ..services.l402_client import Bought, L402Client
from ..services.payment_budget import PaymentBudget
from ..services.payment_history import PaymentHistory
from ..services.payment_requests import PaymentRequests
from ..services.payment_service import PaymentService
from ..services.subscription_service import PURPOSE, SubscriptionService
from .rendering import as_text
from .status import FORMAT

MOST_SATS: Final = 2_100_000_000_000_000
_TARGET: Final = 8_192
_WEB: Final = re.compile(r"https?://", re.IGNORECASE).match
_NODE_ID: Final = re.compile(r"0[23][0-9a-f]{64}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_CURSOR: Final = re.compile(r"([0-9]{1,12})-([0-9a-f]{32})")
_PURPOSE: Final = re.compile(r"[a-z0-9][a-z0-9:._-]{0,119}")
_PURPOSE_FORM: Final = "purpose is a word like settlement:weekly of lower-case letters, digits and :._-"
_ASKED: Final = ("bolt11", "bolt12", "l402", "cashu")
_PROOFS: Final = (
    frozenset({"payment_hash", "preimage"}),
    frozenset({"macaroon", "preimage"}),
    frozenset({"token"}),
)
_VIEWS: Final[Mapping[str, Literal["R", "X"]]] = {
    "summary": "R",
    "history": "R",
    "subscriptions": "R",
    "end": "X",
    "close": "X",
}
_TAKES: Final[Mapping[str, frozenset[str]]] = {
    "summary": frozenset({"advisor", "kind", "since"}),
    "history": frozenset({"advisor", "kind", "since", "limit", "cursor"}),
    "subscriptions": frozenset({"advisor", "limit"}),
    "end": frozenset({"sub_id"}),
    "close": frozenset({"payment_id", "note"}),
}
"""Which parameters belong to which view."""
_PAGE: Final = 50
_OPTIONS: Final = {
    "daily": "daily-limit",
    "weekly": "weekly-limit",
    "per_advisor": "per-advisor-daily-limit",
    "per_action": "per-action-limit",
}
_KINDS: Final = ("bolt11", "bolt12", "keysend", "l402", "cashu")


class PaymentCommands:
    """The operator's calls."""

    def __init__(
        self,
        payments: Callable[[], PaymentService],
        history: Callable[[], PaymentHistory],
        budget: Callable[[], PaymentBudget],
        subscriptions: Callable[[], SubscriptionService],
        access: Callable[[], L402Client],
        debts: Callable[[], Debts],
        aliases: Callable[[], AliasService],
    ) -> None:
        self._payments, self._history, self._budget, self._aliases = payments, history, budget, aliases
        self._subscriptions, self._access, self._debts = subscriptions, access, debts

    def specs(self) -> list[MethodSpec]:
        """The methods of this family."""
        return [
            MethodSpec(
                "hive-client-pay",
                "X",
                (
                    Param("advisor", "str", required=True),
                    Param("amount_sats", "int", required=True, minimum=1, maximum=MOST_SATS),
                    Param("method", "str", choices=(BOLT11, BOLT12, L402)),
                    Param("target", "str", required=True, maximum=_TARGET),
                    Param("purpose", "str", default="fee", choices=("fee", "subscription", "bonus", "other")),
                    Param("note", "str", default="", maximum=200),
                    Param("idempotency_key", "str", minimum=1, maximum=128),
                ),
                self._pay,
                "Pay an advisor's invoice or offer, inside the limits; the same call again pays once. With"
                " method=l402 target is a URL: asked with the access bought before, else bought for at most"
                " amount_sats, and its answer is shown.",
            ),
            MethodSpec(
                "hive-client-payments",
                "X",
                (
                    Param("action", "str", default="summary", choices=tuple(_VIEWS)),
                    Param("advisor", "str", minimum=1, maximum=200),
                    Param("kind", "str", choices=_KINDS),
                    Param("since", "int", minimum=0),
                    Param("limit", "int", minimum=1, maximum=500),
                    Param("cursor", "str", maximum=64),
                    Param("sub_id", "str", minimum=1, maximum=64),
                    Param("payment_id", "str", minimum=1, maximum=64),
                    Param("note", "str", minimum=1, maximum=200),
                    FORMAT,
                ),
                self._listed,
                "What was paid and received, is open and owed: sums, or payments, newest first;"
                " subscriptions, and their end. close: what is owed under payment_id was paid in another way,"
                " or is not due.",
                by=ClassBy("action", _VIEWS),
            ),
            MethodSpec(
                "hive-client-budget",
                "X",
                (
                    Param("action", "str", default="get", choices=("get", "set")),
                    *(Param(name, "int", minimum=0, maximum=MOST_SATS) for name in _OPTIONS),
                    Param("advisor", "str", default=""),
                    FORMAT,
                ),
                self._limits,
                "Limits of payments in sats (0: spend nothing; per_action 0: none), and what is used.",
                by=ClassBy("action", {"get": "R", "set": "X"}),
            ),
        ]

    async def _pay(self, params: dict[str, Any]) -> dict[str, Any]:
        advisor = self._aliases().resolve(params["advisor"])
        target = params["target"].strip()
        if params["method"] == L402:
            return await self._buy(params, advisor, target)
        if _WEB(target):
            raise InvalidParams(
                "target is an address of the web: method=l402 buys access there, any other method pays an"
                " invoice or an offer",
                data={"param": "target"},
            )
        order = Order(
            key=f"client:{params['idempotency_key'] or self._own_key(target)}",
            budget=ADVISOR,
            purpose=params["purpose"],
            method=params["method"] or method_of(target),
            target=target,
            amount_msat=params["amount_sats"] * 1_000,
            advisor_id=advisor.advisor_id,
            note=params["note"],
        )
        if params["purpose"] == PURPOSE:
            row = await self._subscriptions().pay(order)
        else:
            row = await self._payments().pay(order)
        return _paid(row)

    async def _buy(self, params: dict[str, Any], advisor: Advisor, target: str) -> dict[str, Any]:
        if params["purpose"] == PURPOSE:
            raise InvalidParams(
                "access is not bought by the period: leave purpose=subscription out",
                data={"param": "purpose"},
            )
        given = params["idempotency_key"]
        order = Order(
            key="" if given is None else f"client:{given}",
            budget=ADVISOR,
            purpose=params["purpose"],
            method=L402,
            target=target,
            amount_msat=params["amount_sats"] * 1_000,
            advisor_id=advisor.advisor_id,
            note=params["note"],
        )
        return _bought(await self._access().get(order))

    @staticmethod
    def _own_key(target: str) -> str:
        """Of an invoice its own text: it is paid once. An offer can be paid many times."""
        if target.lower().removeprefix("lightning:").startswith("lno1"):
            raise InvalidParams(
                "an offer can be paid many times: give idempotency_key, a word of your own for this payment,"
                " and the same one when you repeat the call",
                data={"param": "idempotency_key"},
            )
        return hashlib.sha256(target.lower().encode()).hexdigest()

    async def _listed(self, params: dict[str, Any]) -> dict[str, Any]:
        action, limit = params["action"], params["limit"] or _PAGE
        for name in frozenset[str]().union(*_TAKES.values()) - _TAKES[action]:
            if params[name] is not None:
                raise InvalidParams(f"{name} does not belong to action={action}", data={"param": name})
        advisor = self._advisor(params["advisor"] or "")
        advisor_id = None if advisor is None else advisor.advisor_id
        if action == "end":
            if params["sub_id"] is None:
                raise InvalidParams(
                    "action=end needs sub_id= (action=subscriptions lists them)", data={"param": "sub_id"}
                )
            result = self._subscription(await self._subscriptions().end(params["sub_id"]))
        elif action == "close":
            if params["payment_id"] is None:
                raise InvalidParams(
                    "action=close needs payment_id= (action=summary lists what is owed)",
                    data={"param": "payment_id"},
                )
            result = self._row(await self._debts().close(params["payment_id"], params["note"] or ""))
        elif action == "subscriptions":
            subscriptions = await self._subscriptions().listed(advisor_id, limit)
            items = [self._subscription(row) for row in subscriptions]
            result = {"count": len(items), "items": items}
        elif action == "summary":
            result = await self._history().sums(advisor_id, params["kind"], params["since"])
            result["open"] = [self._row(row) for row in await self._history().open()]
            result["owed"] = [self._row(row) for row in await self._history().owed()]
        else:
            before = _cursor(params["cursor"] or "")
            query = PaymentQuery(advisor_id, params["kind"], params["since"] or 0, before, limit)
            rows, following = await self._history().page(query)
            result = {"count": len(rows), "items": [self._row(row) for row in rows]}
            if following is not None:
                result["next_cursor"] = f"{following[0]}-{following[1]}"
        return as_text(result) if params["format"] == "text" else result

    def _subscription(self, row: Subscription) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "sub_id": row.sub_id,
            "advisor": self._name_of(row.advisor_id),
            "kind": row.kind,
            "state": row.state.value,
            "amount_sats": row.amount_sats,
            "period": row.period,
            "periods_paid": row.recurrence_counter,
            "began_at": row.created_at,
        }
        if row.state is not SubscriptionState.ENDED:
            shown["payable"] = {"from": row.window_start, "until": row.window_end}
            shown["failures"] = row.failures
        if row.state is SubscriptionState.ACTIVE:
            shown["next_due"] = row.next_due
        if row.error is not None:
            shown["error"] = row.error
        return shown

    def _row(self, row: Payment | Unreadable) -> dict[str, Any]:
        if isinstance(row, Unreadable):
            return row.shown("payment_id")
        shown: dict[str, Any] = {
            "payment_id": row.payment_id,
            "at": row.created_at,
            "direction": row.direction,
            "method": row.kind,
            "purpose": row.purpose,
            "budget": row.budget,
            "advisor": None if row.advisor_id is None else self._name_of(row.advisor_id),
            "state": row.state.value,
            **_money(row),
        }
        if row.target.note:
            shown["note"] = row.target.note
        if row.error is not None:
            shown["error"] = row.error
        return shown

    def _name_of(self, advisor_id: str) -> str:
        advisor = self._aliases().find(advisor_id)
        return advisor_id if advisor is None else self._aliases().name_of(advisor)

    def _advisor(self, text: str) -> Advisor | None:
        return self._aliases().resolve(text) if text.strip() else None

    async def _limits(self, params: dict[str, Any]) -> dict[str, Any]:
        advisor = self._advisor(params["advisor"])
        given = {name: params[name] for name in _OPTIONS if params[name] is not None}
        if params["action"] == "get":
            if given:
                raise InvalidParams(
                    f"{', '.join(given)}: limits are set by action=set, action=get shows them"
                )
        elif not given:
            raise InvalidParams(f"action=set needs a limit: {', '.join(_OPTIONS)}")
        elif advisor is None:
            await self._budget().set({_OPTIONS[name]: sats for name, sats in given.items()})
        elif set(given) != {"per_advisor"}:
            raise InvalidParams("of a single advisor only per_advisor can be set")
        else:
            await self._budget().set_advisor(advisor, given["per_advisor"])
        result = await self._budget().show(advisor)
        return as_text(result) if params["format"] == "text" else result


class SiblingPaymentCommands:
    """What siblings may have paid. The runtime has checked the caller's `auth`."""

    def __init__(
        self,
        payments: Callable[[], PaymentService],
        requests: Callable[[], PaymentRequests],
        aliases: Callable[[], AliasService],
    ) -> None:
        self._payments, self._requests, self._aliases = payments, requests, aliases

    def specs(self) -> list[MethodSpec]:
        """The methods of this family."""
        return [
            MethodSpec(
                "hive-comms-pay",
                "S",
                (
                    Param("purpose", "str", required=True, maximum=120),
                    Param("budget", "str", choices=SIBLING_BUDGETS),
                    Param("method", "str", required=True, choices=METHODS),
                    Param("target", "str", required=True, maximum=_TARGET),
                    Param("amount_sats", "int", minimum=1, maximum=MOST_SATS),
                    Param("amount_msat", "int", minimum=1, maximum=MOST_SATS * 1_000),
                    Param("max_fee_sats", "int", minimum=0, maximum=MOST_SATS),
                    Param("payer_note", "str", default="", maximum=200),
                    Param("tlv_json", "json"),
                    Param("idempotency_key", "str", required=True, minimum=1, maximum=128),
                ),
                self._pay,
                "Pay for a sibling plugin out of its budget; the same key pays once.",
            ),
            MethodSpec(
                "hive-comms-payment-status",
                "S",
                (
                    Param("payment_id", "str", default=""),
                    Param("idempotency_key", "str", default=""),
                    Param("payment_hash", "str", default=""),
                ),
                self._status,
                "What became of a payment of a sibling plugin.",
            ),
            MethodSpec(
                "hive-comms-payment-request",
                "S",
                (
                    Param("method", "str", required=True, choices=_ASKED),
                    Param("amount_sats", "int", required=True, minimum=1, maximum=MOST_SATS),
                    Param("purpose", "str", required=True, maximum=120),
                    Param("advisor", "str", default=""),
                    Param("expiry", "int", default=600, minimum=60, maximum=604_800),
                ),
                self._request,
                "Ask for money: an invoice of this node (bolt11, with a macaroon: l402), an offer that is"
                " paid once (bolt12), a key that ecash is locked to (cashu).",
            ),
            MethodSpec(
                "hive-comms-payment-verify",
                "S",
                (
                    Param("proof", "json", required=True),
                    Param("price_sats", "int", required=True, minimum=1, maximum=MOST_SATS),
                    Param("agent", "str", required=True, maximum=200),
                ),
                self._verify,
                "Whether an invoice of this node was paid, also of an offer, or take ecash; used up for an"
                " agent, once.",
            ),
        ]

    async def _request(self, params: dict[str, Any]) -> dict[str, Any]:
        if not _PURPOSE.fullmatch(params["purpose"]):
            raise InvalidParams(_PURPOSE_FORM, data={"param": "purpose"})
        advisor = self._aliases().resolve(params["advisor"]) if params["advisor"].strip() else None
        payer = None if advisor is None else advisor.pubkey
        made = await self._requests().request(
            params["amount_sats"],
            params["purpose"],
            None if advisor is None else advisor.advisor_id,
            params["expiry"],
            params["method"],
            payer=payer,
        )
        told = self._requests().told(made, payer)
        return {"payment_id": made.payment_id, **told, "expires_at": made.expires_at}

    async def _verify(self, params: dict[str, Any]) -> dict[str, Any]:
        proof, price, agent = params["proof"], params["price_sats"], params["agent"]
        names = frozenset(proof) if isinstance(proof, dict) else frozenset()
        if names not in _PROOFS or not all(isinstance(proof[name], str) for name in names):
            raise InvalidParams(
                "proof is an object of texts: payment_hash and preimage, macaroon and preimage, or token",
                data={"param": "proof"},
            )
        for name in names & {"payment_hash", "preimage"}:
            if not _HASH.fullmatch(proof[name]):
                raise InvalidParams(f"{name} is 64 lower-case hex characters", data={"param": "proof"})
        requests = self._requests()
        try:
            if "token" in names:
                payment_id = await requests.verify_token(proof["token"], price, agent)
            elif "macaroon" in names:
                payment_id = await requests.verify_macaroon(
                    proof["macaroon"], proof["preimage"], price, agent
                )
            else:
                payment_id = await requests.verify(proof["payment_hash"], proof["preimage"], price, agent)
        except PaymentFailed as error:
            return {"ok": False, "reason": error.symbol}
        return {"ok": True, "payment_id": payment_id}

    async def _pay(self, params: dict[str, Any]) -> dict[str, Any]:
        sats, msat, fee = params["amount_sats"], params["amount_msat"], params["max_fee_sats"]
        if (sats is None) == (msat is None):
            raise InvalidParams("give one of amount_sats and amount_msat")
        purpose, method, target = params["purpose"], params["method"], params["target"].strip()
        if not _PURPOSE.fullmatch(purpose):
            raise InvalidParams(_PURPOSE_FORM, data={"param": "purpose"})
        if method == KEYSEND and not _NODE_ID.fullmatch(target):
            raise InvalidParams("target of a keysend is a node id (66 hex)", data={"param": "target"})
        tlvs = check_tlvs(params["tlv_json"])
        if method != KEYSEND and tlvs:
            raise InvalidParams(f"tlv_json belongs to method=keysend, not to {method}")
        if method != BOLT12 and params["payer_note"]:
            raise InvalidParams(f"payer_note belongs to method=bolt12, not to {method}")
        order = Order(
            key=f"sibling:{params['idempotency_key']}",
            budget=params["budget"] or _budget(purpose),
            purpose=purpose,
            method=method,
            target=target,
            amount_msat=msat if sats is None else sats * 1_000,
            max_fee_msat=None if fee is None else fee * 1_000,
            payer_note=params["payer_note"],
            tlvs=tlvs,
        )
        return _for_sibling(await self._payments().pay(order))

    async def _status(self, params: dict[str, Any]) -> dict[str, Any]:
        payment_id, key, digest = params["payment_id"], params["idempotency_key"], params["payment_hash"]
        if sum(map(bool, (payment_id, key, digest))) != 1:
            raise InvalidParams("give one of payment_id, idempotency_key and payment_hash")
        if digest and not _HASH.fullmatch(digest):
            raise InvalidParams("payment_hash is 64 lower-case hex characters")
        found = await self._payments().find(
            payment_id=payment_id, key=key and f"sibling:{key}", payment_hash=digest
        )
        if found.budget not in SIBLING_BUDGETS:
            # The operator's: its preimage is nothing for a sibling.
            raise NotFound("no payment of a sibling plugin has this id, key or hash")
        return _for_sibling(found)


def _budget(purpose: str) -> str:
    if purpose.startswith("provision:"):
        return "provision"
    return "archon" if purpose.startswith("archon-") else "fleet"


def _money(row: Payment) -> dict[str, Any]:
    money: dict[str, Any] = {"amount_sats": sats_up(row.amount_msat), "fee_sats": sats_up(row.fee_msat)}
    if row.payment_hash is not None:
        money["payment_hash"] = row.payment_hash
    return money


def _paid(row: Payment) -> dict[str, Any]:
    shown = {"payment_id": row.payment_id, "status": row.state.value, "method": row.kind, **_money(row)}
    if row.state is not State.SETTLED:
        shown["note"] = (
            "its end is not known yet; hive-client-payments action=history shows it, do not pay anew"
        )
    return shown


def _bought(bought: Bought) -> dict[str, Any]:
    """`paid_now` says whether this call paid; without a payment_id nothing ever was."""
    shown: dict[str, Any] = {"method": L402} if bought.payment is None else _paid(bought.payment)
    shown["paid_now"] = bought.paid_now
    if bought.answer is not None:
        shown["answer"] = _answer(bought.answer)
    if bought.refused:
        shown["note"] = (
            "the access is paid and its server refused it all the same: the next call tries it once more"
        )
    return shown


def _answer(answer: WebAnswer) -> dict[str, Any]:
    kinds = [ascii(kind)[1:-1][:200] for kind in answer.values("content-type")]
    shown = {
        "status": answer.status,
        "content_type": kinds[0] if kinds else "",
        "bytes": len(answer.body),
    }
    try:
        return {**shown, "encoding": "text", "body": answer.body.decode("utf-8")}
    except UnicodeDecodeError:
        return {**shown, "encoding": "base64", "body": base64.b64encode(answer.body).decode()}


def _for_sibling(row: Payment) -> dict[str, Any]:
    shown: dict[str, Any] = {"payment_id": row.payment_id, "state": row.state.value, **_money(row)}
    if row.target.invoice is not None:
        shown["invoice"] = row.target.invoice
    if row.preimage is not None:
        shown["preimage"] = row.preimage
    if row.error is not None:
        shown["error"] = row.error
    return shown


def _cursor(text: str) -> tuple[int, str] | None:
    if not text:
        return None
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise InvalidParams("cursor is not one that this list gave; take next_cursor of the page before")
    return int(found[1]), found[2]
