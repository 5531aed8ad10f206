"""What an agent pays for access: the fee of one action, or a token for many
(docs/protocol/02-fleet-management.md §8; 03 §7.5).

A token is sold against one invoice of this node. `action` tokens are good for one action of their price or
less, `access` tokens (L402) for as many as they say. A use is taken with the step that starts the command
and comes back when the command did nothing: it runs once, or the fee is still good.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue

ACTION: Final = "action"
ACCESS: Final = "access"
PERIOD: Final = "period"
"""What a token is for: one action, those its macaroon says, or all of a period."""

BOLT11: Final = "bolt11"
L402: Final = "l402"
BOLT12: Final = "bolt12"
CASHU: Final = "cashu"
SUBSCRIPTION: Final = "subscription"
SERVED: Final = (BOLT11, L402, CASHU)
"""Ways in which this node takes a fee for access by the action."""
PERIODS: Final = (BOLT12,)
"""Ways in which it takes one by the period."""

ACCESS_FEE: Final = "access"
"""The direction of payment from the agent to the node."""

OPEN, PAID = "open", "paid"
HELD, REDEEMED, RETURNED = "held", "redeemed", "returned"
REFUNDED: Final = "refunded"
"""How a receipt says that the fee of a command is good again."""

CHALLENGE_S: Final = 600
"""How long an invoice of ours can be paid."""
MAX_OPEN: Final = 20
"""Unpaid challenges of one agent."""
FEE_GOOD_S: Final = 365 * 86_400
"""How long the paid fee of one action stays good while it was not used."""


class AccessTerms(msgspec.Struct, frozen=True):
    """The operator's terms: methods taken, and what an L402 token costs (sat), for how many days, for how
    many actions."""

    methods: tuple[str, ...] = ()
    l402_price_sats: int = 1_000
    l402_days: int = 30
    l402_actions: int = 1_000


class AccessToken(msgspec.Struct, frozen=True):
    """One row of `comms_l402_tokens`, role server. `token_id` and `payment_hash` are 64 hex; `expires_at` is
    the invoice's end while the token is `open`, the token's own end once it is `paid`."""

    token_id: str
    service: str
    agent_key: str
    credential_id: str
    payment_hash: str
    caveats: tuple[str, ...]
    price_sats: int
    max_uses: int
    uses: int
    expires_at: int
    status: str


class Fee(msgspec.Struct, frozen=True):
    """What pays for one command. `limit` is how many uses of the token its holder left it (at most what was
    sold), `ref` the payment hash. Of ecash: the mint, the names of its proofs (`ys`), their hash as `ref`."""

    method: str
    amount_sats: int
    ref: str
    token_id: str
    limit: int
    mint_url: str = ""
    ys: tuple[str, ...] = ()

    def to_json(self) -> dict[str, JsonValue]:
        """The stored form, read back by `fee_from`."""
        ecash: dict[str, JsonValue] = {"mint_url": self.mint_url, "ys": [*self.ys]} if self.ys else {}
        return {
            **ecash,
            "method": self.method,
            "amount_sats": self.amount_sats,
            "ref": self.ref,
            "token_id": self.token_id,
            "limit": self.limit,
        }

    def doc(self, state: str) -> dict[str, JsonValue]:
        """The `payment` of the receipt (02 §9.1)."""
        return {
            "direction": ACCESS_FEE,
            "method": self.method,
            "amount_sats": self.amount_sats,
            "ref": self.ref,
            "state": state,
        }


NOTHING_PAID: Final[Mapping[str, JsonValue]] = {"direction": "none", "method": "none", "amount_sats": 0}
"""The `payment` of a receipt where nothing was due."""


def fee_from(doc: Mapping[str, Any] | None) -> Fee | None:
    """Inverse of `Fee.to_json`."""
    if doc is None:
        return None
    return Fee(
        method=str(doc["method"]),
        amount_sats=int(doc["amount_sats"]),
        ref=str(doc["ref"]),
        token_id=str(doc["token_id"]),
        limit=int(doc["limit"]),
        mint_url=str(doc.get("mint_url", "")),
        ys=tuple(doc.get("ys", ())),
    )


class Proof(msgspec.Struct, frozen=True):
    """A payment proof as the agent gave it, of a known form."""

    method: str
    preimage: str
    macaroon: str = ""
    payment_hash: str = ""
    token: str = ""
