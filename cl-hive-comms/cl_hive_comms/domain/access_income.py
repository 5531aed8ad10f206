"""What an agent paid for access as a row of comms_payments (docs/protocol/03-escrow-and-payments.md §8)."""

from __future__ import annotations

import hashlib

from .access_fee import ACCESS, BOLT11, BOLT12, CASHU, L402, PERIOD, AccessToken
from .payment import IN, Payment, Target, id_of
from .payment_machine import State


def income_of(token: AccessToken, advisor_id: str | None, now: int) -> Payment:
    """The settled payment of a token's invoice, first seen at `now` (unix seconds)."""
    key = f"access:{token.token_id}"
    return Payment(
        payment_id=id_of(key),
        key=key,
        content_hash=hashlib.sha256(token.payment_hash.encode()).hexdigest(),
        advisor_id=advisor_id,
        budget=None,
        kind={ACCESS: L402, PERIOD: BOLT12}.get(token.service, BOLT11),
        purpose="access",
        direction=IN,
        amount_msat=token.price_sats * 1_000,
        max_fee_msat=0,
        state=State.SETTLED,
        target=Target(""),
        label=f"hive:access:{token.token_id}",
        created_at=now,
        updated_at=now,
        payment_hash=token.payment_hash,
        bound_to=token.agent_key,
    )


def ecash_income_of(command_id: str, agent_key: str, advisor_id: str, amount_sats: int, now: int) -> Payment:
    """The ecash that a command was paid by, as settled at `now` (unix seconds)."""
    key = f"access:{command_id}"
    return Payment(
        payment_id=id_of(key),
        key=key,
        content_hash=hashlib.sha256(command_id.encode()).hexdigest(),
        advisor_id=advisor_id,
        budget=None,
        kind=CASHU,
        purpose="access",
        direction=IN,
        amount_msat=amount_sats * 1_000,
        max_fee_msat=0,
        state=State.SETTLED,
        target=Target(""),
        label=f"hive:access:{command_id}",
        created_at=now,
        updated_at=now,
        bound_to=agent_key,
    )
