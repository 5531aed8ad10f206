"""The receipt chain: hashes, signatures, Merkle trees (02 §9, 11 §15.7)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hive_shared import crypto, receipts
from hive_shared.canonical import encode
from hive_shared.crypto import Secret
from hive_shared.receipts import GENESIS, Receipt
from hypothesis import given, settings
from hypothesis import strategies as st

NODE = Secret((5).to_bytes(32, "big"))
NODE_KEY = crypto.xonly_pubkey(NODE)


def receipt(number: int, prev: str) -> Receipt:
    return receipts.seal(
        Receipt(
            receipt_id=number,
            v=1,
            prev_hash=prev,
            node_id="02" + "ab" * 32,
            created_at=1770000000 + number,
            agent_id="did:nostr:" + "cd" * 32,
            command_id="00000000-0000-4000-8000-0000000000c1",
            nonce=1770000000000000 + number,
            schema="hive:fee-policy/v1",
            action="set_single",
            params={"channel_id": "103x1x0", "fee_ppm": 100 + number},
            danger={"r": 2, "f": 3, "t": 3, "b": 3, "d": 2, "total": 3},
            approval={"level": "3", "workflow": "auto", "approvers": []},
            status="success",
            result={"warnings": []},
        ),
        NODE,
    )


def chain(count: int) -> list[Receipt]:
    result: list[Receipt] = []
    for number in range(1, count + 1):
        result.append(receipt(number, result[-1].receipt_hash if result else GENESIS))
    return result


CHAIN = chain(8)


def test_hash_covers_exactly_the_present_content() -> None:
    first = CHAIN[0]
    doc = receipts.to_doc(first)
    assert "error" not in doc and "escrow" not in doc
    content = {k: v for k, v in doc.items() if k not in ("receipt_hash", "node_signature")}
    assert first.receipt_hash == crypto.sha256(encode(content)).hex()
    assert crypto.schnorr_verify(
        NODE_KEY, crypto.sha256(b"hive-receipt:v1:" + first.receipt_hash.encode()), first.node_signature
    )
    assert receipts.verify(first, NODE_KEY) and receipts.verify(doc, NODE_KEY)


def test_documents_read_back_and_refuse_what_does_not_belong() -> None:
    doc = receipts.to_doc(CHAIN[3])
    assert receipts.from_doc(doc) == CHAIN[3]
    for bad in ({**doc, "colour": 1}, {**doc, "receipt_id": "4"}, {**doc, "error": None}):
        with pytest.raises(ValueError):
            receipts.from_doc(bad)


def test_a_whole_chain_verifies_in_both_forms() -> None:
    report = receipts.verify_chain(CHAIN, node_keys=[NODE_KEY])
    assert (report.ok, report.checked, report.last_id) == (True, 8, 8)
    assert report.last_hash == CHAIN[-1].receipt_hash
    assert receipts.verify_chain(receipts.to_doc(each) for each in CHAIN).ok
    part = receipts.verify_chain(CHAIN[4:], after_id=4, after_hash=CHAIN[3].receipt_hash)
    assert part.ok and part.checked == 4


def test_an_empty_chain_holds() -> None:
    assert receipts.verify_chain([]) == receipts.ChainReport(True, 0)


def flip(doc: dict[str, Any], name: str) -> dict[str, Any]:
    value = doc[name]
    if isinstance(value, str):
        value = chr(ord(value[0]) ^ 1) + value[1:]
    elif isinstance(value, int):
        value ^= 1
    else:
        value = {**value, "x": 1}
    return {**doc, name: value}


@pytest.mark.parametrize("name", sorted(receipts.to_doc(CHAIN[4])))
def test_acceptance_02_16_a_flipped_byte_in_any_field_is_named(name: str) -> None:
    docs = [receipts.to_doc(each) for each in CHAIN]
    docs[4] = flip(docs[4], name)
    report = receipts.verify_chain(docs, node_keys=[NODE_KEY])
    assert (report.ok, report.first_bad, report.checked) == (False, 5, 4)
    assert report.reason


def test_a_missing_receipt_and_a_foreign_field_are_named() -> None:
    gap = receipts.verify_chain([*CHAIN[:3], *CHAIN[4:]])
    assert (gap.first_bad, gap.checked) == (4, 3)
    assert "missing" in (gap.reason or "")
    doc = receipts.to_doc(CHAIN[0])
    assert receipts.verify_chain([{**doc, "note": 1}]).first_bad == 1


def test_a_rewritten_chain_fails_on_its_signatures_only() -> None:
    """Whoever recomputes every hash still lacks the node's key."""
    forged = receipts.seal(msgspec.structs.replace(CHAIN[0], status="error"), Secret((9).to_bytes(32, "big")))
    assert receipts.verify_chain([forged]).ok
    assert receipts.verify_chain([forged], node_keys=[NODE_KEY]).first_bad == 1
    rotated = receipts.verify_chain(
        [forged], node_keys=[NODE_KEY, crypto.xonly_pubkey(Secret(bytes(31) + b"\x09"))]
    )
    assert rotated.ok


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200)
@given(st.dictionaries(st.text(), json_values, max_size=6))
def test_the_fast_canonical_form_is_rfc_8785(value: dict[str, Any]) -> None:
    assert receipts._canonical(value) == encode(value)


@pytest.mark.parametrize(
    "value", [1.0, 1e21, -0.0, 0.5, 1e-7, 9007199254740991, -9007199254740991, 1770000000000000]
)
def test_numbers_take_the_general_way_where_they_must(value: float) -> None:
    for doc in ({"a": value}, {"a": [value]}, {"a": [1, value]}, {"a": ":", "b": {"c": value}}):
        assert receipts._canonical(doc) == encode(doc)


@pytest.mark.parametrize("value", [2**53, 2**64, float("nan"), float("inf")])
def test_what_has_no_canonical_form_is_refused(value: float) -> None:
    with pytest.raises(ValueError):
        receipts._canonical({"a": value})


# ------------------------------------------------------------------------------------- Merkle trees


@dataclass
class Tree:
    """RFC 6962 §2.1 written down as it stands there, slow and recursive."""

    leaves: list[bytes]

    def head(self) -> bytes:
        if not self.leaves:
            return crypto.sha256(b"")
        if len(self.leaves) == 1:
            return crypto.sha256(b"\x00" + self.leaves[0])
        split = 1 << (len(self.leaves) - 1).bit_length() - 1
        return crypto.sha256(b"\x01" + Tree(self.leaves[:split]).head() + Tree(self.leaves[split:]).head())

    def path(self, index: int) -> Iterator[bytes]:
        if len(self.leaves) == 1:
            return
        split = 1 << (len(self.leaves) - 1).bit_length() - 1
        left, right = Tree(self.leaves[:split]), Tree(self.leaves[split:])
        if index < split:
            yield from left.path(index)
            yield right.head()
        else:
            yield from right.path(index - split)
            yield left.head()


HASHES = [crypto.sha256(bytes([number])).hex() for number in range(40)]


@pytest.mark.parametrize("size", range(41))
def test_roots_and_paths_are_those_of_rfc_6962(size: int) -> None:
    hashes = HASHES[:size]
    tree = Tree([bytes.fromhex(text) for text in hashes])
    root = receipts.merkle_root(hashes)
    assert root == tree.head().hex()
    for index in range(size):
        path = receipts.merkle_path(hashes, index)
        assert path == [step.hex() for step in tree.path(index)]
        assert receipts.verify_path(hashes[index], index, size, path, root)


@pytest.mark.parametrize("size", range(41))
def test_levels_that_are_kept_have_the_root_of_a_fresh_tree(size: int) -> None:
    levels, hashes, draw = receipts.MerkleLevels(), HASHES[:size], random.Random(size)
    for _ in range(8):
        assert levels.root(hashes) == receipts.merkle_root(hashes)
        for _ in range(draw.randrange(4) if hashes else 0):
            hashes[draw.randrange(size)] = draw.choice(HASHES)
    for other in (HASHES[: size + 1], HASHES[size // 2 :], []):
        assert levels.root(other) == receipts.merkle_root(other)


def test_a_path_proves_nothing_else() -> None:
    root, path = receipts.merkle_root(HASHES), receipts.merkle_path(HASHES, 7)
    assert not receipts.verify_path(HASHES[8], 7, 40, path, root)
    assert not receipts.verify_path(HASHES[7], 8, 40, path, root)
    assert not receipts.verify_path(HASHES[7], 7, 40, path[:-1], root)
    assert not receipts.verify_path(HASHES[7], 7, 40, [*path, "00" * 32], root)
    assert not receipts.verify_path(HASHES[7], 40, 40, path, root)
    assert not receipts.verify_path("zz", 7, 40, path, root)
    shuffled = random.Random(1).sample(HASHES, len(HASHES))
    assert receipts.merkle_root(shuffled) != root
    with pytest.raises(IndexError):
        receipts.merkle_path(HASHES, 40)


def test_root_text_of_11_15_7() -> None:
    assert receipts.root_text("hour", 3600, 1, 9, "ab") == "hive-receipt-root:v1:hour:3600:1:9:ab"
