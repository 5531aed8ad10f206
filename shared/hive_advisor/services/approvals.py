"""Approver for other nodes: requests kept, shown, voted on (docs/protocol/11-advisor-kit.md §7, §15.6).

A vote is a control command of ours without a credential. It is stored before it leaves, and a vote whose
answer is missing goes out again as the same bytes: one vote per key counts at the node.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from hive_shared import envelope
from hive_shared.crypto import schnorr_sign, xonly_pubkey
from hive_shared.errors import Ambiguous, Conflict, InvalidParams, NotFound, from_symbol
from hive_shared.registry import CONTROL
from hive_shared.store import Db, Tx

from hive_advisor.domain.answer import Answer
from hive_advisor.domain.approval_request import ApprovalRequest, Decision, check_request
from hive_advisor.domain.keyring import Keyring
from hive_advisor.domain.rows import Client
from hive_advisor.services.commands import DEATH_MARGIN_S
from hive_advisor.services.ports import ApprovalRows, ClientRows, Link, RecordRows
from hive_advisor.services.shared_key import SharedKeyService

MAX_WAITING: Final = 100
"""What one node may have waiting with us: as many commands as it lets wait in all (02 §7.3)."""

_SKEW_S: Final = 300
_VOTE_GOOD_S: Final = 3_600


class ApprovalService:
    """Keeps requests and votes. `inbox_relays` finds where a node reads, by its key."""

    def __init__(
        self,
        db: Db,
        rows: ApprovalRows,
        clients: ClientRows,
        records: RecordRows,
        link: Link,
        keyring: Keyring,
        shared_key: SharedKeyService,
        *,
        inbox_relays: Callable[[str], Awaitable[Sequence[str]]],
        relays: Sequence[str],
        now: Callable[[], int],
        now_us: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._db, self._rows, self._clients, self._records = db, rows, clients, records
        self._link, self._keyring, self._shared = link, keyring, shared_key
        self._inbox_relays, self._relays = inbox_relays, tuple(relays)
        self._now, self._now_us, self._new_id = now, now_us, new_id
        self._moved = asyncio.Condition()

    # -- what comes in -------------------------------------------------------------------------------

    async def take(self, node_key: str, params: Mapping[str, Any], agent_key: str) -> ApprovalRequest:
        """Check and keep a request that `node_key` signed for `agent_key`, one of ours; one that is known
        changes nothing.

        Raises InvalidParams, Unsupported, Conflict.
        """
        request = check_request(params, node_key=node_key, agent_key=agent_key, now=self._now())

        def body(tx: Tx) -> ApprovalRequest:
            known = self._rows.of_command(tx, node_key, request.command_id)
            if known is not None:
                if known.command_hash != request.command_hash:
                    raise Conflict("the node asked about another command under the same command id before")
                return known
            if self._rows.waiting_of(tx, node_key) >= MAX_WAITING:
                raise Conflict(f"{MAX_WAITING} requests of this node wait for a vote already")
            self._rows.add(tx, request)
            self._rows.drop_old(tx, self._now())
            self._records.add_event(tx, "approval_request", request.approval_id, request.action, self._now())
            return request

        return await self._db.write(body)

    async def answered(self, node_key: str, answer: Answer) -> bool:
        """An answer that `node_key` signed: the node's word on a vote of ours. False when it is to none."""
        nonce = str(answer.document.get("request_nonce"))

        if not nonce.isascii() or not nonce.isdecimal() or len(nonce) > 18:
            return False
        request = await self._db.read(lambda tx: self._rows.of_vote(tx, node_key, int(nonce)))
        if request is None:
            return False
        approval_id, counted = request.approval_id, answer.status == 0

        def body(tx: Tx) -> None:
            self._rows.answered(tx, approval_id, counted, answer.slug, answer.sentence[:500])
            client = self._clients.by_node_key(tx, node_key)
            name = f"node-{node_key[:12]}" if client is None else client.alias
            last = self._rows.last_nonce(tx, node_key) if client is None else client.last_nonce
            self._shared.answered(tx, node_key, name, answer, last, approval_id)
            state = "counted" if counted else "refused"
            self._records.add_event(tx, f"vote_{state}", approval_id, answer.slug or "", self._now())

        await self._db.write(body)
        async with self._moved:
            self._moved.notify_all()
        return True

    # -- what people see and say ---------------------------------------------------------------------

    async def get(self, approval_id: str) -> ApprovalRequest:
        """By id or a unique prefix of at least 4 hex digits. Raises InvalidParams, NotFound, Ambiguous."""
        if not 4 <= len(approval_id) <= 16 or not set(approval_id) <= set("0123456789abcdef"):
            raise InvalidParams(f"{approval_id!r} is not an approval id or a prefix of at least 4 hex digits")
        found = await self._db.read(lambda tx: self._rows.find(tx, approval_id))
        if not found:
            raise NotFound(f"no approval request {approval_id!r}; see 'hive-advisor approvals list'")
        if len(found) > 1:
            raise Ambiguous(
                f"{approval_id!r} fits several requests",
                data={"candidates": [each.approval_id for each in found]},
            )
        return found[0]

    async def listed(self, *, expired: bool, limit: int) -> list[ApprovalRequest]:
        """Requests that still wait, the most urgent first; `expired` adds those whose time is over."""
        since = 0 if expired else self._now()
        return list(await self._db.read(lambda tx: self._rows.listed(tx, since, limit)))

    async def node_of(self, request: ApprovalRequest) -> tuple[str, bool]:
        """What to call the asking node, and whether we know it: a client we accepted, or voted for before."""

        def body(tx: Tx) -> tuple[str, bool]:
            client = self._clients.by_node_key(tx, request.node_key)
            if client is not None and client.state != "offered":
                return client.alias, client.state != "suspect"
            return f"node-{request.node_key[:12]}", self._rows.voted_for(tx, request.node_key)

        return await self._db.read(body)

    async def vote(self, request: ApprovalRequest, decision: Decision, wait_s: int) -> ApprovalRequest:
        """Sign, keep and send a vote; returns the request as it is after at most `wait_s` seconds.

        The caller has made sure that a human said so (PIN). Raises Conflict when the other decision was
        signed before, PolicyDenied (approval_expired) after the node's deadline.
        """
        if self._now() >= request.expires:
            raise from_symbol("approval_expired", f"the node stopped waiting at {request.expires}")
        voted = await self._db.write(lambda tx: self._signed(tx, request.approval_id, decision))
        if voted.state == "sent":
            await self._send(voted)
        return await self._settled(voted.approval_id, wait_s)

    async def send_unanswered(self) -> int:
        """Votes without an answer go out again, the same bytes; how many."""
        if await self._shared.found() is not None:
            return 0
        waiting = await self._db.read(lambda tx: self._rows.unanswered(tx, self._now()))
        for request in waiting:
            await self._send(request)
        return len(waiting)

    def _signed(self, tx: Tx, approval_id: str, decision: Decision) -> ApprovalRequest:
        request = self._rows.get(tx, approval_id)
        if request is None:
            raise NotFound(f"no approval request {approval_id!r}")
        if request.state in ("sent", "counted") and request.decision != decision:
            raise Conflict(f"you voted {request.decision} on it; the first vote of a key counts")
        alive = request.state == "sent" and self._now() < (request.vote_died or 0)
        if request.state == "counted" or alive:
            return request
        self._shared.check(tx)
        secret = self._keyring.secret(request.agent_key or self._keyring.pubkeys[0])
        client = self._clients.by_node_key(tx, request.node_key)
        if client is not None:
            nonce = self._clients.take_nonce(tx, client.client_id, self._now_us())
        else:
            nonce = max(self._rows.last_nonce(tx, request.node_key) + 1, self._now_us())
        now = self._now()
        timestamp = now + (client.offset_s if client else 0)
        digest = envelope.approve_digest(request.command_hash, decision)
        document: dict[str, Any] = {
            "v": 1,
            "command_id": self._new_id(),
            "schema_type": CONTROL,
            "schema_payload": {
                "action": decision,
                "params": {
                    "command_id": request.command_id,
                    "sig": schnorr_sign(secret, digest),
                },
            },
            "payment_proof": {"method": "none"},
            "nonce": nonce,
            "timestamp": timestamp,
            "node": request.node_key,
            "sender": xonly_pubkey(secret),
            "reply_relays": list(self._relays[:3]),
        }
        signed = envelope.sign_command(secret, document)
        died = now + (client.max_skew_s if client else _SKEW_S) + DEATH_MARGIN_S
        if not self._rows.vote(tx, approval_id, decision, signed, nonce=nonce, died=died, now=now):
            raise Conflict("the request moved meanwhile; look at it again")
        return self._rows.get(tx, approval_id) or request

    async def _send(self, request: ApprovalRequest) -> None:
        content = json.dumps(request.vote, separators=(",", ":"), ensure_ascii=False)
        client = await self._db.read(lambda tx: self._clients.by_node_key(tx, request.node_key))
        relays = await self._where(request.node_key, client)
        expires_at = (request.decided or self._now()) + _VOTE_GOOD_S
        sender = str((request.vote or {})["sender"])
        await self._link.deliver(request.node_key, content, relays, expires_at=expires_at, sender=sender)

    async def _where(self, node_key: str, client: Client | None) -> Sequence[str]:
        known = client.relays if client is not None else await self._inbox_relays(node_key)
        return tuple(dict.fromkeys((*known, *self._relays)))

    async def _settled(self, approval_id: str, wait_s: int) -> ApprovalRequest:
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            request = await self.get(approval_id)
            left = deadline - asyncio.get_running_loop().time()
            if request.state != "sent" or left <= 0:
                return request
            async with self._moved:
                try:
                    await asyncio.wait_for(self._moved.wait(), min(left, 5))
                except TimeoutError:
                    pass
