"""What an agent paid for access as a row of comms_payments (docs/protocol/03-escrow-and-payments.md §8)."""

from __future__ import annotations

import hashlib

from msgspec.structs import replace

from .access_fee import ACCESS, BOLT11, BOLT12, CASHU, L402, PERIOD, AccessToken
from .payment import IN, Payment, Target, id_of
from .payment_machine import State


def income_of(token: AccessToken, advisor_id: str | None, now: int) -> Payment:
    """The settled payment of a token's invoice, first seen at `now` (unix seconds)."""
    kind = {ACCESS: L402, PERIOD: BOLT12}.get(token.service, BOLT11)
    income = _income(
        token.token_id, token.payment_hash, kind, token.agent_key, advisor_id, token.price_sats, now
    )
    return replace(income, payment_hash=token.payment_hash)


def ecash_income_of(command_id: str, agent_key: str, advisor_id: str, amount_sats: int, now: int) -> Payment:
    """The ecash that a command was paid by, as settled at `now` (unix seconds)."""
    return _income(command_id, command_id, CASHU, agent_key, advisor_id, amount_sats, now)


def _income(
    name: str, content: str, kind: str, agent_key: str, advisor_id: str | None, amount_sats: int, now: int
) -> Payment:
    key = f"access:{name}"
    return Payment(
        payment_id=id_of(key),
        key=key,
        content_hash=hashlib.sha256(content.encode()).hexdigest(),
        advisor_id=advisor_id,
        budget=None,
        kind=kind,
        purpose="access",
        direction=IN,
        amount_msat=amount_sats * 1_000,
        max_fee_msat=0,
        state=State.SETTLED,
        target=Target(""),
        label=f"hive:{key}",
        created_at=now,
        updated_at=now,
        bound_to=agent_key,
    )
