"""Fees for access that a human paid: kept, and taken along by the commands that cost something
(docs/protocol/11-advisor-kit.md §8).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from hive_shared.errors import InvalidParams
from hive_shared.registry import CONTROL
from hive_shared.store import Db, Tx

from hive_advisor.domain.fee import Demand, Fee, best, demands_of, paid, price_hint_sats, standing
from hive_advisor.domain.rows import StoredCommand
from hive_advisor.services.ports import ClientRows, CommandRows


class FeeRows(Protocol):
    """storage.fee_store.FeeStore, where the methods are described."""

    def add(self, tx: Tx, fee: Fee) -> bool: ...
    def of_client(self, tx: Tx, client_id: str) -> list[Fee]: ...
    def newest(self, tx: Tx, limit: int) -> list[Fee]: ...
    def taken(self, tx: Tx, payment_hash: str, command_id: str) -> None: ...


class FeeService:
    """Owns paid fees."""

    def __init__(
        self,
        db: Db,
        rows: FeeRows,
        commands: CommandRows,
        clients: ClientRows,
        *,
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._commands, self._clients = db, rows, commands, clients
        self._now = now

    async def demands(self, command: StoredCommand) -> list[Demand]:
        """What a refused command asks us to pay, checked. Raises InvalidParams when it asks for nothing,
        PaymentFailed when its parts do not belong together."""
        client = await self._db.read(lambda tx: self._clients.by_id(tx, command.client_id))
        found = [] if client is None else demands_of(command, client.network)
        if not found:
            raise InvalidParams(f"command {command.command_id} was not refused for a payment")
        return found

    async def attach(self, command: StoredCommand, preimage: str) -> tuple[Fee, bool]:
        """Keep a fee that was paid for a refused command, by the preimage its payer got; the second value
        says whether it is new. Raises InvalidParams, PaymentFailed."""
        fee = paid(await self.demands(command), preimage, self._now())
        return fee, await self._db.write(lambda tx: self._rows.add(tx, fee))

    async def listed(self, limit: int) -> list[tuple[Fee, str]]:
        """Paid fees, the newest first, and how each stands."""
        return await self._db.read(
            lambda tx: [(fee, self._standing(tx, fee)) for fee in self._rows.newest(tx, limit)]
        )

    def take_in(self, tx: Tx, command: StoredCommand, credential: dict[str, Any]) -> dict[str, Any]:
        """The `payment_proof` of a command that is signed in this transaction; a fee that it takes along is
        no other's until it ended."""
        hint_sats = price_hint_sats(credential, command.total_danger) if command.schema != CONTROL else 0
        if not hint_sats:
            return {"method": "none"}
        # A fee that this very command had taken before its envelope ran out is its own.
        good = [
            fee
            for fee in self._rows.of_client(tx, command.client_id)
            if fee.used_by == command.command_id or self._good_for(tx, fee, command)
        ]
        fee = best(good, hint_sats)
        if fee is None:
            return {"method": "none"}
        self._rows.taken(tx, fee.payment_hash, command.command_id)
        return fee.proof()

    def _good_for(self, tx: Tx, fee: Fee, command: StoredCommand) -> bool:
        how = self._standing(tx, fee)
        if how != "short" or fee.used_by is None:
            return how == "good"
        user = self._commands.get(tx, fee.used_by)
        return user is not None and command.total_danger < user.total_danger

    def _standing(self, tx: Tx, fee: Fee) -> str:
        user = None if fee.used_by is None else self._commands.get(tx, fee.used_by)
        return standing(fee, user, self._now())
