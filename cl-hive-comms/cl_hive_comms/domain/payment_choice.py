"""Which method a payment takes (docs/protocol/03-escrow-and-payments.md §7.1)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import msgspec
from hive_shared.errors import HiveError, PaymentFailed

ESCROW: Final = "cashu_escrow"
CASHU: Final = "cashu"
SUBSCRIPTION: Final = "subscription"
PER_ACTION: Final = "per_action"
FLAT: Final = "flat"
_FITS: Final = {
    SUBSCRIPTION: ("bolt12", "bolt11"),
    PER_ACTION: ("bolt11", "l402"),
    FLAT: ("bolt11",),
}
BEARER_DANGER: Final = 2
"""Ecash that nothing locks is paid up to this danger."""


class Case(msgspec.Struct, frozen=True):
    """What is to be paid for: `context` is subscription, per_action or flat; `conditional` pay depends on an
    outcome; `shared_mint` says whether both sides use one mint."""

    context: str
    conditional: bool = False
    danger: int = 1
    shared_mint: bool = False


def ways(case: Case, preferred: Sequence[str], accepted: Collection[str]) -> tuple[str, ...]:
    """Every method that both sides take and that fits, the one to take first: those of the operator in his
    order (a subscription takes Bolt12 before Bolt11 whatever it is), then ecash where a mint is shared.
    Conditional pay knows escrow alone."""
    if case.conditional:
        return (ESCROW,) if case.shared_mint and ESCROW in accepted else ()
    bearer = case.shared_mint and case.danger <= BEARER_DANGER
    fits = (*_FITS[case.context], *((CASHU,) if bearer else ()))
    order = fits if case.context == SUBSCRIPTION else tuple(preferred)
    common = [name for name in order if name in fits and name in preferred and name in accepted]
    last = [CASHU] if bearer and CASHU in accepted else []
    return tuple(dict.fromkeys((*common, *last)))


def choose(case: Case, preferred: Sequence[str], accepted: Collection[str]) -> str:
    """The first of `ways`. Raises PaymentFailed with the reason `no_common_method`."""
    if found := ways(case, preferred, accepted):
        return found[0]
    if case.conditional and not case.shared_mint:
        raise _none("conditional pay needs a mint that both sides use")
    ours = ESCROW if case.conditional else ", ".join(preferred) or "nothing"
    raise _none(f"we pay by {ours}, they take {', '.join(sorted(accepted)) or 'nothing'}")


def _none(why: str) -> HiveError:
    return PaymentFailed(f"no way to pay that both sides take: {why}", reason="no_common_method")
