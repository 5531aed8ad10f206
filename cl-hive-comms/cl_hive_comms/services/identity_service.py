"""The node's Nostr identity: made once from the node seed, sealed at rest, replaced only by the operator.

docs/protocol/08-client-and-plugins.md §6 "Identity". A node restored from `hsm_secret` keeps its npub,
because the first key is derived; an imported key lives in the database alone.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from hive_shared.cln import ClnError
from hive_shared.crypto import Sealer, Secret, xonly_pubkey
from hive_shared.errors import Conflict, InvalidParams
from hive_shared.sealed_file import read_secret_file
from hive_shared.store import Db, Tx

from cl_hive_comms.domain.identity import SEED_STRING, KeyRecord, KeyRing, derive, usable
from cl_hive_comms.services.ports_commands import Fault, no_fault
from cl_hive_comms.services.ports_identity import Clock, KeyStore, Log, MakeSecret, RandomBytes

_RING = "config:identity"
_KEY = "config:key:"
_HEX: Final = re.compile(r"[0-9A-Fa-f]+\Z")

Announce = Callable[[KeyRecord, KeyRecord, Secret], Awaitable[Callable[[Tx], None]]]
"""Prepares, from old and new key and the new secret, what the transaction of a rotation also stores: the
notices to advisors."""
ImportGuard = Callable[[Tx, str], None]
"""Asked in the transaction that would store an imported key, by its public half; raises to refuse it."""


class IdentityService:
    """Owns the node's Nostr keys. Load once with `load_or_create`; afterwards reads come from memory."""

    def __init__(
        self,
        db: Db,
        store: KeyStore,
        sealer: Sealer,
        *,
        makesecret: MakeSecret,
        now: Clock,
        random_bytes: RandomBytes,
        log: Log,
        fault: Fault = no_fault,
    ) -> None:
        self._db, self._store, self._sealer, self._fault = db, store, sealer, fault
        self._makesecret, self._now, self._random_bytes, self._log = makesecret, now, random_bytes, log
        self._ring: KeyRing | None = None
        self._secrets: dict[str, Secret] = {}
        self.warnings: list[str] = []
        """Sentences about the stored key that the operator should read."""
        self._listeners: list[Callable[[], Awaitable[None]]] = []
        self.announce: Announce | None = None
        """Set by the composition root; without it a rotation is told to nobody."""
        self.import_guards: list[ImportGuard] = []
        """What must not be so for a key to be imported; filled by the composition root."""
        self.changing = asyncio.Lock()
        """Held by whoever replaces or adds keys: two at a time would lose the key of one."""

    # -- reads ---------------------------------------------------------------------------------------

    @property
    def ring(self) -> KeyRing:
        """The keys; raises RuntimeError before `load_or_create`."""
        if self._ring is None:
            raise RuntimeError("the identity is not loaded yet")
        return self._ring

    @property
    def pubkey(self) -> str:
        """The current x-only public key, 64 hex digits."""
        return self.ring.current.pubkey

    @property
    def npub(self) -> str:
        """The current public key as people read it."""
        from hive_shared.nostr.keys import npub_encode

        return npub_encode(self.pubkey)

    def secret(self) -> Secret:
        """The current private key."""
        return self._secrets[self.pubkey]

    def secret_of(self, pubkey: str) -> Secret | None:
        """The private key of a readable public key of ours, else None."""
        return self.readable_secrets().get(pubkey)

    def readable_secrets(self) -> dict[str, Secret]:
        """Every key that still opens messages, by public key: the current one and old ones for 30 days."""
        readable = self.ring.with_secret(self._now())
        # After a clock step back a key may count as readable again although its secret is erased.
        return {key.pubkey: self._secrets[key.pubkey] for key in readable if key.pubkey in self._secrets}

    def all_pubkeys(self) -> tuple[str, ...]:
        """The current key and all earlier ones: keys that may have signed our receipts."""
        return (self.pubkey, *(key.pubkey for key in self.ring.old))

    def on_change(self, listener: Callable[[], Awaitable[None]]) -> None:
        """`listener` is awaited after the key was replaced."""
        self._listeners.append(listener)

    # -- life ----------------------------------------------------------------------------------------

    async def load_or_create(self, nsec: Secret | None = None, nsec_file: str = "") -> None:
        """Load the stored key, or make the first one: imported if the operator gave one, else derived.

        Raises InvalidParams when the key given by option cannot be read, SealBroken when the stored one
        does not open (another node's database).
        """
        given = self._given_key(nsec, nsec_file)
        stored = await self._db.read(self._load)
        if stored is not None:
            self._ring, self._secrets = stored
            if given is not None and xonly_pubkey(given) != self.pubkey:
                self._warn("the key given by option differs from the stored one and is not used")
            return
        now = self._now()
        if given is not None:
            key, origin, generation = given, "imported", 0
        else:
            key, origin, generation = await self._first_key()
        record = KeyRecord(xonly_pubkey(key), origin, now)
        await self._save(KeyRing(record, (), generation), {record.pubkey: key})

    async def rotate(self) -> KeyRecord:
        """Replace the key by the next generation; the old one stays readable for 30 days. The new record.

        Raises Conflict when a restore or a migration changed the keys meanwhile.
        """
        async with self.changing:
            key, generation = await self._derived(self.ring.next_generation)
            origin = f"derived:{generation}"
            if key is None:
                key, origin = self._random_key(), "random"
            return await self._replace(key, origin, generation + 1)

    async def import_key(self, key: Secret) -> KeyRecord:
        """Replace the key by one of the operator's (`parse_key`, `read_key_file`), as a rotation does.

        Raises Conflict when it is the current one already, or when a guard refuses it.
        """
        async with self.changing:
            if xonly_pubkey(key) == self.pubkey:
                raise Conflict("this key is this node's key already; nothing was changed")
            return await self._replace(key, "imported", self.ring.next_generation, self.import_guards)

    async def check_import(self, key: Secret) -> None:
        """Raise what `import_key` would refuse this key with, and change nothing."""
        pubkey = xonly_pubkey(key)
        if pubkey == self.pubkey:
            raise Conflict("this key is this node's key already; nothing was changed")
        await self._db.read(lambda tx: [guard(tx, pubkey) for guard in self.import_guards])

    # -- inside --------------------------------------------------------------------------------------

    async def _replace(
        self, key: Secret, origin: str, next_generation: int, guards: Sequence[ImportGuard] = ()
    ) -> KeyRecord:
        now = self._now()
        record = KeyRecord(xonly_pubkey(key), origin, now)
        before = self.ring
        ring = before.replaced(record, now, next_generation)
        announced = None if self.announce is None else await self.announce(before.current, record, key)

        def also(tx: Tx) -> None:
            for guard in guards:
                guard(tx, record.pubkey)
            if announced is not None:
                announced(tx)

        await self._fault("key_before_store")
        await self._save(ring, {**self._secrets, record.pubkey: key}, also, instead_of=before)
        await self._fault("key_after_store")
        self._log("info", "identity_changed", origin=origin)
        for listener in self._listeners:
            await listener()
        return record

    async def _save(
        self,
        ring: KeyRing,
        secrets: dict[str, Secret],
        also: Callable[[Tx], None] | None = None,
        *,
        instead_of: KeyRing | None = None,
    ) -> None:
        def body(tx: Tx) -> set[str]:
            if instead_of is not None and self.stored_ring(tx) != instead_of:
                raise Conflict("the keys of this node were changed meanwhile; look at them and try again")
            wanted = self.store_in(tx, ring, secrets)
            if also is not None:
                also(tx)
            return wanted

        wanted = await self._db.write(body)
        self._ring, self._secrets = ring, {pubkey: secrets[pubkey] for pubkey in wanted}

    def store_in(self, tx: Tx, ring: KeyRing, secrets: Mapping[str, Secret]) -> set[str]:
        """Store keys in the caller's transaction; the public keys whose private half is kept. `reload` after
        the commit."""
        now = self._now()
        wanted = {key.pubkey for key in ring.with_secret(now) if key.pubkey in secrets}
        for row in self._store.with_prefix(tx, _KEY):
            if row.removeprefix(_KEY) not in wanted:
                self._store.delete(tx, row)
        for pubkey in wanted:
            sealed = self._sealer.seal("nostr_state", _KEY + pubkey, "value", secrets[pubkey].reveal())
            self._store.put(tx, _KEY + pubkey, sealed, now)
        self._store.put(tx, _RING, ring.to_bytes(), now)
        return wanted

    def stored_ring(self, tx: Tx) -> KeyRing:
        """The keys as the caller's transaction has them."""
        raw = self._store.get(tx, _RING)
        return self.ring if raw is None else KeyRing.from_bytes(raw)

    async def reload(self) -> None:
        """Take over what `store_in` stored; listeners learn of a new current key."""
        before = self.pubkey
        stored = await self._db.read(self._load)
        if stored is None:
            raise RuntimeError("the stored identity is gone")
        self._ring, self._secrets = stored
        if self.pubkey != before:
            self._log("info", "identity_changed", origin=self.ring.current.origin)
            for listener in self._listeners:
                await listener()

    def _load(self, tx: Tx) -> tuple[KeyRing, dict[str, Secret]] | None:
        raw = self._store.get(tx, _RING)
        if raw is None:
            return None
        ring = KeyRing.from_bytes(raw)
        secrets = {}
        for key in ring.with_secret(self._now()):
            blob = self._store.get(tx, _KEY + key.pubkey)
            if blob is None and key is not ring.current:
                continue
            opened = self._sealer.open("nostr_state", _KEY + key.pubkey, "value", blob or b"")
            secrets[key.pubkey] = Secret(opened)
        return ring, secrets

    async def _first_key(self) -> tuple[Secret, str, int]:
        key, generation = await self._derived(0)
        if key is None:
            self._warn("the node cannot derive secrets; the key is random and lives in the database alone")
            return self._random_key(), "random", 0
        return key, f"derived:{generation}", generation + 1

    async def _derived(self, generation: int) -> tuple[Secret | None, int]:
        try:
            seed = await self._makesecret(SEED_STRING)
        except ClnError as error:
            if not error.is_unknown_command:
                raise
            return None, generation
        return derive(seed, generation)

    def _random_key(self) -> Secret:
        while True:
            key = self._random_bytes(32)
            if usable(key):
                return Secret(key)

    def _given_key(self, nsec: Secret | None, nsec_file: str) -> Secret | None:
        if nsec is not None:
            return parse_key(nsec)
        return read_key_file(Path(nsec_file)) if nsec_file else None

    def _warn(self, sentence: str) -> None:
        self.warnings.append(sentence)
        self._log("warning", "identity", note=sentence)


def read_key_file(path: Path) -> Secret:
    """The key in a file that only its owner can read. Raises InvalidParams, which never shows the content."""
    return parse_key(read_secret_file(path, "key"))


def parse_key(text: Secret) -> Secret:
    """The private key behind `nsec1…` or 64 hex digits. Raises InvalidParams, which never shows the text."""
    try:
        shown = text.reveal().decode().strip()
    except UnicodeDecodeError:
        raise InvalidParams("the Nostr key is not text; give nsec1... or 64 hex digits") from None
    folded = shown.lower()
    if folded.startswith("nsec1"):
        return _nsec(shown)
    if problem := _not_a_key(folded):
        raise InvalidParams(f"the Nostr key was not taken: {problem}")
    key = bytes.fromhex(folded)
    if not usable(key):
        raise InvalidParams("the Nostr key was not taken: these 64 hex digits are outside the curve's range")
    return Secret(key)


def _nsec(shown: str) -> Secret:
    from hive_shared.nostr.keys import nsec_decode

    try:
        return nsec_decode(shown)
    except ValueError as error:
        raise InvalidParams(f"the Nostr key was not taken: {error}") from None


def _not_a_key(folded: str) -> str:
    """Why a text cannot be 64 hex digits, as its owner would like to hear it; empty when it is."""
    if not folded:
        return "it is empty"
    if folded.startswith("ncryptsec1"):
        return (
            "it is encrypted (ncryptsec1...), and passwords are not taken here; have your Nostr client show"
            " it as nsec1... and give that in a file"
        )
    if folded.startswith(("npub1", "nprofile1")):
        return "that is a public key; the private one begins with nsec1"
    if len(folded.split()) > 1:
        return "it has several words; give nsec1... or 64 hex digits, not a recovery phrase"
    if not _HEX.match(folded):
        return "it is neither nsec1... nor 64 hex digits"
    return "" if len(folded) == 64 else f"it has {len(folded)} hex digits, a key has 64"
