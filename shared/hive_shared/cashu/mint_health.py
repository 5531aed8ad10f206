"""Whether a mint is one to lock money at: what it says of itself, its keysets, its clock
(docs/protocol/03-escrow-and-payments.md §2.1, §4.2). What it does is another matter: `probe`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from hive_shared.cashu.keysets import Keyset, is_keyset_id, keyset
from hive_shared.cashu.ports import Mint
from hive_shared.cashu.reasons import MintNonconformant
from hive_shared.cashu.wire import KeysetInfo, MintInfo

__all__ = [
    "EXPIRY_MARGIN_S",
    "MAX_SKEW_S",
    "REQUIRED_NUTS",
    "MintHealth",
    "examine",
    "lockable_keyset",
]

REQUIRED_NUTS: Final = (4, 7, 9, 10, 11, 12, 14)
"""What a mint must say it does; 5 too, for taking sats out by Lightning."""
MAX_SKEW_S: Final = 60
"""Largest difference of the mint's clock to ours at which new locks are made, seconds."""
EXPIRY_MARGIN_S: Final = 7 * 86_400
"""How long a keyset must outlive a lock made with it, seconds."""
_MAX_KEYSETS: Final = 64


class MintHealth(msgspec.Struct, frozen=True):
    """What a check found. `skew_s` is the mint's clock minus ours, None when it shows none; `problems` are
    the sentences for which no new lock is made there: none means healthy."""

    info: MintInfo
    keysets: tuple[Keyset, ...]
    skew_s: int | None
    problems: tuple[str, ...]

    @property
    def version(self) -> str:
        """What it calls its software, empty when it does not say."""
        return self.info.version or ""


async def examine(mint: Mint, known: Mapping[str, Keyset], now: Callable[[], int]) -> MintHealth:
    """Read info and keysets; the keys only of keysets that are not among the `known`.

    Raises MintUnavailable, MintRefused, MintNonconformant (a keyset id that is not that of its keys, a keyset
    listed twice, a known one that changed).
    """
    asked_at = now()
    info = await mint.info()
    skew = None if info.time is None else _outside(info.time, asked_at, now())
    listed = [each for each in await mint.keysets() if each.unit == "sat" and is_keyset_id(each.id)]
    if len({each.id for each in listed}) != len(listed):
        raise MintNonconformant(f"the mint {mint.url} lists a keyset twice")
    if len(listed) > _MAX_KEYSETS:
        raise MintNonconformant(
            f"the mint {mint.url} lists {len(listed)} keysets, at most {_MAX_KEYSETS} are read"
        )
    keysets = tuple(
        [
            await mint.keyset(each) if each.id not in known else _still(mint.url, each, known[each.id])
            for each in listed
        ]
    )
    return MintHealth(info, keysets, skew, tuple(_problems(info, keysets, skew)))


def lockable_keyset(keysets: Sequence[Keyset], locktime: int) -> Keyset | None:
    """The active keyset with the lowest fee that outlives a lock until `locktime` (Unix s); None: there is
    none."""
    fit = [
        each
        for each in keysets
        if each.active and (each.final_expiry is None or each.final_expiry > locktime + EXPIRY_MARGIN_S)
    ]
    return min(fit, key=lambda each: (each.input_fee_ppk, each.id), default=None)


def _problems(info: MintInfo, keysets: Sequence[Keyset], skew_s: int | None) -> list[str]:
    found = []
    missing = [str(nut) for nut in REQUIRED_NUTS if not info.supports(nut)]
    if missing:
        found.append(f"does not say that it does NUT-{', NUT-'.join(missing)}")
    if not any(each.active and 1 in each.denominations for each in keysets):
        found.append("has no active keyset in sat")
    if skew_s is None:
        found.append("shows no time")
    elif abs(skew_s) > MAX_SKEW_S:
        found.append(
            f"its clock is {abs(skew_s)} s {'ahead' if skew_s > 0 else 'behind'}, allowed are {MAX_SKEW_S}"
        )
    return found


def _outside(theirs: int, asked_at: int, answered_at: int) -> int:
    """How far the mint's time is outside of the span in which it answered."""
    if theirs > answered_at:
        return theirs - answered_at
    return min(0, theirs - asked_at)


def _still(url: str, listed: KeysetInfo, known: Keyset) -> Keyset:
    """A known keyset as it is listed now; a v2 id lets only its activity change, a v1 id the fee too."""
    try:
        return keyset(
            listed.id,
            listed.unit,
            known.keys,
            active=listed.active,
            input_fee_ppk=listed.input_fee_ppk or 0,
            final_expiry=listed.final_expiry,
        )
    except MintNonconformant as error:
        raise MintNonconformant(f"the mint {url} changed a keyset: {error.detail}") from None
