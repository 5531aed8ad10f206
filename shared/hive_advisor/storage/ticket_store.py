"""Sole writer of adv_ticket_items, adv_ticket_disputes, adv_cashu_locks and adv_cashu_lock_ys, beside the
tickets themselves, which are written as the node's are (docs/protocol/11-advisor-kit.md §12). Preimages and
what is locked are sealed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence

import msgspec
from hive_shared.cashu.payee_rows import HeldItem, HeldLock, HeldTicket, Share
from hive_shared.cashu.terms import share_locktime
from hive_shared.cashu.ticket import CheckedTicket
from hive_shared.cashu.ticket_machine import PayeeItem
from hive_shared.cashu.wire import Proof
from hive_shared.crypto import Sealer
from hive_shared.errors import Conflict
from hive_shared.storage.families import KIT_INTAKE
from hive_shared.storage.intake_store import IntakeStore
from hive_shared.store import Tx
from hive_shared.unreadable import Unreadable, read_each
from msgspec.structs import replace

from hive_advisor.domain.ticket import Dispute, DisputeState
from hive_advisor.storage.used_ecash import used

_AT_ONCE = 100


class TicketStore(IntakeStore):
    """Tickets in our favour. Methods join the caller's transaction."""

    def __init__(self, sealer: Sealer) -> None:
        super().__init__(sealer, KIT_INTAKE)

    def newest(self, tx: Tx, before: tuple[int, str] | None, limit: int) -> list[HeldTicket | Unreadable]:
        """Tickets, the newest first, after a place in that order."""
        at, name = before or (1 << 62, "")
        rows = tx.execute(
            "SELECT * FROM adv_tickets WHERE (created_at, ticket_id) < (?, ?)"
            " ORDER BY created_at DESC, ticket_id DESC LIMIT ?",
            (at, name, limit),
        )
        return read_each(rows, self.held, "ticket_id")

    # -- items -----------------------------------------------------------------------------------------

    def add_item(self, tx: Tx, item: HeldItem) -> None:
        """A new item."""
        tx.execute(
            "INSERT INTO adv_ticket_items (ticket_id, i, state, amount_sats, hash, deadline, locktime, label,"
            " params_hash, preimage_enc, command_id, note, released_at, ended_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(item.ticket_id, item.i, item.state, item.amount_sats, item.hash, item.deadline),
                *(
                    item.locktime,
                    item.label,
                    item.params_hash,
                    self._sealed_preimage(item),
                    item.command_id,
                    item.note,
                ),
                *(item.released_at, item.ended_at),
            ),
        )

    def item(self, tx: Tx, ticket_id: str, i: int) -> HeldItem | None:
        """One item."""
        row = tx.execute(
            "SELECT * FROM adv_ticket_items WHERE ticket_id = ? AND i = ?", (ticket_id, i)
        ).fetchone()
        return None if row is None else self._item(row)

    def items(self, tx: Tx, ticket_id: str) -> Sequence[HeldItem]:
        """All items of a ticket, in order."""
        rows = tx.execute("SELECT * FROM adv_ticket_items WHERE ticket_id = ? ORDER BY i", (ticket_id,))
        return [self._item(row) for row in rows]

    def at_work(self, tx: Tx) -> Sequence[HeldItem]:
        """Items that a command was sent for and whose outcome is not known."""
        rows = tx.execute(
            "SELECT * FROM adv_ticket_items WHERE state IN ('accepted', 'executing', 'unknown')"
            " AND command_id IS NOT NULL ORDER BY locktime, ticket_id, i"
        )
        return [self._item(row) for row in rows]

    def fitting(self, tx: Tx, peer: str, params_hash: str, limit: int) -> Sequence[HeldItem]:
        """Accepted items of a peer that are for one task, those that pay best in front, then those that end
        first."""
        rows = tx.execute(
            "SELECT i.* FROM adv_tickets t JOIN adv_ticket_items i ON i.ticket_id = t.ticket_id"
            " WHERE i.params_hash = ? AND i.state = 'accepted' AND t.peer = ?"
            " ORDER BY i.amount_sats DESC, i.locktime, i.ticket_id, i.i LIMIT ?",
            (params_hash, peer, limit),
        )
        return [self._item(row) for row in rows]

    def unpaid(self, tx: Tx, peer: str) -> tuple[int, int]:
        """What a peer locked for us that has not ended: how many items, and their sats."""
        count, total = tx.execute(
            "SELECT count(*), coalesce(sum(i.amount_sats), 0) FROM adv_tickets t JOIN adv_ticket_items i"
            " ON i.ticket_id = t.ticket_id WHERE t.peer = ?"
            " AND i.state IN ('accepted', 'executing', 'unknown', 'released', 'disputed')",
            (peer,),
        ).fetchone()
        return int(count), int(total)

    def live_of_peer(self, tx: Tx, peer: str) -> int:
        """How many accepted tickets of a peer (x-only hex) have an item that has not ended."""
        (count,) = tx.execute(
            "SELECT count(*) FROM adv_tickets t WHERE t.peer = ? AND t.intake = 'accepted' AND EXISTS"
            " (SELECT 1 FROM adv_ticket_items i WHERE i.ticket_id = t.ticket_id"
            " AND i.state NOT IN ('redeemed', 'lost'))",
            (peer,),
        ).fetchone()
        return int(count)

    def put_item(self, tx: Tx, item: HeldItem, was: PayeeItem) -> None:
        """Store a changed item that was in a state. Raises Conflict when it is in another."""
        changed = tx.execute(
            "UPDATE adv_ticket_items SET state = ?, preimage_enc = ?, command_id = ?, note = ?,"
            " released_at = ?, ended_at = ? WHERE ticket_id = ? AND i = ? AND state = ?",
            (
                *(item.state, self._sealed_preimage(item), item.command_id, item.note, item.released_at),
                *(item.ended_at, item.ticket_id, item.i, was),
            ),
        ).rowcount
        if changed != 1:
            raise Conflict(f"item {item.i} of ticket {item.ticket_id} moved on", reason="stale_state")

    # -- locked proofs ---------------------------------------------------------------------------------

    def add_share(self, tx: Tx, share: Share) -> None:
        """The proofs of an item at a mint; each is new. Raises sqlite3.IntegrityError for one that is not."""
        tx.executemany(
            "INSERT INTO adv_cashu_lock_ys (y, ticket_id) VALUES (?, ?)",
            [(y, share.ticket_id) for y in share.ys],
        )
        token = msgspec.json.encode(share.proofs)
        tx.execute(
            "INSERT INTO adv_cashu_locks (ticket_id, item, share, mint_url, state, token_enc, ys_json,"
            " net_sats, locktime, key_context, batch, tries, next_at, released_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(share.ticket_id, share.item, share.share, share.mint_url, share.state),
                self._sealer.seal("adv_cashu_locks", _share_key(*share.place), "token_enc", token),
                *(json.dumps(share.ys), share.net_sats, share.locktime, share.context, share.batch),
                *(share.tries, share.next_at, share.released_at),
            ),
        )

    def accept(self, tx: Tx, ticket: HeldTicket, items: Sequence[HeldItem], checked: CheckedTicket) -> None:
        """An accepted ticket with its items and its locked proofs."""
        terms = checked.terms
        self.put_ticket(tx, ticket)
        for item in items:
            self.add_item(tx, item)
        for share in checked.shares:
            self.add_share(
                tx,
                Share(
                    ticket.ticket_id,
                    share.item,
                    share.mint,
                    terms.mints[share.mint].url,
                    HeldLock.DELIVERED,
                    share.proofs,
                    share.ys,
                    share.net_sats,
                    share_locktime(terms, share.item, share.mint),
                    ticket.context,
                ),
            )

    def redeemable(self, tx: Tx, item: HeldItem, now: int) -> None:
        """The locked proofs of an item are ours from now on."""
        for share in self.shares(tx, item.ticket_id, item.i):
            if share.state is HeldLock.DELIVERED:
                ready = replace(share, state=HeldLock.REDEEMABLE, released_at=now, tries=0, next_at=now)
                self.put_share(tx, ready, HeldLock.DELIVERED)

    def seen(self, tx: Tx, ys: Collection[str]) -> frozenset[str]:
        """Those that a ticket had before, or that came for a command without one."""
        return used(tx, ys)

    def shares(self, tx: Tx, ticket_id: str, item: int) -> Sequence[Share]:
        """The proofs of one item, mint by mint."""
        rows = tx.execute(
            "SELECT * FROM adv_cashu_locks WHERE ticket_id = ? AND item = ? ORDER BY share", (ticket_id, item)
        )
        return [self._share(row) for row in rows]

    def shares_in(self, tx: Tx, states: Collection[HeldLock]) -> Sequence[Share]:
        """All in some states."""
        marks = ", ".join("?" * len(states))
        rows = tx.execute(
            f"SELECT * FROM adv_cashu_locks WHERE state IN ({marks}) ORDER BY ticket_id, item, share",
            tuple(states),
        )
        return [self._share(row) for row in rows]

    def late_shares(self, tx: Tx, ended: tuple[int, int], now: int) -> Sequence[Share]:
        """Those not redeemed whose locktime lies after the first and not after the second of `ended`, to be
        looked at by now; times are Unix seconds. No other is opened."""
        rows = tx.execute(
            "SELECT * FROM adv_cashu_locks WHERE state = 'delivered' AND locktime > ? AND locktime <= ?"
            " AND next_at <= ? ORDER BY ticket_id, item, share",
            (*ended, now),
        )
        return [self._share(row) for row in rows]

    def mints_at_work(self, tx: Tx, now: int) -> frozenset[str]:
        """Mints at which proofs stand for an item that a command is sent for and that has not ended by now
        (Unix s)."""
        rows = tx.execute(
            "SELECT DISTINCT l.mint_url FROM adv_ticket_items i JOIN adv_cashu_locks l"
            " ON l.ticket_id = i.ticket_id AND l.item = i.i WHERE i.state IN ('accepted', 'executing')"
            " AND i.locktime > ? AND i.command_id IS NOT NULL AND l.state = 'delivered'",
            (now,),
        )
        return frozenset(row["mint_url"] for row in rows)

    def put_share(self, tx: Tx, share: Share, was: HeldLock) -> None:
        """Store a changed share that was in a state. Raises Conflict when it is in another."""
        changed = tx.execute(
            "UPDATE adv_cashu_locks SET state = ?, batch = ?, tries = ?, next_at = ?, released_at = ?"
            " WHERE ticket_id = ? AND item = ? AND share = ? AND state = ?",
            (
                *(share.state, share.batch, share.tries, share.next_at, share.released_at),
                *(*share.place, was),
            ),
        ).rowcount
        if changed != 1:
            raise Conflict(f"share {share.place} moved on", reason="stale_state")

    def live_sats(self, tx: Tx, mint_url: str) -> int:
        """What accepted tickets at a mint may still bring, sat: what was redeemed is exposed no more."""
        (total,) = tx.execute(
            "SELECT coalesce(sum(net_sats), 0) FROM adv_cashu_locks"
            " WHERE mint_url = ? AND state NOT IN ('lost', 'redeemed')",
            (mint_url,),
        ).fetchone()
        return int(total)

    # -- disputes --------------------------------------------------------------------------------------

    def add_dispute(self, tx: Tx, dispute: Dispute) -> None:
        """A new dispute."""
        tx.execute(
            "INSERT INTO adv_ticket_disputes (dispute_id, ticket_id, i, claim, evidence_json, state, reply,"
            " due_at, created_at, resolved_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(dispute.dispute_id, dispute.ticket_id, dispute.item, dispute.claim),
                *(json.dumps(dispute.evidence_hashes), dispute.state, dispute.reply, dispute.due_at),
                *(dispute.created_at, dispute.resolved_at),
            ),
        )

    def dispute(self, tx: Tx, dispute_id: str) -> Dispute | None:
        """One dispute."""
        row = tx.execute("SELECT * FROM adv_ticket_disputes WHERE dispute_id = ?", (dispute_id,)).fetchone()
        return None if row is None else _dispute(row)

    def disputes(self, tx: Tx, ticket_id: str) -> list[Dispute]:
        """Disputes about a ticket, the oldest first."""
        rows = tx.execute(
            "SELECT * FROM adv_ticket_disputes WHERE ticket_id = ? ORDER BY created_at, dispute_id",
            (ticket_id,),
        )
        return [_dispute(row) for row in rows]

    def disputes_due(self, tx: Tx, now: int) -> list[Dispute]:
        """Open disputes that were not answered in time."""
        rows = tx.execute("SELECT * FROM adv_ticket_disputes WHERE state = 'open' AND due_at <= ?", (now,))
        return [_dispute(row) for row in rows]

    def end_dispute(self, tx: Tx, dispute_id: str, state: DisputeState, reply: str, now: int) -> bool:
        """An open dispute ends; False when it had ended."""
        return bool(
            tx.execute(
                "UPDATE adv_ticket_disputes SET state = ?, reply = ?, resolved_at = ?"
                " WHERE dispute_id = ? AND state = 'open'",
                (state, reply, now, dispute_id),
            ).rowcount
        )

    # -- rows ------------------------------------------------------------------------------------------

    def _sealed_preimage(self, item: HeldItem) -> bytes | None:
        if item.preimage is None:
            return None
        return self._sealer.seal(
            "adv_ticket_items", f"{item.ticket_id}:{item.i}", "preimage_enc", item.preimage.encode()
        )

    def _item(self, row: sqlite3.Row) -> HeldItem:
        sealed, key = row["preimage_enc"], f"{row['ticket_id']}:{row['i']}"
        preimage = (
            None
            if sealed is None
            else self._sealer.open("adv_ticket_items", key, "preimage_enc", sealed).decode()
        )
        return HeldItem(
            ticket_id=row["ticket_id"],
            i=row["i"],
            state=PayeeItem(row["state"]),
            amount_sats=row["amount_sats"],
            hash=row["hash"],
            deadline=row["deadline"],
            locktime=row["locktime"],
            label=row["label"],
            params_hash=row["params_hash"],
            preimage=preimage,
            command_id=row["command_id"],
            note=row["note"],
            released_at=row["released_at"],
            ended_at=row["ended_at"],
        )

    def _share(self, row: sqlite3.Row) -> Share:
        key = _share_key(row["ticket_id"], row["item"], row["share"])
        token = self._sealer.open("adv_cashu_locks", key, "token_enc", row["token_enc"])
        return Share(
            ticket_id=row["ticket_id"],
            item=row["item"],
            share=row["share"],
            mint_url=row["mint_url"],
            state=HeldLock(row["state"]),
            proofs=msgspec.json.decode(token, type=tuple[Proof, ...]),
            ys=tuple(json.loads(row["ys_json"])),
            net_sats=row["net_sats"],
            locktime=row["locktime"],
            context=row["key_context"],
            batch=row["batch"],
            tries=row["tries"],
            next_at=row["next_at"],
            released_at=row["released_at"],
        )


def _share_key(ticket_id: str, item: int, share: int) -> str:
    return f"{ticket_id}:{item}:{share}"


def _dispute(row: sqlite3.Row) -> Dispute:
    return Dispute(
        dispute_id=row["dispute_id"],
        ticket_id=row["ticket_id"],
        item=row["i"],
        claim=row["claim"],
        evidence_hashes=tuple(json.loads(row["evidence_json"])),
        state=row["state"],
        reply=row["reply"],
        due_at=row["due_at"],
        created_at=row["created_at"],
        resolved_at=row["resolved_at"],
    )
