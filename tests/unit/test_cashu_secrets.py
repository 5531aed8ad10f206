"""Conditions of secrets: the form and vectors of sheet 03 §2.3, §2.4, and every way they can be wrong."""

from __future__ import annotations

import json

import pytest
from hive_shared.canonical import encode
from hive_shared.cashu import curve, secrets
from hive_shared.cashu.derive import lock_nonce, lock_r, public_key
from hive_shared.cashu.reasons import TokenInvalid
from hive_shared.cashu.secrets import Kind, Lock, LockedSecret, SigFlag, build_secret, parse_secret
from hive_shared.crypto import Secret, sha256
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

KEYS = tuple(public_key(Secret(bytes([number]) * 32)) for number in range(1, 10))
ONE_G = public_key(Secret((1).to_bytes(32)))
TWO_G = public_key(Secret((2).to_bytes(32)))
H = sha256(b"\x01" * 32).hex()
NONCE = "ab" * 16
T = 1_900_000_000
LOCK = secrets.htlc(H, KEYS[0], locktime=T, refund=KEYS[1])
TEXT = build_secret(LOCK, NONCE)


def test_the_secret_the_point_and_the_output_of_the_sheet() -> None:
    terms_hash = sha256(encode({"amount_sats": 100, "ticket_id": "0" * 32, "type": "single", "v": 1}))
    nonce = lock_nonce(terms_hash, 0, 0, 0)
    text = build_secret(secrets.htlc(H, ONE_G, locktime=T, refund=TWO_G), nonce)
    assert text == (
        f'["HTLC",{{"nonce":"{nonce}","data":"{H}","tags":[["locktime","1900000000"],["refund","{TWO_G}"],'
        f'["pubkeys","{ONE_G}"]]}}]'
    )
    assert len(text) == 323
    assert curve.y_of(text) == "02ba819af13805e3c1a4343204b575a6411f9c01cb308fd8207c8177acec069765"
    r = lock_r(Secret(bytes(64)), terms_hash, 0, 0, 0)
    assert curve.blind(text, r) == "03831534cfe19f80a090182f2c4d9f410f8093781663dee4911d1077bd2e7db377"


def test_locks_of_every_kind_are_read_back_as_they_are() -> None:
    for lock in (
        LOCK,
        secrets.p2pk(KEYS[0], locktime=T, refund=KEYS[1]),
        secrets.multisig(KEYS[:5], 3, locktime=T, refund=KEYS[5], sigflag=SigFlag.SIG_ALL),
        secrets.multisig(KEYS[:5], 3, locktime=T, refund=KEYS[5], hash_hex=H),
        Lock(Kind.P2PK, None, (KEYS[0],), None, ()),
        Lock(Kind.P2PK, None, KEYS[:2], T, KEYS[2:4], 2, 2, SigFlag.SIG_INPUTS),
    ):
        text = build_secret(lock, NONCE)
        assert parse_secret(text) == LockedSecret(lock, NONCE)
        assert len(text) <= lock.cap
        assert not secrets.is_plain(text)
    # P2PK has its first payee in data, an HTLC all of them in pubkeys.
    assert json.loads(build_secret(secrets.multisig(KEYS[:2], 2, locktime=T, refund=KEYS[2]), NONCE))[1] == {
        "nonce": NONCE,
        "data": KEYS[0],
        "tags": [
            ["locktime", str(T)],
            ["refund", KEYS[2]],
            ["pubkeys", KEYS[1]],
            ["n_sigs", "2"],
            ["n_sigs_refund", "1"],
        ],
    }


def test_a_three_of_five_with_refund_is_as_long_as_the_sheet_says() -> None:
    text = build_secret(secrets.multisig(KEYS[:5], 3, locktime=T, refund=KEYS[5]), NONCE)
    assert 512 < len(text) < 600


def test_the_longer_text_is_for_several_keys_of_either_side() -> None:
    # Mints up to 0.16 let nobody spend more than 512 characters: only locks of several people may be longer.
    long = "a" * 128
    pays, takes = secrets.multisig(KEYS[:4], 2, locktime=T, refund=KEYS[5]), KEYS[2:8]
    back = replace(secrets.p2pk(KEYS[1], locktime=T, refund=KEYS[2]), refund=takes)
    for lock in (pays, back):
        text = build_secret(lock, long)
        assert len(text) > secrets.MAX_SINGLE_KEY and parse_secret(text).lock == lock
    one = secrets.htlc(H, KEYS[1], locktime=T, refund=KEYS[2])
    assert len(build_secret(one, long)) < secrets.MAX_SINGLE_KEY
    padded = build_secret(one, long)[:-2] + " " * 100 + "}]"
    with pytest.raises(TokenInvalid, match="at most 512"):
        parse_secret(padded)


def with_body(**changes: object) -> str:
    kind, body = json.loads(TEXT)
    return json.dumps([kind, {**body, **changes}], separators=(",", ":"))


def with_tag(name: str, *values: object) -> str:
    _, body = json.loads(TEXT)
    tags = [tag for tag in body["tags"] if tag[0] != name]
    return with_body(tags=[*tags, [name, *values]] if values else tags)


PADDED = with_body(nonce="a" * 128)
WRONG: list[tuple[str, str]] = [
    (TEXT + " " * 600, "secret_length"),
    ("x" * 901, "secret_length"),
    (TEXT[:-2] + " " * 200 + TEXT[-2:], "secret_length"),
    ("", "secret_form"),
    ("{}", "secret_form"),
    ('["HTLC"]', "secret_form"),
    ('["HTLC",[]]', "secret_form"),
    ('["HTLC",{},1]', "secret_form"),
    ("[" * 890, "secret_form"),
    (TEXT + "x", "secret_form"),
    (TEXT.replace(NONCE, "\u0661" * 32), "secret_form"),
    ('["HTLC",NaN]', "secret_form"),
    (TEXT.replace("HTLC", "htlc"), "kind"),
    (TEXT.replace("HTLC", "P2SH"), "kind"),
    (TEXT.replace('{"nonce"', '{"nonce":"00","nonce"'), "duplicate_key"),
    (TEXT.replace('"data"', '"nonce"'), "duplicate_key"),
    (with_body(extra="1"), "secret_form"),
    (with_body(tags="x"), "secret_form"),
    (with_body(tags=None), "secret_form"),
    (with_body(tags=[["locktime"]]), "secret_form"),
    (with_body(tags=["locktime"]), "secret_form"),
    (with_body(tags=[["refund", None]]), "secret_form"),
    (TEXT.replace(f'"{T}"', str(T)), "secret_form"),
    (TEXT.replace('["refund"', '["locktime","1800000000"],["refund"'), "duplicate_tag"),
    (TEXT.replace('["pubkeys"', f'["pubkeys","{KEYS[2]}"],["pubkeys"'), "duplicate_tag"),
    (with_tag("hash", H), "unknown_tag"),
    (with_tag("memo", "x"), "unknown_tag"),
    (with_body(nonce=""), "nonce"),
    (with_body(nonce="a b"), "nonce"),
    (with_body(nonce="a" * 129), "nonce"),
    (with_body(data=H.upper()), "hash"),
    (with_body(data=H[:-1]), "hash"),
    (with_body(data=KEYS[0]), "hash"),
    (with_tag("locktime", "abc"), "locktime"),
    (with_tag("locktime", "99999999999"), "locktime"),
    (with_tag("locktime", "0900000000"), "locktime"),
    (with_tag("locktime", "-190000000"), "locktime"),
    (with_tag("locktime", "1900000000.0"), "locktime"),
    (with_tag("locktime", "1900000000", "1"), "locktime"),
    (with_tag("locktime"), "locktime"),
    (with_tag("refund"), "refund"),
    (with_tag("refund", KEYS[1], KEYS[1]), "refund"),
    (with_tag("refund", "02" + "0" * 64), "refund"),
    (with_tag("pubkeys"), "pubkeys"),
    (with_tag("pubkeys", KEYS[0][2:]), "pubkeys"),
    (with_tag("pubkeys", KEYS[0].upper()), "pubkeys"),
    (with_tag("pubkeys", KEYS[0], ("02" if KEYS[0][:2] == "03" else "03") + KEYS[0][2:]), "pubkeys"),
    (with_tag("pubkeys", *KEYS), "pubkeys"),
    (with_tag("n_sigs", "2"), "n_sigs"),
    (with_tag("n_sigs", "0"), "n_sigs"),
    (with_tag("n_sigs", "01"), "n_sigs"),
    (with_tag("n_sigs", "1", "1"), "n_sigs"),
    (with_tag("n_sigs_refund", "2"), "n_sigs"),
    (with_tag("n_sigs_refund", "1", "1"), "n_sigs"),
    (with_tag("sigflag", "SIG_NONE"), "sigflag"),
    (with_tag("sigflag", "SIG_ALL", "SIG_ALL"), "sigflag"),
]


@pytest.mark.parametrize(("text", "check"), WRONG)
def test_a_condition_that_is_wrong_is_refused_by_what_is_wrong(text: str, check: str) -> None:
    with pytest.raises(TokenInvalid) as refused:
        parse_secret(text)
    assert refused.value.check == check
    assert refused.value.reason == f"token_invalid({check})"
    assert len(str(refused.value)) < 220


def test_a_pay_to_key_with_a_hash_tag_is_refused_by_its_tag() -> None:
    # Every mint that was measured gives such a proof to the payee without any preimage (03 §2.3).
    older = ["P2PK", {"nonce": NONCE, "data": KEYS[0], "tags": [["hash", H], ["locktime", str(T)]]}]
    with pytest.raises(TokenInvalid) as refused:
        parse_secret(json.dumps(older))
    assert refused.value.check == "unknown_tag"


@pytest.mark.parametrize(
    "lock",
    [
        replace(LOCK, hash=H[:-1]),
        replace(LOCK, keys=()),
        replace(LOCK, keys=(KEYS[0], KEYS[0])),
        replace(LOCK, refund=()),
        replace(LOCK, locktime=None),
        replace(LOCK, locktime=999_999_999),
        replace(LOCK, n_sigs=2),
        replace(LOCK, kind=Kind.P2PK),
        secrets.multisig(KEYS[:8], 9, locktime=T, refund=KEYS[8]),
        secrets.multisig(KEYS, 2, locktime=T, refund=KEYS[0]),
        Lock(Kind.P2PK, None, (), T, (KEYS[1],)),
    ],
)
def test_nothing_is_locked_that_would_be_refused(lock: Lock) -> None:
    with pytest.raises(ValueError, match=r"cannot be locked|read back"):
        build_secret(lock, NONCE)


def test_nothing_longer_than_the_caps_is_built() -> None:
    # Eight payees, a hash and eight refund keys would be signed by the mint and never spent.
    with pytest.raises(ValueError, match="characters"):
        build_secret(replace(LOCK, keys=KEYS[:8], refund=KEYS[:8]), NONCE)
    with pytest.raises(ValueError, match="nonce"):
        build_secret(LOCK, "a" * 129)


@pytest.mark.parametrize("text", ["ab" * 32, "Zm9v+/==", "x" * 512])
def test_plain_secrets(text: str) -> None:
    assert secrets.is_plain(text)


@pytest.mark.parametrize("text", ["", "x" * 513, TEXT, " ab", "[1,2]", '{"a":1,"b":2}', '"x"', "a\n", "ü"])
def test_what_might_be_a_condition_is_not_plain(text: str) -> None:
    assert not secrets.is_plain(text)


SOME_KEYS = st.permutations(KEYS[:8])
LOCKS = st.builds(
    lambda kind, keys, count, refunds, time, flag: Lock(
        kind,
        H if kind is Kind.HTLC else None,
        tuple(keys[:count]),
        time,
        tuple(keys[4 : 4 + refunds]),
        count if count > 1 else None,
        1 if refunds > 1 else None,
        flag,
    ),
    st.sampled_from(Kind),
    SOME_KEYS,
    st.integers(1, 4),
    st.integers(1, 2),
    st.integers(1_000_000_000, 9_999_999_999),
    st.sampled_from([None, *SigFlag]),
)


@given(LOCKS, st.text("0123456789abcdef", min_size=32, max_size=32))
def test_what_is_built_is_read_back(lock: Lock, nonce: str) -> None:
    assert parse_secret(build_secret(lock, nonce)) == LockedSecret(lock, nonce)
