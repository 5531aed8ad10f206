"""Forgetting a client once nothing binds us to it any more (docs/protocol/11-advisor-kit.md §14)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from hive_shared.errors import Conflict
from hive_shared.registry import CONTROL
from hive_shared.store import Db, Tx

from hive_advisor.domain.command_machine import UNSIGNED
from hive_advisor.domain.rows import Client
from hive_advisor.services.ports import ClientRows, CommandRows, RecordRows


class ForgetRows(Protocol):
    """A store with rows of clients."""

    def forget(self, tx: Tx, client_id: str) -> int: ...


class Unpaid(Protocol):
    """What a client owes us: how many of a kind, and their sats."""

    def unpaid(self, tx: Tx, key: str, /) -> tuple[int, int]: ...


class ForgetService:
    """Erases what is kept of a client but its receipts and evidence. ``stores`` come in the order in which
    they are emptied: what is found by a command's rows goes before those. ``debts`` are known by the client's
    id, ``tickets`` by its node key."""

    def __init__(
        self,
        db: Db,
        stores: Sequence[ForgetRows],
        debts: Unpaid,
        tickets: Unpaid,
        clients: ClientRows,
        commands: CommandRows,
        records: RecordRows,
        now: Callable[[], int],
    ) -> None:
        self._db, self._stores, self._clients, self._commands = db, stores, clients, commands
        self._debts, self._tickets, self._records, self._now = debts, tickets, records, now

    async def forget(self, client: Client, *, even_unpaid: bool = False) -> int:
        """How many rows went. Raises Conflict while a credential of the client is valid or a command open,
        and unless ``even_unpaid`` while it owes us anything."""

        def body(tx: Tx) -> int:
            now = self._now()
            for credential in self._clients.credentials(tx, client.client_id):
                if credential.state == "active" and now < credential.valid_until:
                    raise Conflict(
                        f"{client.alias!r} still has a valid credential for us: its operator revokes it, or"
                        f" it runs out in {(credential.valid_until - now) // 86_400 + 1} days"
                    )
            waiting = [
                command
                for command in self._commands.open(tx)
                if command.client_id == client.client_id
                and command.schema != CONTROL
                and command.state not in UNSIGNED
            ]
            if waiting:
                raise Conflict(
                    f"{len(waiting)} commands to {client.alias!r} have no end yet; see"
                    " 'hive-advisor command list'"
                )
            if not even_unpaid:
                self._check_paid(tx, client)
            gone = sum(store.forget(tx, client.client_id) for store in self._stores)
            self._records.add_event(tx, "forgotten", client.alias, f"{gone} rows", now)
            return gone

        return await self._db.write(body)

    def _check_paid(self, tx: Tx, client: Client) -> None:
        debts, owed = self._debts.unpaid(tx, client.client_id)
        items, locked = self._tickets.unpaid(tx, client.node_key)
        said = [f"{debts} debts of {owed} sat ('hive-advisor pay list')"] if debts else []
        if items:
            said.append(f"{items} items of tickets of {locked} sat ('hive-advisor ticket list')")
        if said:
            raise Conflict(
                f"{client.alias!r} has not paid us {' and '.join(said)}; --even-unpaid forgets it anyhow:"
                " what it released is still redeemed, the rest is given up",
                reason="unpaid",
                data={"debts": debts, "debts_sats": owed, "items": items, "items_sats": locked},
            )
