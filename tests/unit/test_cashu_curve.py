"""Blind signatures against the vectors of NUT-00, NUT-12 and sheet 03 §2, and against what must not pass."""

from __future__ import annotations

import hashlib

import pytest
from cashu_mint import PaperMint
from hive_shared.cashu import curve
from hive_shared.cashu.reasons import TokenInvalid
from hypothesis import given
from hypothesis import strategies as st

G = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
POINT = "02a9acc1e48c25eeeb9289b5031cc57da9fe72f3fe2861d264bdc074209b107ba2"
SCALARS = st.integers(1, curve.ORDER - 1).map(lambda value: value.to_bytes(32))
MINT = PaperMint(amounts=(1, 8))


@pytest.mark.parametrize(
    ("last", "point"),
    [
        ("00", "024cce997d3b518f739663b757deaec95bcd9473c30a14ac2fd04023a739d1a725"),
        ("01", "022e7158e11c9506f1aa4248bf531298daa7febd6194f003edcd9b93ade6253acf"),
        ("02", "026cdbe15362df59cd1dd3c9c11de8aedac2106eca69236ecd9fbe117af897be4f"),
    ],
)
def test_nut_00_points_of_messages(last: str, point: str) -> None:
    assert curve.hash_to_curve(bytes.fromhex("00" * 31 + last)) == point


@pytest.mark.parametrize(
    ("x", "r", "blinded"),
    [
        (
            "d341ee4871f1f889041e63cf0d3823c713eea6aff01e80f1719f08f9e5be98f6",
            "99fce58439fc37412ab3468b73db0569322588f62fb3a49182d67e23d877824a",
            "033b1a9737a40cc3fd9b6af4b723632b76a67a36782596304612a6c2bfb5197e6d",
        ),
        (
            "f1aaf16c2239746f369572c0784d9dd3d032d952c2d992175873fb58fae31a60",
            "f78476ea7cc9ade20f9e05e58a804cf19533f03ea805ece5fee88c8e2874ba50",
            "029bdf2d716ee366eddf599ba252786c1033f47e230248a4612a5670ab931f1763",
        ),
    ],
)
def test_nut_00_blinded_messages(x: str, r: str, blinded: str) -> None:
    # The vectors blind raw bytes, our secrets are texts: the sum of points is the same step.
    from coincurve import PublicKey

    y = PublicKey(bytes.fromhex(curve.hash_to_curve(bytes.fromhex(x))))
    assert y.add(bytes.fromhex(r)).format().hex() == blinded


def test_nut_12_signature_of_the_mint() -> None:
    e = "9818e061ee51d5c8edc3342369a554998ff7b4381c8652d724cdf46429be73d9"
    s = e[:-1] + "a"
    assert curve.verify_dleq(G, POINT, POINT, e, s)
    assert not curve.verify_dleq(G, POINT, POINT, e, e)
    assert not curve.verify_dleq(POINT, POINT, POINT, e, s)


def test_nut_12_fixed_nonce() -> None:
    assert curve.verify_dleq(
        "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5",
        POINT,
        "0244eccfc7a348274458bb38044c7f3c389b3c2086c7ec18b5812d2877ab937787",
        "2a16ffee280aff3c429045607f9b8e0bf8b35910c44c1b20b9dfaf01b263d7b3",
        "9df27731238334718d120d4f74611a7c668233f988e687ac3fb188f0a34a2dab",
    )


def test_nut_12_proof_in_a_token() -> None:
    values = {
        "secret": "daf4dd00a2b68a0858a80450f52c8a7d2ccf87d375e43e216e0c571f089f63e9",
        "c": "024369d2d22a80ecf78f3937da9d5f30c1b9f74f0c32684d583cca0fa6a61cdcfc",
        "e": "b31e58ac6527f34975ffab13e70a48b6d2b0d35abc4b03f0151f09ee1a9763d4",
        "s": "8fbae004c59e754d71df67e392b6ae4e29293113ddc2ec86592a0431d16306d8",
        "r": "a6d13fcd7a18442e6076f5e1e7c887ad5de40a019824bdfa9fe740d302e8d861",
    }
    assert curve.verify_proof_dleq(G, **values)
    for name, value in values.items():
        other = ("1" if value[-1] != "1" else "2").join([value[:-1], ""])
        assert not curve.verify_proof_dleq(G, **{**values, name: other}), name


@given(st.text(max_size=40).filter(lambda text: text.isprintable()), SCALARS)
def test_what_is_blinded_and_signed_unblinds_to_the_signature_of_the_secret(secret: str, r: bytes) -> None:
    key = MINT.keyset.key(8)
    blinded = curve.blind(secret, r)
    signed = MINT.sign(MINT.output(8, secret).message)
    from coincurve import PrivateKey, PublicKey

    private = PrivateKey(hashlib.sha256(b"mint/8").digest())
    plain = PublicKey(bytes.fromhex(curve.y_of(secret))).multiply(private.secret).format().hex()
    answer = PublicKey(bytes.fromhex(blinded)).multiply(private.secret).format().hex()
    assert curve.unblind(answer, r, key) == plain
    assert signed.dleq is not None
    proof = MINT.proof(8, secret)
    assert plain == proof.C
    assert proof.dleq is not None and proof.dleq.r is not None
    assert curve.verify_proof_dleq(key, secret, plain, proof.dleq.e, proof.dleq.s, proof.dleq.r)
    assert not curve.verify_proof_dleq(MINT.keyset.key(1), secret, plain, *_three(proof.dleq))


def _three(dleq: object) -> tuple[str, str, str]:
    return (getattr(dleq, "e"), getattr(dleq, "s"), getattr(dleq, "r"))  # noqa: B009


@pytest.mark.parametrize("r", [bytes(32), curve.ORDER.to_bytes(32), b"\xff" * 32, b"", b"\x01" * 31])
def test_a_blinding_factor_outside_the_field_is_refused(r: bytes) -> None:
    with pytest.raises(ValueError, match="scalar"):
        curve.blind("secret", r)
    with pytest.raises(ValueError, match="scalar"):
        curve.unblind(POINT, r, G)
    assert not curve.verify_proof_dleq(G, "s", POINT, "11" * 32, "22" * 32, r.hex())


@pytest.mark.parametrize(
    "text", ["", G[:-2], G + "00", G.upper(), "04" + G[2:], "02" + "ff" * 32, "02" + "00" * 32, G + "\n"]
)
def test_what_is_no_point_is_refused_by_name(text: str) -> None:
    with pytest.raises(TokenInvalid) as refused:
        curve.unblind(text, b"\x01" * 32, G)
    assert refused.value.check == "point" and "C_" in refused.value.detail
    assert not curve.is_point(text)
    assert not curve.verify_dleq(text, POINT, POINT, "11" * 32, "22" * 32)
    assert not curve.verify_dleq(G, text, POINT, "11" * 32, "22" * 32)
    assert not curve.verify_dleq(G, POINT, text, "11" * 32, "22" * 32)


@pytest.mark.parametrize(
    "scalar", ["", "00" * 32, "ff" * 32, "11" * 31, "GG" * 32, "11" * 32 + "\n", "AA" * 32]
)
def test_a_dleq_of_odd_scalars_is_false_not_an_error(scalar: str) -> None:
    assert not curve.verify_dleq(G, POINT, POINT, scalar, "22" * 32)
    assert not curve.verify_dleq(G, POINT, POINT, "22" * 32, scalar)
    assert not curve.verify_proof_dleq(G, "s", POINT, "11" * 32, "22" * 32, scalar)


def test_a_secret_that_no_text_can_hold_proves_nothing() -> None:
    assert not curve.verify_proof_dleq(G, "\ud800", POINT, "11" * 32, "22" * 32, "33" * 32)


def test_a_signature_that_unblinds_to_nothing_is_refused() -> None:
    from coincurve import PublicKey

    r = b"\x05" * 32
    only_blinding = PublicKey(bytes.fromhex(G)).multiply(r).format().hex()
    with pytest.raises(TokenInvalid, match="unblinds to no point"):
        curve.unblind(only_blinding, r, G)
