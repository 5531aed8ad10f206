"""What a node signed that cannot both be true, as a document that anybody can check
(docs/protocol/11-advisor-kit.md §5.4).

An evidence document holds claims: whole receipts, and whole answers to `receipts_list` with the question
they answer. Each is signed by the node's key; `contradictions` reads them and nothing else, no database, no
clock, no node.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeGuard

import msgspec
from hive_shared import envelope, receipts
from hive_shared.crypto import cln_recover_message
from hive_shared.errors import HiveError, InvalidParams

from hive_advisor.domain.answer import read_answer
from hive_advisor.domain.receipt_agreement import difference

FORMAT: Final = "hive-advisor-evidence/1"
_PRUNE: Final = "prune"


class Fork(Exception):
    """A node contradicts what it signed before. `claims` are the signed documents that show it."""

    def __init__(self, why: str, claims: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(why)
        self.claims = [dict(claim) for claim in claims]


class _Said(msgspec.Struct, frozen=True):
    """One receipt as a claim tells it: who says so is the node, in claim number `claim`."""

    claim: int
    receipt_id: int
    hash: str
    prev: str


class _Head(msgspec.Struct, frozen=True):
    """The newest receipt by the word of an answer that the node dated `at`."""

    claim: int
    at: tuple[int, int]
    receipt_id: int


def receipt_claim(document: Mapping[str, Any]) -> dict[str, Any]:
    """A whole receipt as a claim."""
    return {"receipt": dict(document)}


def answer_claim(question: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as a claim, with the envelope of ours that it answers."""
    return {"question": dict(question), "answer": dict(answer)}


def build(
    node_key: str, node_id: str, why: str, claims: Sequence[Mapping[str, Any]], at: int
) -> dict[str, Any]:
    """The evidence document."""
    return {
        "format": FORMAT,
        "node_key": node_key,
        "node_id": node_id,
        "at": at,
        "why": why,
        "claims": [dict(claim) for claim in claims],
    }


def contradictions(document: Mapping[str, Any]) -> list[str]:
    """Every contradiction that the signed claims prove. Raises InvalidParams for what is no evidence, or a
    claim that the node did not sign."""
    if document.get("format") != FORMAT:
        raise InvalidParams(f"this is no evidence of format {FORMAT}")
    node_key, node_id, claims = (document.get(name) for name in ("node_key", "node_id", "claims"))
    if not isinstance(node_key, str) or not isinstance(node_id, str) or not isinstance(claims, list):
        raise InvalidParams("the evidence names no node_key, node_id or claims")
    said: list[_Said] = []
    heads: list[_Head] = []
    found: list[str] = []
    for number, claim in enumerate(claims, 1):
        if not isinstance(claim, Mapping):
            raise InvalidParams(f"claim {number} is no object")
        said += _receipts_of(number, claim, node_key)
        if "answer" in claim:
            found += _gaps(number, claim, node_id)
            found += _altered(number, claim, node_key, node_id)
            heads += _heads(number, claim)
    return [
        *found,
        *_against_answers(claims),
        *_two_hashes(said),
        *_broken_links(said),
        *_shrunk(said, heads, claims),
    ]


def _receipts_of(number: int, claim: Mapping[str, Any], node_key: str) -> Iterator[_Said]:
    """What a claim says of receipts, after its signature was checked."""
    document = claim.get("receipt")
    if isinstance(document, Mapping):
        if not receipts.verify(document, node_key):
            raise InvalidParams(f"claim {number}: the receipt is not signed by the node")
        yield _said(number, document)
        return
    answer = claim.get("answer")
    if not isinstance(answer, Mapping) or not envelope.verify_response(answer, node_key):
        raise InvalidParams(f"claim {number}: neither a receipt nor an answer that the node signed")
    if isinstance(answer.get("receipt"), Mapping):
        yield _said(number, answer["receipt"])
    for item in items_of(answer):
        yield _said(number, item)


def _said(number: int, document: Mapping[str, Any]) -> _Said:
    receipt_id = document.get("receipt_id")
    if not _is_number(receipt_id):
        raise InvalidParams(f"claim {number} holds a receipt without an id")
    return _Said(number, receipt_id, str(document.get("receipt_hash")), str(document.get("prev_hash")))


def items_of(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The receipts that an answer to `receipts_list` lists."""
    result = answer.get("result")
    items = result.get("items") if isinstance(result, Mapping) else None
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []


def head_of(answer: Mapping[str, Any]) -> tuple[int, str] | None:
    """Id and hash of the node's newest receipt, by an answer to `receipts_list`; 0 when it says it has none;
    None when it is no such answer."""
    result = answer.get("result")
    if not isinstance(result, Mapping) or "items" not in result:
        return None
    head = result.get("head")
    if head is None:
        return 0, receipts.GENESIS
    if not isinstance(head, Mapping) or not _is_number(head.get("receipt_id")):
        return None
    return int(head["receipt_id"]), str(head.get("receipt_hash"))


def when(answer: Mapping[str, Any]) -> tuple[int, int]:
    """The node's own time of an answer and its number: what orders its answers."""
    time, number = answer.get("timestamp"), answer.get("seq")
    return (time if _is_number(time) else 0, number if _is_number(number) else 0)


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _heads(number: int, claim: Mapping[str, Any]) -> Iterator[_Head]:
    found = head_of(claim["answer"])
    if found is not None:
        yield _Head(number, when(claim["answer"]), found[0])


def archived_to(answer: Mapping[str, Any], node_id: str) -> int:
    """The last id that a checkpoint signed by the node's Lightning key says is archived; 0 if none does."""
    result = answer.get("result")
    roots = result.get("roots") if isinstance(result, Mapping) else None
    last = 0
    for root in roots if isinstance(roots, list) else []:
        if not isinstance(root, Mapping) or root.get("kind") != _PRUNE:
            continue
        numbers = [root.get(name) for name in ("start", "first_id", "last_id")]
        if not all(_is_number(value) for value in numbers):
            continue
        start, first, end = (int(str(value)) for value in numbers)
        text = receipts.root_text(_PRUNE, start, first, end, str(root.get("merkle_root")))
        if cln_recover_message(text, str(root.get("zbase"))) == node_id:
            last = max(last, end)
    return last


def since_of(question: Mapping[str, Any], answer: Mapping[str, Any]) -> int | None:
    """After which id our question asked; None when the two do not belong together."""
    if str(question.get("nonce")) != str(answer.get("request_nonce")):
        return None
    payload = question.get("schema_payload")
    params = payload.get("params") if isinstance(payload, Mapping) else None
    since = params.get("since_id", 0) if isinstance(params, Mapping) else None
    return since if isinstance(since, int) else None


def missing_in(question: Mapping[str, Any], answer: Mapping[str, Any], node_id: str) -> int | None:
    """The first id that should be in the answer's list and is not; None when the list has no hole.

    Ids have no gaps (02 §9.1). What lies behind a signed checkpoint is archived and not listed any more.
    """
    since = since_of(question, answer)
    head = head_of(answer)
    if since is None or head is None:
        return None
    expected = max(since, archived_to(answer, node_id)) + 1
    for item in items_of(answer):
        if item.get("receipt_id") != expected:
            return expected
        expected += 1
    return expected if not items_of(answer) and head[0] >= expected else None


def _gaps(number: int, claim: Mapping[str, Any], node_id: str) -> Iterator[str]:
    question = claim.get("question")
    hole = missing_in(question, claim["answer"], node_id) if isinstance(question, Mapping) else None
    if hole is not None:
        yield f"claim {number}: receipt {hole} is missing from its list, and no checkpoint covers it"


def is_whole(item: Mapping[str, Any]) -> bool:
    """Whether a listed receipt is one of ours, in full; of others the node shows its place in the chain."""
    return "action" in item or "command_hash" in item or "agent_id" in item


def _altered(number: int, claim: Mapping[str, Any], node_key: str, node_id: str) -> Iterator[str]:
    """Whole receipts in an answer that are not what their own hash and signature say."""
    answer = claim["answer"]
    own = answer.get("receipt")
    whole = [item for item in items_of(answer) if is_whole(item)]
    for item in [own, *whole] if isinstance(own, Mapping) else whole:
        name = f"claim {number}: receipt {item.get('receipt_id')} in it"
        if not receipts.verify(item, node_key):
            yield f"{name} is not what its hash and signature say"
        elif item.get("node_id") != node_id:
            yield f"{name} is of another node"


def _against_answers(claims: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Receipts that say something else of a command than the answer to that very command."""
    whole: list[tuple[int, Mapping[str, Any]]] = []
    for number, claim in enumerate(claims, 1):
        if isinstance(claim.get("receipt"), Mapping):
            whole.append((number, claim["receipt"]))
        answer = claim.get("answer")
        if isinstance(answer, Mapping):
            whole += [(number, item) for item in items_of(answer) if is_whole(item)]
            if isinstance(answer.get("receipt"), Mapping):
                whole.append((number, answer["receipt"]))
    for number, claim in enumerate(claims, 1):
        question, answer = claim.get("question"), claim.get("answer")
        if not isinstance(question, Mapping) or not isinstance(answer, Mapping):
            continue
        command_hash = _signed_hash(number, question)
        if since_of(question, answer) is None:
            raise InvalidParams(f"claim {number}: the answer is to another question")
        for other, document in whole:
            if document.get("command_hash") == command_hash:
                problem = difference(document, question, read_answer(dict(answer)))
                if problem is not None:
                    yield f"the receipt of claim {other} contradicts the answer of claim {number}: {problem}"


def _signed_hash(number: int, question: Mapping[str, Any]) -> str:
    try:
        asked = envelope.decode_command(json.dumps(question))
    except HiveError as error:
        raise InvalidParams(f"claim {number}: its question is no command: {error.detail}") from error
    if not envelope.verify_signature(asked):
        raise InvalidParams(f"claim {number}: its question is not signed by who it says")
    return asked.hash


def _two_hashes(said: Sequence[_Said]) -> Iterator[str]:
    first: dict[int, _Said] = {}
    for one in said:
        known = first.setdefault(one.receipt_id, one)
        if known.hash != one.hash:
            yield (
                f"receipt {one.receipt_id} has hash {known.hash[:16]} in claim {known.claim} and"
                f" {one.hash[:16]} in claim {one.claim}"
            )


def _broken_links(said: Sequence[_Said]) -> Iterator[str]:
    hashes: dict[int, set[str]] = {}
    for one in said:
        hashes.setdefault(one.receipt_id, set()).add(one.hash)
    for one in said:
        before = hashes.get(one.receipt_id - 1)
        if before is not None and one.prev not in before:
            where = f"receipt {one.receipt_id} in claim {one.claim}"
            yield f"{where} does not continue receipt {one.receipt_id - 1}"


def _shrunk(said: Sequence[_Said], heads: Sequence[_Head], claims: Sequence[Any]) -> Iterator[str]:
    for head in heads:
        for other in heads:
            if other.at < head.at and other.receipt_id > head.receipt_id:
                yield (
                    f"the newest receipt was {other.receipt_id} in claim {other.claim} and later"
                    f" {head.receipt_id} in claim {head.claim}"
                )
        for one in said:
            made = _made(claims[one.claim - 1], one)
            if made is not None and made < head.at[0] and one.receipt_id > head.receipt_id:
                yield (
                    f"receipt {one.receipt_id} of claim {one.claim} was there before claim {head.claim},"
                    f" which says that {head.receipt_id} is the newest"
                )


def _made(claim: Mapping[str, Any], one: _Said) -> int | None:
    """When the node, by its own word, had the receipt."""
    document = claim.get("receipt")
    if isinstance(document, Mapping):
        at = document.get("created_at")
        return at if isinstance(at, int) and one.receipt_id == document.get("receipt_id") else None
    return when(claim["answer"])[0]
