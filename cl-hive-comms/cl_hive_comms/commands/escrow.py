"""hive-client-escrow (docs/protocol/03-escrow-and-payments.md §9).

No answer holds a preimage or a token: they leave by the messages to the payee alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.cashu.curve import is_point
from hive_shared.cashu.escrow_disputes import Answer, EscrowDisputes
from hive_shared.cashu.escrow_rows import DisputeRow, ItemRow, Side, TicketQuery, TicketRow, cursor_of
from hive_shared.cashu.payee_rows import HeldTicket
from hive_shared.cashu.terms import MAX_BATCH, MAX_ITEM_SATS, Mode, TicketType, terms_json
from hive_shared.cashu.ticket_machine import PayeeItem, TicketStatus
from hive_shared.cashu.ticket_messages import Outcome
from hive_shared.cashu.windows import OperatorRecord, Standing, escrow_required
from hive_shared.errors import InvalidParams, NotFound
from hive_shared.nostr.keys import npub_encode, parse_pubkey
from hive_shared.runtime_spec import ClassBy, MethodSpec, Param
from hive_shared.unreadable import Unreadable
from hive_shared.validation_words import in_words

from ..services.alias_service import AliasService
from ..services.escrow_service import EscrowService, ItemAsked, Judged, TicketAsked
from ..services.received_tickets import ReceivedTicketService
from .rendering import as_text
from .status import FORMAT

_CREATE: Final = (
    *("advisor", "type", "mode", "items", "amount_sats", "danger", "schema", "task_action", "params"),
    *("mint", "payee_pubkey", "task_id", "contract_id", "baseline", "replaces", "tier"),
    *("idempotency_key", "timeout"),
)
_TAKES: Final[Mapping[str, frozenset[str]]] = {
    "list": frozenset({"role", "status", "advisor", "limit", "cursor"}),
    "get": frozenset({"ticket_id"}),
    "pricing": frozenset({"danger", "tier", "operator"}),
    "secret": frozenset({"task_id", "count"}),
    "register": frozenset({"task_id", "secret"}),
    "create": frozenset(_CREATE),
    "complete": frozenset({"ticket_id", "item", "success", "result", "confirm", "timeout"}),
    "release": frozenset({"ticket_id", "item"}),
    "announce": frozenset({"payer", "contract_id", "days"}),
    "redeem": frozenset({"ticket_id", "timeout"}),
    "refund": frozenset({"ticket_id", "timeout"}),
    "receipt": frozenset({"ticket_id"}),
    "dispute": frozenset(
        {"ticket_id", "item", "claim", "evidence", "outcome", "reason", "replacement", "payment_id"}
    ),
    "cancel": frozenset({"ticket_id"}),
}
_READS: Final = frozenset({"list", "get", "pricing", "receipt"})
_TICKET: Final = re.compile(r"[0-9a-f]{32}").fullmatch
_HASH: Final = re.compile(r"sha256:[0-9a-f]{64}").fullmatch
_CURSOR: Final = re.compile(r"(\d{1,12})-([0-9a-f]{32})").fullmatch
_TASK: Final = re.compile(r"[!-~]{1,128}").fullmatch
_DEFAULT_TIMEOUT_S: Final = 30
_DAYS: Final = 30
"""How long a payer may hand over tickets after it was told a key."""
_ITEM_FIELDS: Final = frozenset({"amount_sats", "label", "window_s", "cond", "hash", "params"})


class EscrowCommands:
    """Tickets, for the operator."""

    def __init__(
        self,
        service: Callable[[], EscrowService],
        disputes: Callable[[], EscrowDisputes],
        received: Callable[[], ReceivedTicketService],
        aliases: Callable[[], AliasService],
        name_of: Callable[[str], str],
        min_danger: Callable[[], int],
    ) -> None:
        self._service, self._disputes, self._aliases = service, disputes, aliases
        self._received = received
        self._name_of, self._min_danger = name_of, min_danger

    def specs(self) -> list[MethodSpec]:
        """The method of this family."""
        return [
            MethodSpec(
                "hive-client-escrow",
                "X",
                (
                    Param("action", "str", default="list", choices=tuple(_TAKES)),
                    Param("ticket_id", "str", maximum=32),
                    Param("item", "int", minimum=0, maximum=MAX_BATCH - 1),
                    Param("role", "str", choices=tuple(side.value for side in Side)),
                    Param("status", "str", choices=tuple(status.value for status in TicketStatus)),
                    Param("advisor", "str", maximum=200),
                    *_creating(),
                    Param("count", "int", minimum=1, maximum=MAX_BATCH),
                    Param("secret", "str", maximum=64),
                    Param("success", "bool"),
                    Param("result", "json"),
                    Param("confirm", "bool"),
                    Param("claim", "str", maximum=2_000),
                    Param("evidence", "json"),
                    Param("outcome", "str", choices=tuple(each.value for each in Outcome)),
                    Param("reason", "str", maximum=500),
                    Param("replacement", "str", maximum=32),
                    Param("payment_id", "str", maximum=64),
                    Param("operator", "str", choices=tuple(each.value for each in OperatorRecord)),
                    Param("payer", "str", maximum=200),
                    Param("days", "int", minimum=1, maximum=366),
                    Param("limit", "int", minimum=1, maximum=500),
                    Param("cursor", "str", maximum=64),
                    Param("timeout", "int", minimum=1, maximum=300),
                    FORMAT,
                ),
                self._escrow,
                "Tickets: ecash locked for a task, which goes to whoever did it or back to you: list, get,"
                " pricing, secret, register, create, complete, release, refund, receipt, dispute, cancel;"
                " of tickets that pay this node: announce, list, get, redeem, receipt, dispute.",
                by=ClassBy("action", {name: "R" if name in _READS else "X" for name in _TAKES}),
            )
        ]

    async def _escrow(self, params: dict[str, Any]) -> dict[str, Any]:
        action = str(params["action"])
        for name, value in params.items():
            if value is not None and name not in ("action", "format") and name not in _TAKES[action]:
                raise InvalidParams(f"{name} does not belong to action={action}", data={"param": name})
        result = await getattr(self, f"_{action}")(params)
        return as_text(result) if params["format"] == "text" else result

    # -- reads -----------------------------------------------------------------------------------------

    async def _list(self, params: Mapping[str, Any]) -> dict[str, Any]:
        limit = params["limit"] or 100
        advisor = params["advisor"]
        query = TicketQuery(
            role=None if params["role"] is None else Side(params["role"]),
            status=None if params["status"] is None else TicketStatus(params["status"]),
            advisor_id=None if advisor is None else self._aliases().resolve(advisor).advisor_id,
            before=_position(params["cursor"]),
            limit=limit,
        )
        found = await self._service().tickets(query)
        rows = [
            each.shown("ticket_id") if isinstance(each, Unreadable) else self._row(*each) for each in found
        ]
        page: dict[str, Any] = {"count": len(rows), "items": rows}
        if len(rows) == limit:
            page["next_cursor"] = cursor_of(found[-1])
        return page

    async def _get(self, params: Mapping[str, Any]) -> dict[str, Any]:
        ticket_id = _ticket_id(params)
        try:
            ticket, items, disputes = await self._service().whole(ticket_id)
        except NotFound:
            return _undecided(await self._received().undecided(ticket_id))
        shown = {
            **self._row(ticket, items),
            "terms_hash": ticket.terms_hash,
            "terms": terms_json(ticket.terms),
        }
        if ticket.acked_by:
            shown["acknowledged_by"] = ticket.acked_by
        shown["items"] = [{**_item(item), **_said(item)} for item in items]
        if disputes:
            shown["disputes"] = [_dispute(row) for row in disputes]
        return shown

    async def _pricing(self, params: Mapping[str, Any]) -> dict[str, Any]:
        danger = _needed(params, "danger")
        standing = Standing(params["tier"] or Standing.NEWCOMER.value)
        operator = OperatorRecord(params["operator"] or OperatorRecord.NEW.value)
        found = self._service().price(danger, standing, operator, trust=True)
        return {
            "danger": danger,
            "base_sats": found.base_sats,
            "window_s": found.window_s,
            "modifiers": {
                "advisor_percent": found.agent_percent,
                "operator_percent": found.operator_percent,
                "bonus_percent": found.bonus_percent,
            },
            "adjusted_sats": found.adjusted_sats,
            "default_type": found.default_type.value,
            "escrow_required": escrow_required(danger, min_danger=self._min_danger()),
        }

    async def _receipt(self, params: Mapping[str, Any]) -> dict[str, Any]:
        ticket_id = _ticket_id(params)
        ticket, items, _ = await self._service().whole(ticket_id)
        if ticket.role is Side.PAYEE:
            named = [
                {"item": item.i, "state": item.state.value, "receipt_id": item.receipt_id, **_said(item)}
                for item in items
                if item.receipt_id is not None
            ]
            return {"ticket_id": ticket_id, "count": len(named), "items": named}
        found = await self._service().receipts_of(ticket_id)
        rows = [{"item": item.i, "state": item.state.value, "receipt": receipt} for item, receipt in found]
        return {"ticket_id": ticket_id, "count": len(rows), "items": rows}

    # -- preimages -------------------------------------------------------------------------------------

    async def _secret(self, params: Mapping[str, Any]) -> dict[str, Any]:
        task_id = _task_id(params)
        hashes = await self._service().engine.secrets(task_id, params["count"] or 1)
        return {"task_id": task_id, "hashes": hashes}

    async def _register(self, params: Mapping[str, Any]) -> dict[str, Any]:
        task_id, text = _task_id(params), _needed(params, "secret")
        if re.fullmatch(r"[0-9a-f]{64}", text) is None:
            raise InvalidParams("secret is 64 lower-case hex digits", data={"param": "secret"})
        return {
            "task_id": task_id,
            "hash": await self._service().engine.register(task_id, bytes.fromhex(text)),
        }

    # -- acts ------------------------------------------------------------------------------------------

    async def _create(self, params: Mapping[str, Any]) -> dict[str, Any]:
        key = _needed(params, "idempotency_key")
        asked = TicketAsked(
            advisor=self._aliases().resolve(_needed(params, "advisor")),
            type=TicketType(params["type"] or _default_type(params["items"])),
            mode=Mode(params["mode"] or Mode.TASK.value),
            items=_items(params["items"], params["amount_sats"]),
            danger=_needed(params, "danger"),
            schema=_needed(params, "schema"),
            task_action=_needed(params, "task_action"),
            params=_object(params, "params") or {},
            mint=params["mint"],
            payee_pubkey=_point(params["payee_pubkey"]),
            task_id=None if params["task_id"] is None else _task_id(params),
            contract_id=params["contract_id"],
            baseline=_object(params, "baseline"),
            replaces=params["replaces"],
            standing=None if params["tier"] is None else Standing(params["tier"]),
        )
        timeout = params["timeout"] or _DEFAULT_TIMEOUT_S
        ticket = await self._service().create(asked, f"client:{key}", timeout)
        return await self._shown(ticket.ticket_id)

    async def _complete(self, params: Mapping[str, Any]) -> dict[str, Any]:
        judged = Judged(
            params["success"],
            _object(params, "result") or {},
            params["confirm"] is True,
            float(params["timeout"] or _DEFAULT_TIMEOUT_S),
        )
        item = await self._service().complete(_ticket_id(params), params["item"] or 0, judged)
        return {"ticket_id": item.ticket_id, **_item(item)}

    async def _release(self, params: Mapping[str, Any]) -> dict[str, Any]:
        item = await self._service().release(_ticket_id(params), params["item"] or 0)
        return {"ticket_id": item.ticket_id, **_item(item)}

    async def _redeem(self, params: Mapping[str, Any]) -> dict[str, Any]:
        ticket, items, _ = await self._service().whole(_ticket_id(params))
        if ticket.role is Side.PAYER:
            raise InvalidParams(
                f"ticket {ticket.ticket_id} is paid by this node: its payee redeems it; action=refund takes"
                " back what was not earned, after its locktime",
                data={"param": "ticket_id"},
            )
        timeout = params["timeout"] or _DEFAULT_TIMEOUT_S
        await self._received().redeem(ticket.ticket_id, [item.i for item in items], timeout)
        return await self._shown(ticket.ticket_id)

    async def _announce(self, params: Mapping[str, Any]) -> dict[str, Any]:
        text, context = str(_needed(params, "payer")), params["contract_id"]
        advisor = self._aliases().find(text)
        try:
            payer = parse_pubkey(text) if advisor is None else advisor.pubkey
        except ValueError:
            raise InvalidParams(
                f"payer {text[:80]!a} is no advisor of this node and no key; give an npub",
                data={"param": "payer"},
            ) from None
        if payer is None:
            raise InvalidParams(
                "the advisor has no Nostr key, from which its tickets would come", data={"param": "payer"}
            )
        if context is not None and not _TASK(context):
            raise InvalidParams(
                "contract_id is one word of up to 128 printable characters", data={"param": "contract_id"}
            )
        mints = self._service().mints_taken()
        made = await self._received().announce(payer, context, mints, params["days"] or _DAYS)
        return {
            "payer": npub_encode(payer),
            "contract_id": made.key.context,
            "lock_pubkey": made.lock_pubkey,
            "binding": made.binding,
            "mints": list(made.mints),
            "expires_at": made.key.expires_at,
        }

    async def _refund(self, params: Mapping[str, Any]) -> dict[str, Any]:
        timeout = params["timeout"] or _DEFAULT_TIMEOUT_S
        ticket = await self._service().refund(_ticket_id(params), timeout)
        return await self._shown(ticket.ticket_id)

    async def _cancel(self, params: Mapping[str, Any]) -> dict[str, Any]:
        ticket = await self._service().engine.cancel(_ticket_id(params))
        return await self._shown(ticket.ticket_id)

    async def _dispute(self, params: Mapping[str, Any]) -> dict[str, Any]:
        ticket_id, item = _ticket_id(params), params["item"] or 0
        if (params["outcome"] is None) is (params["claim"] is None):
            raise InvalidParams(
                "action=dispute takes either claim= (what is wrong, told to the advisor) or outcome= (your"
                " answer to what the advisor disputes)",
                data={"param": "claim"},
            )
        if params["outcome"] is None:
            _only(params, "claim", "reason", "replacement", "payment_id")
            claim = _line(params, "claim", 2_000)
            row = await self._disputes().open(ticket_id, item, claim, _evidence(params["evidence"]))
        else:
            _only(params, "outcome", "evidence")
            answer = Answer(
                Outcome(params["outcome"]),
                _line(params, "reason", 500),
                params["replacement"],
                params["payment_id"],
            )
            row = await self._disputes().answer(ticket_id, item, answer)
        return {"ticket_id": ticket_id, **_dispute(row)}

    # -- inside ----------------------------------------------------------------------------------------

    async def _shown(self, ticket_id: str) -> dict[str, Any]:
        ticket, items, _ = await self._service().whole(ticket_id)
        return self._row(ticket, items)

    def _row(self, ticket: TicketRow, items: Sequence[ItemRow]) -> dict[str, Any]:
        states: dict[str, int] = {}
        for item in items:
            states[item.state.value] = states.get(item.state.value, 0) + 1
        terms = ticket.terms
        who = {"payer": npub_encode(terms.payer.id)} if ticket.role is Side.PAYEE else {}
        row: dict[str, Any] = {
            "ticket_id": ticket.ticket_id,
            "role": ticket.role.value,
            "type": terms.type.value,
            "mode": terms.mode.value,
            "advisor": None if ticket.advisor_id is None else self._name_of(ticket.advisor_id),
            **who,
            "state": ticket.status.value,
            "amount_sats": terms.amount_sats,
            "mints": [mint.url for mint in terms.mints],
            "danger": terms.danger,
            "schema": terms.schema,
            "deadline": max(item.deadline for item in terms.items),
            "locktime": max(item.locktime for item in terms.items),
            "item_states": states,
            "created_at": ticket.created_at,
            "updated_at": ticket.updated_at,
        }
        if owed := sum(item.owed_sats for item in items if not item.owed_by):
            row["owed_sats"] = owed
        return {**row, "note": ticket.error} if ticket.error else row


def _creating() -> tuple[Param, ...]:
    return (
        Param("type", "str", choices=tuple(kind.value for kind in TicketType)),
        Param("mode", "str", choices=tuple(mode.value for mode in Mode)),
        Param("items", "json"),
        Param("amount_sats", "int", minimum=1, maximum=MAX_ITEM_SATS),
        Param("danger", "int", minimum=1, maximum=10),
        Param("schema", "str", maximum=128),
        Param("task_action", "str", maximum=64),
        Param("params", "json"),
        Param("mint", "str", minimum=1, maximum=512),
        Param("payee_pubkey", "str", maximum=66),
        Param("task_id", "str", maximum=128),
        Param("contract_id", "str", minimum=1, maximum=128),
        Param("baseline", "json"),
        Param("replaces", "str", maximum=32),
        Param("tier", "str", choices=tuple(each.value for each in Standing)),
        Param("idempotency_key", "str", minimum=1, maximum=128),
    )


def _needed(params: Mapping[str, Any], name: str) -> Any:
    if params[name] is None or params[name] == "":
        raise InvalidParams(f"action={params['action']} needs {name}=", data={"param": name})
    return params[name]


def _ticket_id(params: Mapping[str, Any]) -> str:
    text = str(_needed(params, "ticket_id"))
    if not _TICKET(text):
        raise InvalidParams(f"ticket_id {text[:40]!a} is not 32 hex digits", data={"param": "ticket_id"})
    return text


def _task_id(params: Mapping[str, Any]) -> str:
    text = str(_needed(params, "task_id"))
    if not _TASK(text):
        raise InvalidParams(
            "task_id is one word of up to 128 printable characters", data={"param": "task_id"}
        )
    return text


def _object(params: Mapping[str, Any], name: str) -> dict[str, JsonValue] | None:
    value = params[name]
    if value is not None and not isinstance(value, dict):
        raise InvalidParams(f"{name} is a JSON object", data={"param": name})
    return value


def _point(text: str | None) -> str | None:
    if text is not None and not is_point(text):
        raise InvalidParams(
            "payee_pubkey is a compressed public key: 66 lower-case hex, 02 or 03 first",
            data={"param": "payee_pubkey"},
        )
    return text


def _default_type(items: object) -> str:
    several = isinstance(items, list) and len(items) > 1
    return TicketType.BATCH.value if several else TicketType.SINGLE.value


def _items(value: object, amount_sats: int | None) -> tuple[ItemAsked, ...]:
    if value is None:
        return (ItemAsked(amount_sats),)
    if amount_sats is not None:
        raise InvalidParams(
            "give amount_sats in each of items, not beside them", data={"param": "amount_sats"}
        )
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_BATCH:
        raise InvalidParams(f"items is a JSON list of 1 to {MAX_BATCH} objects", data={"param": "items"})
    return tuple(_one_item(i, each) for i, each in enumerate(value))


def _one_item(i: int, value: object) -> ItemAsked:
    unknown = sorted(value.keys() - _ITEM_FIELDS) if isinstance(value, dict) else None
    if unknown is None or unknown:
        what = f"has no field {unknown[0][:40]!a}" if unknown else "is no object"
        raise InvalidParams(
            f"item {i} {what}; it takes {', '.join(sorted(_ITEM_FIELDS))}", data={"param": "items"}
        )
    try:
        found = msgspec.convert(value, _AskedItem)
    except msgspec.ValidationError as error:
        raise InvalidParams(f"item {i}: {in_words(error)}", data={"param": "items"}) from None
    return ItemAsked(found.amount_sats, found.label, found.window_s, found.cond, found.hash, found.params)


class _AskedItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of `items`, read strictly."""

    amount_sats: Annotated[int, msgspec.Meta(ge=1, le=MAX_ITEM_SATS)] | None = None
    label: str = ""
    window_s: Annotated[int, msgspec.Meta(ge=60, le=366 * 86_400)] | None = None
    cond: dict[str, Any] = {}
    hash: str | None = None
    params: dict[str, Any] | None = None


def _position(cursor: str | None) -> tuple[int, str] | None:
    if cursor is None:
        return None
    found = _CURSOR(cursor)
    if found is None:
        raise InvalidParams("cursor is what next_cursor of the page before said", data={"param": "cursor"})
    return int(found[1]), found[2]


def _evidence(value: object) -> tuple[str, ...]:
    listed = [] if value is None else value
    if not isinstance(listed, list) or not all(isinstance(each, str) and _HASH(each) for each in listed):
        raise InvalidParams("evidence is a JSON list of sha256:<64 hex>", data={"param": "evidence"})
    return tuple(listed)


def _line(params: Mapping[str, Any], name: str, most: int) -> str:
    text = str(_needed(params, name)).strip()
    if not text or len(text) > most or any(ord(char) < 32 for char in text):
        raise InvalidParams(f"{name} is 1 to {most} characters on one line", data={"param": name})
    return text


def _only(params: Mapping[str, Any], with_: str, *others: str) -> None:
    for name in others:
        if params[name] is not None:
            raise InvalidParams(f"{name} does not belong beside {with_}", data={"param": name})


def _item(item: ItemRow) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "item": item.i,
        "label": item.label,
        "amount_sats": item.amount_sats,
        "state": item.state.value,
        "deadline": item.deadline,
        "locktime": item.locktime,
        "lock_ids": list(item.lock_ids),
    }
    if item.hash is not None:
        shown["hash"] = item.hash
    for name in (
        *("command_id", "receipt_id", "delivered_at", "released_at", "redeemed_at", "refunded_at"),
        *(() if isinstance(item.state, PayeeItem) else ("metric",)),
    ):
        if (value := getattr(item, name)) is not None:
            shown[name] = value
    if item.owed_sats:
        shown["owed_sats"] = item.owed_sats
    return {**shown, "owed_by": item.owed_by} if item.owed_by else shown


def _said(item: ItemRow) -> dict[str, Any]:
    """What the payer said of an item that pays us."""
    told = {} if item.metric is None or not isinstance(item.state, PayeeItem) else item.metric
    return {name: told[name] for name in ("receipt_hash", "note") if name in told}


def _undecided(ticket: HeldTicket) -> dict[str, Any]:
    """A ticket for this node that was not accepted."""
    shown: dict[str, Any] = {
        "ticket_id": ticket.ticket_id,
        "role": Side.PAYEE.value,
        "payer": npub_encode(ticket.peer),
        "state": ticket.intake.value,
        "created_at": ticket.created_at,
        "updated_at": ticket.updated_at,
    }
    if ticket.terms is not None:
        shown["amount_sats"] = ticket.terms.amount_sats
    return {**shown, "reason": ticket.reason, "note": ticket.detail} if ticket.reason else shown


def _dispute(row: DisputeRow) -> dict[str, Any]:
    shown = {
        "dispute_id": row.dispute_id,
        "item": row.i,
        "opened_by": row.role.value,
        "claim": row.claim,
        "state": row.state.value,
        "answer_until": row.due_at,
        "created_at": row.created_at,
        "evidence": dict(row.evidence),
    }
    return shown if row.resolved_at is None else {**shown, "resolved_at": row.resolved_at}
