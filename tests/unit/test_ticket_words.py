"""Words of a new ticket that nobody would read: refused before anything is locked
(docs/protocol/03-escrow-and-payments.md §6.2, docs/decisions/0660)."""

from __future__ import annotations

from typing import Any

import pytest
from coincurve import PrivateKey
from hive_shared.cashu.escrow_terms import ItemPlan, Made, TicketPlan, make_terms
from hive_shared.cashu.terms import Mode, Terms, TicketType
from hive_shared.errors import InvalidParams, Unsupported
from hive_shared.registry import managed, task_params

ISSUED = 1_800_000_000
BONUS = {"metric": "reviews", "threshold": 3}
BASELINE = {"metric": "reviews", "value": 1, "period": [ISSUED - 8 * 86_400, ISSUED - 60]}


def _point(number: int) -> str:
    return PrivateKey(number.to_bytes(32, "big")).public_key.format().hex()


def made(*items: ItemPlan, **changes: Any) -> Terms:
    given: dict[str, Any] = {
        "payee_id": "11" * 32,
        "lock_pubkey": _point(7),
        "type": TicketType.SINGLE,
        "items": items or (ItemPlan(10),),
        "schema": "acme:review/v1",
        "action": "review",
        "danger": 3,
        "window_s": 3_600,
        "buffer_s": 3_600,
        **changes,
    }
    plan = TicketPlan(**given)
    hashes = [] if plan.mode is Mode.P2PK else [f"{i:064x}" for i, _ in enumerate(plan.items)]
    who = ("22" * 32, _point(8), _point(9), "ab" * 16, "cd" * 16, ISSUED)
    return make_terms(plan, Made(*who, [("https://mint.example.com", 1_000)], hashes))


@pytest.mark.parametrize(
    ("item", "changes", "told"),
    [
        (ItemPlan(10), {"schema": "review"}, "schema 'review' is not like acme:review/v1"),
        (ItemPlan(10), {"schema": "acme:review/v1\n"}, "is not like acme:review/v1"),
        (ItemPlan(10), {"action": ""}, "action '' is not one word"),
        (ItemPlan(10), {"action": "two words"}, "action 'two words' is not one word"),
        (ItemPlan(10), {"action": "x" * 65}, "is not one word of 1 to 64 characters"),
        (ItemPlan(10, "two\nlines"), {}, "item 0: label is one line"),
        (ItemPlan(10, "\x1b[2J"), {}, "item 0: label is one line"),
        (ItemPlan(10, "x" * 65), {}, "up to 64 characters"),
        (ItemPlan(10, hash="ab" * 32), {}, "of mode receipt; in mode task leave it out"),
        (ItemPlan(10, hash="ab" * 32), {"mode": Mode.P2PK}, "in mode p2pk leave it out"),
        (ItemPlan(10, hash="zz"), {"mode": Mode.RECEIPT}, "hash is 64 lower-case hex digits"),
        (ItemPlan(10, cond={"verify-rpc": "judge"}), {}, "cond.verify-rpc is nothing that this node reads"),
        (ItemPlan(10, cond={"deadline": 5}), {}, r"\(verify_rpc\); what others read has a namespace"),
        (ItemPlan(10, cond=BONUS), {}, "cond.metric belongs to a bonus"),
        (ItemPlan(10, cond={"threshold": 3}), {}, "cond.threshold belongs to a bonus"),
        (ItemPlan(10, cond={"task_params_hash": 5}), {}, "is made of params: give the item its params"),
    ],
)
def test_what_nobody_would_read_locks_nothing(item: ItemPlan, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidParams, match=told):
        made(item, **changes)


def test_what_is_read_and_what_others_read_stands_in_the_terms() -> None:
    terms = made(ItemPlan(10, "Straße 7, ok", cond={"acme:branch": "main", "verify_rpc": "judge"}))
    assert terms.items[0].cond == {"acme:branch": "main", "verify_rpc": "judge"}
    several = (ItemPlan(10), ItemPlan(5, cond=BONUS))
    bonus = made(*several, type=TicketType.PERFORMANCE, baseline=BASELINE)
    assert bonus.items[1].cond == BONUS
    with pytest.raises(InvalidParams, match=r"item 0: cond\.metric belongs to a bonus"):
        made(ItemPlan(10, cond=BONUS), several[1], type=TicketType.PERFORMANCE, baseline=BASELINE)
    assert made(ItemPlan(10, hash="00" * 32), mode=Mode.RECEIPT).mode is Mode.RECEIPT


def test_a_task_of_management_is_one_that_a_command_can_be() -> None:
    with pytest.raises(Unsupported, match="schema 'hive:fees/v1' is not known here"):
        task_params("hive:fees/v1", "set_single", {})
    with pytest.raises(Unsupported, match="has no action 'nope'"):
        task_params("hive:fee-policy/v1", "nope", {})
    assert task_params("acme:review/v1", "nope", {"pull": 7}) == {"pull": 7}
    # An older name of a schema is of management as well.
    assert managed("hive:htlc/v1") and not managed("acme:hive/v1")
