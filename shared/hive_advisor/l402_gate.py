"""An L402 gate for advisors with an HTTP API: the challenge of a request that is not paid, the check of one
that says it is (docs/protocol/11-advisor-kit.md §8; 03 §7.5).

No server and no framework: the caller answers with status 402 and the header of `challenge`, and hands the
`Authorization` header of the next request to `verify`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
from hive_shared import l402
from hive_shared.bolt11 import read_invoice
from hive_shared.crypto import Secret
from hive_shared.errors import HiveError, InvalidParams, from_symbol

_NAMED: Final = ("node", "agent", "credential", "contract")

Invoice = Callable[[int, str], Awaitable[str]]
"""`(amount_sats, description)`: a BOLT 11 invoice of the advisor's wallet over that amount."""
Take = Callable[[str, int], Awaitable[bool]]
"""`(token_id, limit)`: count one more use of a token, durably; False when `limit` uses were counted."""


class Challenge(msgspec.Struct, frozen=True):
    """What an unpaid request is answered with: `header` is the value of `WWW-Authenticate`."""

    header: str
    macaroon: str
    invoice: str
    amount_sats: int


class Grant(msgspec.Struct, frozen=True):
    """A paid request. `rights` are what the macaroon says, checked."""

    token_id: str
    payment_hash: str
    rights: l402.Rights


class L402Gate:
    """Sells access to one service. `key` signs every token; who has it can make them."""

    def __init__(
        self,
        key: Secret,
        *,
        invoice: Invoice,
        take: Take,
        random_bytes: Callable[[int], bytes],
        now: Callable[[], int],
    ) -> None:
        self._key, self._invoice, self._take = key, invoice, take
        self._random, self._now = random_bytes, now

    async def challenge(self, price_sats: int, caveats: tuple[str, ...] = ()) -> Challenge:
        """A fresh token that is good once its invoice is paid. The caveats must bound it: `expires`,
        `max_actions`, or both.

        Raises InvalidParams for a price or caveats that cannot be sold, or a wallet's invoice over another
        amount; PaymentFailed for caveats that cannot be read.
        """
        rights = l402.rights_of(caveats)
        if price_sats < 1:
            raise InvalidParams(f"a price of {price_sats} sat needs no gate")
        if rights.expires is None and rights.max_actions is None:
            raise InvalidParams("a token without expires and max_actions would be good for ever")
        text = await self._invoice(price_sats, "access")
        made = read_invoice(text)
        if made.amount_msat != price_sats * 1_000:
            raise InvalidParams(
                f"the wallet's invoice asks for {made.amount_msat} msat, not {price_sats} sat"
            )
        bound = l402.Identifier(bytes.fromhex(made.payment_hash), self._random(32))
        macaroon = l402.mint(l402.root_key(self._key, bound.token_id), bound, caveats).text()
        return Challenge(l402.challenge_header(macaroon, text), macaroon, text, price_sats)

    async def verify(self, authorization: str, said: Mapping[str, str] | None = None) -> Grant:
        """Let a request in by its `Authorization` header, once per use. `said` is what the caller itself
        knows of the request (node, agent, credential, contract): a caveat about anything else is not kept to
        here, so it is refused.

        Raises PaymentFailed: payment_invalid, or payment_required when the token is used up.
        """
        text, preimage = l402.read_authorization(authorization)
        macaroon = l402.decode(text)
        identifier = macaroon.identifier
        if not l402.check_signature(macaroon, l402.root_key(self._key, identifier.token_id)):
            raise _refused("this macaroon was not issued here, or it was changed")
        l402.check_preimage(macaroon, preimage)
        rights = l402.rights_of(macaroon.caveats)
        self._check(rights, said or {})
        token_id = identifier.token_id.hex()
        # Last: a request that is refused uses nothing up.
        if rights.max_actions is not None and not await self._take(token_id, rights.max_actions):
            raise from_symbol("payment_required", "the token is used up; ask without it for a new challenge")
        return Grant(token_id, identifier.payment_hash.hex(), rights)

    def _check(self, rights: l402.Rights, said: Mapping[str, str]) -> None:
        if rights.expires is not None and self._now() >= rights.expires:
            raise _refused(f"the token expired at {rights.expires}")
        if rights.schemas or rights.tier is not None or rights.max_danger is not None:
            raise _refused("the token speaks of schemas, tier or danger, which this service does not know")
        for name in _NAMED:
            wanted = getattr(rights, name)
            if wanted is not None and said.get(name) != wanted:
                raise _refused(f"the token is for another {name}")


def _refused(what: str) -> HiveError:
    return from_symbol("payment_invalid", what)
