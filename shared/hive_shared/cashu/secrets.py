"""The conditions that a proof's secret holds: built byte for byte, read strictly
(docs/protocol/03-escrow-and-payments.md §2.3; NUT-10, NUT-11, NUT-14).

A mint signs whatever it is shown and enforces only what it understands. So a secret is taken only when it
says exactly what we know how to enforce: an unknown tag, a doubled key, a locktime that is no number would
each let somebody else spend the money, or nobody.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import Any, Final

import msgspec

from hive_shared.cashu.curve import is_point
from hive_shared.cashu.reasons import TokenInvalid

MAX_SINGLE_KEY: Final = 512
"""Longest secret with one payee and one refund key: a mint signs a longer one and never lets it be spent."""
MAX_MULTI_KEY: Final = 900
"""Longest secret with several keys."""
MAX_KEYS: Final = 8
_PLAIN: Final = re.compile(r"[0-9A-Za-z+/=_-]{1,512}").fullmatch
_HEX64: Final = re.compile(r"[0-9a-f]{64}").fullmatch
_NONCE: Final = re.compile(r"[0-9A-Za-z_-]{1,128}").fullmatch
_LOCKTIME: Final = re.compile(r"[1-9][0-9]{9}").fullmatch
_COUNT: Final = re.compile(r"[1-8]").fullmatch
_TAGS: Final = ("locktime", "refund", "pubkeys", "n_sigs", "n_sigs_refund", "sigflag")
_SINGLE_VALUED: Final = frozenset({"locktime", "n_sigs", "n_sigs_refund", "sigflag"})


class Kind(StrEnum):
    """HTLC: key and preimage. P2PK: key alone."""

    HTLC = "HTLC"
    P2PK = "P2PK"


class SigFlag(StrEnum):
    """What a signature covers: each input's secret, or all inputs and outputs together."""

    SIG_INPUTS = "SIG_INPUTS"
    SIG_ALL = "SIG_ALL"


class Lock(msgspec.Struct, frozen=True):
    """Who may spend, and when. The same lock with another nonce is another secret.

    `keys` are the payees' compressed keys; of them `n_sigs` must sign (None: one). From `locktime` (Unix
    seconds) on `n_sigs_refund` (None: one) of the `refund` keys may spend, and under current mints the payees
    still may. `hash` (64 hex) is that of the preimage that a spend of kind HTLC shows; None for P2PK.
    `locktime` None: locked for good.
    """

    kind: Kind
    hash: str | None
    keys: tuple[str, ...]
    locktime: int | None
    refund: tuple[str, ...]
    n_sigs: int | None = None
    n_sigs_refund: int | None = None
    sigflag: SigFlag | None = None

    @property
    def cap(self) -> int:
        """Longest text of a secret with these conditions."""
        return MAX_SINGLE_KEY if len(self.keys) == 1 and len(self.refund) <= 1 else MAX_MULTI_KEY


class LockedSecret(msgspec.Struct, frozen=True):
    """A secret that was read: its conditions and its nonce."""

    lock: Lock
    nonce: str


def htlc(hash_hex: str, key: str, *, locktime: int, refund: str) -> Lock:
    """The lock of a ticket's item: one payee key and the preimage, the refund key after the locktime."""
    return Lock(Kind.HTLC, hash_hex, (key,), locktime, (refund,))


def p2pk(key: str, *, locktime: int, refund: str) -> Lock:
    """A lock without a hash: pre-authorised pay to one key, back to the refund key after the locktime."""
    return Lock(Kind.P2PK, None, (key,), locktime, (refund,))


def multisig(
    keys: tuple[str, ...],
    n_sigs: int,
    *,
    locktime: int,
    refund: str,
    hash_hex: str | None = None,
    sigflag: SigFlag | None = None,
) -> Lock:
    """A lock that several hold together (bonds, sidecars): `n_sigs` of `keys`, one refund key."""
    kind = Kind.HTLC if hash_hex is not None else Kind.P2PK
    return Lock(kind, hash_hex, keys, locktime, (refund,), n_sigs, 1, sigflag)


def build_secret(lock: Lock, nonce: str) -> str:
    """The secret's text: compact JSON, keys and tags always in the same order.

    Raises ValueError for conditions that we would not accept ourselves, and for a text above the cap.
    """
    values: dict[str, tuple[str, ...]] = {
        "locktime": () if lock.locktime is None else (str(lock.locktime),),
        "refund": lock.refund,
        "pubkeys": lock.keys if lock.kind is Kind.HTLC else lock.keys[1:],
        "n_sigs": () if lock.n_sigs is None else (str(lock.n_sigs),),
        "n_sigs_refund": () if lock.n_sigs_refund is None else (str(lock.n_sigs_refund),),
        "sigflag": () if lock.sigflag is None else (lock.sigflag.value,),
    }
    data = lock.hash if lock.kind is Kind.HTLC else (lock.keys[0] if lock.keys else None)
    tags = [[name, *values[name]] for name in _TAGS if values[name]]
    text = json.dumps([lock.kind.value, {"nonce": nonce, "data": data, "tags": tags}], separators=(",", ":"))
    try:
        read = parse_secret(text)
    except TokenInvalid as err:
        raise ValueError(f"these conditions cannot be locked: {err.detail}") from None
    if read != LockedSecret(lock, nonce):
        raise ValueError("these conditions would not be read back as they are")
    return text


def is_plain(secret: str) -> bool:
    """Whether the secret is of the kind that whoever holds the proof may spend: hex or base64, no conditions.

    What is neither plain nor a condition that `parse_secret` reads is not accepted at all.
    """
    return bool(_PLAIN(secret))


def parse_secret(text: str) -> LockedSecret:
    """Read the conditions of a secret.

    Raises TokenInvalid: `secret_length`, `secret_form`, `duplicate_key`, `duplicate_tag`, `unknown_tag`,
    `kind`, `nonce`, `hash`, `locktime`, `refund`, `pubkeys`, `n_sigs`, `sigflag`.
    """
    if len(text) > MAX_MULTI_KEY:
        raise TokenInvalid("secret_length", f"secret has {len(text)} characters, at most {MAX_MULTI_KEY}")
    kind, body = _frame(text)
    tags = _tags(body.get("tags", []))
    nonce, data = body.get("nonce"), body.get("data")
    if type(nonce) is not str or not _NONCE(nonce):
        raise TokenInvalid("nonce", "nonce is not a text of 1 to 128 letters and digits")
    listed = tags.get("pubkeys", ())
    if kind is Kind.HTLC:
        hash_hex, keys = _hash(data), listed
        if not keys:
            raise TokenInvalid("pubkeys", "without a payee key anybody who sees the preimage may spend it")
    else:
        hash_hex, keys = None, (data if type(data) is str else "", *listed)
    refund = tags.get("refund", ())
    _check_keys("pubkeys", keys)
    _check_keys("refund", refund)
    locktime = _locktime(tags, refund)
    n_sigs = _count("n_sigs", tags, keys)
    n_sigs_refund = _count("n_sigs_refund", tags, refund)
    lock = Lock(kind, hash_hex, keys, locktime, refund, n_sigs, n_sigs_refund, _sigflag(tags))
    if len(text) > lock.cap:
        raise TokenInvalid("secret_length", f"secret has {len(text)} characters, at most {lock.cap}")
    return LockedSecret(lock, nonce)


def _frame(text: str) -> tuple[Kind, dict[str, Any]]:
    if not text.isascii():
        raise TokenInvalid("secret_form", "secret is not ASCII")
    try:
        value = _DECODER.decode(text)
    except (json.JSONDecodeError, RecursionError):
        raise TokenInvalid("secret_form", "secret is neither plain nor a condition in JSON") from None
    if type(value) is not list or len(value) != 2 or type(value[0]) is not str or type(value[1]) is not dict:
        raise TokenInvalid("secret_form", "a condition is a list of its kind and an object")
    kind, body = value
    if kind not in (Kind.HTLC, Kind.P2PK):
        raise TokenInvalid("kind", f"{kind[:32]!a} is no kind we know, only HTLC and P2PK are")
    unknown = sorted(set(body) - {"nonce", "data", "tags"})
    if unknown:
        raise TokenInvalid("secret_form", f"a condition has nonce, data and tags, not {unknown[0][:32]!a}")
    return Kind(kind), body


def _tags(value: object) -> dict[str, tuple[str, ...]]:
    if type(value) is not list:
        raise TokenInvalid("secret_form", "tags are not a list")
    tags: dict[str, tuple[str, ...]] = {}
    for tag in value:
        if type(tag) is not list or len(tag) < 2 or not all(type(each) is str for each in tag):
            raise TokenInvalid("secret_form", "a tag is a list of texts: its name and at least one value")
        name, *values = tag
        if name in tags:
            raise TokenInvalid("duplicate_tag", f"tag {name[:32]!a} appears twice")
        if name not in _TAGS:
            raise TokenInvalid("unknown_tag", f"tag {name[:32]!a} may mean anything to a mint")
        if name in _SINGLE_VALUED and len(values) != 1:
            check = "n_sigs" if name == "n_sigs_refund" else str(name)
            raise TokenInvalid(check, f"tag {name} has {len(values)} values")
        tags[name] = tuple(values)
    return tags


def _hash(data: object) -> str:
    if type(data) is not str or not _HEX64(data):
        raise TokenInvalid("hash", "data of an HTLC is not 64 lower-case hex characters")
    return data


def _check_keys(check: str, keys: tuple[str, ...]) -> None:
    if len(keys) > MAX_KEYS:
        raise TokenInvalid(check, f"{len(keys)} keys, at most {MAX_KEYS}")
    for key in keys:
        if not is_point(key):
            raise TokenInvalid(check, f"{key[:70]!a} is not a compressed public key")
    if len({key[2:] for key in keys}) != len(keys):
        raise TokenInvalid(check, "one key stands there twice: signatures are by x-coordinate")


def _locktime(tags: dict[str, tuple[str, ...]], refund: tuple[str, ...]) -> int | None:
    if "locktime" not in tags:
        if refund:
            raise TokenInvalid("locktime", "a refund key without a locktime never may spend")
        return None
    (text,) = tags["locktime"]
    if not _LOCKTIME(text):
        raise TokenInvalid("locktime", f"locktime {text[:32]!a} is not 10 digits: nobody could spend it")
    if not refund:
        raise TokenInvalid("refund", "without a refund key anybody may spend after the locktime")
    return int(text)


def _count(name: str, tags: dict[str, tuple[str, ...]], keys: tuple[str, ...]) -> int | None:
    if name not in tags:
        return None
    (text,) = tags[name]
    if not _COUNT(text) or int(text) > len(keys):
        raise TokenInvalid("n_sigs", f"{name} {text[:32]!a} is not a count of the {len(keys)} keys")
    return int(text)


def _sigflag(tags: dict[str, tuple[str, ...]]) -> SigFlag | None:
    if "sigflag" not in tags:
        return None
    (text,) = tags["sigflag"]
    if text not in (SigFlag.SIG_INPUTS, SigFlag.SIG_ALL):
        raise TokenInvalid("sigflag", f"sigflag {text[:32]!a} is none we know")
    return SigFlag(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise TokenInvalid("duplicate_key", "a key appears twice: two programs would read two conditions")
    return found


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique)
