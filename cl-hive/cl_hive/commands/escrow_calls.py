"""What hive-escrow-* does with its parameters: read strictly, call the service, show the result."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.cashu.curve import is_point
from hive_shared.cashu.escrow_disputes import Answer, EscrowDisputes
from hive_shared.cashu.escrow_rows import DisputeRow, ItemRow, TicketQuery, TicketRow, cursor_of
from hive_shared.cashu.escrow_terms import ItemPlan
from hive_shared.cashu.mint_url import normal_mint_url
from hive_shared.cashu.terms import TicketType, terms_json
from hive_shared.cashu.ticket_machine import TicketStatus
from hive_shared.cashu.ticket_messages import Outcome
from hive_shared.cashu.windows import Standing
from hive_shared.errors import FeatureDisabled, InvalidParams
from hive_shared.nostr.keys import parse_pubkey
from hive_shared.unreadable import Unreadable
from hive_shared.validation_words import in_words

from cl_hive.domain.fleet_escrow import FleetReceipt
from cl_hive.services.fleet_escrow import MOST_SATS, FleetAsked, FleetEscrow, FleetJudged, price

_TICKET: Final = re.compile(r"[0-9a-f]{32}").fullmatch
_HEX32: Final = re.compile(r"[0-9a-f]{64}").fullmatch
_NODE: Final = re.compile(r"0[23][0-9a-f]{64}").fullmatch
_TASK: Final = re.compile(r"[!-~]{1,128}").fullmatch
_CURSOR: Final = re.compile(r"([0-9]{1,12})-([0-9a-f]{32})").fullmatch
_MOST_ITEMS: Final = 512


class _AskedItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of `items`, read strictly."""

    amount_sats: Annotated[int, msgspec.Meta(ge=1, le=MOST_SATS)]
    label: Annotated[str, msgspec.Meta(max_length=64)] = ""
    window_s: Annotated[int, msgspec.Meta(ge=60, le=366 * 86_400)] | None = None
    params: dict[str, Any] | None = None


class EscrowCalls:
    """One method for each call."""

    def __init__(self, service: FleetEscrow, disputes: EscrowDisputes) -> None:
        self._service, self._disputes = service, disputes

    async def create(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """hive-escrow-create."""
        items = _items(given["items"], given["amount_sats"])
        if (total := sum(item.amount_sats for item in items)) > MOST_SATS:
            raise InvalidParams(
                f"the items are {total} sat together, at most {MOST_SATS} may be of one ticket",
                data={"param": "items"},
            )
        pubkey = given["payee_pubkey"]
        if pubkey is not None and not is_point(pubkey):
            raise InvalidParams(
                "payee_pubkey is a compressed public key: 66 lower-case hex, 02 or 03 first",
                data={"param": "payee_pubkey"},
            )
        asked = FleetAsked(
            agent=_agent(given["agent_id"]),
            schema=given["schema_id"],
            action=given["action"],
            danger=given["danger_score"],
            type=TicketType(given["ticket_type"]),
            items=items,
            params=_object("params_json", given["params_json"]) or {},
            mint=_mint(given["mint_url"]),
            task_id=None if given["task_id"] is None else _task_id(given["task_id"]),
            payee_pubkey=pubkey,
        )
        ticket = await self._service.create(asked, given["idempotency_key"], given["timeout"])
        return await self._shown(ticket.ticket_id)

    async def list(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """hive-escrow-list."""
        before, limit = _position(given["cursor"]), given["limit"]
        query = TicketQuery(
            status=None if given["status"] is None else TicketStatus(given["status"]),
            advisor_id=None if given["agent_id"] is None else _agent(given["agent_id"]),
            before=before,
            limit=limit + 1,
        )
        found = await self._service.tickets(query)
        page: dict[str, Any] = {
            "count": len(found[:limit]),
            "items": [
                each.shown("ticket_id") if isinstance(each, Unreadable) else _row(*each)
                for each in found[:limit]
            ],
        }
        if len(found) > limit:
            page["next_cursor"] = cursor_of(found[limit - 1])
        return page

    async def get(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """hive-escrow-get."""
        ticket, items, locks, disputes = await self._service.whole(_ticket_id(given))
        shown = {
            **_row(ticket, items),
            "terms_hash": ticket.terms_hash,
            "payer_signature": ticket.payer_sig,
            "terms": terms_json(ticket.terms),
            "items": [_item(item) for item in items],
            "locks": [
                {
                    "lock_id": lock.lock_id,
                    "item": lock.item,
                    "share": lock.share,
                    "state": lock.state.value,
                    "locktime": lock.locktime,
                    **({"error": lock.error} if lock.error else {}),
                }
                for lock in locks
            ],
        }
        if disputes:
            shown["disputes"] = [_dispute(row) for row in disputes]
        return {**shown, "acknowledged_by": ticket.acked_by} if ticket.acked_by else shown

    async def secret(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """hive-escrow-secret."""
        task_id = _task_id(given["task_id"])
        return {"task_id": task_id, "hashes": await self._service.engine.secrets(task_id, given["count"])}

    async def register(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """hive-escrow-register."""
        task_id, text = _task_id(given["task_id"]), given["secret"]
        if not _HEX32(text):
            raise InvalidParams("secret is 64 lower-case hex digits", data={"param": "secret"})
        return {"task_id": task_id, "hash": await self._service.engine.register(task_id, bytes.fromhex(text))}

    async def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """hive-escrow-complete."""
        judged = FleetJudged(
            schema=given["schema_id"],
            action=given["action"],
            params=_object("params_json", given["params_json"]),
            result=_object("result_json", given["result_json"]) or {},
            success=given["success"],
            reveal=given["reveal_preimage"],
            confirm=given["confirm"],
        )
        item = await self._service.complete(_ticket_id(given), given["item"], judged)
        return {"ticket_id": item.ticket_id, **_item(item)}

    async def redeem(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """hive-escrow-redeem."""
        preimage = given["preimage"]
        if preimage is not None and not _HEX32(preimage):
            raise InvalidParams("preimage is 64 lower-case hex digits", data={"param": "preimage"})
        ticket_id = _ticket_id(given)
        await self._service.redeem(ticket_id, preimage, given["timeout"])
        return await self._shown(ticket_id)

    async def refund(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """hive-escrow-refund."""
        ticket = await self._service.refund(_ticket_id(given), given["timeout"])
        return await self._shown(ticket.ticket_id)

    async def dispute(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """hive-escrow-dispute."""
        paid, reason = given["payment_id"], given["reason"].strip()
        if (given["outcome"] == "pay") is not bool(paid):
            raise InvalidParams(
                "payment_id names the payment of outcome=pay, and belongs to no other",
                data={"param": "payment_id"},
            )
        if not reason or not reason.isprintable():
            raise InvalidParams("reason is one line of text", data={"param": "reason"})
        answer = Answer(Outcome(given["outcome"]), reason, payment_id=paid)
        row = await self._disputes.answer(_ticket_id(given), given["item"], answer)
        return {"ticket_id": row.ticket_id, **_dispute(row)}

    async def receipt(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """hive-escrow-receipt."""
        ticket_id = _ticket_id(given)
        rows = [_receipt(row) for row in await self._service.receipts_of(ticket_id)]
        return {"ticket_id": ticket_id, "count": len(rows), "items": rows}

    async def pricing(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """hive-escrow-pricing."""
        found = price(given["danger_score"], Standing(given["reputation_tier"]))
        return {
            "danger_score": given["danger_score"],
            "reputation_tier": given["reputation_tier"],
            "base_sats": found.base_sats,
            "adjusted_sats": found.adjusted_sats,
            "window_s": found.window_s,
            "modifiers": {"agent_percent": found.agent_percent, "bonus_percent": found.bonus_percent},
            "default_type": found.default_type.value,
        }

    async def _shown(self, ticket_id: str) -> dict[str, Any]:
        ticket, items, *_ = await self._service.whole(ticket_id)
        return _row(ticket, items)


def _agent(text: str) -> str:
    if _NODE(text):
        raise FeatureDisabled(
            "a ticket for a member travels in messages between cl-hive nodes, which this version does not"
            " serve: give the agent's Nostr key (npub)",
            data={"param": "agent_id"},
        )
    try:
        return parse_pubkey(text.removeprefix("did:nostr:"))
    except ValueError as error:
        raise InvalidParams(f"agent_id: {str(error)[:160]}", data={"param": "agent_id"}) from None


def _mint(url: str | None) -> str | None:
    if url is None:
        return None
    try:
        return normal_mint_url(url)
    except ValueError as error:
        raise InvalidParams(f"mint_url: {str(error)[:160]}", data={"param": "mint_url"}) from None


def _ticket_id(given: Mapping[str, Any]) -> str:
    text = str(given["ticket_id"])
    if not _TICKET(text):
        raise InvalidParams(f"ticket_id {text[:40]!a} is not 32 hex digits", data={"param": "ticket_id"})
    return text


def _task_id(text: str) -> str:
    if not _TASK(text):
        raise InvalidParams(
            "task_id is one word of up to 128 printable characters", data={"param": "task_id"}
        )
    return text


def _object(name: str, value: object) -> dict[str, JsonValue] | None:
    if value is not None and not isinstance(value, dict):
        raise InvalidParams(f"{name} is a JSON object", data={"param": name})
    return value


def _items(value: object, amount_sats: int | None) -> tuple[ItemPlan, ...]:
    if value is None:
        if amount_sats is None:
            raise InvalidParams(
                "give amount_sats=, or items= with an amount in each", data={"param": "amount_sats"}
            )
        return (ItemPlan(amount_sats),)
    if amount_sats is not None:
        raise InvalidParams(
            "give amount_sats in each of items, not beside them", data={"param": "amount_sats"}
        )
    if not isinstance(value, list) or not 1 <= len(value) <= _MOST_ITEMS:
        raise InvalidParams(f"items is a JSON list of 1 to {_MOST_ITEMS} objects", data={"param": "items"})
    found = []
    for i, each in enumerate(value):
        try:
            item = msgspec.convert(each, _AskedItem)
        except msgspec.ValidationError as error:
            raise InvalidParams(f"item {i}: {in_words(error)}", data={"param": "items"}) from None
        found.append(ItemPlan(item.amount_sats, item.label, item.window_s, params=item.params))
    return tuple(found)


def _position(cursor: str | None) -> tuple[int, str] | None:
    if cursor is None:
        return None
    found = _CURSOR(cursor)
    if found is None:
        raise InvalidParams("cursor is what next_cursor of the page before said", data={"param": "cursor"})
    return int(found[1]), found[2]


def _row(ticket: TicketRow, items: Sequence[ItemRow]) -> dict[str, Any]:
    states: dict[str, int] = {}
    for item in items:
        states[item.state.value] = states.get(item.state.value, 0) + 1
    terms = ticket.terms
    row: dict[str, Any] = {
        "ticket_id": ticket.ticket_id,
        "role": ticket.role.value,
        "ticket_type": terms.type.value,
        "agent_id": ticket.advisor_id,
        "status": ticket.status.value,
        "amount_sats": terms.amount_sats,
        "mint_url": terms.mints[0].url,
        "danger_score": terms.danger,
        "schema_id": terms.schema,
        "action": items[0].cond.get("action") if items else None,
        "deadline": max(item.deadline for item in terms.items),
        "timelock": max(item.locktime for item in terms.items),
        "item_states": states,
        "created_at": ticket.created_at,
        "updated_at": ticket.updated_at,
    }
    if owed := sum(item.owed_sats for item in items if not item.owed_by):
        row["owed_sats"] = owed
    return {**row, "note": ticket.error} if ticket.error else row


def _item(item: ItemRow) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "item": item.i,
        "label": item.label,
        "amount_sats": item.amount_sats,
        "state": item.state.value,
        "deadline": item.deadline,
        "locktime": item.locktime,
        "lock_ids": [*item.lock_ids],
    }
    for name in ("hash", "command_id", "receipt_id", "released_at", "redeemed_at", "refunded_at"):
        if (value := getattr(item, name)) is not None:
            shown[name] = value
    return {**shown, "owed_sats": item.owed_sats} if item.owed_sats else shown


def _dispute(row: DisputeRow) -> dict[str, Any]:
    return {
        "dispute_id": row.dispute_id,
        "item": row.i,
        "claim": row.claim,
        "state": row.state.value,
        "answer_until": row.due_at,
    }


def _receipt(row: FleetReceipt) -> dict[str, Any]:
    return {
        "receipt_id": row.receipt_id,
        "receipt_hash": row.hash,
        "item": row.i,
        "schema_id": row.schema_id,
        "action": row.action,
        "params": dict(row.params),
        "result": dict(row.result),
        "success": row.success,
        "preimage_revealed": row.preimage_revealed,
        "node_signature": row.node_signature,
        "created_at": row.created_at,
    }
