"""The kit's ecash wallet: the engine that the plugin has too, on tables of the profile
(docs/protocol/11-advisor-kit.md §8, §12; 03 §5). Composed here, used by `advisor.Advisor`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from hive_shared.alerts import Level
from hive_shared.cashu.advice import KIT
from hive_shared.cashu.derive import EscrowKeys
from hive_shared.cashu.journal import INCOMING, Op, OpKind, OpState
from hive_shared.cashu.mint_book import MintBookService
from hive_shared.cashu.mint_ports import MintSettings
from hive_shared.cashu.mints import MintRole
from hive_shared.cashu.probe import Probe
from hive_shared.cashu.probe_service import AGAIN_S, ProbeService
from hive_shared.cashu.proof_cap import MAX_PROOFS
from hive_shared.cashu.seed_restore import SeedRestore
from hive_shared.cashu.settling import Paid, Settler
from hive_shared.cashu.wallet import Wallet
from hive_shared.cashu.wallet_ends import WalletEnds
from hive_shared.cashu.wallet_service import WalletService, chosen_mint
from hive_shared.crypto import Sealer
from hive_shared.errors import FeatureDisabled, HiveError
from hive_shared.mint_http import Mints
from hive_shared.storage.cashu_store import CashuStore
from hive_shared.storage.families import KIT_ECASH
from hive_shared.storage.mint_store import MintStore
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from hive_advisor.background import log_by
from hive_advisor.services.alerts import AlertService
from hive_advisor.services.ports import ClientRows

OWNER: Final = "kit"
"""Whose the operations are in the journal: `Order(key, OWNER)`."""
_CHECK_S: Final = 3_600
_STUCK_S: Final = 3_600
_LATEST_OPS: Final = 50
_TIDY_S: Final = 86_400
_TIDIED: Final = "ecash_tidied"
_RESTORED: Final = "ecash_restored"
"""Key of the mints that are still to be asked what became of the ecash of an older copy, one a line."""
_RESTORED_AT: Final = "ecash_restored_at"


class _NobodyPays:
    async def pay(self, op: Op) -> str:
        """The kit has no way to pay a mint over Lightning: ecash comes in as tokens."""
        raise FeatureDisabled("this wallet does not pay a mint over Lightning; it takes tokens")

    async def became(self, op: Op) -> Paid | None:
        return None


class _OwnAlerts:
    """Alerts of the wallet among the kit's own."""

    def __init__(self, alerts: AlertService) -> None:
        self._alerts = alerts

    def raise_in(self, tx: Tx, level: Level, code: str, text: str, dedup_key: str = "") -> None:
        self._alerts.raise_own(tx, level.value, code, text, dedup_key or text)


def mint_connections(proxy: str | None) -> Mints:
    """The ways to mints, all through `proxy` (SOCKS5) where there is one."""
    return Mints(jitter=lambda: int.from_bytes(os.urandom(4)) / 2**32, proxy=proxy, only_onion=False)


class Ecash:
    """The wallet of one profile. `named` are the mints it trusts, the primary first; `ready` comes before
    anything else is used. Every `tick` carries on what the journal says, and with `probing` begins probes."""

    def __init__(
        self,
        db: Db,
        sealer: Sealer,
        keys: EscrowKeys,
        meta: ClientRows,
        alerts: AlertService,
        connections: Mints,
        *,
        named: Sequence[str],
        halted: Callable[[], bool],
        now: Callable[[], int],
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: Callable[[int], bytes] = os.urandom,
        say: Callable[[str], None] = lambda _text: None,
        most_proofs: int = MAX_PROOFS,
    ) -> None:
        self.named, self.keys, self.store = tuple(named), keys, CashuStore(sealer, KIT_ECASH)
        self._db, self._meta, self._now, self._log = db, meta, now, log_by(say)
        self._alerts, self._connections = _OwnAlerts(alerts), connections
        self._mint_rows = MintStore(KIT_ECASH)
        self.book = MintBookService(
            db,
            self._mint_rows,
            connections,
            settings=self._settings,
            alerts=self._alerts,
            now=now,
            log=self._log,
            advice=KIT,
        )
        self.wallet = Wallet(
            db, self.store, keys, now=now, random_bytes=rng, advice=KIT, most_proofs=most_proofs
        )
        self.settler = Settler(
            db, self.store, self.book, _NobodyPays(), WalletEnds(self.store, now), now=now, alert=self._lost
        )
        chosen = partial(chosen_mint, self.book, advice=KIT)
        self.restore = SeedRestore(db, self.store, self.book, keys, chosen, cap=self.wallet.cap, now=now)
        self.service = self._service(halted, wait, rng)
        self.probes, self.probing = self._prober(halted, wait, rng), False
        self._loaded, self._turn = False, asyncio.Lock()

    def _service(
        self,
        halted: Callable[[], bool],
        wait: Callable[[float], Awaitable[None]],
        rng: Callable[[int], bytes],
    ) -> WalletService:
        return WalletService(
            self._db,
            self.store,
            self.wallet,
            self.settler,
            self.book,
            None,
            self.keys,
            self.restore.beyond_signed,
            most_sat=lambda: 0,
            stopped=halted,
            alert=self._alert,
            now=self._now,
            wait=wait,
            random_bytes=rng,
            log=self._log,
            advice=KIT,
            owner=OWNER,
        )

    def _prober(
        self,
        halted: Callable[[], bool],
        wait: Callable[[float], Awaitable[None]],
        rng: Callable[[int], bytes],
    ) -> ProbeService:
        probe = Probe(
            *(self.wallet, self.settler, self.book, self.keys),
            now=self._now,
            sleep=wait,
            random_bytes=rng,
            owner=OWNER,
        )
        return ProbeService(
            *(self._db, self.store, self.book, self.service, probe),
            stopped=halted,
            now=self._now,
            log=self._log,
            advice=KIT,
            leisurely=False,
        )

    async def ready(self) -> None:
        """Read what is stored of the mints; nothing is contacted."""
        if not self._loaded:
            await self.book.load()
            self._loaded = True

    async def name(self, mints: Sequence[str]) -> None:
        """Trust these mints from now on, the first as primary; addresses in normal form."""
        self.named, self._loaded = tuple(mints), False
        await self.ready()

    async def balances(self) -> list[dict[str, Any]]:
        """Sats by mint, from the database: every mint that is trusted, and others that have some."""
        await self.ready()
        return [
            {
                "mint": url,
                "free_sats": row["unspent"],
                "held_sats": row["pending"],
                "quarantined_sats": row["quarantined"],
                "proofs": row["proofs"],
                "named": url in self.named,
            }
            for url, row in (await self.service.balance()).items()
        ]

    async def under_way(self) -> list[tuple[str, int]]:
        """Operations that are not settled, the oldest first: id, and when they are looked at next."""

        def body(tx: Tx) -> list[tuple[str, int]]:
            return [(op_id, self.store.op(tx, op_id).next_retry_at) for op_id, _ in self.store.open_ops(tx)]

        return [(op_id, at or self._now()) for op_id, at in await self._db.read(body)]

    async def checks(self, timeout: int) -> list[dict[str, str]]:
        """How each mint that is trusted is now, asked for so many seconds at most; what has had no end for an
        hour. {id, status ok|warn|fail, detail}"""
        if not self.named:
            return []
        await self.ready()
        asked = [asyncio.create_task(self.book.check(url)) for url in self.named]
        await asyncio.wait(asked, timeout=timeout)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        found = []
        for url, task in zip(self.named, asked, strict=True):
            row = self.book.row(url)
            why = "it does not answer" if task.cancelled() else "" if row is None else row.last_error
            detail = f"{urlsplit(url).hostname}: {why or 'answers as it should'}"
            found.append({"id": "mint", "status": "warn" if why else "ok", "detail": detail})
        before = self._now() - _STUCK_S
        ops = await self._db.read(
            lambda tx: [self.store.op(tx, op_id) for op_id, _ in self.store.open_ops(tx)]
        )
        stuck = [f"{op.kind.value} {op.op_id}: {op.error}" for op in ops if op.created_at < before]
        if stuck:
            found.append({"id": "wallet", "status": "warn", "detail": "; ".join(stuck[:5])})
        return found

    async def tick(self) -> None:
        """Check mints that are due, carry on what the journal says, probe a mint where there are sats for it,
        once a day forget what is long over."""
        if self._turn.locked():
            return
        async with self._turn:
            if not self.named and not await self._db.read(self.store.open_ops):
                return
            await self.ready()
            await self.book.tick()
            await self._ask_after_restoring()
            await self.service.tick()
            await self._probe()
            await self._tidy()

    async def stop(self) -> None:
        """End what runs here and every connection; the journal goes on with it at the next start."""
        await self.probes.stop()
        await self.service.stop()
        await self._connections.close()

    async def note_restored(self) -> None:
        """This is an older copy of the wallet: no proof of it counts before its mint said that it is unspent,
        what was being paid is not paid again, and what was made since is found by the seed."""
        now = self._now()
        text = "it was under way when the backup was made; the mint is asked what its ecash is worth"

        def body(tx: Tx) -> None:
            for op_id, _ in self.store.open_ops(tx):
                op = self.store.op(tx, op_id)
                if op.kind not in INCOMING:
                    end = replace(op, state=OpState.FAILED, reason="restored", error=text, next_retry_at=0)
                    self.store.move(tx, replace(end, watch_until=0, updated_at=now), op.state)
            self.store.doubt_all(tx)
            # Not the settings': a copy is looked at before its own have taken their place.
            mints = (url for url, row in self._mint_rows.mints(tx).items() if row.role is not MintRole.FORMER)
            self._meta.set_meta(tx, _RESTORED, "\n".join(mints))
            self._meta.set_meta(tx, _RESTORED_AT, str(now))

        await self._db.write(body)

    async def restored_at(self) -> int:
        """When this became an older copy of the wallet (Unix s); 0: never. What was under way before may have
        ended since otherwise than its journal says."""
        return int(await self._db.read(lambda tx: self._meta.meta(tx, _RESTORED_AT)) or 0)

    async def _ask_after_restoring(self) -> None:
        waiting = await self._db.read(lambda tx: self._meta.meta(tx, _RESTORED)) or ""
        for url in waiting.split():
            if url not in self.named:
                continue  # nobody asks it; should it be named again, it is
            try:
                await self.restore.run(url, dry_run=False)
                await self._db.write(partial(self._asked, url=url))
            except HiveError as error:
                self._log("warning", "wallet_restore", mint=url, error=error.detail)

    def _asked(self, tx: Tx, url: str) -> None:
        left = [each for each in (self._meta.meta(tx, _RESTORED) or "").split() if each != url]
        self._meta.set_meta(tx, _RESTORED, "\n".join(left))

    async def _probe(self) -> None:
        """Only while an agent runs on; one that was begun a moment ago is not begun again, by another process
        either: each costs fees."""
        since = self._now() - AGAIN_S
        ops = await self._db.read(lambda tx: self.store.list_ops(tx, None, None, _LATEST_OPS))
        if not self.probing or any(op.kind is OpKind.PROBE and op.created_at > since for op in ops):
            await self.probes.open_what_is_left()
        else:
            await self.probes.tick()

    async def _tidy(self) -> None:
        now = self._now()
        last = await self._db.read(lambda tx: self._meta.meta(tx, _TIDIED))
        if last is None or now - int(last) >= _TIDY_S:
            await self.service.tidy()
            await self._db.write(lambda tx: self._meta.set_meta(tx, _TIDIED, str(now)))

    def _settings(self) -> MintSettings:
        primary, *backups = self.named or ("",)
        return MintSettings(primary, tuple(backups), _CHECK_S)

    async def _alert(self, level: Level, code: str, text: str) -> None:
        await self._db.write(lambda tx: self._alerts.raise_in(tx, level, code, text))

    async def _lost(self, op: Op) -> None:
        text = f"{op.kind.value} of {op.amount_sats} sat at {op.mint_url}: {op.error}"
        await self._db.write(
            lambda tx: self._alerts.raise_in(tx, Level.CRITICAL, "wallet_operation", text, op.op_id)
        )
