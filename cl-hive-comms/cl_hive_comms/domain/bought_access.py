"""Access to an advisor's HTTP API that this node buys by L402 (docs/protocol/03-escrow-and-payments.md §7.5).

The seller alone knows what a token is good for: of its caveats only the end is read here, everything else
shows in whether the server takes the token.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec
from hive_shared import l402
from hive_shared.crypto import Secret
from hive_shared.errors import InvalidParams
from hive_shared.web_address import host_of, public_url

from .payment_checks import failed

OPEN, PAID, SPENT = "open", "paid", "revoked"
"""A token while its payment has no end, once it is paid, and after its server refused it."""
REFUSED: Final = (401, 402)
"""How a server says that a token is used up."""
PAYMENT_REQUIRED: Final = 402
NEVER: Final = 253_402_300_799
"""End of a token that names none: the last second of the year 9999."""

_SCHEME: Final = re.compile(r"\s*(L402|LSAT)\s", re.IGNORECASE)
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,14}")


class Challenge(msgspec.Struct, frozen=True):
    """What a server asks to be paid, and by which words (`scheme`) the token is shown afterwards."""

    scheme: str
    macaroon: Secret
    caveats: tuple[str, ...]
    payment_hash: str
    expires_at: int
    invoice: str


class BoughtToken(msgspec.Struct, frozen=True):
    """One row of `comms_l402_tokens`, role client. `place` is where it is good: scheme, host and port, or the
    one page that it was bought for where another refused it."""

    token_id: str
    place: str
    advisor_id: str
    payment_hash: str
    caveats: tuple[str, ...]
    scheme: str
    macaroon: Secret
    price_sats: int
    expires_at: int
    status: str

    def authorization(self, preimage: str) -> str:
        """The header that shows that it was paid for."""
        return f"{self.scheme} {self.macaroon.reveal().decode()}:{preimage}"


def place_of(url: str, hosts: Collection[str]) -> str:
    """Scheme, host and port of a URL at one of the operator's hosts. Raises InvalidParams for any other, and
    for a URL that must not be asked."""
    try:
        public_url(url, "target")
    except ValueError as error:
        raise _refused(str(error)) from None
    parts = urlsplit(url)
    own = 443 if parts.scheme == "https" else 80
    host, port = parts.hostname or "", parts.port or own
    place = f"{host}:{port}"
    # A host that is named without a port is named with that of the scheme.
    if place not in hosts and not (port == own and host in hosts):
        named = ", ".join(hosts) or "none"
        raise _refused(
            f"{host_of(url)} is not among the hosts that may be paid (hive-comms-l402-hosts names {named})"
        )
    return f"{parts.scheme}://{place}"


def page_of(url: str, place: str) -> str:
    """The name of one page of a place. Its address, which may hold secrets, is not to be read from it."""
    return f"{place}#{hashlib.sha256(url.encode()).hexdigest()[:32]}"


def _refused(sentence: str) -> InvalidParams:
    return InvalidParams(sentence, data={"param": "target"})


def challenge_of(headers: Sequence[str], now: int) -> Challenge:
    """The challenge of an answer 402, by its `WWW-Authenticate` headers; L402 where the older LSAT is offered
    too. Raises PaymentFailed (reason payment_invalid)."""
    offered = [(found[1].upper(), text) for text in headers if (found := _SCHEME.match(text))]
    if not offered:
        raise failed("the server asks to be paid, but not by L402", "payment_invalid")
    scheme, header = min(offered, key=lambda each: each[0])
    text, invoice = l402.read_challenge(header)
    macaroon = l402.decode(text)
    expires_at = _end(macaroon.caveats)
    if expires_at <= now:
        raise failed(f"the token that is offered expired at {expires_at}", "payment_invalid")
    return Challenge(
        scheme,
        Secret(text.encode()),
        macaroon.caveats,
        macaroon.identifier.payment_hash.hex(),
        expires_at,
        invoice,
    )


def _end(caveats: Iterable[str]) -> int:
    """When a token ends at the latest, as far as it says so in the one way that we know."""
    pairs = [caveat.partition("=") for caveat in caveats]
    ends = [value.strip(" ") for key, _, value in pairs if key.strip(" ") == "expires"]
    return min([NEVER, *(int(end) for end in ends if _NUMBER.fullmatch(end))])
