"""Which key the tickets of an agent are locked to, and which mints it takes: what it said itself, bound to
its identity (docs/protocol/03-escrow-and-payments.md §4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, Protocol

import msgspec
from hive_shared.cashu.mint_url import normal_mint_url
from hive_shared.cashu.terms import lock_key_text, signed_by
from hive_shared.cashu.ticket_messages import TicketRequest, decode_message
from hive_shared.errors import InvalidParams, Unauthorized
from hive_shared.signed_message import Draft
from hive_shared.store import Db, Tx

from ..domain.advisor import CredentialRow
from .ports_identity import FactStore

MOST_CONTRACTS: Final = 32
"""Contracts of one agent that a key is kept for."""
PAYEE_KEY_FACT: Final = "payee_key:"
"""Facts of comms_state: the keys that agents told."""


class PayeeKey(msgspec.Struct, frozen=True):
    """What an agent announced for one credential or contract: the key its tickets are locked to (66 hex),
    its mints in normal form; `told_at` is when, by its own clock (Unix s)."""

    lock_pubkey: str
    mints: tuple[str, ...]
    told_at: int


class Credentials(Protocol):
    """The credentials that were issued."""

    def credentials(self, tx: Tx) -> Sequence[CredentialRow]: ...


class PayeeKeys:
    """Keeps the newest word of each agent for each credential and contract. Handles
    `hive:escrow/ticket_request`."""

    def __init__(self, db: Db, facts: FactStore, credentials: Credentials, *, now: Callable[[], int]) -> None:
        self._db, self._facts, self._credentials, self._now = db, facts, credentials, now

    async def take(self, message: Draft, sender: str) -> None:
        """An agent's announcement; one that is older than what is known changes nothing.

        Raises InvalidParams for a body that is none, Unauthorized where the agent has no active credential,
        the context is another's, or its key is not bound to it.
        """
        body = decode_message(message.schema, message.body)
        if not isinstance(body, TicketRequest):
            raise InvalidParams(f"{message.schema} is no announcement of a key")
        if not signed_by(sender, lock_key_text(body.context, body.lock_pubkey), body.binding):
            raise Unauthorized("the lock key is not bound to its sender", reason="bad_signature")
        said = PayeeKey(body.lock_pubkey, _normal(body.mints), message.sent_at)
        await self._db.write(lambda tx: self._keep(tx, sender, body.context, said))

    def of(self, tx: Tx, agent_key: str, contexts: Iterable[str]) -> PayeeKey | None:
        """What an agent (x-only hex) announced last for one of these credentials or contracts; None where it
        did not."""
        known = [self._known(tx, agent_key, context) for context in contexts]
        return max((each for each in known if each is not None), key=lambda key: key.told_at, default=None)

    def newest(self, tx: Tx, agent_key: str) -> PayeeKey | None:
        """What an agent announced last, for whatever it was."""
        texts = self._facts.with_prefix(tx, f"{PAYEE_KEY_FACT}{agent_key}:").values()
        told = (msgspec.json.decode(text, type=PayeeKey) for text in texts)
        return max(told, key=lambda key: key.told_at, default=None)

    def _keep(self, tx: Tx, sender: str, context: str, said: PayeeKey) -> None:
        rows = self._credentials.credentials(tx)
        own = {row.credential_id for row in rows if row.agent_key == sender and row.status == "active"}
        if not own or (context not in own and any(row.credential_id == context for row in rows)):
            raise Unauthorized(f"the sender has no active credential for {context}", reason="unauthorized")
        known = self._known(tx, sender, context)
        if known is None and context not in own:
            self._make_room(tx, sender, own)
        if known is None or known.told_at <= said.told_at:
            text = msgspec.json.encode(said).decode()
            self._facts.put(tx, f"{PAYEE_KEY_FACT}{sender}:{context}", text, self._now())

    def _make_room(self, tx: Tx, sender: str, own: Collection[str]) -> None:
        """Of the contracts that an agent names the newest stay."""
        prefix = f"{PAYEE_KEY_FACT}{sender}:"
        told = {
            name: msgspec.json.decode(text, type=PayeeKey).told_at
            for name, text in self._facts.with_prefix(tx, prefix).items()
            if name.removeprefix(prefix) not in own
        }
        for name in sorted(told, key=told.__getitem__)[: max(0, len(told) - MOST_CONTRACTS + 1)]:
            self._facts.delete(tx, name)

    def _known(self, tx: Tx, agent_key: str, context: str) -> PayeeKey | None:
        text = self._facts.get(tx, f"{PAYEE_KEY_FACT}{agent_key}:{context}")
        return None if text is None else msgspec.json.decode(text, type=PayeeKey)


def _normal(mints: Sequence[str]) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(normal_mint_url(url) for url in mints))
    except ValueError as error:
        raise InvalidParams(f"ticket_request: {str(error)[:200]}") from None
