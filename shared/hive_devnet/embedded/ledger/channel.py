"""A channel and its two sides, as values."""

from __future__ import annotations

from dataclasses import dataclass

AWAITING = "CHANNELD_AWAITING_LOCKIN"
NORMAL = "CHANNELD_NORMAL"
AWAITING_SPLICE = "CHANNELD_AWAITING_SPLICE"
SHUTTING_DOWN = "CHANNELD_SHUTTING_DOWN"
COMPLETE = "CLOSINGD_COMPLETE"
UNILATERAL = "AWAITING_UNILATERAL"
SIGEXCHANGE = "CLOSINGD_SIGEXCHANGE"
SPENT = "FUNDING_SPEND_SEEN"
ONCHAIN = "ONCHAIN"
CLOSED = "CLOSED"
LIVE = (NORMAL, AWAITING_SPLICE)
SETTABLE = (AWAITING, *LIVE)
CHANNEL_TYPE_BITS = (12, 22)
CHANNEL_TYPE_NAMES = ("static_remotekey/even", "anchors/even")
DUST_LIMIT_SAT = 546
MAX_ACCEPTED_HTLCS = 483
TO_SELF_DELAY = 5
ONCHAIN_FORGET_BLOCKS = 100


@dataclass(frozen=True)
class Policy:
    """What a side charges and accepts: fees, limits (msat), CLTV delta (blocks)."""

    fee_base_msat: int
    fee_ppm: int
    htlc_min_msat: int
    htlc_max_msat: int
    cltv_delta: int
    ignore_fee_limits: bool = False


@dataclass(frozen=True)
class Side:
    """One node's end of a channel."""

    node_id: str
    alias: str
    policy: Policy
    old_policy: Policy | None
    old_until: float
    reserve_msat: int
    close_to: str | None
    last_update: int
    min_to_us_msat: int
    max_to_us_msat: int
    offered: int
    offered_msat: int
    fulfilled: int
    fulfilled_msat: int
    last_stable: int | None
    final_msat: int | None


@dataclass(frozen=True)
class Splice:
    """A splice that both ends hold commitments for. `amount_sat` is what its initiator puts in, negative for
    what it takes out; the channel has it from the lock-in on. `sent` once the transaction is published."""

    channel: int
    initiator: str
    amount_sat: int
    txid: str
    outnum: int
    feerate_perkw: int
    sent: bool


@dataclass(frozen=True)
class Channel:
    """A channel with both sides. Balances exclude what is in flight."""

    id: int
    channel_id: str
    opener: str
    acceptor: str
    capacity_sat: int
    pushed_msat: int
    funding_txid: str
    funding_outnum: int
    scid: str | None
    announce: bool
    state: str
    opener_msat: int
    acceptor_msat: int
    closer: str | None
    close_txid: str | None
    feerate_perkw: int
    created: int
    mindepth: int
    funding_key: int
    sides: tuple[Side, Side]
    splice: Splice | None = None

    def peer_of(self, node_id: str) -> str:
        """The other end."""
        return self.acceptor if node_id == self.opener else self.opener

    def side(self, node_id: str) -> Side:
        """That node's end."""
        return self.sides[0] if node_id == self.opener else self.sides[1]

    def balance_msat(self, node_id: str) -> int:
        """That node's settled balance."""
        return self.opener_msat if node_id == self.opener else self.acceptor_msat

    def direction(self, node_id: str) -> int:
        """0 when that node has the lesser id (BOLT 7)."""
        return 0 if node_id < self.peer_of(node_id) else 1

    def spendable_msat(self, node_id: str) -> int:
        """What that node could send now: its balance above the reserve its peer demands."""
        leaving = 0
        if self.splice is not None and self.splice.initiator == node_id:
            leaving = max(0, -self.splice.amount_sat * 1000)
        return max(0, self.balance_msat(node_id) - self.side(node_id).reserve_msat - leaving)

    def htlc_max_possible_msat(self, node_id: str) -> int:
        """The largest HTLC that node could ever send here."""
        return self.capacity_sat * 1000 - self.side(node_id).reserve_msat


@dataclass(frozen=True)
class Change:
    """A state change to report to one side."""

    channel: Channel
    node_id: str
    old_state: str
    new_state: str
    cause: str
    message: str
    time: float
