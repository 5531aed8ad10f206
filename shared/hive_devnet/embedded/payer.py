"""The paying end: splits an amount over routes, sends the parts, and tries again around what failed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hive_devnet.embedded.errors import (
    PAY_DESTINATION_PERM_FAIL,
    PAY_ROUTE_NOT_FOUND,
    PAY_ROUTE_TOO_EXPENSIVE,
    PAY_STOPPED_RETRYING,
    RpcError,
)
from hive_devnet.embedded.ledger.payments import COMPLETE, NewPart, Part
from hive_devnet.embedded.ledger.routing import Hop, Limits, find_route

if TYPE_CHECKING:
    from hive_devnet.embedded.node import EmbeddedNode

MAX_PARTS = 16
_UNKNOWN_PAYMENT = 0x400F
_PERMANENT = 0x4000


@dataclass(frozen=True)
class PaymentOrder:
    """What to pay. `amount_msat` is what this node sends of `total_msat`; `maxfee_msat` bounds all fees."""

    destination: str
    payment_hash: str
    amount_msat: int
    total_msat: int
    maxfee_msat: int
    final_cltv: int
    payment_secret: str | None = None
    label: str | None = None
    bolt11: str | None = None
    description: str | None = None
    keysend_preimage: str | None = None
    extra: str | None = None
    retry_for: float = 60.0


@dataclass(frozen=True)
class Outcome:
    """A completed payment: its preimage and the parts that did it; how many others failed before."""

    preimage: str
    parts: tuple[Part, ...]
    failed_parts: int

    @property
    def sent_msat(self) -> int:
        """Everything that left, fees included."""
        return sum(part.sent_msat for part in self.parts)


class Payer:
    """Pays from one node."""

    def __init__(self, node: EmbeddedNode) -> None:
        self._node = node
        self._world = node.world
        self._excluded: set[tuple[int, str]] = set()

    async def pay(self, order: PaymentOrder) -> Outcome:
        """Completes the payment. Raises RpcError 203, 205, 206 or 210; parts may stay pending after 210."""
        try:
            async with asyncio.timeout(order.retry_for):
                return await self._attempts(order)
        except TimeoutError as error:
            text = f"Timed out after {order.retry_for:.0f} seconds"
            raise RpcError(PAY_STOPPED_RETRYING, text) from error

    async def _attempts(self, order: PaymentOrder) -> Outcome:
        group = self._world.courier.payments.new_group()
        complete: list[Part] = []
        pending: set[asyncio.Task[Part]] = set()
        failed = partid = 0
        missing = order.amount_msat
        while True:
            if missing:
                fees_so_far = sum(part.sent_msat - part.amount_msat for part in complete)
                for route in self._plan(replace(order, maxfee_msat=order.maxfee_msat - fees_so_far), missing):
                    partid += 1
                    pending.add(self._send(order, group, partid, route))
                missing = 0
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                part = task.result()
                if part.status == COMPLETE:
                    complete.append(part)
                    continue
                failed += 1
                missing += part.amount_msat
                self._learn(part)
            if not pending and not missing:
                return Outcome(str(complete[0].preimage), tuple(complete), failed)

    def _send(
        self, order: PaymentOrder, group: int, partid: int, route: list[Hop] | int
    ) -> asyncio.Task[Part]:
        hops = () if isinstance(route, int) else tuple(route)
        amount = route if isinstance(route, int) else hops[-1].amount_msat
        part = self._world.courier.payments.add_part(
            NewPart(
                node_id=self._node.node_id,
                groupid=group,
                partid=partid,
                payment_hash=order.payment_hash,
                payment_secret=order.payment_secret,
                destination=order.destination,
                amount_msat=amount,
                total_msat=order.total_msat,
                route=hops,
                label=order.label,
                bolt11=order.bolt11,
                description=order.description,
                keysend_preimage=order.keysend_preimage,
                extra=order.extra,
            )
        )
        self._world.courier.dispatch(part)
        return asyncio.ensure_future(self._world.courier.finish_of(part))

    def _learn(self, part: Part) -> None:
        """Raises what is final; otherwise leaves the channel that failed out from now on."""
        if part.erring == part.destination or (part.failcode or 0) & _PERMANENT:
            if part.failcode == _UNKNOWN_PAYMENT:
                text = f"Destination said it doesn't know invoice: {part.failreason}"
            else:
                text = f"Failed: {part.failreason}"
            raise RpcError(PAY_DESTINATION_PERM_FAIL, text)
        if part.erring_channel is not None and part.erring is not None:
            self._excluded.add((part.erring_channel, part.erring))
        else:
            self._excluded |= {(hop.channel, hop.source) for hop in part.route if hop.target == part.erring}

    def _plan(self, order: PaymentOrder, amount_msat: int) -> list[list[Hop] | int]:
        """Routes for the amount, whole or in parts. A bare amount stands for paying ourselves."""
        if order.destination == self._node.node_id:
            return [amount_msat]
        channels = [channel for channel in self._world.channels.usable() if self._is_live(channel.opener)]
        channels = [channel for channel in channels if self._is_linked(channel.opener, channel.acceptor)]
        spendable = {
            (channel.id, node_id): channel.spendable_msat(node_id)
            for channel in channels
            for node_id in (channel.opener, channel.acceptor)
        }
        limits = Limits(order.final_cltv, frozenset(self._excluded))
        routes: list[list[Hop] | int] = []
        amounts = [amount_msat]
        fees = 0
        while amounts:
            amount = amounts.pop(0)
            route = find_route(channels, self._node.node_id, order.destination, amount, limits, spendable)
            if route is None:
                if amount < 2 or len(amounts) + len(routes) + 2 > MAX_PARTS:
                    raise self._no_route()
                amounts[:0] = [amount - amount // 2, amount // 2]
                continue
            for hop in route:
                spendable[hop.channel, hop.source] -= hop.amount_msat
            fees += route[0].amount_msat - amount
            routes.append(route)
        if fees > order.maxfee_msat:
            text = f"Failed: Could not find route without excessive cost: fee would be {fees}msat"
            raise RpcError(PAY_ROUTE_TOO_EXPENSIVE, text)
        return routes

    def _is_live(self, node_id: str) -> bool:
        return self._world.running(node_id) is not None

    def _is_linked(self, a: str, b: str) -> bool:
        node = self._world.running(a)
        return node is not None and node.peers.link(b) is not None

    def _no_route(self) -> RpcError:
        own = [
            channel
            for channel in self._world.channels.usable()
            if self._node.node_id in (channel.opener, channel.acceptor)
        ]
        total = sum(channel.capacity_sat for channel in own) * 1000
        text = (
            "Failed: We could not find a usable set of paths. Total source capacity is only"
            f" {total}msat (in {len(own)} channels)."
        )
        return RpcError(PAY_ROUTE_NOT_FOUND, text)
