"""Every decoder of the ecash library against generated and altered input: a value or a reason."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from cashu_mint import PaperMint
from cashu_tickets import NOW, PaperTicket, document, item
from hive_shared.cashu import cbor, secrets, ticket_messages, wire, witness
from hive_shared.cashu.curve import is_point, verify_dleq, verify_proof_dleq
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.reasons import MintNonconformant, TokenInvalid
from hive_shared.cashu.terms import decode_terms, terms_json
from hive_shared.cashu.token import Token, decode_token, encode_token, encode_v3
from hive_shared.crypto import Secret, sha256
from hive_shared.errors import InvalidParams
from hypothesis import given
from hypothesis import strategies as st

ALICE, BOB = (public_key(Secret(bytes([number]) * 32)) for number in (1, 2))
HASH = sha256(b"\x01" * 32).hex()
SECRET = secrets.build_secret(secrets.htlc(HASH, ALICE, locktime=1_900_000_000, refund=BOB), "ab" * 16)
MINT = PaperMint()
PROOF = MINT.proof(8, SECRET)
V4, V3 = (write(Token("https://mint.example", (PROOF,))) for write in (encode_token, encode_v3))
RAW = base64.urlsafe_b64decode(V4[6:] + "=" * (-len(V4[6:]) % 4))
WITNESS = witness.build("01" * 32, ["ab" * 64])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=12)
    | st.sampled_from([ALICE, HASH, "2", "SIG_ALL"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=15,
)
TAG_NAMES = st.sampled_from(["locktime", "refund", "pubkeys", "n_sigs", "n_sigs_refund", "sigflag", "hash"])
TAG_VALUES = st.sampled_from([ALICE, BOB, "1900000000", "1", "2", "abc", "SIG_ALL", "", "03" + ALICE[2:]])
TAGS = st.lists(
    st.builds(lambda name, values: [name, *values], TAG_NAMES, st.lists(TAG_VALUES, max_size=3)), max_size=6
)
ANSWERS = (
    *(wire.MintInfo, wire.KeysetList, wire.KeysAnswer, wire.MintQuote, wire.MeltQuote, wire.MeltAnswer),
    *(wire.Signatures, wire.StateAnswer, wire.RestoreAnswer, wire.MintError),
)
GOOD_ANSWER: dict[str, Any] = {
    "signatures": [json.loads(msgspec.json.encode(MINT.sign(MINT.output(8, "x").message)))],
    "states": [{"Y": ALICE, "state": "SPENT", "witness": WITNESS}],
    "keysets": [{"id": MINT.keyset.id, "unit": "sat", "active": True, "keys": {"1": ALICE}}],
    "outputs": [{"amount": 8, "id": MINT.keyset.id, "B_": ALICE}],
    "quote": "q",
    "request": "lnbc1",
    "amount": 8,
    "fee_reserve": 1,
    "state": "PAID",
    "change": [],
    "nuts": {"4": {"methods": [], "disabled": False}},
}


def read_secret(text: str) -> secrets.LockedSecret | None:
    try:
        found = secrets.parse_secret(text)
    except TokenInvalid as refused:
        assert refused.check and len(str(refused)) < 250
        return None
    lock = found.lock
    # Whatever is accepted is enforceable: known keys, someone who may refund, a text that a mint lets spend.
    assert lock.keys and all(map(is_point, (*lock.keys, *lock.refund)))
    assert (lock.locktime is None) is (lock.refund == ()) and len(text) <= lock.cap
    assert secrets.parse_secret(secrets.build_secret(lock, found.nonce)) == found
    return found


@given(st.text(max_size=400) | JSON.map(json.dumps) | st.lists(JSON, max_size=3).map(json.dumps))
def test_any_text_is_a_condition_or_a_reason(text: str) -> None:
    read_secret(text)


@given(st.sampled_from(["HTLC", "P2PK"]), st.sampled_from([HASH, ALICE, BOB, "x"]), TAGS)
def test_any_tags_are_a_condition_or_a_reason(kind: str, data: str, tags: list[list[str]]) -> None:
    found = read_secret(json.dumps([kind, {"nonce": "ab", "data": data, "tags": tags}]))
    names = [tag[0] for tag in tags]
    if found is not None:
        assert len(set(names)) == len(names) and "hash" not in names and data != "x"


@given(st.integers(0, len(SECRET) - 1), st.characters(), st.integers(0, 3))
def test_a_secret_altered_anywhere_is_another_lock_or_a_reason(at: int, char: str, cut: int) -> None:
    altered = SECRET[:at] + char + SECRET[at + cut :]
    found = read_secret(altered)
    if found is not None and altered != SECRET:
        rebuilt = secrets.build_secret(found.lock, found.nonce)
        assert rebuilt != SECRET or json.loads(altered) == json.loads(SECRET)


def read_token(text: str) -> Token | None:
    try:
        token = decode_token(text)
    except TokenInvalid as refused:
        assert refused.check and len(str(refused)) < 250
        return None
    assert 0 < len(token.proofs) <= 1_000 and all(each.amount > 0 for each in token.proofs)
    again = decode_token(encode_token(token))
    assert sorted(again.proofs, key=lambda each: each.secret) == sorted(
        token.proofs, key=lambda each: each.secret
    )
    return token


@given(
    st.sampled_from(["cashuA", "cashuB", "cashu:cashuB", ""]),
    st.text(max_size=200) | st.binary(max_size=200).map(lambda data: base64.urlsafe_b64encode(data).decode()),
)
def test_any_text_is_a_token_or_a_reason(prefix: str, rest: str) -> None:
    read_token(prefix + rest)


@given(JSON)
def test_any_json_is_a_token_or_a_reason(value: Any) -> None:
    for shape in (value, {"token": value}, {"token": [{"mint": "m", "proofs": value}]}):
        read_token("cashuA" + base64.urlsafe_b64encode(json.dumps(shape).encode()).decode())


@given(st.integers(0, len(RAW) - 1), st.integers(0, 255), st.integers(0, 4))
def test_a_token_altered_in_one_byte_is_another_token_or_a_reason(at: int, byte: int, cut: int) -> None:
    raw = RAW[:at] + bytes([byte]) + RAW[at + cut :]
    token = read_token("cashuB" + base64.urlsafe_b64encode(raw).decode())
    if token is not None and raw != RAW and token.proofs == (PROOF,):
        assert token != decode_token(V4) or len(raw) != len(RAW) or cbor.decode(raw) == cbor.decode(RAW)


@given(st.integers(6, len(V3) - 1), st.characters(codec="ascii"), st.integers(0, 3))
def test_a_v3_token_altered_in_one_character_is_another_token_or_a_reason(
    at: int, char: str, cut: int
) -> None:
    read_token(V3[:at] + char + V3[at + cut :])


@given(st.binary(max_size=200))
def test_any_bytes_are_cbor_or_a_reason(data: bytes) -> None:
    try:
        value = cbor.decode(data)
    except cbor.CborError as error:
        assert str(error)
        return
    assert cbor.decode(cbor.encode(value)) == value


@given(
    st.text(max_size=200)
    | JSON.map(json.dumps)
    | st.dictionaries(st.sampled_from(["preimage", "signatures", "signature"]), JSON).map(json.dumps)
)
def test_any_text_is_a_witness_or_a_reason(text: str) -> None:
    try:
        read = witness.parse(text)
    except TokenInvalid as refused:
        assert refused.check == "witness" and len(str(refused)) < 250
        assert witness.preimage_in(text, HASH) is None
        return
    if read.signatures:
        assert witness.parse(witness.build(read.preimage, read.signatures)) == read
    assert witness.preimage_in(text, HASH) in (None, "01" * 32)


@given(st.integers(0, len(WITNESS) - 1), st.characters(), st.integers(0, 3))
def test_a_witness_altered_anywhere_shows_the_preimage_or_nothing(at: int, char: str, cut: int) -> None:
    assert witness.preimage_in(WITNESS[:at] + char + WITNESS[at + cut :], HASH) in (None, "01" * 32)


@given(st.sampled_from(ANSWERS), st.dictionaries(st.sampled_from(sorted(GOOD_ANSWER)), JSON, max_size=3))
def test_any_answer_of_a_mint_is_read_or_nonconformant(kind: type[Any], changes: dict[str, Any]) -> None:
    try:
        wire.decode(json.dumps(GOOD_ANSWER | changes).encode(), kind)
    except MintNonconformant as refused:
        assert len(str(refused)) < 400


@given(st.sampled_from(ANSWERS), st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_of_a_mint_are_read_or_nonconformant(kind: type[Any], data: bytes) -> None:
    try:
        wire.decode(data, kind)
    except MintNonconformant as refused:
        assert len(str(refused)) < 400


@given(
    st.lists(st.sampled_from([ALICE, BOB, "11" * 32, "00" * 32, "ff" * 32, "", "x"]), min_size=6, max_size=6)
)
def test_no_values_of_a_stranger_make_a_dleq_check_raise(values: list[str]) -> None:
    a, b, c, e, s, r = values
    assert verify_dleq(a, b, c, e, s) is False
    assert verify_proof_dleq(a, SECRET, c, e, s, r) is False


TERMS = document([item(0, 100), item(1, 50)])
TICKET = PaperTicket.make(TERMS)
PLACES = st.sampled_from(
    [("items", 0), ("items", 1), ("payer",), ("payee",), ("verifier",), ("mints", 0), ()],
)


@given(
    PLACES,
    st.sampled_from(sorted({*TERMS, *TERMS["items"][0], "id", "url", "permille"})),
    JSON | st.integers(0, 2**34),
)
def test_terms_altered_anywhere_are_other_terms_or_a_reason(
    place: tuple[Any, ...], name: str, value: Any
) -> None:
    altered = json.loads(json.dumps(TERMS))
    target = altered
    for step in place:
        target = target[step]
    target[name] = value
    try:
        terms = decode_terms(altered)
    except TokenInvalid as refused:
        assert refused.check in ("terms_form", "terms_rule") and len(str(refused)) < 300
        return
    assert terms_json(terms) == altered


@given(JSON | st.text(max_size=200))
def test_whatever_is_sent_as_terms_is_a_reason(value: Any) -> None:
    with pytest.raises(TokenInvalid):
        decode_terms(value if isinstance(value, (str, dict)) else json.dumps(value))


@given(
    st.integers(0, len(TICKET.tokens()[0].proofs) - 1),
    st.sampled_from(["amount", "id", "secret", "C", "dleq"]),
    st.data(),
)
def test_a_ticket_altered_in_one_field_of_one_proof_is_refused(
    at: int, name: str, data: st.DataObject
) -> None:
    proofs = list(TICKET.tokens()[0].proofs)
    text = getattr(proofs[at], name)
    if name == "amount":
        value: Any = data.draw(st.sampled_from([1, 2, 3, 64, 2**30]))
    elif name == "dleq":
        value = data.draw(st.none() | st.just(proofs[at - 1].dleq))
    else:
        place = data.draw(st.integers(0, len(text) - 1))
        value = text[:place] + data.draw(st.characters(codec="ascii")) + text[place + 1 :]
    if value == text:
        return
    proofs[at] = msgspec.structs.replace(proofs[at], **{name: value})
    with pytest.raises(TokenInvalid) as refused:
        TICKET.check(tokens=[Token(TICKET.tokens()[0].mint, tuple(proofs))], now_s=NOW)
    assert len(str(refused.value)) < 300


FIELDS = sorted({field for kind in ticket_messages.VERBS.values() for field in kind.__struct_encode_fields__})
VALUES = JSON | st.sampled_from(["ab" * 16, "cd" * 32, "sha256:" + "ef" * 32, "replace", 0, 511, True, [V4]])


@given(st.sampled_from(sorted(ticket_messages.VERBS)), st.dictionaries(st.sampled_from(FIELDS), VALUES))
def test_any_body_of_a_ticket_message_is_one_or_a_reason(verb: str, body: dict[str, Any]) -> None:
    try:
        message = ticket_messages.decode_message(f"hive:escrow/{verb}", body)
    except InvalidParams as refused:
        assert len(refused.detail) < 300
        return
    assert ticket_messages.body_of(message) == body
    assert ticket_messages.schema_of(message) == f"hive:escrow/{verb}"
