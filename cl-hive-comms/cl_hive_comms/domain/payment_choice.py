"""Which method a payment takes (docs/protocol/03-escrow-and-payments.md §7.1)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from hive_shared.errors import HiveError, PaymentFailed

ESCROW: Final = "escrow"
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


@dataclass(frozen=True, slots=True)
class Case:
    """What is to be paid for: `context` is subscription, per_action or flat; `conditional` pay depends on an
    outcome; `shared_mint` says whether both sides use one mint."""

    context: str
    conditional: bool = False
    danger: int = 1
    shared_mint: bool = False


def choose(case: Case, preferred: Sequence[str], accepted: Collection[str]) -> str:
    """The method: `escrow` for what is conditional, else the first of the operator's that the peer accepts
    and that fits; a subscription takes Bolt12 before Bolt11 whatever the order. With none in common ecash,
    where a mint is shared. Raises PaymentFailed with the reason `no_common_method`."""
    if case.conditional:
        if case.shared_mint:
            return ESCROW
        raise _none("conditional pay needs a mint that both sides use")
    bearer = case.shared_mint and case.danger <= BEARER_DANGER
    fits = (*_FITS[case.context], *((CASHU,) if bearer else ()))
    order = fits if case.context == SUBSCRIPTION else preferred
    for method in order:
        if method in fits and method in preferred and method in accepted:
            return method
    if bearer and CASHU in accepted:
        return CASHU
    raise _none(
        f"we pay by {', '.join(preferred) or 'nothing'}, they take {', '.join(sorted(accepted)) or 'nothing'}"
    )


def _none(why: str) -> HiveError:
    return PaymentFailed(f"no way to pay that both sides take: {why}", reason="no_common_method")
