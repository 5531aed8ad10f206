"""Hashes that tickets are made with before they are locked: those a node keeps the preimages of, where its
credential lets us ask, and our own for tickets in mode receipt
(docs/protocol/03-escrow-and-payments.md §6.3, §6.5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from hive_shared.cashu.terms import task_params_hash
from hive_shared.cashu.ticket_messages import SecretHashes, SecretRequest, body_of, schema_of
from hive_shared.crypto import sha256
from hive_shared.errors import Capacity, Conflict, CredentialInvalid, InvalidParams, RateLimited
from hive_shared.registry import find, parse_params
from hive_shared.signed_message import Draft
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from hive_advisor.domain.rows import Client, StoredCredential
from hive_advisor.domain.ticket import ASKED_S, HASHES_UNUSED_S, REQUESTS_AN_HOUR, HashRequest, OwnHash
from hive_advisor.services.ports import RecordRows
from hive_advisor.services.signed_mail import SignedMail

CAPABILITY: Final = "escrow_secret_generation"
MAX_HASHES: Final = 512
MAX_FREE: Final = 1_024
"""Preimages of ours for one client that no ticket used."""
_KEPT_S: Final = 30 * 86_400


class HashRows(Protocol):
    """storage.ticket_hash_store.TicketHashStore, where the methods are described."""

    def add_request(self, tx: Tx, request: HashRequest) -> None: ...
    def request(self, tx: Tx, request_id: str) -> HashRequest | None: ...
    def requests(self, tx: Tx, client_id: str, since: int) -> list[HashRequest]: ...
    def answer(self, tx: Tx, request: HashRequest) -> None: ...
    def forget_requests(self, tx: Tx, before: int) -> None: ...
    def add_own(self, tx: Tx, rows: Sequence[OwnHash]) -> None: ...
    def own(self, tx: Tx, hash_: str) -> OwnHash | None: ...
    def free_own(self, tx: Tx, client_id: str) -> int: ...
    def bind_own(self, tx: Tx, hash_: str, ticket_id: str, i: int) -> None: ...
    def forget(self, tx: Tx, client_id: str) -> int: ...


class TicketHashes:
    """Owns them; `payee_rows.OwnHashes` for the engine of tickets."""

    def __init__(
        self,
        db: Db,
        rows: HashRows,
        records: RecordRows,
        mail: SignedMail,
        *,
        now: Callable[[], int],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._db, self._rows, self._records, self._mail = db, rows, records, mail
        self._now, self._random_bytes = now, random_bytes
        self._answered = asyncio.Condition()

    # -- the node's ------------------------------------------------------------------------------------

    async def ask(
        self,
        client: Client,
        credential: StoredCredential,
        schema: str,
        action: str,
        params: Mapping[str, Any],
        count: int,
    ) -> HashRequest:
        """Ask a client for hashes of a task, whose preimages it keeps; the same question while it is open is
        the same one.

        Raises CredentialInvalid where the credential does not let us, InvalidParams, Unsupported, Conflict
        while another count was asked for, RateLimited at 30 an hour.
        """
        if credential.document.get("constraints", {}).get(CAPABILITY) is not True:
            raise CredentialInvalid(
                f"{client.alias!r} does not let us ask for hashes: its credential has no {CAPABILITY}"
            )
        if not 1 <= count <= MAX_HASHES:
            raise InvalidParams(f"count is {count}: 1 to {MAX_HASHES} hashes are asked for at once")
        spec = find(schema, action)
        task = task_params_hash(spec.schema, spec.name, parse_params(spec, dict(params)))
        asked = await self._db.write(lambda tx: self._asked(tx, client, credential, task, count))
        self._mail.kick()
        return asked

    def _asked(
        self, tx: Tx, client: Client, credential: StoredCredential, task: str, count: int
    ) -> HashRequest:
        now = self._now()
        before = self._rows.requests(tx, client.client_id, now - ASKED_S)
        for one in before:
            if one.params_hash == task and not one.hashes:
                if one.count != count:
                    raise Conflict(
                        f"{one.count} hashes were asked for this task at {one.asked_at} and are not answered"
                        " yet: ask for as many again, or wait for a day",
                        reason="stale_state",
                    )
                return one
        if sum(one.asked_at > now - 3_600 for one in before) >= REQUESTS_AN_HOUR:
            raise RateLimited(f"{client.alias!r} was asked {REQUESTS_AN_HOUR} times within the hour")
        self._rows.forget_requests(tx, now - _KEPT_S)
        made = HashRequest(self._random_bytes(16).hex(), client.client_id, task, count, now)
        self._rows.add_request(tx, made)
        said = SecretRequest(task, count)
        self._mail.put(
            tx,
            client,
            schema_of(said),
            body_of(said),
            name=f"secret_request:{made.request_id}",
            sender=credential.agent_key,
        )
        return made

    async def told(self, client: Client, message: SecretHashes, draft: Draft) -> None:
        """A node's answer, which it signed. Raises Conflict for one that nobody asked for."""
        await self._db.write(lambda tx: self._take(tx, client, message, draft))
        async with self._answered:
            self._answered.notify_all()

    def _take(self, tx: Tx, client: Client, message: SecretHashes, draft: Draft) -> None:
        before = self._rows.requests(tx, client.client_id, self._now() - _KEPT_S)
        open_ = [one for one in before if one.params_hash == message.task_params_hash and not one.hashes]
        hashes = tuple(message.hashes)
        if not open_ or open_[0].count != len(hashes):
            raise Conflict(f"{client.alias} sends hashes that it was not asked for", reason="stale_state")
        known = {each for one in before for each in one.hashes}
        if known & set(hashes):
            raise Conflict(
                f"{client.alias} tells a hash again: no two items may share one", reason="hash_used"
            )
        until = draft.sent_at - client.offset_s + HASHES_UNUSED_S
        answered = replace(open_[0], hashes=hashes, answered_at=self._now(), expires_at=until)
        self._rows.answer(tx, answered)
        text = f"{len(hashes)} hashes for tickets of {message.task_params_hash}"
        self._records.add_event(tx, "ticket_hashes", answered.request_id, text, self._now())

    async def answer_to(self, request_id: str, wait_s: float) -> HashRequest:
        """A request as it stands once it is answered, after `wait_s` seconds at the latest."""

        async def answered() -> None:
            async with self._answered:
                while not (await self._one(request_id)).hashes:
                    await self._answered.wait()

        try:
            async with asyncio.timeout(wait_s):
                await answered()
        except TimeoutError:
            pass
        return await self._one(request_id)

    async def asked_of(self, client: Client) -> list[HashRequest]:
        """What a client was asked within 30 days, the newest first."""
        since = self._now() - _KEPT_S
        return (await self._db.read(lambda tx: self._rows.requests(tx, client.client_id, since)))[::-1]

    async def _one(self, request_id: str) -> HashRequest:
        found = await self._db.read(lambda tx: self._rows.request(tx, request_id))
        assert found is not None
        return found

    # -- our own ---------------------------------------------------------------------------------------

    async def make(self, client: Client, count: int, label: str) -> list[str]:
        """Hashes of preimages of ours, kept before they are told, for a client that pays by a ticket in mode
        receipt. Raises InvalidParams, Capacity at 1,024 that no ticket used."""
        if not 1 <= count <= MAX_HASHES:
            raise InvalidParams(f"count is {count}: 1 to {MAX_HASHES} hashes are made at once")
        now, plain = self._now(), [self._random_bytes(32) for _ in range(count)]
        made = [
            OwnHash(sha256(each).hex(), each.hex(), client.client_id, client.node_key, label, now)
            for each in plain
        ]

        def body(tx: Tx) -> None:
            free = self._rows.free_own(tx, client.client_id)
            if free + count > MAX_FREE:
                raise Capacity(
                    f"{free} hashes made for {client.alias!r} have no ticket: at most {MAX_FREE} may wait"
                )
            self._rows.add_own(tx, made)

        await self._db.write(body)
        return [each.hash for each in made]

    def preimage(self, tx: Tx, peer: str, hash_: str, ticket_id: str) -> str | None:
        """The preimage of a hash that was made for a peer and is no other ticket's; 64 hex."""
        own = self._rows.own(tx, hash_)
        if own is None or own.peer != peer or own.ticket_id not in ("", ticket_id):
            return None
        return own.preimage

    def bind(self, tx: Tx, hash_: str, ticket_id: str, i: int) -> None:
        """An accepted ticket has it from now on. Raises Conflict."""
        self._rows.bind_own(tx, hash_, ticket_id, i)

    def forget(self, tx: Tx, client_id: str) -> int:
        """Erase what is kept of a client; how many rows."""
        return self._rows.forget(tx, client_id)
