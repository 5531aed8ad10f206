"""The payee of tickets with a wallet of its own on the kit's database, at a real mint; time is the test's
own, and `restart` is what a process does after kill -9.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cashu_tickets import LOCK_SEED, NODE, NOW, PAYEE, PAYER, document, item, preimage
from ecash_world import Invoices, NobodyPays, OneMint
from hive_advisor.advisor import MIGRATIONS
from hive_advisor.domain.ticket import OwnHash
from hive_advisor.storage.ticket_hash_store import TicketHashStore
from hive_advisor.storage.ticket_store import TicketStore
from hive_shared.cashu.derive import EscrowKeys, public_key
from hive_shared.cashu.keysets import Keyset
from hive_shared.cashu.mint_caps import Caps
from hive_shared.cashu.payee import PayeeEngine
from hive_shared.cashu.payee_rows import HeldItem, HeldTicket, Peer, Share
from hive_shared.cashu.ports import Mint
from hive_shared.cashu.redeeming import Redeemer
from hive_shared.cashu.settling import Settler
from hive_shared.cashu.terms import Terms, decode_terms, sign_text, terms_hash, terms_json, terms_text
from hive_shared.cashu.ticket import lock_outputs
from hive_shared.cashu.ticket_messages import Message, Release, Ticket
from hive_shared.cashu.token import Token, encode_token
from hive_shared.cashu.wallet import Wallet
from hive_shared.cashu.wallet_ends import WalletEnds
from hive_shared.cashu.wallet_service import WalletService
from hive_shared.cashu.wire import Proof
from hive_shared.crypto import Sealer, Secret, sha256, xonly_pubkey
from hive_shared.mint_http import MintHttp
from hive_shared.storage.cashu_store import CashuStore
from hive_shared.store import Db, Tx
from locked_at_mint import locked

CONTEXT = "00000000-0000-4000-8000-0000000000aa"
PROBED = Caps(htlc=True, multisig=True, sigall=True, late_redeem=True, restore=True, n_sigs_refund=True)


@cache
def _migrated() -> bytes:
    """A database with all its tables: making one syncs the disk at every migration."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "empty.db"
        Db.open(path, MIGRATIONS).close()
        return path.read_bytes()


class ProbedMint(OneMint):
    """The one mint, and what a probe saw of it."""

    caps: Caps | None = PROBED

    def probed(self, url: str) -> Caps | None:
        return self.caps

    async def keysets_now(self, url: str) -> Mapping[str, Keyset]:
        return await OneMint.keysets(self, url)

    def at(self, url: str) -> Mint:
        assert url.rstrip("/") in self.accepted(), f"{url} is none of ours"
        return super().at(url)


class PayeeWorld:
    """One payee; `sent` is what it told its payers, in order."""

    def __init__(
        self, directory: Path, mint_url: str, *, seed: bytes = b"", others: Sequence[str] = ()
    ) -> None:
        self.path, self.others = directory / "advisor.db", others
        self.mint_url, self.seed = mint_url, seed or os.urandom(32)
        self.now = NOW
        self.sent: list[Message] = []
        self.events: list[tuple[str, str, str]] = []
        self.caps: Caps | None = PROBED
        self._keys_sent: set[str] = set()
        directory.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(_migrated())
        self.keys = EscrowKeys(Secret(self.seed))
        self.lock_pubkey = public_key(self.keys.lock(CONTEXT))
        self.me = Peer(
            key=xonly_pubkey(PAYER),
            name="alice",
            ids=frozenset((xonly_pubkey(PAYER), public_key(NODE))),
            node_ids=frozenset((public_key(NODE),)),
            ours=frozenset((xonly_pubkey(PAYEE),)),
            lock_keys={self.lock_pubkey: CONTEXT},
            credentials=frozenset((CONTEXT,)),
        )
        self.open()

    def open(self) -> None:
        self.db = Db.open(self.path, MIGRATIONS)
        sealer = Sealer({1: Secret(b"k" * 32)}, 1)
        self.store, self.rows = CashuStore(sealer, "adv_cashu"), TicketStore(sealer)
        self.hashes = TicketHashStore(sealer)
        self.mints = ProbedMint(self.mint_url, self.others)
        self.mints.caps = self.caps
        self.wallet = Wallet(self.db, self.store, self.keys, now=lambda: self.now, random_bytes=os.urandom)
        settler = Settler(
            self.db,
            self.store,
            self.mints,
            NobodyPays(),
            WalletEnds(self.store, lambda: self.now),
            now=lambda: self.now,
            alert=self._alert,
        )
        self.service = WalletService(
            self.db,
            self.store,
            self.wallet,
            settler,
            self.mints,
            Invoices(),
            self.keys,
            self._beyond,
            most_sat=lambda: 50_000,
            stopped=lambda: False,
            alert=self._alert,
            now=lambda: self.now,
            wait=self._wait,
            random_bytes=os.urandom,
            log=lambda *_, **__: None,
            owner="kit",
        )
        self.engine = PayeeEngine(
            self.db, self.rows, self.mints, self.keys, self, self, self, told=self._told, now=lambda: self.now
        )
        self.redeemer = Redeemer(
            self.db,
            self.rows,
            self.engine,
            self.mints,
            self.service,
            self.keys,
            self,
            told=self._told,
            now=lambda: self.now,
            random_bytes=os.urandom,
        )

    async def peer(self, key: str) -> Peer | None:
        return self.me if key == self.me.key else None

    def preimage(self, tx: Tx, peer: str, hash_: str, ticket_id: str) -> str | None:
        own = self.hashes.own(tx, hash_)
        if own is None or own.peer != peer or own.ticket_id not in ("", ticket_id):
            return None
        return own.preimage

    def bind(self, tx: Tx, hash_: str, ticket_id: str, i: int) -> None:
        self.hashes.bind_own(tx, hash_, ticket_id, i)

    async def own_hash(self, plain: bytes) -> str:
        """A preimage of the payee's own, for the payer of this world."""
        made = OwnHash(sha256(plain).hex(), plain.hex(), "client", self.me.key, "", self.now)
        await self.db.write(lambda tx: self.hashes.add_own(tx, [made]))
        return made.hash

    def put(self, tx: Tx, peer: str, message: Message, key: str) -> None:
        assert peer == self.me.key
        if key not in self._keys_sent:
            self._keys_sent.add(key)
            self.sent.append(message)

    def _told(self, tx: Tx, kind: str, ticket_id: str, text: str) -> None:
        self.events.append((kind, ticket_id, text))

    async def _alert(self, *_: object) -> None:
        return

    async def _beyond(self, mint_url: str, keyset: Keyset) -> None:
        return

    async def _wait(self, seconds: float) -> None:
        self.now += int(seconds)

    async def restart(self) -> None:
        await self.close()
        self.open()

    async def close(self) -> None:
        await self.mints.reached.close()
        self.db.close()

    # -- what a payer does ---------------------------------------------------------------------------

    def terms(self, *amounts: int, items: Sequence[Mapping[str, Any]] = (), **changes: Any) -> Terms:
        """Terms as an honest payer of this payee writes them."""
        parts = items or [item(number, amount) for number, amount in enumerate(amounts)]
        given = {
            "ticket_id": secrets.token_hex(16),
            "salt": secrets.token_hex(16),
            "payee": {"id": xonly_pubkey(PAYEE), "lock_pubkey": self.lock_pubkey},
            "mints": [{"url": self.mint_url, "permille": 1_000}],
            **changes,
        }
        return decode_terms(document(parts, **given))

    async def keyset(self) -> Keyset:
        (active,) = [each for each in (await self.mints.keysets(self.mint_url)).values() if each.active]
        return active

    async def lock(self, terms: Terms) -> list[list[Proof]]:
        """The proofs of every item, locked at the mint."""
        keyset, client = await self.keyset(), self.mints.client
        assert isinstance(client, MintHttp)
        outputs = [lock_outputs(terms, part.i, 0, keyset, LOCK_SEED) for part in terms.items]
        proofs = await locked(client, keyset, [each for few in outputs for each in few])
        found = []
        for few in outputs:
            found.append(proofs[: len(few)])
            proofs = proofs[len(few) :]
        return found

    def message(self, terms: Terms, proofs: Sequence[Proof], **changes: Any) -> Ticket:
        """The whole ticket in one message."""
        given: dict[str, Any] = {
            "ticket_id": terms.ticket_id,
            "tokens": [encode_token(Token(self.mint_url, tuple(proofs)))],
            "terms": terms_json(terms),
            "sig": signature(terms),
            **changes,
        }
        return Ticket(**given)

    async def hand_over(self, terms: Terms) -> list[list[Proof]]:
        """Lock a ticket, send it, and have it checked."""
        proofs = await self.lock(terms)
        await self.engine.ticket(self.me, self.message(terms, [p for few in proofs for p in few]), "m1")
        await self.engine.look()
        return proofs

    async def release(self, ticket_id: str, number: int) -> None:
        """The payer reveals an item's preimage."""
        await self.engine.released(self.me, Release(ticket_id, number, preimage(number).hex()))

    # -- what the test looks at ----------------------------------------------------------------------

    async def ticket(self, ticket_id: str) -> HeldTicket:
        found = await self.db.read(lambda tx: self.rows.ticket(tx, ticket_id))
        assert found is not None
        return found

    async def items(self, ticket_id: str) -> Sequence[HeldItem]:
        return await self.db.read(lambda tx: self.rows.items(tx, ticket_id))

    async def states(self, ticket_id: str) -> list[str]:
        return [str(each.state) for each in await self.items(ticket_id)]

    async def shares(self, ticket_id: str) -> Sequence[Share]:
        items = await self.items(ticket_id)
        return [
            s for i in items for s in await self.db.read(lambda tx, i=i: self.rows.shares(tx, ticket_id, i.i))
        ]

    async def sats(self) -> int:
        """What is free to spend."""
        return sum(row["unspent"] for row in (await self.service.balance()).values())


def signature(terms: Terms) -> str:
    """The payer's on these terms."""
    return sign_text(PAYER, terms_text(terms_hash(terms)))
