"""Clients as payers of tickets, and what they have to know to make one: the key that we lock tickets to and
the mints that we accept (docs/protocol/03-escrow-and-payments.md §4.1, §6.6).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from hive_shared.cashu.derive import EscrowKeys, public_key
from hive_shared.cashu.payee_rows import Peer
from hive_shared.cashu.terms import lock_key_text, sign_text
from hive_shared.cashu.ticket_messages import Message, TicketRequest, body_of, schema_of
from hive_shared.crypto import sha256
from hive_shared.errors import NotFound
from hive_shared.store import Db, Tx

from hive_advisor.domain.keyring import Keyring
from hive_advisor.domain.rows import Client, StoredCredential
from hive_advisor.services.ports import ClientRows
from hive_advisor.services.signed_mail import SignedMail

_WORKED_FOR: Final = ("active", "paused", "suspect", "ended")
"""Clients whose earlier tickets still count; what is new is taken from the first two."""
_ANSWERED_WITH: Final = ("ticket_ack", "ticket_reject")


class TicketPeers:
    """Clients as `payee_rows.Peers`."""

    def __init__(self, db: Db, clients: ClientRows, keyring: Keyring, keys: EscrowKeys) -> None:
        self._db, self._clients, self._keyring, self._keys = db, clients, keyring, keys

    async def peer(self, key: str) -> Peer | None:
        """A client by its node key."""

        def body(tx: Tx) -> tuple[Client | None, list[StoredCredential]]:
            client = self._clients.by_node_key(tx, key)
            return client, [] if client is None else self._clients.credentials(tx, client.client_id)

        client, credentials = await self._db.read(body)
        if client is None or client.state not in _WORKED_FOR:
            return None
        ours = [each for each in credentials if each.state in ("active", "superseded")]
        contexts = [context for each in ours for context in _contexts(each)]
        return Peer(
            key=key,
            name=client.alias,
            ids=frozenset((client.node_key, client.node_id)),
            node_ids=frozenset((client.node_id,)),
            ours=frozenset(each.agent_key for each in ours if each.agent_key in self._keyring),
            lock_keys={public_key(self._keys.lock(context)): context for context in contexts},
            credentials=frozenset(each.credential_id for each in ours),
            working=client.state in ("active", "paused"),
        )


class TicketOffers:
    """Tells every client that may pay by tickets what it needs for one; again when that changed."""

    def __init__(
        self,
        db: Db,
        clients: ClientRows,
        keyring: Keyring,
        keys: EscrowKeys,
        mail: SignedMail,
        *,
        mints: Callable[[], Sequence[str]],
    ) -> None:
        self._db, self._clients, self._keyring = db, clients, keyring
        self._keys, self._mail, self._mints = keys, mail, mints

    async def tell(self) -> None:
        """Nothing is said while no mint is accepted, and the same thing once."""
        mints = tuple(self._mints())
        if not mints:
            return
        if await self._db.read(lambda tx: self._untold(tx, mints)):
            await self._db.write(lambda tx: self._tell(tx, mints))
            self._mail.kick()

    def _untold(self, tx: Tx, mints: tuple[str, ...]) -> bool:
        return any(
            not self._mail.has(tx, client, _name(credential, context, mints))
            for client, credential in self._payers(tx)
            for context in _contexts(credential)
        )

    def _tell(self, tx: Tx, mints: tuple[str, ...]) -> None:
        wanted = [(*each, context) for each in self._payers(tx) for context in _contexts(each[1])]
        for client, credential, context in wanted:
            pubkey = public_key(self._keys.lock(context))
            secret = self._keyring.secret(credential.agent_key)
            binding = sign_text(secret, lock_key_text(context, pubkey))
            request = TicketRequest(context, pubkey, binding, list(mints))
            self._mail.put(
                tx,
                client,
                schema_of(request),
                body_of(request),
                name=_name(credential, context, mints),
                sender=credential.agent_key,
            )

    def _payers(self, tx: Tx) -> list[tuple[Client, StoredCredential]]:
        return [
            (client, credential)
            for client in self._clients.all(tx)
            if client.state == "active"
            for credential in self._clients.credentials(tx, client.client_id)
            if credential.state == "active" and credential.agent_key in self._keyring
        ]


def _contexts(credential: StoredCredential) -> tuple[str, ...]:
    """What keys are derived for: the contract, where there is one, and the credential by itself."""
    contract = (credential.contract_id,) if credential.contract_id else ()
    return (credential.credential_id, *contract)


def _name(credential: StoredCredential, context: str, mints: tuple[str, ...]) -> str:
    told = sha256(" ".join((context, credential.agent_key, *mints)).encode()).hex()
    return f"ticket_request:{told[:32]}"


class TicketMail:
    """`payee_rows.Outgoing` over the kit's signed messages."""

    def __init__(
        self, clients: ClientRows, keyring: Keyring, mail: SignedMail, payee: Callable[[Tx, str], str]
    ) -> None:
        """`payee` is the key of ours that the terms of a ticket name; empty where there are none."""
        self._clients, self._keyring, self._mail, self._payee = clients, keyring, mail, payee

    def put(self, tx: Tx, peer: str, message: Message, key: str) -> None:
        """Keep a message for a client by its node key, signed by the key that the ticket is payable to: its
        payer takes it from no other. Raises NotFound for one that was forgotten."""
        client = self._clients.by_node_key(tx, peer)
        if client is None:
            raise NotFound("the client of this ticket is gone")
        verb, _, cause = key.partition(":")
        answers = cause.rpartition(":")[2] if verb in _ANSWERED_WITH else ""
        payee = self._payee(tx, str(getattr(message, "ticket_id", "")))
        self._mail.put(
            tx,
            client,
            schema_of(message),
            body_of(message),
            name=key,
            sender=payee if payee in self._keyring else None,
            answers=answers,
        )
