"""The mints the operator trusts: checked, their keysets kept, and no other ever contacted
(docs/protocol/03-escrow-and-payments.md §4.2).

The adapter of `cashu.ports.MintBook` for the wallet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec
from msgspec.structs import replace

from ..alerts import Alerts, Level
from ..errors import InvalidParams, PaymentFailed
from ..store import Db, Tx
from .advice import NODE, Advice
from .keysets import Keyset
from .mint_caps import Caps
from .mint_health import MintHealth, examine, lockable_keyset
from .mint_ports import Clock, Log, MintConnections, MintRows, Settings, WatchedMint
from .mint_url import normal_mint_url
from .mints import (
    FAILURES_TO_REPLACE,
    MintRole,
    MintRow,
    MintStatus,
    Offer,
    Wish,
    in_order,
    objection,
)
from .ports import MintRefused, MintUnavailable, later
from .reasons import MintNonconformant
from .wire import MintInfo


class MintBookService:
    """What is known of the operator's mints. `load` comes first; `tick` checks those that are due."""

    def __init__(
        self,
        db: Db,
        rows: MintRows,
        mints: MintConnections,
        *,
        settings: Settings,
        alerts: Alerts,
        now: Clock,
        log: Log,
        advice: Advice = NODE,
    ) -> None:
        self._db, self._rows, self._mints, self._advice = db, rows, mints, advice
        self._settings, self._alerts, self._now, self._log = settings, alerts, now, log
        self._known: dict[str, MintRow] = {}
        self._keysets: dict[str, Mapping[str, Keyset]] = {}
        self._checking: dict[str, asyncio.Lock] = {}

    async def load(self) -> None:
        """Read what was stored and take over what the options say now."""
        await self._follow_options()

    def accepted(self) -> Sequence[str]:
        """The operator's mints, the primary first."""
        return self._settings().named

    def at(self, url: str) -> WatchedMint:
        """The mint at an address of any form; PaymentFailed(`mint_not_allowed`) for one that is not named."""
        return self._mints.at(self.allowed(url))

    def allowed(self, url: str) -> str:
        """The address in normal form. Raises InvalidParams where it is none, PaymentFailed
        (`mint_not_allowed`) where the operator did not name it; nothing is contacted."""
        try:
            address = normal_mint_url(url)
        except ValueError as error:
            raise InvalidParams(str(error)) from None
        named = self._settings().named
        if address not in named:
            known = f"they are {', '.join(named)}" if named else "there are none"
            raise PaymentFailed(
                f"{address} is none of your mints ({known}); {self._advice.name_mint}",
                reason="mint_not_allowed",
            )
        return address

    def row(self, url: str) -> MintRow | None:
        """What is known of a mint by its normal address; None before its first check."""
        return self._known.get(url)

    def array_limit(self, url: str) -> int:
        """Most elements of one array that this mint reads, as its last check said."""
        row = self._known.get(url)
        info = MintInfo() if row is None else msgspec.json.decode(row.info_json, type=MintInfo)
        return info.array_limit

    def away_for_s(self, url: str) -> float:
        """Seconds until money calls to this mint are sent again; 0 where nothing that we know holds them
        back, also for one that is named no more."""
        return self._mints.at(url).traffic.money_in_s if url in self.accepted() else 0.0

    def healthy(self, url: str) -> bool:
        """Whether its last check found nothing against it."""
        row = self._known.get(url)
        return row is not None and bool(row.checked_at) and not row.failures and not row.disabled

    def every(self) -> list[MintRow]:
        """All that are or were named, the ones in use first."""
        order = {url: place for place, url in enumerate(self._settings().named)}
        return sorted(self._known.values(), key=lambda row: (order.get(row.url, len(order)), row.url))

    def known_keysets(self, url: str) -> Mapping[str, Keyset]:
        """Its sat keysets by id as they are stored, also those that it does not list any more; empty before
        its first check."""
        return self._keysets.get(url, MappingProxyType({}))

    async def keysets(self, url: str) -> Mapping[str, Keyset]:
        """Its sat keysets by id, those that it does not list any more among them (`Keyset.listed`); from the
        mint where none are stored yet. Raises MintUnavailable where it
        gave none: that says nothing about what is at this mint."""
        address = self.allowed(url)
        if not self.known_keysets(address):
            await self.check(address)
        found = self.known_keysets(address)
        if not found:
            why = self._known[address].last_error if address in self._known else "not checked yet"
            raise self._away(address, f"no keysets of it are known: {why}")
        return found

    async def keysets_now(self, url: str) -> Mapping[str, Keyset]:
        """Its sat keysets by id, asked for anew. Raises MintUnavailable where it does not answer."""
        row = await self.check(url)
        if row.failures:
            raise self._away(row.url, row.last_error)
        return await self.keysets(row.url)

    def _away(self, address: str, why: str) -> MintUnavailable:
        why = why.replace(f"the mint {address} is unavailable: ", "")
        wait = self._mints.at(address).traffic.held_for_s
        return MintUnavailable(address, why, sent=False, retry_after_s=wait)

    def for_lock(
        self, wish: Wish, locktime: int, locked_sats: Mapping[str, int], max_locked_sats: int
    ) -> tuple[str, Keyset]:
        """The mint that takes a new lock until `locktime` (Unix s), and the keyset to lock with.

        `locked_sats` is what is locked at each mint already. Raises PaymentFailed(`mint_unavailable`) with
        what speaks against each of the operator's mints.
        """
        fits: dict[str, Keyset] = {}
        offers = []
        for url in self._settings().named:
            keyset = lockable_keyset(tuple(self.known_keysets(url).values()), locktime)
            if keyset is not None:
                fits[url] = keyset
            ppk = None if keyset is None else keyset.input_fee_ppk
            reached = self._mints.at(url).traffic.breaker == "closed"
            offers.append(
                Offer(self._known.get(url) or self._new(url), ppk, reached, locked_sats.get(url, 0))
            )
        against = {
            offer.row.url: objection(offer, wish, max_locked_sats=max_locked_sats, now=self._now())
            for offer in in_order(offers, wish)
        }
        for url, reason in against.items():
            if reason is None:
                return url, fits[url]
        why = "; ".join(f"{url}: {reason}" for url, reason in against.items()) or "you named none"
        # Before every one of them was held back for so long, another may take it.
        wait = min((self.away_for_s(url) for url in against), default=0.0)
        said, data = later(f"no mint takes a lock of {wish.face_sats} sat: {why}", wait)
        raise PaymentFailed(said, reason="mint_unavailable", data=data)

    async def nonconformant(self, url: str, detail: str) -> None:
        """Its answer is none a correct mint gives: no new locks until it is healthy and probed again."""
        address = self.allowed(url)
        async with self._lock(address):
            row = self._known.get(address) or self._new(address)
            await self._keep(self._disabled(replace(row, probe_at=0), detail))

    async def probed(self, url: str, caps: Caps, version: str) -> MintRow:
        """A probe ended; a mint that can do tickets is trusted from now on."""
        address = self.allowed(url)
        async with self._lock(address):
            row = self._known.get(address) or self._new(address)
            row = replace(row, caps=caps, probed_version=version, probe_at=self._now())
            if not caps.tickets:
                lacks = " and ".join(name for name in ("htlc", "restore") if not getattr(caps, name))
                row = self._disabled(row, f"its probe failed: {lacks}")
            elif row.status is MintStatus.PROBATION:
                row = replace(row, status=MintStatus.TRUSTED, last_error="")
            return await self._keep(row)

    async def tick(self) -> None:
        """Check every mint whose last check is `mint-health-interval` ago; one that failed after a minute."""
        await self._follow_options()
        interval, now = self._settings().health_interval_s, self._now()
        due = [
            url
            for url in self._settings().named
            if now >= self._known[url].checked_at + (60 if self._known[url].failures else interval)
        ]
        await asyncio.gather(*(self.check(url) for url in due))

    async def check(self, url: str) -> MintRow:
        """Ask a mint for info and keysets and judge them; its failure is in the row, not raised."""
        address = self.allowed(url)
        async with self._lock(address):
            row = self._known.get(address) or self._new(address)
            try:
                known = self.known_keysets(address)
                health = await examine(self._mints.at(address), known, self._now)
            except MintUnavailable as error:
                return await self._keep(self._silent(row, error.lasting))
            except (MintRefused, MintNonconformant) as error:
                return await self._keep(self._disabled(row, error.detail))
            return await self._keep(self._judged(row, health), health.keysets)

    def _judged(self, row: MintRow, health: MintHealth) -> MintRow:
        now = self._now()
        row = replace(
            row,
            version=health.version,
            info_json=msgspec.json.encode(health.info).decode(),
            skew_s=health.skew_s,
            failures=0,
            checked_at=now,
            last_ok_at=now,
        )
        if health.problems:
            return self._disabled(row, "; ".join(health.problems))
        if row.probe_due(now) or not row.caps.tickets:
            return replace(row, status=MintStatus.PROBATION, last_error="")
        return replace(row, status=MintStatus.TRUSTED, last_error="")

    def _disabled(self, row: MintRow, why: str) -> MintRow:
        return replace(row, status=MintStatus.DISABLED, last_error=why, checked_at=self._now(), failures=0)

    def _silent(self, row: MintRow, why: str) -> MintRow:
        return replace(row, failures=row.failures + 1, last_error=why, checked_at=self._now())

    async def _keep(self, row: MintRow, keysets: Sequence[Keyset] | None = None) -> MintRow:
        """Store a row with its keysets; a keyset that is another mint's with other keys flags both."""
        named = set(self._known).intersection(self._settings().named)

        def store(tx: Tx) -> tuple[MintRow, list[MintRow], dict[str, Keyset]]:
            kept, flagged = row, []
            if keysets is not None:
                self._rows.unlist_keysets(tx, row.url, {each.id for each in keysets}, self._now())
            for known in keysets or ():
                for other in named.intersection(self._rows.other_keys(tx, row.url, known)):
                    detail = f"keyset {known.id} has other keys at"
                    kept = self._disabled(kept, f"{detail} {other}")
                    flagged.append(self._disabled(self._known[other], f"{detail} {row.url}"))
                self._rows.put_keyset(tx, row.url, known, self._now())
            for each in (kept, *flagged):
                self._rows.put_mint(tx, each)
                self._tell(tx, self._known.get(each.url), each)
            return kept, flagged, {} if keysets is None else self._rows.keysets(tx, row.url)

        kept, flagged, stored = await self._db.write(store)
        if keysets is not None:
            self._keysets[row.url] = MappingProxyType(stored)
        self._known.update({each.url: each for each in (kept, *flagged)})
        return kept

    def _tell(self, tx: Tx, before: MintRow | None, after: MintRow) -> None:
        """An alert when a mint can no longer take locks, once per reason."""
        if after.status is MintStatus.DISABLED and (before is None or before.last_error != after.last_error):
            text = f"the mint {after.url} takes no new locks: {after.last_error}"
            self._alerts.raise_in(tx, Level.CRITICAL, "mint_disabled", text, f"mint_disabled:{after.url}")
        elif after.failures == FAILURES_TO_REPLACE:
            text = f"the mint {after.url} did not answer {after.failures} times: {after.last_error}"
            self._alerts.raise_in(tx, Level.WARNING, "mint_silent", text, f"mint_silent:{after.url}")
        if before is None or (before.status, before.failures) != (after.status, after.failures):
            self._log("info", "mint", url=after.url, status=after.status.value, failures=after.failures)

    async def _follow_options(self) -> None:
        named = self._settings().named

        def follow(tx: Tx) -> tuple[dict[str, MintRow], dict[str, dict[str, Keyset]]]:
            stored = self._rows.mints(tx)
            for url in named:
                if url not in stored:
                    stored[url] = self._new(url)
                    self._rows.put_mint(tx, stored[url])
            for url, row in stored.items():
                if row.role is not self._role(url):
                    stored[url] = replace(row, role=self._role(url))
                    self._rows.put_mint(tx, stored[url])
            fresh = [url for url in named if url not in self._keysets]
            return stored, {url: self._rows.keysets(tx, url) for url in fresh}

        self._known, keysets = await self._db.write(follow)
        self._keysets.update({url: MappingProxyType(found) for url, found in keysets.items()})

    def _role(self, url: str) -> MintRole:
        settings = self._settings()
        if url not in settings.named:
            return MintRole.FORMER
        return MintRole.PRIMARY if url == settings.primary else MintRole.BACKUP

    def _new(self, url: str) -> MintRow:
        return MintRow(url, self._role(url), MintStatus.PROBATION, self._now())

    def _lock(self, url: str) -> asyncio.Lock:
        return self._checking.setdefault(url, asyncio.Lock())
