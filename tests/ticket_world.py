"""A pipeline whose agent is paid by items of escrow tickets; what the wallet is told of locks is noted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cashu_tickets import document, item, preimage
from cl_hive_comms.services.ticket_work import TicketWork
from cl_hive_comms.storage.sealed_command_store import SealedCommandStore
from escrow_tables import rows_of, secret_row
from hive_shared.canonical import JsonValue
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.escrow_rows import ItemRow
from hive_shared.cashu.escrow_work import EscrowWork
from hive_shared.cashu.terms import decode_terms, task_params_hash
from hive_shared.cashu.ticket_machine import PayerItem
from hive_shared.crypto import Secret
from hive_shared.storage.escrow_store import EscrowStore
from hive_shared.storage.families import NODE_TICKETS
from hive_shared.store import Tx
from msgspec.structs import replace
from pipeline_world import NODE_ID, NOW, SEALER
from reward_world import AGENT, Rewarding

SCHEMA, ACTION = "hive:fee-policy/v1", "set_single"
TICKET = "ab" * 16
LOCK_KEY = public_key(Secret(b"\x55" * 32))


class NotedLocks:
    """The wallet's end: which locks are held for a task, given back or released."""

    def __init__(self) -> None:
        self.state: dict[str, str] = {}

    def held(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        self.state |= dict.fromkeys(lock_ids, "held")

    def unheld(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        self.state |= dict.fromkeys(lock_ids, "unheld")

    def tell_again(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """Nothing moves them here."""

    def released(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        self.state |= dict.fromkeys(lock_ids, "released")


def params_of(ppm: int, channel: str = "101x1x0") -> dict[str, JsonValue]:
    """What `set_fee` sends."""
    return {"channel_id": channel, "fee_ppm": ppm}


class Ticketed(Rewarding):
    """Agent 1 was given tickets; its credential agrees no pay of its own."""

    def __init__(self, directory: Path) -> None:
        self.locks = NotedLocks()
        super().__init__(directory, rate_sats=0)

    def restart(self) -> None:
        super().restart()
        self.escrow = EscrowStore(SEALER, NODE_TICKETS)
        self.pipeline.rewards.tickets = TicketWork(
            db=self.db,
            rows=self.escrow,
            work=EscrowWork(self.escrow, self.locks, lambda: self.now),
            commands=SealedCommandStore(SEALER),
            credentials=self.credentials,
            node_id=NODE_ID,
        )

    async def ticket(
        self,
        *tasks: dict[str, JsonValue],
        state: PayerItem = PayerItem.ACCEPTED,
        cond: Mapping[str, JsonValue] | None = None,
        **changes: Any,
    ) -> None:
        """A ticket with an item of 100 sat for each task (`set_single` parameters; one if none are given)."""
        tasks = tasks or (params_of(102),)
        hashes = [task_params_hash(SCHEMA, ACTION, task) for task in tasks]
        items = [
            item(
                number,
                100,
                deadline=NOW + 3_600 * (1 + number * (changes.get("type") == "performance")),
                locktime=NOW + 7_200 + 3_600 * number * (changes.get("type") == "performance"),
                cond={**(cond or {}), **({"task_params_hash": found} if len(tasks) > 1 else {})},
            )
            for number, found in enumerate(hashes)
        ]
        if changes.get("mode") == "p2pk":
            items = [{name: value for name, value in each.items() if name != "hash"} for each in items]
        made = document(items, **{"task_params_hash": hashes[0], "danger": 4, "issued_at": NOW, **changes})
        made["payee"] = {"id": AGENT, "lock_pubkey": LOCK_KEY} | changes.get("payee", {})
        made["node_id"] = changes.get("node_id", NODE_ID)
        made["verifier"] = {**made["verifier"], "node_id": made["node_id"]}
        terms = decode_terms(made)
        row, rows = rows_of(terms, NOW)
        there = [replace(each, state=state, lock_ids=(f"lock-{each.i}",)) for each in rows]
        secrets = [secret_row(NOW, each.i, ticket_id=terms.ticket_id) for each in rows]

        def body(tx: Tx) -> None:
            self.escrow.add_ticket(tx, row, there)
            self.escrow.add_secrets(tx, [replace(each, i=n) for n, each in enumerate(secrets)])

        await self.db.write(body)

    def proof(self, number: int = 0, ticket_id: str = TICKET) -> dict[str, JsonValue]:
        """The claim of an item."""
        return {"method": "cashu_escrow", "ticket_id": ticket_id, "item": number}

    async def work(self, ppm: int = 102, channel: str = "101x1x0", number: int = 0, **more: Any) -> Any:
        """A command paid by an item; its response."""
        return await self.set_fee(ppm, channel, payment_proof=self.proof(number), **more)

    def item(self, number: int = 0) -> ItemRow:
        """An item as it stands."""
        found = self.db.peek(lambda tx: self.escrow.item(tx, TICKET, number))
        assert found is not None
        return found


def secret_of(number: int = 0) -> str:
    """The preimage of an item (hex)."""
    return preimage(number).hex()
