"""Ecash that nodes send for commands: kept first, made our own at once, counted only then
(docs/protocol/11-advisor-kit.md §8; 02 §8; docs/decisions/0600).

Killed anywhere it is begun again under the same name, which the wallet knows by the token itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import replace
from typing import Any, Final, Protocol

from hive_shared.cashu.curve import y_of
from hive_shared.cashu.derive import EscrowKeys
from hive_shared.cashu.journal import Op, OpState
from hive_shared.cashu.token import decode_token
from hive_shared.crypto import Secret, sha256
from hive_shared.errors import HiveError, InvalidParams, NotFound
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Db, Tx

from hive_advisor.domain.rows import Client
from hive_advisor.domain.token_income import GIVEN_UP_S, TokenIn, TokenState, try_pause_s
from hive_advisor.services.ports import CommandRows, RecordRows

_PER_ROUND: Final = 20
_WAIT_S: Final = 30.0


class TokenRows(Protocol):
    """storage.token_store.TokenStore, where the methods are described."""

    def add(self, tx: Tx, token: TokenIn, ys: Collection[str]) -> bool: ...
    def put(self, tx: Tx, token: TokenIn) -> bool: ...
    def due(self, tx: Tx, now: int, limit: int) -> list[TokenIn]: ...
    def newest(self, tx: Tx, limit: int) -> list[TokenIn]: ...


class TakingWallet(Protocol):
    """The wallet (hive_shared.cashu.wallet_service.WalletService)."""

    async def receive(self, token: str, timeout: float, key: Secret | None = None) -> Op: ...
    async def spent_worth(self, token: str, key: Secret, timeout: float) -> int | None: ...


class EarningRows(Protocol):
    """What is owed to us (services.earnings.EarningService)."""

    def came(self, tx: Tx, command_id: str, net_sats: int) -> None: ...


class TokenIncome:
    """Owns ecash that was sent to us, until the wallet does. `ready` comes before the wallet is used."""

    def __init__(
        self,
        db: Db,
        rows: TokenRows,
        commands: CommandRows,
        records: RecordRows,
        earnings: EarningRows,
        wallet: TakingWallet,
        keys: EscrowKeys,
        *,
        ready: Callable[[], Awaitable[None]],
        now: Callable[[], int],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        alone: RowByRow,
    ) -> None:
        self._alone = alone
        self._db, self._rows, self._commands, self._records = db, rows, commands, records
        self._earnings, self._wallet, self._keys = earnings, wallet, keys
        self._ready, self._now, self._spawn = ready, now, spawn
        self._turn = asyncio.Lock()

    async def sent(self, client: Client, notice: dict[str, Any]) -> None:
        """A `payment_notice` of method cashu: its token is on disk when this returns. Raises InvalidParams,
        NotFound (a command that is none of ours), PaymentFailed (no token), Conflict (its ecash came before).
        """
        text, now = notice.get("token"), self._now()
        if not isinstance(text, str):
            raise InvalidParams("the payment notice of ecash brings no token")
        proofs = decode_token(text).proofs
        ys = await asyncio.to_thread(lambda: [y_of(proof.secret) for proof in proofs])
        command_id, amount = str(notice.get("command_id")), notice.get("amount_sats")
        if not isinstance(amount, int) or amount < 1:
            raise InvalidParams("the payment notice of ecash names no amount")

        def body(tx: Tx) -> None:
            command = self._commands.get(tx, command_id)
            if command is None or command.client_id != client.client_id:
                raise NotFound(f"command {command_id[:40]!a} is none of ours")
            token = TokenIn(
                token_hash=sha256(text.encode()).hex(),
                client_id=client.client_id,
                command_id=command_id,
                context=command.credential_id,
                amount_sats=amount,
                token=text,
                state=TokenState.HELD,
                created=now,
                updated=now,
            )
            self._rows.add(tx, token, ys)

        await self._db.write(body)
        self._spawn(self.tick())

    async def tick(self) -> None:
        """Make our own what is not yet; what its mint does not give out now is tried again, ever later."""
        async with self._turn:
            now = self._now()
            due = await self._db.read(lambda tx: self._rows.due(tx, now, _PER_ROUND))
            if due:
                await self._ready()
            with self._alone.round("tokens") as alone:
                for token in due:
                    with alone(token.token_hash):
                        await self._taken(token)

    async def _taken(self, token: TokenIn) -> None:
        try:
            op = await self._wallet.receive(token.token, _WAIT_S, self._keys.lock(token.context))
        except HiveError as error:
            why = error.detail[:300]
            if error.reason != "token_spent" or not await self._settled(token):
                await self._db.write(lambda tx: self._later(tx, token, why))
            return
        if op.state is OpState.DONE:
            await self._db.write(lambda tx: self._counted(tx, token, op.amount_sats))
        else:
            await self._db.write(lambda tx: self._later(tx, token, "the mint has not answered yet"))

    async def _settled(self, token: TokenIn) -> bool:
        """A token that is spent: by us, of which an older copy of the profile knows nothing, or by whoever
        sent it, who has it back. Whether the mint says which."""
        try:
            worth = await self._wallet.spent_worth(token.token, self._keys.lock(token.context), _WAIT_S)
        except HiveError:
            return False
        now = self._now()

        def body(tx: Tx) -> None:
            if worth is not None:
                self._counted(tx, token, worth)
                text = f"{worth} sat were made ours already, after this copy of the profile was made"
                self._records.add_event(tx, "ecash_taken_before", token.command_id, text, now)
                return
            text = f"{token.amount_sats} sat are spent, and the mint does not show that it was by us"
            if self._rows.put(tx, replace(token, state=TokenState.LOST, why=text, updated=now)):
                self._records.add_event(tx, "ecash_lost", token.command_id, text, now)

        await self._db.write(body)
        return True

    def _counted(self, tx: Tx, token: TokenIn, net_sats: int) -> None:
        now = self._now()
        ours = replace(token, state=TokenState.TAKEN, net_sats=net_sats, why="", updated=now)
        if self._rows.put(tx, ours):
            self._earnings.came(tx, token.command_id, net_sats)

    def _later(self, tx: Tx, token: TokenIn, why: str) -> None:
        now = self._now()
        over = now >= token.created + GIVEN_UP_S
        after = replace(
            token,
            state=TokenState.LOST if over else TokenState.HELD,
            why=why,
            tries=token.tries + 1,
            next_at=now + try_pause_s(token.tries),
            updated=now,
        )
        if self._rows.put(tx, after) and (over or token.tries == 0):
            kind = "ecash_lost" if over else "ecash_waits"
            text = f"{token.amount_sats} sat: {why}"
            self._records.add_event(tx, kind, token.command_id, text, now)

    async def listed(self, limit: int) -> list[TokenIn]:
        """The newest first."""
        return await self._db.read(lambda tx: self._rows.newest(tx, limit))
