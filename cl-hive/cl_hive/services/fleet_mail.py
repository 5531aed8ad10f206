"""Messages about cl-hive's tickets, sent by cl-hive-comms (docs/protocol/03-escrow-and-payments.md §6.6).

What is to be sent is stored with what it is about. Tokens and preimages are not: they are put in when the
message leaves, from comms' books and from the sealed rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from hive_shared.cashu.escrow_ports import Database
from hive_shared.cashu.escrow_rows import EscrowRows, TicketRow
from hive_shared.cashu.escrow_tokens import ticket_messages
from hive_shared.cashu.ticket_messages import Message, Release, body_of, schema_of
from hive_shared.errors import (
    Busy,
    Capacity,
    Conflict,
    HiveError,
    InvalidParams,
    NotFound,
    RateLimited,
    SiblingUnavailable,
    Unsupported,
)
from hive_shared.store import Tx

from cl_hive.domain.fleet_escrow import FleetLock, Outgoing, Parcel
from cl_hive.services.fleet_ports import Comms, Log, MailRows

_PAGE: Final = 200
_DAY_S: Final = 86_400
LATER: Final = (SiblingUnavailable, Busy, RateLimited, Capacity)
"""What comms says while it can take nothing: it starts, stops, or is full."""
_NEVER: Final = (InvalidParams, NotFound, Conflict, Unsupported)
"""What it says of a message that it will not take later either."""
_LEVELS: Final = {
    "rejected": "warning",
    "disputed": "warning",
    "partly_locked": "warning",
    "locked_late": "warning",
    "locks_unknown": "critical",
    "owed": "critical",
}


class Tokens(Protocol):
    """The wallet as mail uses it (services.fleet_wallet.FleetLocks)."""

    def of_terms(self, tx: Tx, terms_hash: str) -> Sequence[FleetLock]: ...
    async def tokens(self, lock_ids: Sequence[str]) -> dict[str, str]: ...


class FleetMail:
    """The engine's mail and the operator's notices. `kicked` is called when there is something to send."""

    def __init__(
        self,
        db: Database,
        outbox: MailRows,
        rows: EscrowRows,
        wallet: Tokens,
        comms: Comms,
        *,
        kicked: Callable[[], None],
        now: Callable[[], int],
        log: Log,
    ) -> None:
        self._db, self._outbox, self._rows, self._wallet, self._comms = db, outbox, rows, wallet, comms
        self._kicked, self._now, self._log = kicked, now, log

    # -- what the engine asks for ----------------------------------------------------------------------

    def put(self, tx: Tx, recipient: str, message: Message, *, key: str, expires_at: int) -> None:
        """Store a message; the same key stores nothing twice."""
        body: dict[str, Any] = {"schema": schema_of(message), "body": body_of(message)}
        kind = Parcel.MESSAGE
        if isinstance(message, Release):
            kind = Parcel.RELEASE
            body["body"] = {name: value for name, value in body["body"].items() if name != "preimage"}
        self._outbox.add(tx, Outgoing(key, kind, recipient, body, expires_at, self._now()))

    def stored(self, tx: Tx, key: str) -> bool:
        """Whether a message of this key was stored."""
        return self._outbox.stored(tx, key)

    def hand_over(self, tx: Tx, ticket: TicketRow, first: int, last: int, key: str, expires_at: int) -> None:
        """Have the tokens of these items sent."""
        body = {"ticket_id": ticket.ticket_id, "first": first, "last": last}
        row = Outgoing(key, Parcel.TOKENS, ticket.terms.payee.id, body, expires_at, self._now())
        self._outbox.add(tx, row)

    def kick(self) -> None:
        """Send what is due; after the commit."""
        self._kicked()

    def tell(self, tx: Tx, ticket: TicketRow, what: str, text: str) -> None:
        """An alert for the operator, once per ticket and thing."""
        words = f"ticket {ticket.ticket_id}: {text}"
        body = {"level": _LEVELS.get(what, "info"), "code": "escrow", "text": words}
        key = f"alert:{what}:{ticket.ticket_id}:{text[:60]}"
        now = self._now()
        self._outbox.add(tx, Outgoing(key, Parcel.ALERT, "", body, now + _DAY_S, now))

    # -- sending ---------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Give comms what waits, in order. What it fails to take for want of anything but a better message
        waits until it expires. Raises `LATER`."""
        waiting = await self._db.read(lambda tx: self._outbox.waiting(tx, _PAGE))
        for row in waiting:
            try:
                if row.expires_at > self._now():
                    await self._send(row)
            except LATER:
                raise
            except HiveError as refused:
                self._log("warning", "escrow_message_refused", key=row.key, why=refused.detail[:200])
                if not isinstance(refused, _NEVER):
                    continue
            await self._done(row.key)

    async def _done(self, key: str) -> None:
        await self._db.write(lambda tx: self._outbox.sent(tx, key, self._now()))

    async def _send(self, row: Outgoing) -> None:
        if row.kind is Parcel.ALERT:
            await self._comms.call("hive-comms-alert", {**row.body, "dedup_key": row.key[:120]})
            return
        messages = [dict(row.body)]
        if row.kind is Parcel.TOKENS:
            messages = await self._with_tokens(row)
        elif row.kind is Parcel.RELEASE:
            messages = [await self._with_preimage(row)]
        for number, each in enumerate(messages):
            order = {
                "recipient": row.recipient,
                "schema": each["schema"],
                "message": each["body"],
                "idempotency_key": f"hive-escrow:{row.key}:{number}",
                "expires_at": row.expires_at,
            }
            await self._comms.call("hive-comms-send-dm", order)

    async def _with_tokens(self, row: Outgoing) -> list[dict[str, Any]]:
        first, last = int(row.body["first"]), int(row.body["last"])

        def body(tx: Tx) -> tuple[TicketRow | None, list[FleetLock]]:
            ticket = self._rows.ticket(tx, str(row.body["ticket_id"]))
            return ticket, [] if ticket is None else list(self._wallet.of_terms(tx, ticket.terms_hash))

        ticket, locks = await self._db.read(body)
        locks = [lock for lock in locks if first <= lock.item <= last]
        tokens = await self._wallet.tokens([lock.lock_id for lock in locks])
        pieces = [(lock.item, lock.share, tokens[lock.lock_id]) for lock in locks if lock.lock_id in tokens]
        if ticket is None:
            return []
        made = ticket_messages(ticket, pieces)
        return [{"schema": schema_of(message), "body": body_of(message)} for message in made]

    async def _with_preimage(self, row: Outgoing) -> dict[str, Any]:
        said = dict(row.body["body"])

        def body(tx: Tx) -> str:
            item = self._rows.item(tx, said["ticket_id"], said["item"])
            secret = None if item is None or item.hash is None else self._rows.secret(tx, item.hash)
            return "" if secret is None else secret.preimage.reveal().hex()

        said["preimage"] = await self._db.read(body)
        return {"schema": row.body["schema"], "body": said}
