"""Clients: offers received, accepted, renamed, paused (docs/protocol/11-advisor-kit.md §4)."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Protocol

from hive_shared.credential import Credential
from hive_shared.errors import Conflict, CredentialInvalid, NotFound
from hive_shared.store import Db, Tx

from hive_advisor.domain.engagement import Link
from hive_advisor.domain.keyring import Keyring
from hive_advisor.domain.names import check_alias, offered_alias
from hive_advisor.domain.offer import Offer
from hive_advisor.domain.rows import EMERGENCY_STOP, Client, ClientState, StoredCommand, StoredCredential
from hive_advisor.services.ports import ClientRows, RecordRows

_MAX_OFFERS = 20


class OfferedContracts(Protocol):
    """Contracts that credentials are offered for (services.contracts.ContractService)."""

    def link(self, tx: Tx, contract_id: str, node_key: str, credential: Credential) -> Link | None: ...
    def joined(self, tx: Tx, link: Link, credential_id: str) -> None: ...


class ClientService:
    """Owns the states of clients and their credentials."""

    def __init__(
        self, db: Db, clients: ClientRows, records: RecordRows, keyring: Keyring, now: Callable[[], int]
    ) -> None:
        self._db, self._clients, self._records, self._now = db, clients, records, now
        self._keyring = keyring

    async def all(self) -> list[Client]:
        return await self._db.read(self._clients.all)

    async def named(self, alias: str) -> Client:
        """The client with this local alias. Raises NotFound, InvalidParams."""
        _, key = check_alias(alias)
        client = await self._db.read(lambda tx: self._clients.by_alias_key(tx, key))
        if client is None:
            raise NotFound(f"no client is called {alias!r}; see 'hive-advisor client list'")
        return client

    async def with_node_key(self, node_key: str) -> Client | None:
        return await self._db.read(lambda tx: self._clients.by_node_key(tx, node_key))

    async def credentials(self, client: Client) -> list[StoredCredential]:
        """Newest first."""
        return await self._db.read(lambda tx: self._clients.credentials(tx, client.client_id))

    async def usable_credential(self, client: Client, *, though_stopped: bool = False) -> StoredCredential:
        """The credential a command would use now. Raises Conflict (client state), CredentialInvalid.

        A client that has not re-issued it for the key in use still has one for the key before. Asking how it
        stands is allowed `though_stopped`, while the node's emergency stop is on.
        """
        if client.state != "active" and not (though_stopped and client.stopped):
            how = {
                "offered": "accept it with 'hive-advisor client accept'",
                "paused": "its operator stopped all commands; 'hive-advisor client capabilities' asks whether"
                " that is over"
                if client.stopped
                else "resume it with 'hive-advisor client resume'",
                "suspect": f"{client.suspect_why}; look into it, then 'hive-advisor client resume'",
                "ended": "its credential is gone; ask the operator for a new one",
            }[client.state]
            raise Conflict(f"client {client.alias!r} is {client.state}: {how}")
        for credential in await self.credentials(client):
            if credential.state == "active" and self._now() < credential.valid_until:
                self._keyring.secret(credential.agent_key)
                return credential
        raise CredentialInvalid(
            f"no valid credential for {client.alias!r}; ask its operator to authorise you again",
            reason="credential_expired",
        )

    async def credential_about(self, client: Client, command: StoredCommand) -> StoredCredential:
        """The credential for asking about a command: a node tells only the key that sent it.

        Raises Conflict (client state), CredentialInvalid.
        """
        usable = await self.usable_credential(client)
        if usable.agent_key == command.sender:
            return usable
        self._keyring.secret(command.sender)
        used = await self._db.read(lambda tx: self._clients.credential(tx, command.credential_id))
        if used is None or self._now() >= used.valid_until:
            raise CredentialInvalid(
                "the credential of that command has ended, and the node tells nobody else about it",
                reason="credential_expired",
            )
        return used

    async def unmoved(self) -> list[str]:
        """Aliases of the clients whose credential is for a replaced key, in order."""
        found = []
        for client in await self.all():
            live = [c for c in await self.credentials(client) if c.state in ("active", "offered")]
            if live and not any(c.agent_key == self._keyring.current for c in live):
                found.append(client.alias)
        return found

    async def record_offer(
        self, offer: Offer, accept: bool, contracts: OfferedContracts | None = None
    ) -> tuple[Client, bool]:
        """Store a checked offer. Returns the client and whether the offer is new. One for a contract that we
        signed is taken without a question.

        A node we know keeps its pins: an offer with another node_id was refused before (``pinned``).
        """
        return await self._db.write(lambda tx: self._record(tx, offer, accept, contracts))

    def _record(
        self, tx: Tx, offer: Offer, accept: bool, contracts: OfferedContracts | None
    ) -> tuple[Client, bool]:
        now = self._now()
        named = offer.contract_id if contracts is not None else ""
        link = contracts.link(tx, named, offer.node_key, offer.credential) if contracts and named else None
        known = self._clients.by_node_key(tx, offer.node_key)
        if known is not None and known.node_id != offer.node_id:
            raise Conflict(f"{known.alias!r} is pinned to another node id; its key alone cannot change that")
        fresh = self._clients.credential(tx, offer.credential.credential_id) is None
        if known is None:
            known = Client(
                client_id=str(uuid.uuid4()),
                alias=offered_alias(offer.node_key),
                node_key=offer.node_key,
                node_id=offer.node_id,
                network=offer.network,
                relays=offer.relays,
                max_skew_s=offer.max_skew_s,
                state="offered",
                created=now,
                updated=now,
                remote_name=offer.remote_name,
            )
            self._clients.add(tx, known, check_alias(known.alias)[1])
            self._clients.drop_oldest_offer(tx, _MAX_OFFERS)
        else:
            self._clients.refresh_offer(
                tx, known.client_id, offer.relays, offer.max_skew_s, offer.remote_name, now
            )
        wanted = (accept and not named) or link is not None
        taken = (wanted or (known.state in ("active", "paused") and not named)) and not self._outdated(
            tx, known, offer
        )
        if fresh:
            self._clients.add_credential(
                tx,
                StoredCredential(
                    offer.credential.credential_id,
                    known.client_id,
                    offer.document,
                    "offered",
                    offer.credential.valid_until,
                    now,
                    "" if link is None else offer.contract_id,
                    None if link is None else link.engagement.scope,
                ),
            )
            self._records.add_event(tx, "credential_offer", known.alias, offer.credential.credential_id, now)
            if taken:
                self._activate(tx, known.client_id, offer.credential.credential_id)
            if link is not None and contracts is not None:
                contracts.joined(tx, link, offer.credential.credential_id)
            elif named:
                self._records.add_event(tx, "unknown_contract", known.alias, named, now)
        return self._clients.by_id(tx, known.client_id) or known, fresh

    def _outdated(self, tx: Tx, known: Client, offer: Offer) -> bool:
        """Whether it is for a replaced key while the client has moved to the one in use already."""
        current = self._keyring.current
        return offer.credential.agent_key != current and any(
            c.state == "active" and c.agent_key == current
            for c in self._clients.credentials(tx, known.client_id)
        )

    def _activate(self, tx: Tx, client_id: str, credential_id: str) -> None:
        for other in self._clients.credentials(tx, client_id):
            if other.state == "active" and other.credential_id != credential_id:
                # The node refuses the old one from now on (docs/protocol/02-fleet-management.md §2.5 Renew).
                self._clients.set_credential_state(tx, other.credential_id, "superseded")
        self._clients.set_credential_state(tx, credential_id, "active")
        client = self._clients.by_id(tx, client_id)
        if client is not None and client.state in ("offered", "ended"):
            self._clients.set_state(tx, client_id, "active", self._now())

    async def accept(self, client: Client, name: str | None) -> tuple[Client, StoredCredential]:
        """Take the newest offered credential, naming the client. Raises Conflict, InvalidParams."""
        alias, key = check_alias(name if name is not None else client.alias)

        def body(tx: Tx) -> tuple[Client, StoredCredential]:
            offered = next(
                (c for c in self._clients.credentials(tx, client.client_id) if c.state == "offered"), None
            )
            if offered is None:
                raise Conflict(f"{client.alias!r} has no offered credential to accept")
            self._rename(tx, client, alias, key)
            self._activate(tx, client.client_id, offered.credential_id)
            self._records.add_event(tx, "accepted", alias, offered.credential_id, self._now())
            return self._clients.by_id(tx, client.client_id) or client, offered

        return await self._db.write(body)

    async def decline(self, client: Client) -> StoredCredential:
        """Refuse the offered credential; a client without another one is ended."""

        def body(tx: Tx) -> StoredCredential:
            found = self._clients.credentials(tx, client.client_id)
            offered = next((c for c in found if c.state == "offered"), None)
            if offered is None:
                raise Conflict(f"{client.alias!r} has no offered credential to decline")
            self._clients.set_credential_state(tx, offered.credential_id, "declined")
            if not any(c.state == "active" for c in found):
                self._clients.set_state(tx, client.client_id, "ended", self._now())
            return offered

        return await self._db.write(body)

    async def rename(self, client: Client, name: str) -> Client:
        """Give the client another local alias. Raises Conflict when it is taken."""
        alias, key = check_alias(name)

        def body(tx: Tx) -> Client:
            self._rename(tx, client, alias, key)
            return self._clients.by_id(tx, client.client_id) or client

        return await self._db.write(body)

    def _rename(self, tx: Tx, client: Client, alias: str, key: str) -> None:
        other = self._clients.by_alias_key(tx, key)
        if other is not None and other.client_id != client.client_id:
            raise Conflict(f"another client is called {other.alias!r} already")
        self._clients.rename(tx, client.client_id, alias, key, self._now())

    async def pause(self, client: Client) -> None:
        """No more commands to this client until resumed. Raises Conflict."""
        await self._switch(client, ("active",), "paused")

    async def resume(self, client: Client) -> None:
        """A human looked: writes may go on. Raises Conflict."""
        await self._switch(client, ("paused", "suspect"), "active")

    async def _switch(self, client: Client, allowed: tuple[str, ...], to: ClientState) -> None:
        if client.state not in allowed:
            raise Conflict(f"client {client.alias!r} is {client.state}, not {' or '.join(allowed)}")
        await self._db.write(lambda tx: self._clients.set_state(tx, client.client_id, to, self._now()))

    async def stopped(self, client: Client) -> None:
        """The operator's emergency stop is on: nothing more is sent until the node answers capabilities."""

        def body(tx: Tx) -> None:
            current = self._clients.by_id(tx, client.client_id)
            if current is not None and current.state == "active":
                self._clients.set_state(tx, client.client_id, "paused", self._now(), EMERGENCY_STOP)
                self._records.add_event(tx, "paused", client.alias, EMERGENCY_STOP, self._now())

        await self._db.write(body)

    async def asked(self, client: Client) -> None:
        """Note the time at which we asked a stopped node how it stands."""
        now = self._now()
        await self._db.write(
            lambda tx: self._clients.set_state(tx, client.client_id, client.state, now, client.suspect_why)
        )

    async def answered_again(self, client: Client) -> None:
        """The node answered capabilities: a pause by its emergency stop is over. A human's own is not."""

        def body(tx: Tx) -> None:
            current = self._clients.by_id(tx, client.client_id)
            if current is not None and current.stopped:
                self._clients.set_state(tx, client.client_id, "active", self._now())
                self._records.add_event(tx, "resumed", client.alias, EMERGENCY_STOP, self._now())

        await self._db.write(body)

    async def suspect(self, client: Client, why: str) -> None:
        """Stop writing to a client that answered something it must not."""

        def body(tx: Tx) -> None:
            self._clients.set_state(tx, client.client_id, "suspect", self._now(), why)
            self._records.add_event(tx, "suspect", client.alias, why, self._now())

        await self._db.write(body)

    async def revoked(self, client: Client, credential_id: str, reason: str) -> bool:
        """The node withdrew a credential. False when it is not one of this client's."""

        def body(tx: Tx) -> bool:
            credential = self._clients.credential(tx, credential_id)
            if credential is None or credential.client_id != client.client_id:
                return False
            self._clients.set_credential_state(tx, credential_id, "revoked")
            live = [c for c in self._clients.credentials(tx, client.client_id) if c.state == "active"]
            if not live:
                self._clients.set_state(tx, client.client_id, "ended", self._now())
            self._records.add_event(tx, "credential_revoked", client.alias, reason, self._now())
            return True

        return await self._db.write(body)
