"""A node whose agent is paid by ecash: a pipeline on the database of a wallet at a real mint, and the agent's
wallet, which takes what it is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cl_hive_comms.services.bearer_pay import BearerPay
from cl_hive_comms.services.payee_keys import PayeeKeys
from cl_hive_comms.storage.advisor_store import AdvisorStore
from cl_hive_comms.storage.payment_store import PaymentStore
from cl_hive_comms.storage.state_store import StateStore
from ecash_world import EcashWorld
from hive_shared.canonical import JsonValue
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.journal import Op, OpKind
from hive_shared.cashu.terms import lock_key_text, sign_text
from hive_shared.cashu.token import decode_token
from hive_shared.cashu.wire import Proof
from hive_shared.cashu.witness import build, inputs_digest, sign
from hive_shared.crypto import sha256
from hive_shared.signed_message import Draft
from hive_shared.store import Db, Tx
from lock_world import BookOfOne, LockWorld
from pipeline_world import AGENT_KEY, NOW, SEALER
from reward_world import AGENT, Rewarding

CREDENTIAL = f"00000000-0000-4000-8000-{1:012x}"


class PurseBook(BookOfOne):
    """The one mint, which the operator takes."""

    def accepted(self) -> tuple[str, ...]:
        return self._one.accepted()


class Purse(LockWorld):
    """The node's wallet; its time is the pipeline's."""

    def open(self) -> None:
        super().open()
        self.book = PurseBook(self.mints)


class AnyCredential(AdvisorStore):
    """The agent's credential is active."""

    def credentials(self, tx: Tx) -> Any:
        class Row:
            agent_key, status, credential_id = AGENT, "active", CREDENTIAL

        return (Row(),)


class Bearing(Rewarding):
    """Agent 1 earns 25 sat per action and takes ecash; to set a fee has danger 2."""

    def __init__(self, directory: Path, mint_url: str, **compensation: Any) -> None:
        self.purse = Purse(directory, mint_url)
        self.purse.now = NOW
        self.agent = EcashWorld(directory / "agent", mint_url)
        self.taken: list[int] = []
        super().__init__(directory, **compensation)

    def _open(self) -> Db:
        return self.purse.db

    def restart(self) -> None:
        if hasattr(self, "debts"):
            self.db.close()
            self.purse.open()
        self.db = self.purse.db
        self.pipeline = self._build()
        self._pay()
        self.announced = PayeeKeys(self.db, StateStore(), AnyCredential(), now=lambda: self.now)
        self.bearer = BearerPay(
            self.db,
            PaymentStore(SEALER),
            self.purse.rows,
            self.purse.locks,
            self.purse.book,
            self.purse.keys,
            self.announced,
            self.push,
            self.out,
            most_locked=lambda: 250_000,
            restored=lambda _tx: self.restored,
            now=lambda: self.now,
        )
        self.purse.locks.on_change(self.bearer.on_lock)
        self.pipeline.rewards.bearer = self.debts.bearer = self.bearer

    async def restarted(self) -> None:
        """`restart`, with the connections to the mint that were cut off."""
        await self.purse.mints.reached.close()
        self.restart()
        await self.pipeline.timers.tick()

    def pass_time(self, seconds: int) -> None:
        super().pass_time(seconds)
        self.purse.now = self.now

    async def announce(self, mints: list[str] | None = None) -> None:
        """The agent tells its key."""
        key = public_key(self.agent.keys.lock(CREDENTIAL))
        body: Any = {
            "context": CREDENTIAL,
            "lock_pubkey": key,
            "binding": sign_text(AGENT_KEY, lock_key_text(CREDENTIAL, key)),
            "mints": [self.purse.mint_url] if mints is None else mints,
        }
        uuid = "00000000-0000-4000-8000-000000000002"
        await self.announced.take(
            Draft("hive:escrow/ticket_request", uuid, "t", 1, self.now, self.now + 60, body), AGENT
        )

    async def work(self, base_msat: int = 1_100, channel: str = "101x1x0", **options: Any) -> Any:
        """A command of danger 2 that claims ecash; its response."""
        params: dict[str, JsonValue] = {"channel_id": channel, "base_msat": base_msat}
        options = {"payment_proof": {"method": "cashu"}, **options}
        return await self.ask("hive:fee-policy/v1", "set_single", params, **options)

    async def minute(self) -> None:
        self.purse.now = self.now
        await self.purse.service.tick()
        await self.purse.locks.tick()
        await super().minute()

    def tokens(self) -> list[str]:
        """Ecash that the agent was sent."""
        return [notice["token"] for notice in self.notices() if "token" in notice]

    async def take(self, token: str) -> Op:
        """The agent makes a token its own."""
        given, key = decode_token(token), self.agent.keys.lock(CREDENTIAL)
        proofs = [
            Proof(p.amount, p.id, p.secret, p.C, build(None, [sign(key, inputs_digest(p.secret))]), p.dleq)
            for p in given.proofs
        ]
        return await self.agent.service.swap_in(
            self.purse.mint_url, sha256(token.encode()).hex(), proofs, OpKind.RECEIVE
        )

    async def end(self) -> None:
        await self.purse.close()
        await self.agent.close()
