"""The blind signatures of Cashu on secp256k1 (docs/protocol/03-escrow-and-payments.md §2.2; NUT-00, NUT-12).

Points go in and out as the wire has them: 66 lower-case hex characters of the compressed form. Scalars are 32
bytes, big endian. Nothing here draws randomness: blinding factors are derived (03 §2.4).
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Final

from coincurve import PublicKey

from hive_shared.cashu.reasons import TokenInvalid

ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""The number of points of the curve: scalars are 1 .. ORDER-1."""
_DOMAIN: Final = b"Secp256k1_HashToCurve_Cashu_"
_MAX_TRIES: Final = 2**16
_POINT: Final = re.compile(r"0[23][0-9a-f]{64}").fullmatch
_SCALAR: Final = re.compile(r"[0-9a-f]{64}").fullmatch
_KNOWN_KEYS: Final = 1_024


def parse_point(text: str, what: str) -> PublicKey:
    """The point that 66 lower-case hex characters stand for; `what` names it in the refusal.

    Raises TokenInvalid(`point`).
    """
    if type(text) is not str or not _POINT(text):
        raise TokenInvalid("point", f"{what} is not a compressed point: 66 lower-case hex, 02 or 03 first")
    try:
        return PublicKey(bytes.fromhex(text))
    except ValueError:
        raise TokenInvalid("point", f"{what} {text} is not on the curve") from None


def is_point(text: str) -> bool:
    """Whether the text is a compressed point on the curve."""
    try:
        parse_point(text, "point")
    except TokenInvalid:
        return False
    return True


def hash_to_curve(message: bytes) -> str:
    """The point of a message: the first x of a hash chain that is on the curve, with even y."""
    return _hex(_hash_to_point(message))


def y_of(secret: str) -> str:
    """`Y` of a proof's secret: what a mint knows a spent proof by."""
    return _hex(_hash_to_point(secret.encode()))


def blind(secret: str, r: bytes) -> str:
    """`B_ = Y + r·G`, what the mint signs without seeing the secret. Raises ValueError for r = 0 or ≥ n."""
    return _hex(_hash_to_point(secret.encode()).add(_scalar(r)))


def unblind(signature: str, r: bytes, mint_key: str) -> str:
    """`C = C_ − r·A`, the mint's signature on the secret itself.

    Raises TokenInvalid(`point`) for what is no point, ValueError for r outside 1 .. n-1.
    """
    return _unblinded(parse_point(signature, "C_"), r, _mint_key(mint_key))


def verify_dleq(mint_key: str, blinded: str, signature: str, e: str, s: str) -> bool:
    """Whether the mint signed `B_` with the key it publishes (Bob to Alice).

    False for anything malformed: the values come from a stranger.
    """
    try:
        return _dleq_holds(
            _mint_key(mint_key), parse_point(blinded, "B_"), parse_point(signature, "C_"), e, s
        )
    except TokenInvalid:
        return False


def verify_proof_dleq(mint_key: str, secret: str, c: str, e: str, s: str, r: str) -> bool:
    """Whether a proof in a token was signed with the mint's key (Carol's check, without asking the mint).

    `e`, `s`, `r` are the proof's `dleq` as hex. False for anything malformed.
    """
    if type(r) is not str or not _SCALAR(r):
        return False
    factor = bytes.fromhex(r)
    try:
        key = _mint_key(mint_key)
        blinded = _hash_to_point(secret.encode()).add(_scalar(factor))
        signature = PublicKey.combine_keys([parse_point(c, "C"), key.multiply(factor)])
        return _dleq_holds(key, blinded, signature, e, s)
    except (TokenInvalid, ValueError):
        # A scalar out of range, a sum that is no point, a secret that UTF-8 cannot hold.
        return False


def unblind_verified(mint_key: str, blinded: str, signature: str, e: str, s: str, r: bytes) -> str | None:
    """`unblind` and `verify_dleq` of one output with the points read once; None when the DLEQ does not hold.

    Raises TokenInvalid(`point`) for a `C_` that is no point.
    """
    key, sent, answered = _mint_key(mint_key), parse_point(blinded, "B_"), parse_point(signature, "C_")
    if not _dleq_holds(key, sent, answered, e, s):
        return None
    return _unblinded(answered, r, key)


def _unblinded(signature: PublicKey, r: bytes, key: PublicKey) -> str:
    blinding = key.multiply(_negated(r))
    try:
        return _hex(PublicKey.combine_keys([signature, blinding]))
    except ValueError:
        raise TokenInvalid("point", "C_ unblinds to no point") from None


def _dleq_holds(key: PublicKey, blinded: PublicKey, signature: PublicKey, e: str, s: str) -> bool:
    if type(e) is not str or type(s) is not str or not (_SCALAR(e) and _SCALAR(s)):
        return False
    try:
        challenge, response = _negated(bytes.fromhex(e)), _scalar(bytes.fromhex(s))
        # R1 = s·G − e·A and R2 = s·B_ − e·C_, each of them with −e as one scalar.
        first = key.multiply(challenge).add(response)
        second = PublicKey.combine_keys([blinded.multiply(response), signature.multiply(challenge)])
    except ValueError:
        return False
    text = "".join(point.format(compressed=False).hex() for point in (first, second, key, signature))
    return hashlib.sha256(text.encode()).hexdigest() == e


def _hash_to_point(message: bytes) -> PublicKey:
    digest = hashlib.sha256(_DOMAIN + message).digest()
    for counter in range(_MAX_TRIES):
        candidate = hashlib.sha256(digest + counter.to_bytes(4, "little")).digest()
        try:
            return PublicKey(b"\x02" + candidate)
        except ValueError:
            continue
    raise ValueError("no point found for this message")  # one in 2^65536


@lru_cache(_KNOWN_KEYS)
def _mint_key(text: str) -> PublicKey:
    # A mint has one key per denomination and signs thousands of outputs with it.
    return parse_point(text, "the mint's key")


def _scalar(data: bytes) -> bytes:
    if len(data) != 32 or not 0 < int.from_bytes(data) < ORDER:
        raise ValueError("a scalar has 32 bytes and is neither 0 nor beyond the order of the curve")
    return data


def _negated(data: bytes) -> bytes:
    return (ORDER - int.from_bytes(_scalar(data))).to_bytes(32)


def _hex(point: PublicKey) -> str:
    formatted: bytes = point.format()
    return formatted.hex()
