"""The book of mints as the payee of tickets asks about it (docs/protocol/03-escrow-and-payments.md §4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import PaymentFailed
from .keysets import Keyset
from .mint_book import MintBookService
from .mint_caps import Caps
from .mints import MintStatus
from .ports import Mint


class TicketMintBook:
    """A node's or kit's mints as a payee of tickets asks about them."""

    def __init__(self, book: MintBookService) -> None:
        self._book = book

    def accepted(self) -> Sequence[str]:
        """Addresses in normal form."""
        return self._book.accepted()

    def at(self, url: str) -> Mint:
        """One of them. Raises PaymentFailed(`mint_not_allowed`), with no connection made, for another."""
        return self._book.at(url)

    async def keysets(self, url: str) -> Mapping[str, Keyset]:
        """Its keysets by id."""
        return await self._book.keysets(url)

    def array_limit(self, url: str) -> int:
        """Most elements of one array that it reads."""
        return self._book.array_limit(url)

    async def keysets_now(self, url: str) -> Mapping[str, Keyset]:
        """The same, asked for anew. Raises MintUnavailable."""
        return await self._book.keysets_now(url)

    def probed(self, url: str) -> Caps | None:
        """What a probe saw; None where there was none. Raises PaymentFailed for a disabled one."""
        row = self._book.row(url)
        if row is not None and row.status is MintStatus.DISABLED:
            raise PaymentFailed(f"the mint {url} is disabled: {row.last_error}", reason="mint_nonconformant")
        return None if row is None or not row.probe_at else row.caps
