"""A mint's answers: read with whatever they have beside, refused where what we use is not right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cashu_mint import PaperMint
from hive_shared.cashu import wire
from hive_shared.cashu.mint_quote import legacy_quote_digest, quote_digest
from hive_shared.cashu.outputs import Output, finish, restored
from hive_shared.cashu.reasons import MintNonconformant
from hive_shared.cashu.wire import BlindedMessage, BlindSignature, Proof, decode
from hive_shared.crypto import schnorr_verify
from msgspec.structs import replace

MINT = PaperMint(input_fee_ppk=100)
POINT = MINT.keyset.key(1)
KEYS = {str(amount): key for amount, key in MINT.keyset.keys.items()}
INFO = {"id": MINT.keyset.id, "unit": "sat", "active": True, "input_fee_ppk": 100}


def read(answer: object, kind: type[Any]) -> Any:
    return decode(json.dumps(answer).encode(), kind)


def test_info_of_old_and_new_mints() -> None:
    new = read(
        {
            "name": "m",
            "version": "Nutshell/0.21.0",
            "time": 1_900_000_000,
            "max_array_length": 500,
            "contact": [{"method": "x"}],
            "nuts": {
                "4": {"methods": [{"method": "bolt11", "unit": "sat", "min_amount": 0}], "disabled": False},
                "5": {"methods": [{"method": "bolt11", "unit": "usd"}], "disabled": False},
                "7": {"supported": True},
                "15": {"methods": []},
                "17": {"supported": [{"method": "bolt11"}]},
                "19": {"ttl": 3},
            },
        },
        wire.MintInfo,
    )
    assert [nut for nut in (4, 5, 7, 9, 15, 17, 19) if new.supports(nut)] == [4, 7]
    assert new.array_limit == 500 and new.time == 1_900_000_000
    old = read({"name": "m", "version": "Nutshell/0.16.0", "nuts": {"4": {"disabled": True}}}, wire.MintInfo)
    assert old.time is None and old.array_limit == 1_000 and not old.supports(4)
    assert read({"max_array_length": 5_000}, wire.MintInfo).array_limit == 1_000


def test_states_of_quotes_by_either_field() -> None:
    base = {"quote": "q", "request": "lnbc1", "expiry": None}
    assert read({**base, "state": "ISSUED", "paid": True}, wire.MintQuote).status == "ISSUED"
    assert read({**base, "paid": True}, wire.MintQuote).status == "PAID"
    assert read({**base, "paid": False}, wire.MintQuote).status == "UNPAID"
    melt = {"quote": "q", "amount": 5, "fee_reserve": 2}
    assert read({**melt, "state": "PENDING"}, wire.MeltQuote).status == "PENDING"
    assert read({"state": "PAID", "payment_preimage": None}, wire.MeltAnswer).status == "PAID"
    for kind, answer in ((wire.MintQuote, base), (wire.MeltQuote, melt), (wire.MeltAnswer, {})):
        with pytest.raises(MintNonconformant, match="neither state nor paid"):
            assert read(answer, kind).status
    with pytest.raises(MintNonconformant, match="MintQuote"):
        read({**base, "state": "MAYBE"}, wire.MintQuote)


SIGNATURE = {"amount": 1, "id": MINT.keyset.id, "C_": POINT, "dleq": {"e": "1" * 64, "s": "2" * 64}}


@pytest.mark.parametrize(
    "change",
    [
        {"amount": "1"},
        {"amount": 1.0},
        {"amount": True},
        {"amount": -1},
        {"amount": 2_100_000_000_000_001},
        {"amount": 2**64},
        {"amount": None},
        {"id": 5},
        {"id": ""},
        {"id": "0" * 67},
        {"C_": POINT.upper()},
        {"C_": POINT[:-2]},
        {"C_": POINT + "\n"},
        {"C_": "04" + POINT[2:]},
        {"C_": None},
        {"dleq": {"e": "1" * 64}},
        {"dleq": {"e": "1" * 63, "s": "2" * 64}},
        {"dleq": {"e": "1" * 64, "s": "2" * 64 + "\n"}},
        {"dleq": "x"},
    ],
)
def test_what_we_use_is_exact(change: dict[str, object]) -> None:
    assert read({"signatures": [SIGNATURE], "time": 1}, wire.Signatures).signatures[0].amount == 1
    with pytest.raises(MintNonconformant, match="Signatures"):
        read({"signatures": [SIGNATURE | change]}, wire.Signatures)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "not as it must be"),
        (b"null", "not as it must be"),
        (b"{}", "signatures"),
        (b'{"signatures": {}}', "signatures"),
        (b'{"signatures": [{"amount": 1, "id": "\xff"}]}', "not JSON"),
        (b'{"signatures": [], "x": ' + b"[" * 16 + b"]" * 16 + b"}", "nested deeper than 16"),
        (b"[" * 100_000, "nested deeper than 16"),
        (b" " * (4 * 2**20 + 1), "bytes, at most"),
    ],
)
def test_what_is_no_answer_at_all(answer: bytes, says: str) -> None:
    with pytest.raises(MintNonconformant, match=says):
        decode(answer, wire.Signatures)


def test_brackets_inside_texts_are_not_depth() -> None:
    text = json.dumps({"signatures": [], "x": "[{" * 50 + '\\"' + "[" * 50}).encode()
    assert decode(text, wire.Signatures).signatures == []


@pytest.mark.parametrize("piece", [b'"\\', b'"', b"\\", b'""\\', b"[]"])
def test_four_megabytes_of_anything_are_refused_in_one_look(piece: bytes) -> None:
    # Going back over an open string would take hours for the first of these: the test would not end.
    answer = piece * (4 * 2**20 // len(piece))
    with pytest.raises(MintNonconformant):
        decode(answer, wire.Signatures)


def test_lists_are_bounded() -> None:
    with pytest.raises(MintNonconformant):
        read({"signatures": [SIGNATURE] * 1_001}, wire.Signatures)
    with pytest.raises(MintNonconformant):
        read({"states": [{"Y": POINT, "state": "SPENT"}] * 1_001}, wire.StateAnswer)


def test_a_keyset_is_listed_and_its_keys_fetched() -> None:
    listed = read(
        {"keysets": [INFO, {"id": "Z2OwgwVbnJRZ", "unit": "sat", "active": False}]}, wire.KeysetList
    )
    info = listed.keysets[0]
    answer = read({"keysets": [{"id": MINT.keyset.id, "unit": "sat", "keys": KEYS}]}, wire.KeysAnswer)
    assert wire.read_keyset(info, answer) == MINT.keyset


@pytest.mark.parametrize(
    ("keysets", "says"),
    [
        ([], "has it 0 times"),
        ([{"id": MINT.keyset.id, "unit": "sat", "keys": KEYS}] * 2, "has it 2 times"),
        ([{"id": MINT.keyset.id, "unit": "usd", "keys": KEYS}], "listed in sat and has keys in usd"),
        ([{"id": MINT.keyset.id, "unit": "sat", "keys": {"x1": POINT}}], "no amount"),
        ([{"id": MINT.keyset.id, "unit": "sat", "keys": {**KEYS, "01": POINT}}], "no amount"),
        ([{"id": MINT.keyset.id, "unit": "sat", "keys": {**KEYS, "٣": POINT}}], "no amount"),
        ([{"id": MINT.keyset.id, "unit": "sat", "keys": {"1": POINT}}], "has the keys of"),
        ([{"id": MINT.keyset.id, "unit": "sat", "keys": {}}], "no keys"),
    ],
)
def test_keys_that_do_not_belong_to_the_id(keysets: list[dict[str, Any]], says: str) -> None:
    info = read({"keysets": [INFO]}, wire.KeysetList).keysets[0]
    with pytest.raises(MintNonconformant, match=says):
        wire.read_keyset(info, read({"keysets": keysets}, wire.KeysAnswer))


def test_inputs_go_without_what_would_link_them() -> None:
    proof = MINT.proof(4, "a secret")
    assert proof.dleq is not None and proof.dleq.r is not None
    sent = wire.encode(wire.SwapRequest(wire.as_inputs([proof]), [MINT.output(4, "b").message]))
    body = json.loads(sent)
    assert set(body["inputs"][0]) == {"amount", "id", "secret", "C"}
    assert set(body["outputs"][0]) == {"amount", "id", "B_"}
    assert proof.dleq.r not in sent.decode()
    assert wire.encode(wire.MintQuoteRequest(5, "sat")) == b'{"amount":5,"unit":"sat"}'
    assert "a secret" not in repr(proof) and "secret" not in repr(MINT.output(4, "secret"))


def outputs() -> list[Output]:
    return [MINT.output(amount, f"secret {amount}") for amount in (1, 2, 4)]


def answers(made: Sequence[Output]) -> list[BlindSignature]:
    return [MINT.sign(each.message) for each in made]


def test_signatures_become_proofs_that_carol_accepts() -> None:
    from hive_shared.cashu.curve import verify_proof_dleq

    made = outputs()
    proofs = finish(made, answers(made), MINT.keysets)
    assert [proof.amount for proof in proofs] == [1, 2, 4]
    assert [proof.secret for proof in proofs] == [each.secret for each in made]
    for proof in proofs:
        dleq = proof.dleq
        assert dleq is not None and dleq.r is not None
        assert verify_proof_dleq(MINT.keyset.key(proof.amount), proof.secret, proof.C, dleq.e, dleq.s, dleq.r)


def test_an_answer_that_is_not_for_these_outputs_counts_for_nothing() -> None:
    made, other = outputs(), PaperMint(seed="other")
    good = answers(made)
    forged = PaperMint(input_fee_ppk=100, forged=True)
    dleq = good[2].dleq
    assert dleq is not None
    wrong: list[tuple[list[BlindSignature], str]] = [
        (good[:2], "2 signatures answer 3"),
        ([*good, good[0]], "4 signatures answer 3"),
        ([good[1], good[0], good[2]], "signature 0"),
        ([good[0], good[1], msgspec.structs.replace(good[2], amount=2)], "signature 2 .* is for 2"),
        ([good[0], good[1], msgspec.structs.replace(good[2], dleq=None)], "signature 2 .*DLEQ"),
        ([good[0], good[1], msgspec.structs.replace(good[2], C_=good[0].C_)], "signature 2 .*does not hold"),
        ([good[0], good[1], msgspec.structs.replace(good[2], C_="02" + "0" * 64)], "not on the curve"),
        (
            [good[0], good[1], msgspec.structs.replace(good[2], dleq=wire.Dleq(dleq.s, dleq.e))],
            "does not hold",
        ),
        ([good[0], good[1], forged.sign(made[2].message)], "does not hold"),
        ([good[0], good[1], other.sign(made[2].message)], "does not hold"),
        ([good[0], good[1], msgspec.structs.replace(good[2], id=other.keyset.id)], "of keyset"),
    ]
    for signatures, says in wrong:
        with pytest.raises(MintNonconformant, match=says):
            finish(made, signatures, MINT.keysets)
    with pytest.raises(MintNonconformant, match="that we know"):
        finish(made, good, {})


def test_change_fills_blank_outputs_from_the_first() -> None:
    made = [replace(each, amount=0) for each in outputs()]
    change = [
        MINT.sign(BlindedMessage(amount, each.keyset_id, each.blinded))
        for amount, each in zip((8, 16), made, strict=False)
    ]
    proofs = finish(made, change, MINT.keysets, fewer=True)
    assert [(proof.amount, proof.secret) for proof in proofs] == [(8, "secret 1"), (16, "secret 2")]
    assert finish(made, [], MINT.keysets, fewer=True) == ()
    with pytest.raises(MintNonconformant, match="2 signatures answer 3"):
        finish(made, change, MINT.keysets)
    with pytest.raises(MintNonconformant, match="no key for 3"):
        finish(made, [msgspec.structs.replace(change[0], amount=3)], MINT.keysets, fewer=True)


def test_a_restore_gives_back_what_the_mint_names_and_no_more() -> None:
    made = outputs()
    lost = [made[0], made[2]]
    messages, signatures = [each.message for each in lost], answers(lost)
    found = restored(made, messages, signatures, MINT.keysets)
    assert {blinded: proof.amount for blinded, proof in found.items()} == {
        made[0].blinded: 1,
        made[2].blinded: 4,
    }
    assert restored(made, [], [], MINT.keysets) == {}
    stranger = MINT.output(1, "stranger")
    for named, signed, says in [
        (messages, signatures[:1], "2 outputs with 1"),
        ([messages[0]] * 2, [signatures[0]] * 2, "twice"),
        ([stranger.message], [MINT.sign(stranger.message)], "not asked for"),
        (messages, signatures[::-1], "is for"),
    ]:
        with pytest.raises(MintNonconformant, match=says):
            restored(made, named, signed, MINT.keysets)


def test_nut_20_messages() -> None:
    vector = json.loads((Path(__file__).parents[1] / "vectors" / "cashu" / "mint_quote.json").read_text())
    valid = vector["valid"]
    outputs_ = [BlindedMessage(**each) for each in valid["outputs"]]
    digest = legacy_quote_digest(valid["quote"], outputs_)
    key = vector["pubkey"][2:]
    assert schnorr_verify(key, digest, valid["signature"])
    assert not schnorr_verify(key, digest, vector["invalid_signature"])
    assert not schnorr_verify(key, legacy_quote_digest(valid["quote"], outputs_[1:]), valid["signature"])


def test_nut_20_message_with_lengths() -> None:
    made = [BlindedMessage(8, "", "02" + "11" * 32), BlindedMessage(2, "", "02" + "22" * 32)]
    digest = quote_digest("019e6d5a-2347-7000-8322-05d51d498303", made)
    assert digest.hex() == "8012edd6136194417e02f18b5c3aad2d9bff8d611768b19d8fa1171ee2206f7a"
    assert quote_digest("q", [msgspec.structs.replace(made[0], amount=0)]) != quote_digest("q", made[:1])


def test_a_proof_is_what_a_token_holds() -> None:
    proof = MINT.proof(2, "x")
    assert msgspec.json.decode(msgspec.json.encode(proof), type=Proof) == proof
