"""What the wallet needs of the outside: one mint to talk to, and the book of mints that are trusted
(docs/protocol/03-escrow-and-payments.md §2.1, §4.2).

A call of `Mint` ends in one of four ways, and none of the last three says what became of money:

- an answer, its form checked (its signatures are checked where they are unblinded, `outputs.finish`);
- `MintRefused`: the mint says no. Its codes differ between versions and are for people only;
- `MintUnavailable`: no answer. With `sent` False it is certain that the mint never saw the request;
- `MintNonconformant`: an answer that no correct mint gives. The mint may have acted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Final, Protocol

from hive_shared.canonical import JsonValue
from hive_shared.cashu.keysets import Keyset
from hive_shared.cashu.wire import (
    BlindedMessage,
    BlindSignature,
    KeysetInfo,
    MeltAnswer,
    MeltQuote,
    MintInfo,
    MintQuote,
    Proof,
    ProofState,
    RestoreAnswer,
)
from hive_shared.errors import PaymentFailed

__all__ = [
    "QUEUE_SECONDS",
    "Mint",
    "MintBook",
    "MintRefused",
    "MintUnavailable",
    "lasting",
    "later",
    "request_seconds",
]

QUEUE_SECONDS: Final = 30.0
"""The longest a call waits for its turn before it is sent; then it is `MintUnavailable`, not sent."""


_LONG_WORD: Final = re.compile(r"[0-9A-Za-z+/=_-]{32,}")


def request_seconds(elements: int) -> float:
    """How long a mint may take to answer a request with so many array elements: 10 s and 10 ms each, at most
    60. A call has ended at the latest QUEUE_SECONDS and this after it began; calls that are retried
    (`checkstate`, `restore`, quotes, lists) take up to four times this and half a minute of pauses."""
    return min(60.0, 10.0 + 0.01 * elements)


class MintRefused(PaymentFailed):
    """The mint answered 4xx. `status` is HTTP's, `mint_code` and `detail` are the mint's own words."""

    def __init__(self, url: str, status: int, mint_code: int | None, said: str) -> None:
        code = "" if mint_code is None else f", code {mint_code}"
        # A mint may repeat what it was sent: secrets are long words, and errors are shown and stored.
        said = _LONG_WORD.sub("(…)", said)
        super().__init__(f"the mint {url} refused (HTTP {status}{code}): {said}", reason="mint_refused")
        self.status = status
        self.mint_code = mint_code


class MintUnavailable(PaymentFailed):
    """No answer from the mint, or 5xx, or 429. `sent` is False only where nothing can have reached it;
    `retry_after_s` is how long it is certainly no use to try again, 0 where that is not known. `lasting` is
    what may be stored: without a time that begins now."""

    def __init__(self, url: str, why: str, *, sent: bool, retry_after_s: float = 0.0) -> None:
        self.lasting = f"the mint {url} is unavailable: {why}"
        said, data = later(self.lasting, retry_after_s)
        super().__init__(said, reason="mint_unavailable", data=data)
        self.sent = sent
        self.retry_after_s = retry_after_s


def lasting(error: PaymentFailed) -> str:
    """What of an error may be stored."""
    return error.lasting if isinstance(error, MintUnavailable) else error.detail


class Away(Protocol):
    """How long mints are held back from."""

    def away_for_s(self, url: str) -> float:
        """Seconds until money calls to this mint are sent again; 0 where nothing that we know holds them
        back."""
        ...


def later(text: str, seconds: float) -> tuple[str, dict[str, JsonValue]]:
    """The sentence and the data of an error about a mint that may be asked again after so many seconds; 0: it
    is not known when (docs/decisions/0669)."""
    if seconds <= 0:
        return text, {}
    after = ceil(seconds)
    return f"{text}; try again in {after} s", {"retry_after": after}


def ended_without(mints: Away, url: str, text: str, reason: str, **data: JsonValue) -> PaymentFailed:
    """The error of what was begun at a mint and of which nothing came, with when it may be asked again where
    it was away."""
    said, again = later(text, mints.away_for_s(url) if reason == "mint_unavailable" else 0.0)
    return PaymentFailed(said, reason=reason or None, data={**again, **data})


class Mint(Protocol):
    """One mint. Every array has at most `MintInfo.array_limit` elements: the caller splits.

    The five money calls (`mint_quote`, `mint`, `melt_quote`, `melt`, `swap`) are sent once, in the order they
    were called in; the others are repeated after 1, 4 and 16 s when there was no answer. Each raises
    MintRefused, MintUnavailable or MintNonconformant.
    """

    @property
    def url(self) -> str:
        """Its address in normal form: its name in every table."""
        ...

    async def info(self) -> MintInfo:
        """What it says about itself; `time` is filled from the Date header where it gives none."""
        ...

    async def keysets(self) -> Sequence[KeysetInfo]:
        """All its keysets, also inactive ones."""
        ...

    async def keyset(self, listed: KeysetInfo) -> Keyset:
        """One of them with its keys, the id recomputed. MintNonconformant when it is not that of the keys."""
        ...

    async def mint_quote(self, amount_sats: int, *, pubkey: str | None = None) -> MintQuote:
        """An invoice that buys ecash; `pubkey` binds what is bought to a key (NUT-20)."""
        ...

    async def mint_quote_state(self, quote_id: str) -> MintQuote:
        """Where that invoice stands: the truth about it."""
        ...

    async def mint(
        self, quote_id: str, outputs: Sequence[BlindedMessage], *, signature: str | None = None
    ) -> Sequence[BlindSignature]:
        """Take what a paid quote bought."""
        ...

    async def melt_quote(self, invoice: str) -> MeltQuote:
        """What the mint takes for paying an invoice."""
        ...

    async def melt_quote_state(self, quote_id: str) -> MeltQuote:
        """Where that payment stands: the truth about it."""
        ...

    async def melt(
        self, quote_id: str, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]
    ) -> MeltAnswer:
        """Have the invoice paid; `outputs` are blank ones for change."""
        ...

    async def swap(
        self, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]
    ) -> Sequence[BlindSignature]:
        """Exchange proofs for signatures on new outputs."""
        ...

    async def checkstate(self, ys: Sequence[str]) -> Sequence[ProofState]:
        """What the mint knows of each, in the order asked."""
        ...

    async def restore(self, outputs: Sequence[BlindedMessage]) -> RestoreAnswer:
        """Those of our outputs that the mint has signed, and its signatures."""
        ...


class MintBook(Away, Protocol):
    """The mints that the operator trusts, what is known of them, and whom to tell when one misbehaves."""

    def accepted(self) -> Sequence[str]:
        """Addresses in normal form, the primary first."""
        ...

    def at(self, url: str) -> Mint:
        """The mint at an address of any form. Raises PaymentFailed(`mint_not_allowed`), with no connection
        made, for one that the operator has not named."""
        ...

    async def keysets(self, url: str) -> Mapping[str, Keyset]:
        """Its sat keysets by id as stored; read from the mint when none are known yet."""
        ...

    def array_limit(self, url: str) -> int:
        """Most elements of one array that this mint reads, as it last said."""
        ...

    async def nonconformant(self, url: str, detail: str) -> None:
        """What it answered is none a correct mint gives: no new locks there until it is healthy again."""
        ...
