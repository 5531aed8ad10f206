"""hive-client-wallet (docs/protocol/03-escrow-and-payments.md §9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hive_shared.runtime_spec import MethodSpec, Param

from cl_hive_comms.commands.mints import shown_mints
from cl_hive_comms.commands.rendering import as_text
from cl_hive_comms.commands.status import FORMAT
from cl_hive_comms.services.mint_book import MintBookService

_ACTIONS = ("mints",)


class WalletCommands:
    """The operator's mints."""

    def __init__(self, book: Callable[[], MintBookService], now: Callable[[], int]) -> None:
        self._book, self._now = book, now

    def specs(self) -> list[MethodSpec]:
        """The method of this family."""
        return [
            MethodSpec(
                "hive-client-wallet",
                "R",
                (Param("action", "str", default="mints", choices=_ACTIONS), FORMAT),
                self._wallet,
                "Ecash: the mints you named, how they are, and what they were seen to do.",
            )
        ]

    async def _wallet(self, params: dict[str, Any]) -> dict[str, Any]:
        result = shown_mints(self._book(), self._now())
        return as_text(result) if params["format"] == "text" else result
