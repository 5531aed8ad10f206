"""Keysets of a mint: ids recomputed, fees, and how an amount is cut into proofs
(docs/protocol/03-escrow-and-payments.md §2.2, §2.4; NUT-02).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from hive_shared.cashu.curve import is_point
from hive_shared.cashu.reasons import MintNonconformant, TokenInvalid

MAX_INPUT_FEE_PPK: Final = 100_000
"""A keyset that takes more than 100 sat per input is not used."""
SHORT_ID_HEX: Final = 16
"""Length of the id that tokens carry; v1 ids are that long as a whole."""
_V1: Final = re.compile(r"00[0-9a-f]{14}").fullmatch
_V2: Final = re.compile(r"01[0-9a-f]{64}").fullmatch
_MAX_AMOUNT: Final = 2**63


class Keyset(msgspec.Struct, frozen=True):
    """One keyset of one mint, its id checked against its keys; made by `keyset`.

    `keys` maps the amount in `unit` to the mint's public key; `input_fee_ppk` is in thousandths of a unit
    per input; `final_expiry` in Unix seconds, None when it does not expire. One that is not `listed` was
    named by its mint before and is not now: nothing new is made or taken of it, what is locked of it is still
    tried.
    """

    id: str
    unit: str
    active: bool
    input_fee_ppk: int
    final_expiry: int | None
    keys: Mapping[int, str]
    denominations: tuple[int, ...] = msgspec.field(default=())
    listed: bool = True

    @property
    def short_id(self) -> str:
        """The id as V4 tokens carry it."""
        return self.id[:SHORT_ID_HEX]

    def key(self, amount: int) -> str:
        """The key for one denomination. Raises TokenInvalid(`keyset`) for an amount it does not sign."""
        try:
            return self.keys[amount]
        except KeyError:
            raise TokenInvalid("keyset", f"keyset {self.id} has no key for {amount} {self.unit}") from None


def id_v1(keys: Mapping[int, str]) -> str:
    """The 16-hex id over the concatenated keys in ascending amounts."""
    joined = b"".join(bytes.fromhex(keys[amount]) for amount in sorted(keys))
    return "00" + hashlib.sha256(joined).hexdigest()[:14]


def id_v2(keys: Mapping[int, str], unit: str, input_fee_ppk: int, final_expiry: int | None) -> str:
    """The 66-hex id over amounts, keys, unit, fee (when not 0) and expiry (when there is one)."""
    text = ",".join(f"{amount}:{keys[amount]}" for amount in sorted(keys)) + f"|unit:{unit}"
    if input_fee_ppk:
        text += f"|input_fee_ppk:{input_fee_ppk}"
    if final_expiry:
        text += f"|final_expiry:{final_expiry}"
    return "01" + hashlib.sha256(text.encode()).hexdigest()


def is_keyset_id(text: str) -> bool:
    """Whether the text is a whole id of a version we know. Older mints also list ids of other forms."""
    return bool(_V1(text) or _V2(text))


def keyset(
    claimed_id: str,
    unit: str,
    keys: Mapping[int, str],
    *,
    active: bool,
    input_fee_ppk: int,
    final_expiry: int | None,
) -> Keyset:
    """The keyset, when its id is that of its keys. Raises MintNonconformant, saying what is wrong."""
    if not is_keyset_id(claimed_id):
        raise MintNonconformant(f"keyset id {claimed_id[:70]!a} is of no known version")
    if not keys:
        raise MintNonconformant(f"keyset {claimed_id} has no keys")
    if not 0 <= input_fee_ppk <= MAX_INPUT_FEE_PPK:
        raise MintNonconformant(
            f"keyset {claimed_id} takes {input_fee_ppk} ppk per input, we accept {MAX_INPUT_FEE_PPK}"
        )
    for amount, key in keys.items():
        if not 0 < amount <= _MAX_AMOUNT or not is_point(key):
            raise MintNonconformant(
                f"keyset {claimed_id}: the key for {amount} is {key[:140]!a}, not a point"
            )
    if len(set(keys.values())) != len(keys):
        raise MintNonconformant(f"keyset {claimed_id} signs two amounts with one key")
    actual = id_v1(keys) if _V1(claimed_id) else id_v2(keys, unit, input_fee_ppk, final_expiry)
    if actual != claimed_id:
        raise MintNonconformant(f"keyset {claimed_id} has the keys of {actual}")
    denominations = tuple(sorted(amount for amount in keys if amount.bit_count() == 1))
    ordered = MappingProxyType({amount: keys[amount] for amount in sorted(keys)})
    return Keyset(claimed_id, unit, active, input_fee_ppk, final_expiry, ordered, denominations)


def listed(known: Mapping[str, Keyset]) -> dict[str, Keyset]:
    """Those that their mint names."""
    return {keyset_id: each for keyset_id, each in known.items() if each.listed}


def expand(token_id: str, known: Collection[str]) -> str:
    """The whole id of one that a token carries, against the ids of its mint's keysets.

    Raises TokenInvalid(`keyset`) when it is unknown or fits several: both are refused, never guessed.
    """
    if token_id in known:
        return token_id
    found = []
    if len(token_id) == SHORT_ID_HEX and token_id.startswith("01"):
        found = sorted(each for each in set(known) if each.startswith(token_id))
    if len(found) == 1:
        return found[0]
    if found:
        raise TokenInvalid("keyset", f"keyset id {token_id} fits {len(found)} keysets of this mint")
    raise TokenInvalid("keyset", f"keyset {token_id[:70]!a} is none of this mint's known keysets")


def fee_sats(input_fees_ppk: Iterable[int]) -> int:
    """What a mint keeps of a swap or melt with these inputs: the sum of their ppk, rounded up."""
    return -(-sum(input_fees_ppk) // 1_000)


def split(amount: int, denominations: Sequence[int]) -> tuple[int, ...]:
    """The amount in powers of two that the mint signs, ascending: as few proofs as there can be.

    `denominations` ascend. Raises ValueError for an amount these denominations cannot make.
    """
    if amount < 0:
        raise ValueError(f"cannot split {amount}")
    parts: list[int] = []
    rest = amount
    # Powers of two divide one another: taking the largest first finds a way when there is one.
    for value in reversed(denominations):
        count, rest = divmod(rest, value)
        if len(parts) + count > _MAX_PARTS:
            raise ValueError(f"{amount} would take more than {_MAX_PARTS} proofs of this keyset")
        parts += [value] * count
    if rest:
        raise ValueError(f"{amount} cannot be made of the denominations this mint signs")
    return tuple(reversed(parts))


_MAX_PARTS: Final = 1_000


def face_sats(amount_sats: int, input_fee_ppk: int, denominations: Sequence[int]) -> int:
    """What must be locked so that the payee nets `amount_sats` even when redeeming these proofs alone.

    The smallest value v ≥ amount with v − ceil(proofs(v)·ppk/1000) ≥ amount. Raises ValueError for an amount
    below 1 or one the denominations cannot make.
    """
    if amount_sats < 1:
        raise ValueError(f"{amount_sats} sat cannot be locked, the least is 1")
    face = amount_sats + fee_sats([input_fee_ppk])  # there is at least one proof
    while True:
        parts = len(split(face, denominations))
        short = amount_sats + fee_sats([parts * input_fee_ppk]) - face
        if short <= 0:
            return face
        face += 1
