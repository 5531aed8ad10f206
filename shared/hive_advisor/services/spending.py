"""Fees for access that the kit pays itself: once or never (docs/protocol/11-advisor-kit.md §8).

The row is on disk before a wallet hears of it. What nobody knows the end of is `unknown`: never sent again,
only looked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from hive_shared.errors import Conflict, HiveError, InvalidParams, PaymentFailed, PolicyDenied
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Db, Tx

from hive_advisor.domain.earning import look_pause_s, shows
from hive_advisor.domain.fee import Demand, Fee, demands_of, paid
from hive_advisor.domain.outgoing import (
    DAY_S,
    GIVEN_UP_S,
    OutEvent,
    Outgoing,
    OutState,
    Result,
    next_state,
)
from hive_advisor.domain.rows import StoredCommand
from hive_advisor.services.ports import ClientRows, CommandRows, RecordRows
from hive_advisor.services.ports_money import WayOut

_LEAST_LEFT_S: Final = 60


class OutgoingRows(Protocol):
    """storage.outgoing_store.OutgoingStore, where the methods are described."""

    def add(self, tx: Tx, payment: Outgoing) -> None: ...
    def get(self, tx: Tx, payment_hash: str) -> Outgoing | None: ...
    def move(self, tx: Tx, payment: Outgoing, to: OutState, why: str, now: int) -> bool: ...
    def unsettled(self, tx: Tx) -> list[Outgoing]: ...
    def since(self, tx: Tx, created: int) -> list[Outgoing]: ...
    def newest(self, tx: Tx, limit: int) -> list[Outgoing]: ...
    def forget(self, tx: Tx, client_id: str, now: int) -> int: ...
    def late(self, tx: Tx, now: int) -> bool: ...
    def forget_late(self, tx: Tx, now: int) -> None: ...


class PaidFees(Protocol):
    """adv_l402."""

    def add(self, tx: Tx, fee: Fee) -> bool: ...


class SpendService:
    """Owns payments that leave. `way(None)` is the way out of the configuration, `way(name)` the one that a
    payment was begun with; None where there is none. `daily_sats` bounds 24 hours."""

    def __init__(
        self,
        db: Db,
        rows: OutgoingRows,
        fees: PaidFees,
        commands: CommandRows,
        clients: ClientRows,
        records: RecordRows,
        way: Callable[[str | None], Awaitable[WayOut | None]],
        *,
        daily_sats: int,
        halted: Callable[[], bool],
        now: Callable[[], int],
        alone: RowByRow,
    ) -> None:
        self._alone = alone
        self._db, self._rows, self._fees, self._commands = db, rows, fees, commands
        self._clients, self._records, self._way = clients, records, way
        self._daily_sats, self._halted, self._now = daily_sats, halted, now
        self._under_way: set[str] = set()
        self._looks: dict[str, tuple[int, int]] = {}

    async def pay(self, demand: Demand) -> Outgoing:
        """Pay what a node demands; returns how it stands: paid, failed for good, or unknown. The same demand
        is never sent twice.

        Raises InvalidParams (no way out), PolicyDenied (halted, spend.daily_sats), Conflict (an earlier
        payment to this client has no end), PaymentFailed (the invoice is about to run out).
        """
        way = await self._way(None)
        if way is None:
            raise InvalidParams(
                "no way out pays: set spend.method in config.toml, or pay the invoice yourself and give the"
                " preimage to 'hive-advisor pay attach'",
                reason="no_way_out",
            )
        payment, new = await self._db.write(lambda tx: self._begun(tx, demand, way))
        if not new:
            return payment
        self._under_way.add(payment.payment_hash)
        try:
            try:
                result = await way.pay(payment)
            except HiveError as error:
                result = Result(failed=True, why=error.detail[:200])
            if not result.failed and not shows(result.preimage, payment.payment_hash):
                seen = await way.settled(payment)
                result = seen if seen.preimage or seen.failed else Result(why=result.why or seen.why)
            return await self._noted(payment, result)
        finally:
            self._under_way.discard(payment.payment_hash)

    def _begun(self, tx: Tx, demand: Demand, way: WayOut) -> tuple[Outgoing, bool]:
        known = self._rows.get(tx, demand.payment_hash)
        if known is not None:
            return known, False
        now = self._now()
        if self._halted():
            raise PolicyDenied("the guard is halted; 'hive-advisor guard release' ends that", reason="halted")
        if demand.expires_at < now + _LEAST_LEFT_S:
            raise PaymentFailed(
                "the invoice has run out or is about to; send the command again for a new one",
                reason="invoice_expired",
            )
        payment = Outgoing(
            payment_hash=demand.payment_hash,
            client_id=demand.client_id,
            command_id=demand.command_id,
            method=demand.method,
            way=way.name,
            invoice=demand.invoice,
            amount_sats=demand.amount_sats,
            max_fee_msat=way.most_fee_msat(demand.amount_sats),
            invoice_expires=demand.expires_at,
            state=OutState.SENDING,
            created=now,
            updated=now,
        )
        self._check_others(tx, payment, now)
        self._rows.add(tx, payment)
        return payment, True

    def _check_others(self, tx: Tx, payment: Outgoing, now: int) -> None:
        for other in self._rows.unsettled(tx):
            if other.client_id == payment.client_id and now < other.invoice_expires + GIVEN_UP_S:
                raise Conflict(
                    f"nobody knows yet what became of the payment {other.payment_hash} to the same node; see"
                    " 'hive-advisor pay list'",
                    reason="payment_unknown",
                )
        spent = sum(other.reserved_sats for other in self._rows.since(tx, now - DAY_S))
        if spent + payment.reserved_sats > self._daily_sats:
            raise PolicyDenied(
                f"{payment.reserved_sats} sat with fees would make {spent + payment.reserved_sats} sat in 24"
                f" hours; spend.daily_sats in config.toml is {self._daily_sats}",
                reason="budget_exhausted",
            )

    def _ended(self, tx: Tx, payment: Outgoing, result: Result) -> Outgoing:
        """How a payment stands after what a wallet said of it; a paid one's fee is kept with it."""
        current = self._rows.get(tx, payment.payment_hash) or payment
        event = OutEvent.ON_FAILED if result.failed else OutEvent.ON_NO_WORD
        if shows(result.preimage, payment.payment_hash):
            event = OutEvent.ON_PREIMAGE
        to, now = next_state(current.state, event), self._now()
        if to is None or not self._rows.move(tx, current, to, result.why, now):
            return current
        if to == OutState.PAID:
            # As proofs of payment have it, however the wallet writes it.
            self._keep_fee(tx, current, result.preimage.lower(), now)
        text = f"{current.amount_sats} sat by {current.way}"
        self._records.add_event(tx, f"payment_{to}", current.payment_hash, text, now)
        return self._rows.get(tx, payment.payment_hash) or current

    def _keep_fee(self, tx: Tx, payment: Outgoing, preimage: str, now: int) -> None:
        command = self._commands.get(tx, payment.command_id)
        client = self._clients.by_id(tx, payment.client_id)
        if command is not None and client is not None:
            self._fees.add(tx, paid(demands_of(command, client.network), preimage, now))

    async def attached(self, preimage: str, payment_hash: str) -> None:
        """A human showed the preimage of a payment whose end we did not know."""
        known = await self._db.read(lambda tx: self._rows.get(tx, payment_hash))
        if known is not None:
            await self._noted(known, Result(preimage))

    async def tick(self) -> None:
        """Look for the end of what has none, ever less often. Nothing is sent."""
        with self._alone.round("payments") as alone:
            for payment in await self._db.read(self._rows.unsettled):
                looks, at = self._looks.get(payment.payment_hash, (0, 0))
                if payment.payment_hash in self._under_way or self._now() < at:
                    continue
                self._looks[payment.payment_hash] = (looks + 1, self._now() + look_pause_s(looks))
                with alone(payment.payment_hash):
                    await self._noted(payment, await self._seen(payment))

        now = self._now()
        if await self._db.read(lambda tx: self._rows.late(tx, now)):
            await self._db.write(lambda tx: self._rows.forget_late(tx, now))

    def forget(self, tx: Tx, client_id: str) -> int:
        """A client is forgotten; how many rows went now. A payment goes when the limit of 24 hours counts it
        no more and it has an end, or none is waited for."""
        return self._rows.forget(tx, client_id, self._now())

    async def _seen(self, payment: Outgoing) -> Result:
        """What its wallet says now; no word where that is set up no more, or does not answer."""
        try:
            way = await self._way(payment.way)
            return Result() if way is None else await way.settled(payment)
        except HiveError as error:
            return Result(why=error.detail[:200])

    async def _noted(self, payment: Outgoing, result: Result) -> Outgoing:
        return await self._db.write(lambda tx: self._ended(tx, payment, result))

    async def listed(self, limit: int) -> list[Outgoing]:
        """The newest first."""
        return await self._db.read(lambda tx: self._rows.newest(tx, limit))

    async def of_command(self, command: StoredCommand) -> list[Outgoing]:
        """Payments for the fee that a command was refused for."""
        found = await self._db.read(lambda tx: self._rows.newest(tx, 500))
        return [payment for payment in found if payment.command_id == command.command_id]
