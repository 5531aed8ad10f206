"""Splices: a channel's funding output spent into a larger or smaller one, without closing the channel."""

from __future__ import annotations

from hive_devnet.embedded.ledger.chain import Chain
from hive_devnet.embedded.ledger.channel import (
    AWAITING_SPLICE,
    DUST_LIMIT_SAT,
    NORMAL,
    Change,
    Channel,
    Splice,
)
from hive_devnet.embedded.ledger.channels import Channels
from hive_devnet.embedded.ledger.database import Database
from hive_devnet.embedded.transactions import Transaction


class Splices:
    """All splices of the network; one at a time on a channel.

    What a splice moves is in `splice` from the moment its transaction is published, and in the channel from
    the lock-in on.
    """

    def __init__(self, database: Database, chain: Chain, channels: Channels) -> None:
        self._db, self._chain, self._channels = database, chain, channels

    def secure(self, splice: Splice) -> None:
        """Both ends hold commitments for it; nothing is signed."""
        with self._db.transaction():
            self._db.run(
                "INSERT INTO splice VALUES (?, ?, ?, ?, ?, ?, 0)",
                (
                    splice.channel,
                    splice.initiator,
                    splice.amount_sat,
                    splice.txid,
                    splice.outnum,
                    splice.feerate_perkw,
                ),
            )

    def drop(self, channel: Channel) -> None:
        """Forgets a splice that was not sent."""
        with self._db.transaction():
            self._db.run("DELETE FROM splice WHERE channel = ? AND sent = 0", (channel.id,))

    def send(self, channel: Channel, tx: Transaction, fee_sat: int) -> list[Change]:
        """Publishes the signed transaction; returns what changed."""
        splice = channel.splice
        if splice is None or splice.txid != tx.txid:
            raise LookupError(f"channel {channel.channel_id} has no splice {tx.txid}")
        with self._db.transaction():
            self._chain.publish(tx, fee_sat, hidden_outputs=(splice.outnum,))
            self._db.run("UPDATE splice SET sent = 1 WHERE channel = ?", (channel.id,))
            words = "Splice signatures sent"
            return self._channels.change_state(channel.id, AWAITING_SPLICE, "user", words)

    def lock(self, channel: Channel) -> list[Change]:
        """Makes a splice the channel's funding once it is deep enough; returns what changed."""
        splice = channel.splice
        if splice is None or not splice.sent or channel.state != AWAITING_SPLICE:
            return []
        tx = self._chain.transaction(splice.txid)
        if tx is None or tx["height"] is None or self._chain.height - tx["height"] + 1 < channel.mindepth:
            return []
        capacity_sat = channel.capacity_sat + splice.amount_sat
        scid = f"{tx['height']}x{tx['position']}x{splice.outnum}"
        side = "opener_msat" if splice.initiator == channel.opener else "acceptor_msat"
        moved_msat = splice.amount_sat * 1000
        with self._db.transaction():
            self._db.run("DELETE FROM splice WHERE channel = ?", (channel.id,))
            self._db.run(
                "UPDATE channel SET capacity_sat = ?, funding_txid = ?, funding_outnum = ?, scid = ?,"
                f" {side} = {side} + ? WHERE id = ?",
                (capacity_sat, splice.txid, splice.outnum, scid, moved_msat, channel.id),
            )
            self._db.run(
                "UPDATE channel_side SET reserve_msat = ? WHERE channel = ?",
                (max(capacity_sat // 100, DUST_LIMIT_SAT) * 1000, channel.id),
            )
            self._db.run(
                "UPDATE channel_side SET min_to_us_msat = min_to_us_msat + ?,"
                " max_to_us_msat = max_to_us_msat + ? WHERE channel = ? AND node_id = ?",
                (moved_msat, moved_msat, channel.id, splice.initiator),
            )
            return self._channels.change_state(channel.id, NORMAL, "user", "Lockin complete")
