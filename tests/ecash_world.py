"""An ecash wallet on a database of its own and a real mint, in one process; time is the test's own."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache, partial
from itertools import count
from pathlib import Path

from cl_hive_comms.plugin.parts import MIGRATIONS
from hive_devnet.embedded.bolt11 import Invoice, encode_invoice
from hive_devnet.embedded.keys import NodeKeys
from hive_shared.alerts import Level
from hive_shared.cashu.derive import EscrowKeys
from hive_shared.cashu.journal import Op
from hive_shared.cashu.keysets import Keyset
from hive_shared.cashu.ports import Mint
from hive_shared.cashu.probe import Probe
from hive_shared.cashu.proof_cap import MAX_PROOFS
from hive_shared.cashu.seed_restore import SeedRestore
from hive_shared.cashu.settling import Paid, Settler
from hive_shared.cashu.wallet import Wallet
from hive_shared.cashu.wallet_ends import Holders, Locks, WalletEnds
from hive_shared.cashu.wallet_service import WalletService, chosen_mint
from hive_shared.crypto import Sealer, Secret
from hive_shared.mint_http import Mints
from hive_shared.storage.cashu_store import CashuStore
from hive_shared.storage.families import NODE_ECASH
from hive_shared.store import Db


async def at_once(_seconds: float) -> None:
    """What a pause is to a test."""
    await asyncio.sleep(0)


_KEYSETS: dict[str, dict[str, Keyset]] = {}


_STRANGER = NodeKeys(bytes(31) + b"\x07")


class OneMint:
    """The only mint this wallet knows, whatever a token calls it, unless there are `others`."""

    def __init__(self, mint_url: str, others: Sequence[str] = ()) -> None:
        self.mint_url, self.others = mint_url, tuple(others)
        # Its clock runs fast, so that no test waits for its turn.
        ticks = count(step=30)
        self.reached = Mints(jitter=lambda: 0.0, monotonic=lambda: float(next(ticks)), sleep=at_once)
        self.client = self.reached.at(mint_url)
        self.most_elements: int | None = None

    def at(self, url: str) -> Mint:
        return self.reached.at(url) if url in self.others else self.client

    def accepted(self) -> tuple[str, ...]:
        return (self.mint_url, *self.others)

    async def keysets(self, url: str) -> Mapping[str, Keyset]:
        if url not in _KEYSETS:
            mint = self.at(url)
            _KEYSETS[url] = {each.id: await mint.keyset(each) for each in await mint.keysets()}
        return _KEYSETS[url]

    def array_limit(self, url: str) -> int:
        return self.most_elements or 1_000

    def away_for_s(self, url: str) -> float:
        return self.reached.at(url).traffic.money_in_s

    async def nonconformant(self, url: str, detail: str) -> None:
        pass


class NobodyPays:
    """The mint of the tests pays its own invoices; `end` is what is said of the payment."""

    end: Paid | None = None

    async def pay(self, op: Op) -> str:
        return f"payment of {op.op_id}"

    async def became(self, op: Op) -> Paid | None:
        return self.end


class Invoices:
    """Invoices of this node: the mint of the tests says of each that it paid it."""

    async def make(self, amount_sat: int, description: str) -> str:
        return invoice_of(amount_sat)

    async def paid(self, invoice: str) -> bool:
        return True


@cache
def _migrated(migrations: Path) -> bytes:
    """A database with all its tables: making one syncs the disk at every migration."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "empty.db"
        Db.open(path, migrations).close()
        return path.read_bytes()


class EcashWorld:
    """A wallet with its loop in the test's hands; `restart` is what a process does after kill -9."""

    migrations = MIGRATIONS

    def __init__(
        self,
        directory: Path,
        mint_url: str,
        *,
        seed: bytes = b"",
        looks_ahead: bool = False,
        copy_of: Path | None = None,
        most_proofs: int = MAX_PROOFS,
        others: Sequence[str] = (),
    ) -> None:
        self.looks_ahead, self.most_proofs, self.others = looks_ahead, most_proofs, others
        self.path = directory / "comms.db"
        self.mint_url, self.seed = mint_url, seed or os.urandom(32)
        self.now = 1_800_000_000
        self.alerts: list[tuple[Level, str, str]] = []
        self.stopped = False
        directory.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(_migrated(self.migrations) if copy_of is None else copy_of.read_bytes())
        self.open()

    def open(self) -> None:
        self.db = Db.open(self.path, MIGRATIONS)
        self.store = CashuStore(Sealer({1: Secret(b"k" * 32)}, 1), NODE_ECASH)
        self.mints = OneMint(self.mint_url, self.others)
        keys = self.keys = EscrowKeys(Secret(self.seed))
        self.wallet = Wallet(
            self.db,
            self.store,
            keys,
            now=lambda: self.now,
            random_bytes=os.urandom,
            most_proofs=self.most_proofs,
        )
        self.payer = NobodyPays()
        self.settler = Settler(
            self.db,
            self.store,
            self.mints,
            self.payer,
            WalletEnds(self.store, lambda: self.now, self.locks_of_wallet(), self.holders_of_wallet()),
            now=lambda: self.now,
            alert=self._lost,
        )
        self.service = WalletService(
            self.db,
            self.store,
            self.wallet,
            self.settler,
            self.mints,
            Invoices(),
            keys,
            self._beyond_signed,
            most_sat=lambda: 50_000,
            stopped=lambda: self.stopped,
            alert=self._alert,
            now=lambda: self.now,
            wait=self._wait,
            random_bytes=os.urandom,
            log=lambda *_, **__: None,
        )

    def locks_of_wallet(self) -> Locks | None:
        """What is kept of locks; this world has none."""
        return None

    def holders_of_wallet(self) -> Holders | None:
        """Who decides about what operations hold; nobody in this world."""
        return None

    def restore_from_seed(self) -> SeedRestore:
        """What the operator's `restore` runs."""
        chosen = partial(chosen_mint, self.mints)
        return SeedRestore(
            self.db,
            self.store,
            self.mints,
            self.keys,
            chosen,
            cap=self.wallet.cap,
            now=lambda: self.now,
        )

    def prober(self, **more: object) -> Probe:
        """Probes with this wallet's ecash; the mint's clock is the machine's."""
        return Probe(
            self.wallet,
            self.settler,
            self.mints,
            self.keys,
            **{
                "now": lambda: int(time.time()),
                "sleep": at_once,
                "random_bytes": os.urandom,
                **more,
            },
        )

    async def _beyond_signed(self, mint_url: str, keyset: Keyset) -> None:
        # A hundred outputs asked about at each of a thousand starts would cost more than the tests.
        if self.looks_ahead:
            await self.restore_from_seed().beyond_signed(mint_url, keyset)

    async def _alert(self, level: Level, code: str, text: str) -> None:
        self.alerts.append((level, code, text))

    async def _lost(self, op: Op) -> None:
        self.alerts.append((Level.CRITICAL, op.reason, op.error))

    async def _wait(self, seconds: float) -> None:
        self.now += int(seconds)
        await asyncio.sleep(0)

    async def restart(self) -> None:
        await self.close()
        self.open()

    async def close(self) -> None:
        await self.mints.reached.close()
        self.db.close()

    async def sweep(self) -> None:
        """One round of the loop, as late as it may come."""
        self.now += 900
        await self.service.tick()

    async def sats(self) -> int:
        """What is free to spend."""
        return sum(row["unspent"] for row in (await self.service.balance()).values())

    async def held(self) -> int:
        """Sats an operation holds."""
        return sum(row["pending"] for row in (await self.service.balance()).values())

    async def ops(self) -> Sequence[Op]:
        return await self.service.ops(None, None, 500)

    async def unspent(self) -> list[str]:
        """Names of the proofs that the wallet calls unspent."""
        available = await self.db.read(lambda tx: self.store.available(tx, self.mint_url, 500))
        return [coin.y for coins in available.values() for coin in coins]


def invoice_of(amount_sat: int, at: int | None = None) -> str:
    """A stranger's invoice over an amount: the mint of the tests says of any that it paid it."""
    return encode_invoice(
        Invoice(
            payee=_STRANGER.node_id,
            payment_hash=os.urandom(32).hex(),
            payment_secret=os.urandom(32).hex(),
            created_at=int(time.time()) if at is None else at,
            amount_msat=amount_sat * 1_000,
            description="ecash",
            features="024100",
        ),
        _STRANGER.sign_invoice,
    )
