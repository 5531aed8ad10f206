"""cl-hive's tickets over a wallet of cl-hive-comms and a real mint, in one process; their payee is the kit's
engine. Each plugin has a database of its own; time is the test's own.

What comms is given to send lies in `letters` until the test carries it over.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cashu_tickets import NODE, PAYEE
from cl_hive.commands.escrow import methods
from cl_hive.plugin.escrow import FleetParts, compose_fleet_escrow
from cl_hive.storage.meta_store import MIGRATIONS
from cl_hive_comms.commands.cashu_calls import SiblingCashuCommands
from cl_hive_comms.services.sibling_answers import SiblingAnswers
from cl_hive_comms.services.sibling_locks import SiblingLocks
from cl_hive_comms.services.sibling_payees import TicketNeeds
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.ticket_messages import Message, Release, Ticket, body_of, decode_message, schema_of
from hive_shared.crypto import Sealer, Secret, cln_sign_message, xonly_pubkey
from hive_shared.errors import HiveError, SiblingUnavailable, by_code
from hive_shared.rate_limit import SlidingWindows
from hive_shared.runtime_spec import parse_params
from hive_shared.signed_message import Draft
from hive_shared.storage.escrow_store import EscrowStore
from hive_shared.storage.families import FLEET_TICKETS
from hive_shared.store import Db
from lock_world import LockWorld
from payee_world import PayeeWorld

AGENT = xonly_pubkey(PAYEE)
NODE_ID = public_key(NODE)
START = 256


class CommsSide(LockWorld):
    """The plugin with the money: its wallet and what it serves to siblings."""

    def __init__(self, directory: Path, mint_url: str, payee: PayeeWorld) -> None:
        self.payee, self.there = payee, True
        self.letters: dict[str, dict[str, Any]] = {}
        self.alerts_told: list[str] = []
        super().__init__(directory, mint_url)
        self.now = int(time.time())

    def open(self) -> None:
        super().open()
        siblings = SiblingLocks(
            *(self.db, self.rows, self.locks, self.book, self.keys),
            nostr_key=lambda: PAYEE,
            read_op=self.store.op,
            answers=self.rows.answers,
        )
        windows = SlidingWindows(lambda: self.now, window_s=3_600)
        self.answers = SiblingAnswers(self.db, self.rows, windows, tell=lambda _: None)
        specs = SiblingCashuCommands(lambda: siblings, lambda: self.service, lambda: self).specs()
        self.served = {spec.name: spec for spec in specs}

    async def needs(self, *_: Any) -> TicketNeeds:
        """What hive-comms-cashu-payee would find."""
        return TicketNeeds(self.payee.lock_pubkey, ((self.mint_url, 1_000),), 3_600, None)

    # -- the hub of cl-hive ----------------------------------------------------------------------------

    def present(self, who: str) -> bool:
        return self.there

    def emergency(self) -> bool:
        return self.stopped

    async def call(
        self, who: str, method: str, params: Mapping[str, Any], *, timeout: float = 30.0
    ) -> dict[str, Any]:
        """As the node carries it: errors are codes, and results JSON."""
        if not self.there:
            raise SiblingUnavailable(f"{method}: cl-hive-comms is not running")
        if method == "hive-comms-send-dm":
            known = self.letters.setdefault(params["idempotency_key"], dict(params))
            assert known["message"] == params["message"], "one key, one message"
            return {"event_id": "", "state": "queued"}
        if method == "hive-comms-alert":
            self.alerts_told.append(params["text"])
            return {}
        spec = self.served[method]
        try:
            return await spec.handler(parse_params(spec, dict(params)))
        except HiveError as error:
            raise by_code(error.code)(error.detail, reason=error.reason, data=error.data) from None


@dataclass
class NodeSide:
    """The node as cl-hive calls it. `receipts` are what hive-client-receipts shows."""

    receipts: list[dict[str, Any]]

    async def signmessage(self, text: str) -> str:
        return cln_sign_message(NODE, text)

    async def call(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if method == "signmessage":
            return {"zbase": await self.signmessage(str(params["message"]))}
        assert method == "hive-client-receipts"
        found = [row for row in self.receipts if row["schema"] == params["schema"]]
        return {"items": [row for row in found if row["created_at"] >= params["since"]]}


class FleetWorld:
    """A node with both plugins. `restart` is what cl-hive does after kill -9, `comms_again` what comms
    does."""

    def __init__(self, directory: Path, mint_url: str) -> None:
        self.directory = directory
        self.payee = PayeeWorld(directory / "payee", mint_url)
        self.comms = CommsSide(directory / "comms", mint_url, self.payee)
        self.payee.now = self.comms.now
        self.node = NodeSide([])
        self.mints: tuple[str, ...] = (mint_url,)
        self.read: set[str] = set()
        self.kicks = 0
        self.before: set[str] = set()
        self.start_sats, self.began = START, 0
        self.open()

    @classmethod
    async def funded(cls, directory: Path, mint_url: str, *, ago_s: int = 0, sats: int = START) -> FleetWorld:
        """With so much ecash; so long ago that locktimes are past for the mint, whose clock is real."""
        world = cls(directory, mint_url)
        await world.comms.service.fund(sats, None, None, 30)
        world.start_sats, world.began = sats, world.comms.now - ago_s
        world.comms.now = world.payee.now = world.began
        return world

    async def anew(self) -> None:
        """A cl-hive that made no ticket yet, at the time when all began; comms keeps what it has."""
        self.before = {row.lock_id for row in await self.locks()} | self.before
        self.comms.letters.clear()
        self.comms.now = self.payee.now = self.began
        self.db.close()
        for file in self.directory.glob("cl_hive.db*"):
            file.unlink()
        self.open()

    def open(self) -> None:
        self.db = Db.open(self.directory / "cl_hive.db", MIGRATIONS)
        sealer = Sealer({1: Secret(b"h" * 32)}, 1)
        self.rows = EscrowStore(sealer, FLEET_TICKETS)
        self.hub: Any = self.comms
        self.parts = self._composed(sealer)
        self.specs = {spec.name: spec for spec in methods(self._calls)}

    def _composed(self, sealer: Sealer) -> FleetParts:
        node: Any = self.node
        return compose_fleet_escrow(
            db=self.db,
            sealer=sealer,
            cln=node,
            hub=self.hub,
            node_id=NODE_ID,
            settlement_mints=lambda: self.mints,
            kicked=self._kicked,
            log=lambda *_, **__: None,
            now=lambda: self.comms.now,
        )

    def _kicked(self) -> None:
        self.kicks += 1

    async def _calls(self) -> Any:
        return self.parts.calls

    def restart(self) -> None:
        """The process died; its database is what is left."""
        self.db.close()
        self.open()

    async def comms_again(self) -> None:
        """comms died and is up again."""
        await self.comms.restart()
        self.comms.there = True

    async def close(self) -> None:
        self.db.close()
        await self.comms.close()
        await self.payee.close()

    async def call(self, name: str, **params: Any) -> dict[str, Any]:
        """hive-escrow-<name>, as the operator types it."""
        spec = self.specs[f"hive-escrow-{name}"]
        return await spec.handler(parse_params(spec, params))

    async def create(self, *amounts: int, key: str = "k", **more: Any) -> dict[str, Any]:
        """A ticket for the payee."""
        given: dict[str, Any] = {
            "agent_id": AGENT,
            "schema_id": "hive:fee-policy/v1",
            "action": "set_single",
            "params_json": {"channel_id": "1x1x1", "fee_ppm": 480},
            "danger_score": 5,
            "idempotency_key": key,
        }
        amount: dict[str, Any] = {"amount_sats": amounts[0]}
        if len(amounts) > 1:
            amount = {"items": [{"amount_sats": each} for each in amounts], "ticket_type": "batch"}
        return await self.call("create", **{**given, **amount, **more})

    async def round(self, *, wait_s: int = 61) -> None:
        """The loops of both plugins, a minute later."""
        if self.comms.there:
            await self.comms.sweep()
        self.comms.now += wait_s
        self.payee.now = self.comms.now
        await self.parts.rounds.tick()

    async def carry(self) -> None:
        """Everything that lies there goes to the payee, and its answers to comms, until all is read."""
        while True:
            await self.round()
            new = {key: row for key, row in self.comms.letters.items() if key not in self.read}
            self.read |= set(new)
            for key, row in new.items():
                assert row["recipient"] == AGENT
                message = decode_message(row["schema"], row["message"])
                if isinstance(message, Ticket):
                    await self.payee.engine.ticket(self.payee.me, message, key)
                elif isinstance(message, Release):
                    await self.payee.engine.released(self.payee.me, message)
            await self.payee.engine.look()
            answers, self.payee.sent = self.payee.sent, []
            for answer in answers:
                await self.tell_us(answer)
            if not new and not answers:
                return

    async def tell_us(self, message: Message, sender: str = AGENT) -> bool:
        """A message of the payee, as comms takes it."""
        now = self.comms.now
        draft = Draft(schema_of(message), os.urandom(8).hex(), "escrow", 1, now, now + 60, body_of(message))
        return await self.comms.answers.take(draft, sender)

    async def status(self, ticket_id: str) -> tuple[str, list[str]]:
        """Of the ticket and of its items."""
        shown = await self.call("get", ticket_id=ticket_id)
        return shown["status"], [item["state"] for item in shown["items"]]

    async def redeemed(self) -> int:
        """Everything that the payee can redeem is its own; its balance."""
        await self.payee.redeemer.redeem(at_once=True)
        return await self.payee.sats()

    async def balanced(self) -> None:
        """Every sat of the payer's is free, locked, or with the payee, but for the mint's fees."""
        comms = self.comms
        ops = [op for op in await comms.ops() if op.kind.value != "fund"]
        assert all(not op.open for op in ops), ops
        fees = sum(op.fee_sats for op in ops if op.state.value == "done")
        locks = await self.all_locks()
        standing = ("locked", "delivered", "refundable", "redeemed")
        face = sum(row.face_sats for row in locks if row.state.value in standing)
        assert await comms.sats() == self.start_sats - face - fees, (face, fees, locks)
        assert await comms.held() == 0

    async def locks(self) -> list[Any]:
        """The locks that comms made for this cl-hive."""
        return [row for row in await self.all_locks() if row.lock_id not in self.before]

    async def all_locks(self) -> list[Any]:
        """With those for the ones before."""
        return await self.comms.db.read(lambda tx: self.comms.rows.page(tx, "hive", None, 1_000))

    def watch(self, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Put something around every disk and sibling call of cl-hive."""
        self.db.write = wrap(self.db.write)
        self.comms.call = wrap(self.comms.call)


def told(world: FleetWorld, row: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """The receipt of a command of the payee."""
    base = {
        "schema": "hive:fee-policy/v1",
        "action": "set_single",
        "agent_id": f"did:nostr:{AGENT}",
        "status": "success",
        "params": {"channel_id": "1x1x1", "fee_ppm": 480, "enforce_delay_s": 600},
        "result": {"applied": True},
        "command_id": "c-1",
        "created_at": world.comms.now,
    }
    return {**base, **row, **changes}
