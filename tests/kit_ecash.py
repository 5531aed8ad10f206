"""The kit's ecash wallet on a database of its own and a real mint; time is the test's own."""

from __future__ import annotations

import os
from pathlib import Path

from ecash_world import EcashWorld, OneMint
from hive_advisor.advisor import MIGRATIONS
from hive_advisor.ecash import Ecash
from hive_advisor.services.alerts import AlertService
from hive_advisor.storage.alert_store import AlertStore
from hive_advisor.storage.client_store import ClientStore
from hive_advisor.storage.record_store import RecordStore
from hive_shared.cashu.derive import EscrowKeys
from hive_shared.cashu.keysets import Keyset
from hive_shared.cashu.seed_restore import SeedRestore
from hive_shared.crypto import Sealer, Secret
from hive_shared.store import Db


class KitEcash(EcashWorld):
    """The same wallet as the plugin's, on the tables of a profile; it has no node of its own."""

    migrations = MIGRATIONS
    probing = False
    """Whether the mint is probed as it comes; a probe costs a few sats."""

    def open(self) -> None:
        self.db = Db.open(self.path, MIGRATIONS)
        self.mints = OneMint(self.mint_url)
        self.keys = EscrowKeys(Secret(self.seed))
        clients = ClientStore()
        alerts = AlertService(self.db, AlertStore(), clients, RecordStore(), lambda: self.now)
        self.ecash = Ecash(
            self.db,
            Sealer({1: Secret(b"k" * 32)}, 1),
            self.keys,
            clients,
            alerts,
            self.mints.reached,
            named=(self.mint_url,),
            halted=lambda: self.stopped,
            now=lambda: self.now,
            wait=self._wait,
            rng=os.urandom,
            most_proofs=self.most_proofs,
        )
        self.store, self.wallet = self.ecash.store, self.ecash.wallet
        self.settler, self.service = self.ecash.settler, self.ecash.service
        self.ecash.probing = self.probing
        if not self.looks_ahead:
            self.service._beyond_signed = self._not_ahead

    async def _not_ahead(self, mint_url: str, keyset: Keyset) -> None:
        """A hundred outputs asked about at each of a thousand starts would cost more than the tests."""

    def restore_from_seed(self) -> SeedRestore:
        return self.ecash.restore

    async def restart(self) -> None:
        await super().restart()
        await self.ecash.ready()

    async def close(self) -> None:
        await self.ecash.stop()
        self.db.close()

    async def sweep(self) -> None:
        """One round of the engine, as late as it may come."""
        self.now += 900
        await self.ecash.tick()

    def copy(self, directory: Path) -> KitEcash:
        """A profile made of this one as it is now. Nothing may be open."""
        made = KitEcash(directory, self.mint_url, seed=self.seed, looks_ahead=True, copy_of=self.path)
        made.now = self.now
        return made
