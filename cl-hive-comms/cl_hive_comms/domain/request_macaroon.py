"""The macaroon of an invoice that a sibling asked for (docs/protocol/03-escrow-and-payments.md §7.5, §9): it
says who may present the payment, and until when.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from hive_shared import l402
from hive_shared.crypto import Secret
from hive_shared.errors import PaymentFailed
from hive_shared.nostr.keys import parse_pubkey

from .access_fee import FEE_GOOD_S
from .payment import Payment

_TOKEN: Final = b"hive-payment-request/v1"


def macaroon_of(key: Secret, row: Payment, node_id: str, agent: str | None) -> str:
    """The macaroon of an invoice; the same one whenever it is made. `agent` (x-only hex) alone may use it."""
    assert row.payment_hash is not None and row.expires_at is not None
    identifier = l402.Identifier(bytes.fromhex(row.payment_hash), _token_id(row.payment_id))
    caveats = [f"node={node_id}", f"expires={row.expires_at + FEE_GOOD_S}", "max_actions=1"]
    if agent is not None:
        caveats.insert(1, f"agent={agent}")
    return l402.mint(l402.root_key(key, identifier.token_id), identifier, caveats).text()


def check_macaroon(key: Secret, text: str, preimage: str, *, node_id: str, agent: str, now: int) -> bytes:
    """The token id of a macaroon of ours that this agent may present now, its payment hash proved by the
    preimage (64 hex). Raises PaymentFailed `payment_invalid`."""
    macaroon = l402.decode(text)
    if not l402.check_signature(macaroon, l402.root_key(key, macaroon.identifier.token_id)):
        raise _invalid("this node did not issue this macaroon, or it was changed")
    rights = l402.rights_of(macaroon.caveats)
    if rights.node != node_id:
        raise _invalid("the macaroon is for another node")
    if rights.agent not in (None, _key(agent)):
        raise _invalid("the macaroon is another agent's")
    if rights.expires is None or now >= rights.expires:
        raise _invalid(f"the macaroon ended at {rights.expires}")
    if rights.max_actions == 0:
        raise _invalid("the macaroon is good for nothing")
    l402.check_preimage(macaroon, preimage)
    return macaroon.identifier.token_id


def is_of(row: Payment, token_id: bytes) -> bool:
    """Whether a token id is that of this row's macaroon, and not of access that was sold."""
    return hmac.compare_digest(_token_id(row.payment_id), token_id)


def _token_id(payment_id: str) -> bytes:
    return hashlib.sha256(_TOKEN + bytes.fromhex(payment_id)).digest()


def _key(agent: str) -> str:
    try:
        return parse_pubkey(agent)
    except ValueError:
        return agent


def _invalid(text: str) -> PaymentFailed:
    return PaymentFailed(text, reason="payment_invalid")
