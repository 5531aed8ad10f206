"""The way in `lnaddress`: invoices of a Lightning address (docs/protocol/11-advisor-kit.md §8)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hive_shared.canonical import decode_object
from hive_shared.errors import HiveError, PaymentFailed, PolicyDenied
from hive_shared.web_address import host_of

from hive_advisor.domain import lnaddress
from hive_advisor.domain.earning import Made, Order, Sight
from hive_advisor.services.ports_money import Web


class LnAddressIn:
    """Asks the server of an address. `trusted` are other hosts that a human said may stand behind it."""

    name = "lnaddress"

    def __init__(self, address: str, web: Web, trusted: Collection[str]) -> None:
        self._url, self._web = lnaddress.address_url(address), web
        self._hosts = {host_of(self._url), *trusted}

    async def check(self) -> None:
        """Whether the address answers as one. Raises TransportUnavailable, PaymentFailed, PolicyDenied."""
        self._check_host(lnaddress.read_pay_request(await self._get(self._url)).callback)

    async def make(self, order: Order) -> Made:
        """Ask for an invoice of the order's amount. Raises PolicyDenied where it names another host."""
        request = lnaddress.read_pay_request(await self._get(self._url))
        self._check_host(request.callback)
        url = lnaddress.invoice_url(request, order.amount_sats * 1_000)
        invoice, verify = lnaddress.read_invoice_answer(await self._get(url))
        if verify:
            self._check_host(verify)
        return Made(invoice, verify)

    async def look(self, payment_hash: str, invoice: str, look_at: str) -> Sight:
        """Ask its verify URL. Without one nothing but the payer's preimage shows that it was paid."""
        if not look_at:
            return Sight(paid=False)
        self._check_host(look_at)
        settled, preimage = lnaddress.read_verify(await self._get(look_at), invoice)
        return Sight(settled, preimage)

    def _check_host(self, url: str) -> None:
        host = host_of(url)
        if host not in self._hosts:
            raise PolicyDenied(
                f"the Lightning address sends us to {host}, another host than its own: if that is right, run"
                f" 'hive-advisor pay methods --allow-host {host}'",
                reason="foreign_host",
            )

    async def _get(self, url: str) -> dict[str, Any]:
        try:
            return decode_object(await self._web.get(url), max_bytes=65_536, max_nodes=2_000, floats=True)
        except HiveError as error:
            if error.slug != "invalid_params":
                raise
            raise PaymentFailed(
                f"{host_of(url)} answers what is no JSON object: {error.detail}",
                reason="lnaddress_failed",
            ) from None
