"""Carries payment parts over the network: HTLC by HTLC forward, hooks at every node, back with the outcome.

Every step is committed before the next, so a part goes on where it stopped when nodes or the whole
process are restarted; `htlc_accepted` is then asked again, as Core Lightning does.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

from hive_devnet.embedded.bell import Bell
from hive_devnet.embedded.errors import PAY_DESTINATION_PERM_FAIL, PAY_TRY_OTHER_ROUTE, RpcError
from hive_devnet.embedded.ledger.channel import LIVE
from hive_devnet.embedded.ledger.payments import (
    FAILED,
    LOCAL_FAILED,
    SETTLED,
    Failure,
    Forward,
    Part,
    Payments,
)
from hive_devnet.embedded.ledger.routing import NO_CHANNEL
from hive_devnet.embedded.onion import describe_htlc
from hive_devnet.embedded.receiver import Receiver

if TYPE_CHECKING:
    from hive_devnet.embedded.node import EmbeddedNode
    from hive_devnet.embedded.world import World

TEMPORARY_NODE_FAILURE = 0x2002
TEMPORARY_CHANNEL_FAILURE = 0x1007
AMOUNT_BELOW_MINIMUM = 0x100B
UNKNOWN_NEXT_PEER = 0x400A
FEE_INSUFFICIENT = 0x100C
UNKNOWN_PAYMENT = 0x400F
REASONS = {
    TEMPORARY_NODE_FAILURE: "WIRE_TEMPORARY_NODE_FAILURE",
    TEMPORARY_CHANNEL_FAILURE: "WIRE_TEMPORARY_CHANNEL_FAILURE",
    AMOUNT_BELOW_MINIMUM: "WIRE_AMOUNT_BELOW_MINIMUM",
    UNKNOWN_NEXT_PEER: "WIRE_UNKNOWN_NEXT_PEER",
    FEE_INSUFFICIENT: "WIRE_FEE_INSUFFICIENT",
    UNKNOWN_PAYMENT: "WIRE_INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS",
    23: "WIRE_MPP_TIMEOUT",
}


class Courier:
    """Moves the parts of all payments of a World."""

    def __init__(self, world: World, payments: Payments) -> None:
        self._world = world
        self.payments = payments
        self.finished = Bell()
        self._receiver = Receiver(world, payments)
        self._driving: set[int] = set()

    def dispatch(self, part: Part) -> None:
        """Starts moving a pending part."""
        if part.id not in self._driving:
            self._driving.add(part.id)
            self._world.spawn(self._drive(part))

    def resume(self) -> None:
        """Moves every part on that was pending when the process ended."""
        for part in self.payments.pending():
            self.dispatch(part)

    async def finish_of(self, part: Part) -> Part:
        """The part once it is complete or failed."""
        while (current := self.payments.part(part.id)).status == "pending":
            await self.finished.wait()
        return current

    async def _drive(self, part: Part) -> None:
        try:
            if part.preimage is None and part.failcode is None:
                part = await self._advance(part)
            self._unwind(part)
            part = self.payments.finish(part)
            self._report(part)
        finally:
            self._driving.discard(part.id)
            self.finished.ring()

    async def _advance(self, part: Part) -> Part:
        """Adds HTLCs hop by hop until the destination takes or a hop refuses the part."""
        position = len(self.payments.htlcs_of(part))
        while True:
            if position > 0:
                verdict = await self._ask_hooks(part, position - 1)
                if isinstance(verdict, Failure):
                    return self._refuse(part, position, verdict)
                if verdict is not None:
                    self.payments.reveal([part.id], verdict)
                    return self.payments.part(part.id)
            if position == len(part.route):
                return await self._receiver.deliver(part)
            problem = self._add_hop(part, position)
            if problem is not None:
                return self._refuse(part, position, problem)
            position += 1

    async def _ask_hooks(self, part: Part, index: int) -> str | Failure | None:
        """The htlc_accepted hook of the node at the end of hop `index`: a preimage, a failure, or go on."""
        node_id = part.route[index].target
        while True:
            node = await self._world.when_running(node_id)
            if not node.plugins.hooks.anyone("htlc_accepted"):
                return None
            asked = asyncio.ensure_future(
                node.plugins.hooks.call("htlc_accepted", describe_htlc(self._world, part, index))
            )
            ended = asyncio.ensure_future(node.finished.wait())
            await asyncio.wait((asked, ended), return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            if not asked.done() or node.stopping:
                asked.cancel()
                await node.finished.wait()
                continue
            return _verdict(node, part, asked.result())

    def _add_hop(self, part: Part, position: int) -> Failure | None:
        hop = part.route[position]
        forwarder = self._world.running(hop.source)
        forward: Forward | None = None
        if position > 0:
            forward = self.payments.forward_of(hop.source, part)
            if forward is None:
                incoming = self.payments.htlcs_of(part)[position - 1]
                forward = self.payments.open_forward(part, position - 1, incoming["number"])
        problem = self._obstacle(part, position, forwarder)
        if problem is not None:
            return problem
        expiry = self._world.chain.height + hop.delay
        number = self.payments.add_htlc(part, hop, expiry)
        if forward is not None:
            forward = self.payments.update_forward(forward, out_htlc=number)
            self._notify_forward(forward)
        return None

    def _obstacle(self, part: Part, position: int, forwarder: EmbeddedNode | None) -> Failure | None:
        hop = part.route[position]
        if hop.channel == NO_CHANNEL:
            return Failure(UNKNOWN_NEXT_PEER, REASONS[UNKNOWN_NEXT_PEER], hop.source)
        channel = self._world.channels.get(hop.channel)

        def failure(code: int) -> Failure:
            return Failure(code, REASONS[code], hop.source, hop.channel)

        if forwarder is None or channel.state not in LIVE or forwarder.peers.link(hop.target) is None:
            return failure(TEMPORARY_CHANNEL_FAILURE)
        if channel.spendable_msat(hop.source) < hop.amount_msat:
            return failure(TEMPORARY_CHANNEL_FAILURE)
        if position == 0:
            return None
        side = channel.side(hop.source)
        policies = [side.policy]
        if side.old_policy is not None and side.old_until > self._world.now():
            policies.append(side.old_policy)
        if not any(p.htlc_min_msat <= hop.amount_msat <= p.htlc_max_msat for p in policies):
            return failure(AMOUNT_BELOW_MINIMUM)
        offered = part.route[position - 1].amount_msat - hop.amount_msat
        if not any(offered >= p.fee_base_msat + hop.amount_msat * p.fee_ppm // 1_000_000 for p in policies):
            return failure(FEE_INSUFFICIENT)
        return None

    def _refuse(self, part: Part, position: int, failure: Failure) -> Part:
        """Notes why hop `position` was not added; a forwarder that refused itself says so in its list."""
        if 0 < position < len(part.route):
            forwarder = part.route[position].source
            forward = self.payments.forward_of(forwarder, part)
            if forward is None:
                incoming = self.payments.htlcs_of(part)[position - 1]
                forward = self.payments.open_forward(part, position - 1, incoming["number"])
            forward = self.payments.update_forward(
                forward, status=LOCAL_FAILED, failure=(failure.code, failure.reason)
            )
            self._notify_forward(forward)
        return self.payments.doom(part, failure)

    def _unwind(self, part: Part) -> None:
        """Resolves the part's HTLCs from the last hop back to the first."""
        settled = part.preimage is not None
        for position in reversed(range(len(open_htlcs := self.payments.htlcs_of(part)))):
            self.payments.resolve_htlc(open_htlcs[position]["id"], settled)
            if position == 0:
                continue
            forward = self.payments.forward_of(part.route[position].source, part)
            if forward is not None and forward.status == "offered":
                status = SETTLED if settled else FAILED
                self._notify_forward(self.payments.update_forward(forward, status=status))

    def _notify_forward(self, forward: Forward) -> None:
        node = self._world.running(forward.node_id)
        if node is not None:
            event = describe_forward(forward) | {"payment_hash": forward.payment_hash}
            for field in ("created_index", "updated_index", "in_htlc_id", "out_htlc_id"):
                event.pop(field, None)
            node.notify("forward_event", event)

    def _report(self, part: Part) -> None:
        node = self._world.running(part.node_id)
        if node is None:
            return
        if part.status == "complete":
            node.notify("sendpay_success", describe_part(part))
            return
        failed = failure_of(self._world, part)
        node.notify("sendpay_failure", {"code": failed.code, "message": failed.message, "data": failed.data})


def _verdict(
    node: EmbeddedNode, part: Part, answers: list[tuple[Any, dict[str, Any]]]
) -> str | Failure | None:
    for _, answer in answers:
        result = answer.get("result")
        if result == "resolve":
            key = str(answer.get("payment_key", ""))
            if len(key) == 64 and hashlib.sha256(bytes.fromhex(key)).hexdigest() == part.payment_hash:
                return key
            node.log.write("broken", "lightningd", f"htlc_accepted hook: payment_key {key} does not fit")
            return Failure(TEMPORARY_NODE_FAILURE, REASONS[TEMPORARY_NODE_FAILURE], node.node_id)
        if result == "fail":
            message = str(answer.get("failure_message", "2002"))
            code = int(message[:4] or "2002", 16)
            return Failure(code, REASONS.get(code, f"failure {code}"), node.node_id)
    return None


def describe_forward(forward: Forward) -> dict[str, Any]:
    """A forward as `listforwards` shows it."""
    entry: dict[str, Any] = {
        "created_index": forward.created_index,
        "in_channel": forward.in_channel,
        "in_htlc_id": forward.in_htlc_id,
        "in_msat": forward.in_msat,
        "status": forward.status,
        "received_time": round(forward.received_time, 9),
        "style": "tlv",
    }
    if forward.out_channel is not None:
        entry["out_channel"] = forward.out_channel
    if forward.out_msat is not None:
        entry |= {"out_msat": forward.out_msat, "fee_msat": forward.in_msat - forward.out_msat}
    if forward.out_htlc_id is not None:
        entry["out_htlc_id"] = forward.out_htlc_id
    if forward.updated_index is not None:
        entry["updated_index"] = forward.updated_index
    if forward.resolved_time is not None:
        entry["resolved_time"] = round(forward.resolved_time, 9)
    if forward.failcode is not None:
        entry |= {"failcode": forward.failcode, "failreason": forward.failreason}
    return entry


def failure_of(world: World, part: Part) -> RpcError:
    """How `waitsendpay` tells of a part that failed: 203 when the destination refused it, else 204."""
    hops = [index for index, hop in enumerate(part.route) if hop.source == part.erring]
    by_channel = [index for index in hops if part.route[index].channel == part.erring_channel]
    arrived = [index + 1 for index, hop in enumerate(part.route) if hop.target == part.erring]
    # A circular route begins and ends with the same node: what names no channel was said at its end.
    index = by_channel[0] if by_channel else arrived[-1] if arrived else 0
    at_end = index == len(part.route)
    data = describe_part(part) | {"status": "pending", "erring_index": index, "failcode": part.failcode}
    data |= {"failcodename": part.failreason, "erring_node": part.erring}
    if part.route:
        hop = part.route[min(index, len(part.route) - 1)]
        data |= {"erring_channel": hop.scid, "erring_direction": 0 if hop.source < hop.target else 1}
    where = "reply from remote" if index else "local failure"
    code = PAY_DESTINATION_PERM_FAIL if at_end else PAY_TRY_OTHER_ROUTE
    return RpcError(code, f"failed: {part.failreason} ({where})", data)


def describe_part(part: Part) -> dict[str, Any]:
    """A part as `listsendpays` shows it."""
    entry: dict[str, Any] = {
        "created_index": part.created_index,
        "id": part.id,
        "payment_hash": part.payment_hash,
        "groupid": part.groupid,
        "destination": part.destination,
        "amount_msat": part.amount_msat,
        "amount_sent_msat": part.sent_msat,
        "created_at": part.created_at,
        "status": part.status,
    }
    optional = {
        "partid": part.partid or None,
        "updated_index": part.updated_index,
        "completed_at": part.completed_at,
        "payment_preimage": part.preimage if part.status == "complete" else None,
        "label": part.label,
        "bolt12" if (part.bolt11 or "").startswith("lni1") else "bolt11": part.bolt11,
        "description": part.description,
    }
    return entry | {name: value for name, value in optional.items() if value is not None}
