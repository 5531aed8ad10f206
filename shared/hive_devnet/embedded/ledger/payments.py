"""Payments in the ledger: parts on their way, the HTLCs that carry them, and what forwarders earned."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from hive_devnet.embedded.ledger.channel import Channel
from hive_devnet.embedded.ledger.channels import Channels
from hive_devnet.embedded.ledger.database import Database
from hive_devnet.embedded.ledger.routing import Hop

SCHEMA = """
CREATE TABLE IF NOT EXISTS part (
    id INTEGER PRIMARY KEY, node_id TEXT NOT NULL, created_index INTEGER NOT NULL, updated_index INTEGER,
    groupid INTEGER NOT NULL, partid INTEGER NOT NULL, payment_hash TEXT NOT NULL, payment_secret TEXT,
    destination TEXT NOT NULL, amount_msat INTEGER NOT NULL, sent_msat INTEGER NOT NULL,
    total_msat INTEGER NOT NULL, created_at INTEGER NOT NULL, completed_at INTEGER, status TEXT NOT NULL,
    preimage TEXT, failcode INTEGER, failreason TEXT, erring TEXT, erring_channel INTEGER,
    label TEXT, bolt11 TEXT, description TEXT, route TEXT NOT NULL, keysend_preimage TEXT, extra TEXT);
CREATE INDEX IF NOT EXISTS part_hash ON part (payment_hash);
CREATE TABLE IF NOT EXISTS forward (
    node_id TEXT NOT NULL, created_index INTEGER NOT NULL, updated_index INTEGER, part INTEGER NOT NULL,
    in_channel TEXT NOT NULL, in_htlc_id INTEGER NOT NULL, out_channel TEXT, out_htlc_id INTEGER,
    in_msat INTEGER NOT NULL, out_msat INTEGER, status TEXT NOT NULL, failcode INTEGER, failreason TEXT,
    received_time REAL NOT NULL, resolved_time REAL, payment_hash TEXT NOT NULL,
    PRIMARY KEY (node_id, created_index));
"""
PENDING, COMPLETE, FAILED = "pending", "complete", "failed"
OFFERED, SETTLED, LOCAL_FAILED = "offered", "settled", "local_failed"


@dataclass(frozen=True)
class Failure:
    """Why a hop refused: BOLT 4 code, words, the node that refused, the channel it could not use."""

    code: int
    reason: str
    node_id: str
    channel: int | None = None


@dataclass(frozen=True)
class Part:
    """One attempt to pay (a part of) something."""

    id: int
    node_id: str
    created_index: int
    updated_index: int | None
    groupid: int
    partid: int
    payment_hash: str
    payment_secret: str | None
    destination: str
    amount_msat: int
    sent_msat: int
    total_msat: int
    created_at: int
    completed_at: int | None
    status: str
    preimage: str | None
    failcode: int | None
    failreason: str | None
    erring: str | None
    erring_channel: int | None
    label: str | None
    bolt11: str | None
    description: str | None
    route: tuple[Hop, ...]
    keysend_preimage: str | None
    extra: str | None


@dataclass(frozen=True)
class Forward:
    """One forwarded HTLC as the forwarder lists it."""

    node_id: str
    created_index: int
    updated_index: int | None
    part: int
    in_channel: str
    in_htlc_id: int
    out_channel: str | None
    out_htlc_id: int | None
    in_msat: int
    out_msat: int | None
    status: str
    failcode: int | None
    failreason: str | None
    received_time: float
    resolved_time: float | None
    payment_hash: str


@dataclass(frozen=True)
class NewPart:
    """What the payer knows when it sends a part."""

    node_id: str
    groupid: int
    partid: int
    payment_hash: str
    payment_secret: str | None
    destination: str
    amount_msat: int
    total_msat: int
    route: tuple[Hop, ...]
    label: str | None = None
    bolt11: str | None = None
    description: str | None = None
    keysend_preimage: str | None = None
    extra: str | None = None


def _part(row: sqlite3.Row) -> Part:
    return Part(**(dict(row) | {"route": tuple(Hop(**hop) for hop in json.loads(row["route"]))}))


class Payments:
    """All payments of the network."""

    def __init__(self, database: Database, channels: Channels) -> None:
        self._db = database
        self._channels = channels

    # -- parts -------------------------------------------------------------------------------------

    def new_group(self) -> int:
        """A number that groups the parts of one payment."""
        return self._db.add("payment groups")

    def add_part(self, new: NewPart) -> Part:
        """Records a pending part."""
        with self._db.transaction():
            index = self._db.add(f"sendpays {new.node_id}")
            sent = new.route[0].amount_msat if new.route else new.amount_msat
            number = self._db.insert(
                "INSERT INTO part (node_id, created_index, groupid, partid, payment_hash, payment_secret,"
                " destination, amount_msat, sent_msat, total_msat, created_at, status, label, bolt11,"
                " description, route, keysend_preimage, extra)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    new.node_id,
                    index,
                    new.groupid,
                    new.partid,
                    new.payment_hash,
                    new.payment_secret,
                    new.destination,
                    new.amount_msat,
                    sent,
                    new.total_msat,
                    int(time.time()),
                    PENDING,
                    new.label,
                    new.bolt11,
                    new.description,
                    json.dumps([asdict(hop) for hop in new.route]),
                    new.keysend_preimage,
                    new.extra,
                ),
            )
        return self.part(number)

    def part(self, number: int) -> Part:
        """The part with that ledger number."""
        return _part(self._db.one("SELECT * FROM part WHERE id = ?", (number,)))

    def parts_of(self, node_id: str, payment_hash: str | None = None) -> list[Part]:
        """A node's parts, oldest first; of one payment if a hash is given."""
        rows = self._db.rows(
            "SELECT * FROM part WHERE node_id = ? AND payment_hash = COALESCE(?, payment_hash)"
            " ORDER BY created_index",
            (node_id, payment_hash),
        )
        return [_part(row) for row in rows]

    def pending(self) -> list[Part]:
        """Every part still on its way, in the whole network."""
        return [
            _part(row) for row in self._db.rows("SELECT * FROM part WHERE status = 'pending' ORDER BY id")
        ]

    def reveal(self, numbers: Iterable[int], preimage: str) -> None:
        """The destination takes these parts: from now on they can only settle."""
        with self._db.transaction():
            for number in numbers:
                self._db.run("UPDATE part SET preimage = ? WHERE id = ?", (preimage, number))

    def doom(self, part: Part, failure: Failure) -> Part:
        """A hop refuses a part: from now on it can only fail."""
        with self._db.transaction():
            self._db.run(
                "UPDATE part SET failcode = ?, failreason = ?, erring = ?, erring_channel = ? WHERE id = ?",
                (failure.code, failure.reason, failure.node_id, failure.channel, part.id),
            )
        return self.part(part.id)

    def finish(self, part: Part) -> Part:
        """Ends a part whose HTLCs are all resolved: complete if it has the preimage, else failed."""
        with self._db.transaction():
            updated = self._db.add(f"sendpay updates {part.node_id}")
            done = part.preimage is not None
            self._db.run(
                "UPDATE part SET status = ?, completed_at = ?, updated_index = ? WHERE id = ?",
                (COMPLETE if done else FAILED, int(time.time()) if done else None, updated, part.id),
            )
        return self.part(part.id)

    # -- HTLCs -------------------------------------------------------------------------------------

    def htlcs_of(self, part: Part) -> list[sqlite3.Row]:
        """HTLCs of a part that are in flight, in route order."""
        return self._db.rows("SELECT * FROM htlc WHERE part = ? AND state = 'open' ORDER BY id", (part.id,))

    def add_htlc(self, part: Part, hop: Hop, expiry: int) -> int:
        """Moves `hop.amount_msat` from the sender's balance into flight; returns the HTLC's number there."""
        with self._db.transaction():
            self._move(hop.channel, hop.source, -hop.amount_msat)
            number = self._db.add(f"htlcs {hop.channel} {hop.source}") - 1
            self._db.run(
                "INSERT INTO htlc (channel, sender, number, amount_msat, expiry, payment_hash, state, part)"
                " VALUES (?, ?, ?, ?, ?, ?, 'open', ?)",
                (hop.channel, hop.source, number, hop.amount_msat, expiry, part.payment_hash, part.id),
            )
            self._count(hop, "offered")
        return number

    def resolve_htlc(self, htlc_id: int, settled: bool) -> None:
        """Ends an HTLC: to its receiver when settled, else back to its sender."""
        with self._db.transaction():
            row = self._db.one("SELECT * FROM htlc WHERE id = ? AND state = 'open'", (htlc_id,))
            channel = self._channels.get(row["channel"])
            sender, amount = row["sender"], row["amount_msat"]
            state = "settled" if settled else "failed"
            self._db.run("UPDATE htlc SET state = ? WHERE id = ?", (state, htlc_id))
            self._move(channel.id, channel.peer_of(sender) if settled else sender, amount)
            if settled:
                hop = Hop(channel.id, str(channel.scid), sender, channel.peer_of(sender), amount, 0)
                self._count(hop, "fulfilled")

    def _move(self, channel: int, node_id: str, change_msat: int) -> None:
        before = self._channels.get(channel)
        column = "opener_msat" if node_id == before.opener else "acceptor_msat"
        if before.balance_msat(node_id) + change_msat < 0:
            raise ValueError(f"{node_id} has only {before.balance_msat(node_id)} msat in {before.scid}")
        self._db.run(f"UPDATE channel SET {column} = {column} + ? WHERE id = ?", (change_msat, channel))
        self._note_extremes(self._channels.get(channel))

    def _note_extremes(self, channel: Channel) -> None:
        for node_id in (channel.opener, channel.acceptor):
            balance = channel.balance_msat(node_id)
            self._db.run(
                "UPDATE channel_side SET min_to_us_msat = MIN(min_to_us_msat, ?),"
                " max_to_us_msat = MAX(max_to_us_msat, ?) WHERE channel = ? AND node_id = ?",
                (balance, balance, channel.id, node_id),
            )

    def _count(self, hop: Hop, what: str) -> None:
        self._db.run(
            f"UPDATE channel_side SET {what} = {what} + 1, {what}_msat = {what}_msat + ?"
            " WHERE channel = ? AND node_id = ?",
            (hop.amount_msat, hop.channel, hop.source),
        )

    # -- forwards ----------------------------------------------------------------------------------

    def open_forward(self, part: Part, index: int, in_htlc: int) -> Forward:
        """Notes that the node between hop `index` and the next was asked to forward."""
        incoming, outgoing = part.route[index], part.route[index + 1]
        node_id = incoming.target
        with self._db.transaction():
            number = self._db.add(f"forwards {node_id}")
            self._db.run(
                "INSERT INTO forward (node_id, created_index, part, in_channel, in_htlc_id, out_channel,"
                " in_msat, out_msat, status, received_time, payment_hash)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    node_id,
                    number,
                    part.id,
                    incoming.scid,
                    in_htlc,
                    outgoing.scid,
                    incoming.amount_msat,
                    outgoing.amount_msat,
                    OFFERED,
                    time.time(),
                    part.payment_hash,
                ),
            )
        return self.forward(node_id, number)

    def forward(self, node_id: str, index: int) -> Forward:
        """One forward of a node."""
        query = "SELECT * FROM forward WHERE node_id = ? AND created_index = ?"
        return Forward(**dict(self._db.one(query, (node_id, index))))

    def forward_of(self, node_id: str, part: Part) -> Forward | None:
        """The forward of a part through a node."""
        query = "SELECT * FROM forward WHERE node_id = ? AND part = ?"
        row = self._db.find(query, (node_id, part.id))
        return None if row is None else Forward(**dict(row))

    def update_forward(
        self,
        forward: Forward,
        *,
        status: str | None = None,
        out_htlc: int | None = None,
        failure: tuple[int, str] | None = None,
    ) -> Forward:
        """Changes a forward: its outgoing HTLC once there is one, or how it ended."""
        code, reason = failure or (None, None)
        with self._db.transaction():
            updated = self._db.add(f"forward updates {forward.node_id}")
            ended = time.time() if status in (SETTLED, FAILED) else None
            self._db.run(
                "UPDATE forward SET status = COALESCE(?, status), out_htlc_id = COALESCE(?, out_htlc_id),"
                " failcode = ?, failreason = ?, resolved_time = COALESCE(?, resolved_time), updated_index = ?"
                " WHERE node_id = ? AND created_index = ?",
                (status, out_htlc, code, reason, ended, updated, forward.node_id, forward.created_index),
            )
        return self.forward(forward.node_id, forward.created_index)

    def forwards(self, node_id: str) -> list[Forward]:
        """All forwards of a node by index."""
        query = "SELECT * FROM forward WHERE node_id = ? ORDER BY created_index"
        return [Forward(**dict(row)) for row in self._db.rows(query, (node_id,))]

    def received(self, node_id: str, payment_hash: str) -> list[tuple[int, int]]:
        """(channel number, msat) of every HTLC a node settled as the destination of a payment."""
        rows = self._db.rows(
            "SELECT htlc.channel, htlc.amount_msat FROM htlc JOIN channel ON channel.id = htlc.channel"
            " JOIN part ON part.id = htlc.part WHERE htlc.payment_hash = ? AND htlc.state = 'settled'"
            " AND part.destination = ? AND htlc.sender != ? AND ? IN (channel.opener, channel.acceptor)",
            (payment_hash, node_id, node_id, node_id),
        )
        return [(row["channel"], row["amount_msat"]) for row in rows]

    def fees_earned_msat(self, node_id: str) -> int:
        """Sum of the fees of settled forwards."""
        query = "SELECT COALESCE(SUM(in_msat - out_msat), 0) FROM forward WHERE node_id = ? AND status = ?"
        return int(self._db.one(query, (node_id, SETTLED))[0])
