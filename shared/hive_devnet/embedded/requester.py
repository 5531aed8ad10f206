"""The paying end of offers: invoice requests made and sent, as Core Lightning's fetchinvoice does."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import coincurve

from hive_devnet.embedded import bolt12
from hive_devnet.embedded.bolt12 import Records, of_tu, tu
from hive_devnet.embedded.errors import INVALID_PARAMS, LIGHTNINGD, RpcError
from hive_devnet.embedded.issuer import Issuer, RequestError, as_rpc_error
from hive_devnet.embedded.ledger.payments import COMPLETE

if TYPE_CHECKING:
    from hive_devnet.embedded.node import EmbeddedNode

_EXPIRED, _NO_ROUTE, _TIMEOUT = 1002, 1003, 1005


@dataclass(frozen=True)
class Wish:
    """What a caller asks of an offer."""

    amount_msat: int | None = None
    quantity: int | None = None
    counter: int | None = None
    start: int | None = None
    label: str | None = None
    payer_note: str | None = None
    payer_metadata: bytes | None = None
    cancel: bool = False


class Requester:
    """Asks issuers on behalf of one node."""

    def __init__(self, node: EmbeddedNode) -> None:
        self._node = node

    def request(self, offer: Records, wish: Wish) -> str:
        """The signed request. Raises RpcError -1, -32602, 1002."""
        records = dict(offer)
        _check_expiry(offer, wish)
        records |= _amount(offer, wish) | _quantity(offer, wish)
        records |= self._identity(offer, wish)
        records |= {bolt12.REQUEST_CHAIN: bolt12.CHAIN, bolt12.REQUEST_FEATURES: b""}
        if wish.payer_note is not None:
            records[bolt12.PAYER_NOTE] = wish.payer_note.encode()
        key = self._payer_key(records[bolt12.METADATA])
        records[bolt12.PAYER_ID] = key.public_key.format()
        if wish.counter is not None:
            self._check_period(records, wish)
        signed = bolt12.signed("invoice_request", records, key.sign_schnorr)
        return bolt12.encode(bolt12.REQUEST, signed)

    def _identity(self, offer: Records, wish: Wish) -> Records:
        """Metadata, and with them the payer's key: of a series always the same."""
        if bolt12.recurrence_of(offer) is None:
            for given, name in ((wish.counter, "counter"), (wish.start, "start")):
                if given is not None:
                    raise RpcError(INVALID_PARAMS, f"unnecessary invreq_recurrence_{name}")
            return {bolt12.METADATA: wish.payer_metadata or os.urandom(16)}
        if wish.counter is None:
            raise RpcError(INVALID_PARAMS, "needs recurrence_counter")
        if wish.payer_metadata is not None:
            raise RpcError(INVALID_PARAMS, "Cannot set payer_metadata for recurring offers")
        own = {bolt12.COUNTER: tu(wish.counter)}
        if bolt12.RECURRENCE_BASE in offer:
            own[bolt12.START] = tu(wish.start or 0)
        elif wish.start is not None:
            raise RpcError(INVALID_PARAMS, "unnecessary recurrence_start")
        if wish.label is None:
            raise RpcError(INVALID_PARAMS, "needs recurrence_label")
        if wish.cancel:
            own[bolt12.CANCEL] = b""
        series = bytes.fromhex(bolt12.offer_id(offer)) + wish.label.encode()
        secret = self._node.keys.make_secret(b"bolt12 series")
        return own | {bolt12.METADATA: hashlib.sha256(secret + series).digest()}

    def _payer_key(self, metadata: bytes) -> coincurve.PrivateKey:
        tweak = hashlib.sha256(self._node.keys.make_secret(b"bolt12 payer") + metadata).digest()
        key: coincurve.PrivateKey = self._node.keys.node_key.add(tweak)
        return key

    def _check_period(self, request: Records, wish: Wish) -> None:
        base = self._base_paid(request, wish) if wish.counter else None
        index = (wish.counter or 0) + of_tu(request.get(bolt12.START, b""))
        limit = request.get(bolt12.RECURRENCE_LIMIT)
        if limit is not None and index > of_tu(limit):
            raise RpcError(LIGHTNINGD, f"Can't send invreq for period {index} (limit {of_tu(limit)})")
        if base is None and bolt12.RECURRENCE_BASE in request:
            base = of_tu(request[bolt12.RECURRENCE_BASE][1:])
        if base is None:
            return
        now, (since, until) = int(time.time()), bolt12.paywindow(request, base, index)
        if now < since:
            text = f"Too early: can't send until time {since} (in {since - now} secs)"
            raise RpcError(LIGHTNINGD, text)
        if now > until:
            raise RpcError(LIGHTNINGD, f"Too late: expired time {until} ({now - until} secs ago)")

    def _base_paid(self, request: Records, wish: Wish) -> int:
        """When the series began, by the payment of the period before: its label is the series' label."""
        assert wish.counter is not None
        own, last, unpaid = bolt12.offer_id(request), -1, False
        for part in self._node.world.courier.payments.parts_of(self._node.node_id, None):
            if part.label != wish.label or part.bolt11 is None or not part.bolt11.startswith("lni1"):
                continue
            invoice = bolt12.decode(part.bolt11, bolt12.INVOICE)
            if bolt12.offer_id(invoice) != own or bolt12.COUNTER not in invoice:
                continue
            if invoice.get(bolt12.START) != request.get(bolt12.START):
                before = of_tu(invoice.get(bolt12.START, b""))
                raise RpcError(INVALID_PARAMS, f"recurrence_start was previously {before}")
            counter = of_tu(invoice[bolt12.COUNTER])
            last = max(last, counter)
            if counter == wish.counter - 1:
                if part.status == COMPLETE:
                    return of_tu(invoice[bolt12.BASETIME])
                unpaid = True
        if unpaid:
            raise RpcError(INVALID_PARAMS, "previous invoice payment did not succeed")
        if last >= 0:
            text = f"previous invoice has not been paid (last was {last})"
            raise RpcError(INVALID_PARAMS, text)
        raise RpcError(INVALID_PARAMS, "No previous payment attempted for this label and offer")

    async def send(self, request: str) -> Records:
        """The issuer's invoice. Raises RpcError 1003, 1004, 1005."""
        issuer_id = bolt12.decode(request, bolt12.REQUEST)[bolt12.ISSUER_ID].hex()
        issuer = self._node if issuer_id == self._node.node_id else await self._reached(issuer_id)
        try:
            return Issuer(issuer).answer(request)
        except RequestError as error:
            raise as_rpc_error(error) from None

    async def _reached(self, issuer_id: str) -> EmbeddedNode:
        world = self._node.world
        if self._node.peers.link(issuer_id) is None and not self._path_to(issuer_id):
            try:
                await self._node.peers.connect(issuer_id, None, None)
            except RpcError as error:
                told = json.dumps({"code": error.code, "message": error.message}, separators=(",", ":"))
                text = f"Failed: could not route or connect directly to {issuer_id}: {told}"
                raise RpcError(_NO_ROUTE, text) from None
        issuer = world.running(issuer_id)
        if issuer is None:
            raise RpcError(_TIMEOUT, "Timeout waiting for response")
        return issuer

    def _path_to(self, issuer_id: str) -> bool:
        """Whether messages find a way over channels whose ends run and are connected."""
        world, seen, todo = self._node.world, {self._node.node_id}, [self._node.node_id]
        while todo:
            here = todo.pop()
            node = world.running(here)
            if node is None:
                continue
            for channel in world.channels.of_node(here):
                peer = channel.peer_of(here)
                if peer in seen or world.running(peer) is None or node.peers.link(peer) is None:
                    continue
                if peer == issuer_id:
                    return True
                seen.add(peer)
                todo.append(peer)
        return False


def _check_expiry(offer: Records, wish: Wish) -> None:
    until = offer.get(bolt12.ABSOLUTE_EXPIRY)
    if until is not None and int(time.time()) > of_tu(until) and not wish.counter:
        raise RpcError(_EXPIRED, "Offer expired")


def _amount(offer: Mapping[int, bytes], wish: Wish) -> Records:
    if wish.amount_msat is not None:
        return {bolt12.REQUEST_AMOUNT: tu(wish.amount_msat)}
    if bolt12.AMOUNT not in offer and not wish.cancel:
        raise RpcError(INVALID_PARAMS, "amount_msat parameter required")
    return {}


def _quantity(offer: Mapping[int, bytes], wish: Wish) -> Records:
    if bolt12.QUANTITY_MAX not in offer:
        if wish.quantity is not None:
            raise RpcError(INVALID_PARAMS, "quantity parameter unnecessary")
        return {}
    if wish.cancel:
        return {}
    if wish.quantity is None:
        raise RpcError(INVALID_PARAMS, "quantity parameter required")
    if wish.quantity == 0:
        raise RpcError(INVALID_PARAMS, "quantity parameter must be non-zero")
    most = of_tu(offer[bolt12.QUANTITY_MAX])
    if most and wish.quantity > most:
        raise RpcError(INVALID_PARAMS, f"quantity must be <= {most}")
    return {bolt12.QUANTITY: tu(wish.quantity)}
