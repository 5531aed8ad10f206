"""Channels: their money, their two sides' policies, and their life from funding to close."""

from __future__ import annotations

import hashlib
import sqlite3
import time

from hive_devnet.embedded.ledger.chain import Chain
from hive_devnet.embedded.ledger.channel import (
    AWAITING,
    CLOSED,
    COMPLETE,
    DUST_LIMIT_SAT,
    LIVE,
    NORMAL,
    ONCHAIN,
    ONCHAIN_FORGET_BLOCKS,
    SPENT,
    UNILATERAL,
    Change,
    Channel,
    Policy,
    Side,
    Splice,
)
from hive_devnet.embedded.ledger.database import Database


def _policy(row: sqlite3.Row, prefix: str = "") -> Policy:
    return Policy(
        row[prefix + "fee_base_msat"],
        row[prefix + "fee_ppm"],
        row[prefix + "htlc_min_msat"],
        row[prefix + "htlc_max_msat"],
        row["cltv_delta"],
        bool(row["ignore_fee_limits"]),
    )


def _side(row: sqlite3.Row) -> Side:
    return Side(
        row["node_id"],
        row["alias"],
        _policy(row),
        _policy(row, "old_") if row["old_until"] is not None else None,
        row["old_until"] or 0.0,
        *(
            row[name]
            for name in (
                "reserve_msat",
                "close_to",
                "last_update",
                "min_to_us_msat",
                "max_to_us_msat",
                "offered",
                "offered_msat",
                "fulfilled",
                "fulfilled_msat",
                "last_stable",
                "final_msat",
            )
        ),
    )


class Channels:
    """All channels of the network."""

    def __init__(self, database: Database, chain: Chain) -> None:
        self._db = database
        self._chain = chain
        # Nearly every call asks for a node's channels, and between two changes they are the same.
        self._seen: dict[str, list[Channel]] = {}
        self._seen_at: tuple[int, int] | None = None

    def _load(self, rows: list[sqlite3.Row]) -> list[Channel]:
        channels = []
        splices = {row["channel"]: row for row in self._db.rows("SELECT * FROM splice")} if rows else {}
        for row in rows:
            sides = {
                side["node_id"]: _side(side)
                for side in self._db.rows("SELECT * FROM channel_side WHERE channel = ?", (row["id"],))
            }
            values = dict(row) | {"announce": bool(row["announce"])}
            found = splices.get(row["id"])
            splice = None if found is None else Splice(**(dict(found) | {"sent": bool(found["sent"])}))
            ends = (sides[row["opener"]], sides[row["acceptor"]])
            channels.append(Channel(**values, sides=ends, splice=splice))
        return channels

    def get(self, number: int) -> Channel:
        """The channel with that ledger number."""
        return self._load(self._db.rows("SELECT * FROM channel WHERE id = ?", (number,)))[0]

    def of_node(self, node_id: str) -> list[Channel]:
        """Channels of a node that are not closed for good, oldest first."""
        version = self._db.version
        if version is None:
            return self._load_of(node_id)
        if version != self._seen_at:
            self._seen, self._seen_at = {}, version
        if node_id not in self._seen:
            self._seen[node_id] = self._load_of(node_id)
        return list(self._seen[node_id])

    def _load_of(self, node_id: str) -> list[Channel]:
        return self._load(
            self._db.rows(
                "SELECT * FROM channel WHERE (opener = ? OR acceptor = ?) AND state != ? ORDER BY id",
                (node_id, node_id, CLOSED),
            )
        )

    def closed_of_node(self, node_id: str) -> list[Channel]:
        """Channels of a node that are closed for good, oldest first."""
        return self._load(
            self._db.rows(
                "SELECT * FROM channel WHERE (opener = ? OR acceptor = ?) AND state = ? ORDER BY id",
                (node_id, node_id, CLOSED),
            )
        )

    def live(self) -> list[Channel]:
        """Every channel of the network that is not closed for good."""
        return self._load(self._db.rows("SELECT * FROM channel WHERE state != ? ORDER BY id", (CLOSED,)))

    def usable(self) -> list[Channel]:
        """Every channel that can carry payments."""
        return self._load(self._db.rows("SELECT * FROM channel WHERE state IN (?, ?) ORDER BY id", LIVE))

    def create(
        self,
        *,
        opener: str,
        acceptor: str,
        capacity_sat: int,
        pushed_msat: int,
        funding: tuple[str, int],
        announce: bool,
        policies: tuple[Policy, Policy],
        feerate_perkw: int,
        mindepth: int,
        funding_key: int,
    ) -> Channel:
        """Records a funded channel; its money is the funding output (txid, vout)."""
        txid, outnum = funding
        channel_id = _channel_id(txid, outnum)
        now = int(time.time())
        reserve = max(capacity_sat // 100, DUST_LIMIT_SAT) * 1000
        with self._db.transaction():
            number = self._db.insert(
                "INSERT INTO channel (channel_id, opener, acceptor, capacity_sat, pushed_msat, funding_txid,"
                " funding_outnum, announce, state, opener_msat, acceptor_msat, feerate_perkw, created,"
                " mindepth, funding_key) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    channel_id,
                    opener,
                    acceptor,
                    capacity_sat,
                    pushed_msat,
                    txid,
                    outnum,
                    announce,
                    AWAITING,
                    capacity_sat * 1000 - pushed_msat,
                    pushed_msat,
                    feerate_perkw,
                    now,
                    mindepth,
                    funding_key,
                ),
            )
            balances = (capacity_sat * 1000 - pushed_msat, pushed_msat)
            for node_id, balance, policy in zip((opener, acceptor), balances, policies, strict=True):
                alias = _alias(channel_id, node_id)
                self._add_side((number, node_id, alias), policy, balance, reserve, capacity_sat)
        return self.get(number)

    def _add_side(
        self,
        end: tuple[int, str, str],
        policy: Policy,
        balance_msat: int,
        reserve_msat: int,
        capacity_sat: int,
    ) -> None:
        highest = min(policy.htlc_max_msat, capacity_sat * 1000 - reserve_msat)
        self._db.run(
            "INSERT INTO channel_side (channel, node_id, alias, fee_base_msat, fee_ppm, htlc_min_msat,"
            " htlc_max_msat, cltv_delta, reserve_msat, last_update, min_to_us_msat, max_to_us_msat,"
            " ignore_fee_limits) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *end,
                policy.fee_base_msat,
                policy.fee_ppm,
                policy.htlc_min_msat,
                highest,
                policy.cltv_delta,
                reserve_msat,
                int(time.time()),
                balance_msat,
                balance_msat,
                policy.ignore_fee_limits,
            ),
        )

    def set_policy(self, channel: Channel, node_id: str, policy: Policy, keep_old: float | None) -> None:
        """Replaces a side's policy; the old one stays acceptable for `keep_old` seconds, if given."""
        old = channel.side(node_id).policy
        with self._db.transaction():
            if keep_old is not None:
                self._db.run(
                    "UPDATE channel_side SET old_fee_base_msat = ?, old_fee_ppm = ?, old_htlc_min_msat = ?,"
                    " old_htlc_max_msat = ?, old_until = ? WHERE channel = ? AND node_id = ?",
                    (
                        old.fee_base_msat,
                        old.fee_ppm,
                        old.htlc_min_msat,
                        old.htlc_max_msat,
                        time.time() + keep_old,
                        channel.id,
                        node_id,
                    ),
                )
            self._db.run(
                "UPDATE channel_side SET fee_base_msat = ?, fee_ppm = ?, htlc_min_msat = ?,"
                " htlc_max_msat = ?, last_update = ? WHERE channel = ? AND node_id = ?",
                (
                    policy.fee_base_msat,
                    policy.fee_ppm,
                    policy.htlc_min_msat,
                    policy.htlc_max_msat,
                    int(time.time()),
                    channel.id,
                    node_id,
                ),
            )

    def set_ignore_fee_limits(self, channel: Channel, node_id: str, ignore: bool) -> None:
        """Whether a side accepts any on-chain feerate its peer asks for."""
        self._db.run(
            "UPDATE channel_side SET ignore_fee_limits = ? WHERE channel = ? AND node_id = ?",
            (ignore, channel.id, node_id),
        )

    def touch_stable(self, node_id: str, peer_id: str) -> None:
        """Notes that two peers have a stable connection now."""
        with self._db.transaction():
            for channel in self.of_node(node_id):
                if channel.peer_of(node_id) == peer_id:
                    self._db.run(
                        "UPDATE channel_side SET last_stable = ? WHERE channel = ?",
                        (int(time.time()), channel.id),
                    )

    def lock_in(self, channel: Channel) -> list[Change]:
        """Makes a waiting channel usable if its funding is deep enough; returns what changed."""
        tx = self._chain.transaction(channel.funding_txid)
        if channel.state != AWAITING or tx is None or tx["height"] is None:
            return []
        if self._chain.height - tx["height"] + 1 < channel.mindepth:
            return []
        with self._db.transaction():
            scid = f"{tx['height']}x{tx['position']}x{channel.funding_outnum}"
            self._db.run("UPDATE channel SET scid = ? WHERE id = ?", (scid, channel.id))
            return self.change_state(channel.id, NORMAL, "unknown", "Lockin complete")

    def bury(self, channel: Channel) -> list[Change]:
        """Moves a closing channel on as its closing transaction gets deeper; returns what changed."""
        tx = self._chain.transaction(channel.close_txid) if channel.close_txid is not None else None
        if tx is None or tx["height"] is None:
            return []
        depth = self._chain.height - tx["height"] + 1
        if channel.state in (COMPLETE, UNILATERAL):
            changes = self.change_state(channel.id, SPENT, "onchain", "Onchain funding spend")
            return changes + self.change_state(channel.id, ONCHAIN, "onchain", "Onchain init reply")
        if channel.state == ONCHAIN and depth >= ONCHAIN_FORGET_BLOCKS:
            return self.change_state(channel.id, CLOSED, "onchain", "Onchain resolved")
        return []

    def change_state(self, number: int, state: str, cause: str, message: str) -> list[Change]:
        """Moves both sides of a channel to `state`; returns one change per side."""
        now = time.time()
        changes = []
        with self._db.transaction():
            before = self.get(number)
            self._db.run("UPDATE channel SET state = ? WHERE id = ?", (state, number))
            after = self.get(number)
            for node_id in (before.opener, before.acceptor):
                seen = cause
                if cause in ("user", "remote") and before.closer is not None:
                    seen = "user" if before.closer == node_id else "remote"
                self._db.run(
                    "INSERT INTO channel_change VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (number, node_id, now, before.state, state, seen, message),
                )
                changes.append(Change(after, node_id, before.state, state, seen, message, now))
        return changes

    def history(self, channel: Channel, node_id: str) -> list[sqlite3.Row]:
        """State changes of one side, oldest first."""
        return self._db.rows(
            "SELECT * FROM channel_change WHERE channel = ? AND node_id = ? ORDER BY rowid",
            (channel.id, node_id),
        )

    def htlcs(self, channel: Channel) -> list[sqlite3.Row]:
        """HTLCs in flight on a channel."""
        return self._db.rows(
            "SELECT * FROM htlc WHERE channel = ? AND state = 'open' ORDER BY id", (channel.id,)
        )

    def record_close(self, channel: Channel, closer: str, close_txid: str) -> None:
        """Takes the channel's money out: it is in the outputs and the fee of `close_txid` now."""
        with self._db.transaction():
            for node_id in (channel.opener, channel.acceptor):
                self._db.run(
                    "UPDATE channel_side SET final_msat = ? WHERE channel = ? AND node_id = ?",
                    (channel.balance_msat(node_id), channel.id, node_id),
                )
            self._db.run(
                "UPDATE channel SET opener_msat = 0, acceptor_msat = 0, closer = ?, close_txid = ?"
                " WHERE id = ?",
                (closer, close_txid, channel.id),
            )


def _channel_id(txid: str, outnum: int) -> str:
    raw = bytearray(bytes.fromhex(txid)[::-1])
    raw[30] ^= outnum >> 8
    raw[31] ^= outnum & 0xFF
    return raw.hex()


def _alias(channel_id: str, node_id: str) -> str:
    digest = hashlib.sha256(bytes.fromhex(channel_id + node_id)).digest()
    block = int.from_bytes(digest[:3], "big") | 1 << 23
    return f"{block}x{int.from_bytes(digest[3:6], 'big')}x{int.from_bytes(digest[6:8], 'big')}"
