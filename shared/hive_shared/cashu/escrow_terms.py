"""From what an operator wants to the terms of a ticket: times, shares, hashes
(docs/protocol/03-escrow-and-payments.md §6.2 to §6.4). Amounts in sat, times in Unix seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from hive_shared.canonical import JsonValue, encode
from hive_shared.cashu.keysets import Keyset, face_sats, fee_sats
from hive_shared.cashu.reasons import TokenInvalid
from hive_shared.cashu.terms import (
    MAX_MINTS,
    SCHEMA_NAME,
    Mode,
    Terms,
    TicketType,
    decode_terms,
    task_params_hash,
)
from hive_shared.cashu.windows import BONUS_GRACE_S
from hive_shared.crypto import sha256
from hive_shared.errors import BudgetExhausted, InvalidParams

BASELINE_S: Final = 7 * 86_400
"""What a baseline is the average of, at least."""
MEASURE_S: Final = 86_400
"""How long a bonus is measured where the operator does not say."""
BONUS_COND: Final = frozenset({"metric", "threshold"})
COND: Final = BONUS_COND | {"verify_rpc", "action"}
"""Names of an item's `cond` that are read here; what others read has a namespace of theirs (0660)."""
_FOREIGN_COND: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}:[!-~]{1,64}").fullmatch
_HASH: Final = re.compile(r"[0-9a-f]{64}").fullmatch
_ACTION: Final = re.compile(r"[!-~]{1,64}").fullmatch
_LABEL_CHARS: Final = 64


class ItemPlan(msgspec.Struct, frozen=True):
    """One payable part. `window_s` from now to its deadline (None: that of the danger); for a bonus it is the
    time of measuring after the base's deadline. `hash` is the payee's own in mode receipt; `params` are those
    of this task where it is not the ticket's."""

    amount_sats: int
    label: str = ""
    window_s: int | None = None
    cond: Mapping[str, Any] = msgspec.field(default_factory=dict)
    hash: str | None = None
    params: Mapping[str, JsonValue] | None = None


class TicketPlan(msgspec.Struct, frozen=True):
    """What a ticket is to be. `window_s` and `buffer_s` are those of danger, standing and options;
    `valid_from` is that of the payee's credential, before which a baseline ends."""

    payee_id: str
    lock_pubkey: str
    type: TicketType
    items: Sequence[ItemPlan]
    schema: str
    action: str
    danger: int
    window_s: int
    buffer_s: int
    params: Mapping[str, JsonValue] = msgspec.field(default_factory=dict)
    mode: Mode = Mode.TASK
    contract_id: str | None = None
    credential_ref: str | None = None
    price_basis: str | None = None
    baseline: Mapping[str, Any] | None = None
    replaces: str | None = None
    valid_from: int | None = None

    @property
    def amount_sats(self) -> int:
        """What the payee nets when every item is paid."""
        return sum(item.amount_sats for item in self.items)

    @property
    def params_hash(self) -> str:
        """What the task is, as the terms name it."""
        return task_params_hash(self.schema, self.action, self.params)

    @property
    def content(self) -> str:
        """What an idempotency key stands for: the plan in every word but the options of the moment."""
        said: dict[str, JsonValue] = {
            "payee": self.payee_id,
            "type": self.type.value,
            "mode": self.mode.value,
            "danger": self.danger,
            "params_hash": self.params_hash,
            "contract_id": self.contract_id,
            "replaces": self.replaces,
            "baseline": None if self.baseline is None else dict(self.baseline),
            "items": [
                [each.amount_sats, each.label, each.window_s, dict(each.cond), each.hash, _params(each)]
                for each in self.items
            ],
        }
        return sha256(encode(said)).hex()

    def last_locktime(self, issued_at: int) -> int:
        """When the last item of the first mint may go back."""
        return max(deadline for deadline in _deadlines(self, issued_at)) + self.buffer_s


def locked_face_sats(amounts: Sequence[int], keyset: Keyset) -> int:
    """What one mint locks of all items: the amounts (sat) and what spending them costs the payee."""
    return sum(face_sats(each, keyset.input_fee_ppk, keyset.denominations) for each in amounts)


def most_fees_sats(amounts: Sequence[int], keyset: Keyset) -> int:
    """The most that spending any shares of the items costs at a mint."""
    return sum(fee_sats([keyset.input_fee_ppk] * (each.bit_length() + 1)) for each in amounts)


class Made(msgspec.Struct, frozen=True):
    """What the payer adds to a plan: who it is, and what makes the ticket one of its own."""

    payer_id: str
    node_id: str
    refund_pubkey: str
    ticket_id: str
    salt: str
    issued_at: int
    mints: Sequence[tuple[str, int]]
    """Address and permille, the first mint first."""
    hashes: Sequence[str]
    """One for each item; none in mode p2pk."""


def make_terms(plan: TicketPlan, made: Made) -> Terms:
    """The terms of a plan. Raises InvalidParams for what contradicts itself or the rules of its type, and for
    what would be locked in vain: words that nobody reads."""
    _check_words(plan)
    _check_baseline(plan)
    items: list[JsonValue] = []
    for i, (item, deadline) in enumerate(zip(plan.items, _deadlines(plan, made.issued_at), strict=True)):
        cond: dict[str, Any] = dict(item.cond)
        if item.params is not None:
            cond["task_params_hash"] = task_params_hash(plan.schema, plan.action, item.params)
        one: dict[str, JsonValue] = {
            "i": i,
            "label": item.label,
            "amount_sats": item.amount_sats,
            "deadline": deadline,
            "locktime": deadline + plan.buffer_s,
            "cond": cond,
        }
        if made.hashes:
            one["hash"] = made.hashes[i]
        items.append(one)
    document: dict[str, Any] = {
        "v": 1,
        "ticket_id": made.ticket_id,
        "type": plan.type.value,
        "mode": plan.mode.value,
        "payer": {"id": made.payer_id, "refund_pubkey": made.refund_pubkey},
        "payee": {"id": plan.payee_id, "lock_pubkey": plan.lock_pubkey},
        "verifier": {"id": made.payer_id, "node_id": made.node_id},
        "node_id": made.node_id,
        "unit": "sat",
        "mints": [{"url": url, "permille": permille} for url, permille in made.mints],
        "items": items,
        "schema": plan.schema,
        "task_params_hash": plan.params_hash,
        "danger": plan.danger,
        "issued_at": made.issued_at,
        "salt": made.salt,
    }
    for name in ("contract_id", "credential_ref", "price_basis", "baseline", "replaces"):
        value = getattr(plan, name)
        if value is not None:
            document[name] = dict(value) if isinstance(value, Mapping) else value
    try:
        return decode_terms(document)
    except TokenInvalid as refused:
        raise InvalidParams(f"no ticket can be made of this: {refused.detail}") from None


def divided(
    amount_sats: int, items: int, most_sats: int, mints: Sequence[str]
) -> tuple[tuple[str, int], ...]:
    """Over how many mints a ticket of so many items goes, and what part of it each has: one where it fits,
    equal parts above what may be of one ticket at one mint (`most_sats`, less the fees of the payee there).

    Raises BudgetExhausted (`exposure_limit`) where there are too few mints.
    """
    for count in range(1, min(len(mints), MAX_MINTS) + 1):
        part = 1_000 // count
        first = 1_000 - part * (count - 1)
        # The first mint has what rounding leaves of every item, below one sat for each other mint.
        if amount_sats * first <= (most_sats - items * (count - 1)) * 1_000:
            return ((mints[0], first), *((url, part) for url in mints[1:count]))
    raise BudgetExhausted(
        f"a ticket of {amount_sats} sat does not fit: at most {most_sats} sat and the payee's fees may be of"
        f" one ticket at one mint (hive-comms-mint-max-ticket), and {len(mints)} of your mints can take it",
        reason="exposure_limit",
        data={"mints": len(mints)},
    )


def bonus_of(item_cond: Mapping[str, Any]) -> tuple[str, int] | None:
    """The metric and threshold that a bonus item is earned by; None for an item without."""
    metric, threshold = item_cond.get("metric"), item_cond.get("threshold")
    if isinstance(metric, str) and isinstance(threshold, int) and not isinstance(threshold, bool):
        return metric, threshold
    return None


def _deadlines(plan: TicketPlan, issued_at: int) -> list[int]:
    found: list[int] = []
    for i, item in enumerate(plan.items):
        if plan.type is TicketType.PERFORMANCE and i:
            measured = MEASURE_S if item.window_s is None else item.window_s
            found.append(found[0] + measured + BONUS_GRACE_S)
        else:
            found.append(issued_at + (plan.window_s if item.window_s is None else item.window_s))
    return found


def _check_words(plan: TicketPlan) -> None:
    if not re.fullmatch(SCHEMA_NAME, plan.schema):
        raise InvalidParams(
            f"the task's schema {plan.schema[:80]!a} is not like acme:review/v1: who defines it, its name,"
            " its version"
        )
    if not _ACTION(plan.action):
        raise InvalidParams(f"the task's action {plan.action[:80]!a} is not one word of 1 to 64 characters")
    for i, item in enumerate(plan.items):
        bonus = plan.type is TicketType.PERFORMANCE and i > 0
        if problem := _item_problem(item, plan.mode, bonus=bonus):
            raise InvalidParams(f"item {i}: {problem}", data={"param": "items", "item": i})


def _item_problem(item: ItemPlan, mode: Mode, *, bonus: bool) -> str | None:
    if len(item.label) > _LABEL_CHARS or not item.label.isprintable():
        return f"label is one line of up to {_LABEL_CHARS} characters"
    if item.hash is not None and mode is not Mode.RECEIPT:
        return f"hash is the payee's own, of mode receipt; in mode {mode.value} leave it out"
    if item.hash is not None and not _HASH(item.hash):
        return "hash is 64 lower-case hex digits"
    for name in item.cond:
        if name == "task_params_hash":
            return "cond.task_params_hash is made of params: give the item its params"
        if name in BONUS_COND and not bonus:
            return f"cond.{name} belongs to a bonus: an item after the first of a performance ticket"
        if name not in COND and not _FOREIGN_COND(name):
            known = ", ".join(sorted(BONUS_COND if bonus else COND - BONUS_COND - {"action"}))
            return (
                f"cond.{name[:40]} is nothing that this node reads ({known}); what others read has a"
                " namespace, like acme:branch"
            )
    return None


def _check_baseline(plan: TicketPlan) -> None:
    if plan.type is not TicketType.PERFORMANCE:
        if plan.baseline is not None:
            raise InvalidParams("a baseline belongs to a performance ticket", data={"param": "baseline"})
        return
    for i, item in enumerate(plan.items):
        if i and bonus_of(item.cond) is None:
            raise InvalidParams(
                f"bonus item {i} needs cond.metric (a name) and cond.threshold (a whole number)",
                data={"param": "items"},
            )
    if plan.baseline is None:
        raise InvalidParams(
            "a performance ticket needs baseline={metric, value, period: [from, to]}: the average before the"
            " advisor had access; a first engagement is a trial",
            data={"param": "baseline"},
        )
    start, end = _period(plan.baseline)
    if end - start < BASELINE_S:
        raise InvalidParams(
            f"the baseline is of {end - start} s, it is the average of 7 days at least",
            data={"param": "baseline"},
        )
    if plan.valid_from is not None and end > plan.valid_from:
        raise InvalidParams(
            f"the baseline ends at {end}, after the advisor's credential began at {plan.valid_from}: what it"
            " did itself would be compared with itself",
            data={"param": "baseline"},
        )


def _period(baseline: Mapping[str, Any]) -> tuple[int, int]:
    period = baseline.get("period")
    if isinstance(baseline.get("metric"), str) and type(baseline.get("value")) is int:
        match period:
            case [int(start), int(end)]:
                return start, end
    raise InvalidParams(
        "baseline is {metric, value, period: [from, to]}: a name, a whole number, two times",
        data={"param": "baseline"},
    )


def _params(item: ItemPlan) -> JsonValue:
    return None if item.params is None else dict(item.params)
