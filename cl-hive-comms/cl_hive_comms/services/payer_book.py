"""Who may pay this node by tickets, and the key each of them was told
(docs/protocol/03-escrow-and-payments.md §4.1, §6.6; docs/decisions/0595).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

import msgspec
from hive_shared.cashu.derive import EscrowKeys, public_key
from hive_shared.cashu.escrow_ports import Mail
from hive_shared.cashu.payee_rows import Peer
from hive_shared.cashu.terms import lock_key_text, sign_text
from hive_shared.cashu.ticket_messages import TicketRequest
from hive_shared.crypto import Secret
from hive_shared.errors import Capacity, InvalidParams
from hive_shared.store import Db, Tx

from .ports_identity import FactStore

MOST_KEYS: Final = 1_000
"""Keys that others were told and that have not run out."""
LOCK_KEY_FACT: Final = "lock_key:"
"""Facts of comms_state: the keys that payers were told."""
_DAY_S: Final = 86_400


class LockKey(msgspec.Struct, frozen=True):
    """A key that tickets of a payer are locked to: that of `context`; until `expires_at` (Unix s) new ones
    are taken."""

    payer: str
    context: str
    told_at: int
    expires_at: int


class Announced(msgspec.Struct, frozen=True):
    """What a payer is told: the key (66 hex), our signature that it is ours for `context`, the mints."""

    key: LockKey
    lock_pubkey: str
    binding: str
    mints: tuple[str, ...]


class OwnKeys(Protocol):
    """This node's Nostr identity (services.identity_service.IdentityService)."""

    @property
    def pubkey(self) -> str: ...
    def secret(self) -> Secret: ...
    def all_pubkeys(self) -> tuple[str, ...]: ...


class PayerBook:
    """Payers of this node as `payee_rows.Peers`. `of_tickets` names those whose tickets were taken."""

    def __init__(
        self,
        db: Db,
        facts: FactStore,
        keys: EscrowKeys,
        identity: OwnKeys,
        mail: Mail,
        *,
        of_tickets: Callable[[Tx], Iterable[str]],
        name_of: Callable[[str], str],
        now: Callable[[], int],
    ) -> None:
        self._db, self._facts, self._keys, self._identity, self._mail = db, facts, keys, identity, mail
        self._of_tickets, self._name_of, self._now = of_tickets, name_of, now
        self.known: frozenset[str] = frozenset()
        """Keys whose messages are let in."""

    async def load(self) -> None:
        """Reads who is known; call once at start."""
        self.known = await self._db.read(
            lambda tx: frozenset(
                (*(key.payer for key in self._told(tx, LOCK_KEY_FACT)), *self._of_tickets(tx))
            )
        )

    async def peer(self, key: str) -> Peer | None:
        """A payer by its Nostr key (x-only hex); None for one that was told no key and gave no ticket."""

        if key not in self.known:
            return None
        told = await self._db.read(lambda tx: self._told(tx, f"{LOCK_KEY_FACT}{key}:"))
        now = self._now()
        live = [each for each in told if each.expires_at > now]
        return Peer(
            key=key,
            name=self._name_of(key),
            ids=frozenset((key,)),
            # What the work is, and where, is between the two operators: no command is sent for it.
            node_ids=None,
            ours=frozenset(self._identity.all_pubkeys()),
            lock_keys={public_key(self._keys.lock(each.context)): each.context for each in live},
            credentials=None,
            working=bool(live),
        )

    async def announce(
        self, payer: str, context: str, mints: tuple[str, ...], expires_at: int, *, send: bool
    ) -> Announced:
        """Tell a payer a key for its tickets, the same one for the same context; `send`: by a message too.

        Raises InvalidParams for our own key, Capacity.
        """
        if payer in self._identity.all_pubkeys():
            raise InvalidParams("payer is this node's own key", data={"param": "payer"})
        now = self._now()
        key = LockKey(payer, context, now, expires_at)
        pubkey = public_key(self._keys.lock(context))
        binding = sign_text(self._identity.secret(), lock_key_text(context, pubkey))

        def body(tx: Tx) -> None:
            self.keep(tx, key)
            if send:
                said = TicketRequest(context, pubkey, binding, list(mints))
                self._mail.put(
                    tx, payer, said, key=f"ticket_request:{payer}:{context}:{now}", expires_at=now + _DAY_S
                )

        await self._db.write(body)
        self.let_in(payer)
        if send:
            self._mail.kick()
        return Announced(key, pubkey, binding, mints)

    def let_in(self, payer: str) -> None:
        """From now on its messages are taken."""
        self.known |= {payer}

    def keep(self, tx: Tx, key: LockKey) -> None:
        """Note that a payer is told a key. Raises Capacity at 1,000 that have not run out."""
        live = 0
        for each in self._told(tx, LOCK_KEY_FACT):
            if each.expires_at <= self._now():
                self._facts.delete(tx, _name(each))
            else:
                live += _name(each) != _name(key)
        if live >= MOST_KEYS:
            raise Capacity(f"{live} keys were told to payers, at most {MOST_KEYS} may be: they run out")
        self._facts.put(tx, _name(key), msgspec.json.encode(key).decode(), self._now())

    def _told(self, tx: Tx, prefix: str) -> list[LockKey]:
        texts = self._facts.with_prefix(tx, prefix).values()
        return [msgspec.json.decode(text, type=LockKey) for text in texts]


def _name(key: LockKey) -> str:
    return f"{LOCK_KEY_FACT}{key.payer}:{key.context}"
