"""States of one lock, an item's share at one mint, as a table for either side
(docs/protocol/03-escrow-and-payments.md §8 comms_cashu_locks).

`redeemed`, `refunded` and `lost` follow from the mint's evidence alone. The two effects that leave the
database are swaps of the wallet: journaled there, asked about and never repeated blindly.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from hive_shared.crypto import sha256
from hive_shared.machine import Step


class LockState(StrEnum):
    """Where a lock is. The values are stored. A payer's begins planned, a payee's delivered."""

    PLANNED = "planned"
    LOCKED = "locked"
    DELIVERED = "delivered"
    REDEEMABLE = "redeemable"
    REDEEMING = "redeeming"
    REDEEMED = "redeemed"
    REFUNDABLE = "refundable"
    REFUNDING = "refunding"
    REFUNDED = "refunded"
    LOST = "lost"
    FAILED = "failed"


class LockEvent(StrEnum):
    """What happens to a lock."""

    ON_LOCKED = "locked"
    ON_FAILED = "failed"
    ON_DELIVERED = "delivered"
    ON_REDEEM_DUE = "redeem_due"
    ON_REDEEM_STARTED = "redeem_started"
    ON_REDEEM_PUT_OFF = "redeem_put_off"
    ON_REDEEMED = "redeemed"
    ON_REFUND_DUE = "refund_due"
    ON_REFUND_STARTED = "refund_started"
    ON_REFUND_PUT_OFF = "refund_put_off"
    ON_REFUNDED = "refunded"
    ON_LOST = "lost"


class LockEffect(StrEnum):
    """What leaves the database: the payee's swap with preimage and key, the payer's after the locktime."""

    REDEEM = "redeem"
    REFUND = "refund"


S, E, Fx = LockState, LockEvent, LockEffect
_STANDING: Final = (S.LOCKED, S.DELIVERED, S.REDEEMABLE, S.REFUNDABLE)
"""The money is at the mint and no swap of ours is under way: the mint may be asked who spent it."""

LOCKS: Final[Mapping[tuple[LockState, LockEvent], Step[LockState, LockEffect]]] = MappingProxyType(
    {
        (S.PLANNED, E.ON_LOCKED): Step(S.LOCKED),
        (S.PLANNED, E.ON_FAILED): Step(S.FAILED),
        # The mint carried out late what was given up.
        (S.FAILED, E.ON_LOCKED): Step(S.LOCKED),
        (S.LOCKED, E.ON_DELIVERED): Step(S.DELIVERED),
        (S.DELIVERED, E.ON_REDEEM_DUE): Step(S.REDEEMABLE),
        (S.REDEEMABLE, E.ON_REDEEM_STARTED): Step(S.REDEEMING, Fx.REDEEM),
        (S.REDEEMING, E.ON_REDEEM_PUT_OFF): Step(S.REDEEMABLE),
        (S.REDEEMING, E.ON_REDEEMED): Step(S.REDEEMED),
        (S.LOCKED, E.ON_REFUND_DUE): Step(S.REFUNDABLE),
        (S.DELIVERED, E.ON_REFUND_DUE): Step(S.REFUNDABLE),
        (S.REFUNDABLE, E.ON_REFUND_STARTED): Step(S.REFUNDING, Fx.REFUND),
        (S.REFUNDING, E.ON_REFUND_PUT_OFF): Step(S.REFUNDABLE),
        (S.REFUNDING, E.ON_REFUNDED): Step(S.REFUNDED),
        # A part of the proofs was redeemed before the rest went back.
        (S.REFUNDING, E.ON_REDEEMED): Step(S.REDEEMED),
        **{(state, E.ON_REDEEMED): Step(S.REDEEMED) for state in _STANDING},
        # Found at the mint by a copy of the database that does not know of the swap.
        **{(state, E.ON_REFUNDED): Step(S.REFUNDED) for state in (S.LOCKED, S.DELIVERED, S.REFUNDABLE)},
        **{(state, E.ON_LOST): Step(S.LOST) for state in _STANDING},
    }
)
INITIAL: Final[Collection[LockState]] = (S.PLANNED, S.DELIVERED)
FINAL: Final[frozenset[LockState]] = frozenset({S.REDEEMED, S.REFUNDED, S.LOST})
OUTCOMES: Final[Mapping[LockEffect, Collection[LockEvent]]] = MappingProxyType(
    {
        Fx.REDEEM: (E.ON_REDEEMED, E.ON_REDEEM_PUT_OFF),
        Fx.REFUND: (E.ON_REFUNDED, E.ON_REFUND_PUT_OFF, E.ON_REDEEMED),
    }
)
HOLDING: Final = (S.PLANNED, *_STANDING, S.REDEEMING, S.REFUNDING)
"""Money is, or may be, locked at the mint."""
STANDING: Final = _STANDING


def lock_id_of(terms_hash: str, item: int, share: int, role: str) -> str:
    """The id of a lock (`role` payer or payee): the same in every plugin and on every copy of a database."""
    return sha256(f"hive-lock/v1\0{terms_hash}\0{item}\0{share}\0{role}".encode()).hex()[:32]
