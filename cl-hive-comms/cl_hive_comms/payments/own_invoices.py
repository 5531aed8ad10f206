"""Invoices of this node that a mint pays when ecash is withdrawn (docs/protocol/03 §5)."""

from collections.abc import Callable

from hive_shared.cln import ClnClient, ClnError
from hive_shared.errors import Internal

_INVOICE_S = 3_600


class OwnInvoices:
    """Makes them, and says whether they were paid."""

    def __init__(self, cln: ClnClient, random_bytes: Callable[[int], bytes]) -> None:
        self._cln, self._random_bytes = cln, random_bytes

    async def make(self, amount_sat: int, description: str) -> str:
        """A new one. Raises Internal when the node makes none."""
        params = {
            "amount_msat": amount_sat * 1_000,
            "label": f"hive-wallet:{self._random_bytes(8).hex()}",
            "description": description[:512],
            "expiry": _INVOICE_S,
        }
        try:
            return str((await self._cln.call("invoice", params))["bolt11"])
        except ClnError as error:
            raise Internal(f"the node made no invoice: {error.message[:200]}") from error

    async def paid(self, invoice: str) -> bool:
        """Whether this node says that it was paid; one that does not answer does not say so."""
        try:
            rows = (await self._cln.call("listinvoices", {"invstring": invoice}))["invoices"]
        except ClnError:
            return False
        return any(row.get("status") == "paid" for row in rows)
