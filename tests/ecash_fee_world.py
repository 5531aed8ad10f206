"""A node that sells access for ecash: a pipeline on the database of a wallet at a real mint, and an agent's
wallet that pays it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from access_world import Selling
from cl_hive_comms.services.ecash_fees import EcashFees, HeldFees
from cl_hive_comms.storage.ecash_fee_store import EcashFeeStore
from cl_hive_comms.storage.payment_store import PaymentStore
from ecash_world import EcashWorld, OneMint
from hive_shared.canonical import JsonValue
from hive_shared.cashu.curve import y_of
from hive_shared.cashu.ports import Mint
from hive_shared.cashu.token import decode_token
from hive_shared.cashu.wallet_ends import Holders
from hive_shared.cashu.wire import SpendState
from hive_shared.errors import PaymentFailed
from hive_shared.store import Db
from lock_world import NoAlerts
from pipeline_world import SEALER, View, issue

PRICE = 10


class NamedMint(OneMint):
    """The one mint, and no other."""

    def at(self, url: str) -> Mint:
        if url != self.mint_url:
            raise PaymentFailed(f"{url} is none of your mints", reason="mint_not_allowed")
        return super().at(url)


class Till(EcashWorld):
    """The node's wallet."""

    def open(self) -> None:
        super().open()
        self.mints.__class__ = NamedMint

    def holders_of_wallet(self) -> Holders:
        self.late = NoAlerts()
        return HeldFees(EcashFeeStore(), self.late)


class Shop(Selling):
    """A node whose commands are paid by ecash; to set a fee costs PRICE sat."""

    def __init__(self, directory: Path, mint_url: str, **access: Any) -> None:
        self.till = Till(directory, mint_url)
        self.till.now = int(time.time())
        super().__init__(directory, ("bolt11", "cashu"), **access)
        self.now, self.ms = self.till.now, self.till.now * 1_000
        valid = (self.now - 1_000, self.now + 86_400)
        self.credentials.add(View(issue(valid=valid, access={"model": "per_action", **access}), "adv-1"))

    def _open(self) -> Db:
        return self.till.db

    def _build(self) -> Any:
        made = super()._build()
        made.access.ecash = EcashFees(
            self.db,
            EcashFeeStore(),
            self.till.service,
            self.till.store,
            PaymentStore(SEALER),
            accepted=self.till.mints.accepted,
            now=lambda: self.now,
        )
        return made

    def restart(self) -> None:
        self.db.close()
        self.till.open()
        self.db = self.till.db
        self.pipeline = self._build()

    async def end(self) -> None:
        await self.till.close()


async def token_of(agent: EcashWorld, sats: int, pubkey: str | None = None) -> str:
    """A token of the agent's."""
    return (await agent.service.send(sats, None, pubkey, None, 30)).body.token


def proof_of(token: str) -> dict[str, JsonValue]:
    """The payment proof that brings a token."""
    return {"method": "cashu", "token": token}


async def worth(agent: EcashWorld, token: str) -> int:
    """Sats of a token that nobody spent."""
    proofs = decode_token(token).proofs
    told = {e.Y: e.state for e in await agent.mints.client.checkstate([y_of(p.secret) for p in proofs])}
    return sum(p.amount for p in proofs if told[y_of(p.secret)] is SpendState.UNSPENT)
