"""Unspent ecash found again from the seed (docs/protocol/03-escrow-and-payments.md §5 "restore").

The seed says what this wallet would have asked a mint to sign, counter by counter; the mint says what of that
it signed and what is not spent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from ..store import Tx
from .curve import y_of
from .derive import EscrowKeys, UnlockedSecrets
from .journal import OwnProof, ProofStatus
from .keysets import Keyset, listed
from .outputs import Output, beside, output, restored
from .ports import Mint, MintBook
from .proof_cap import ProofCap
from .settling import Database
from .wallet_ports import ServiceRows
from .wire import SpendState

BATCH: Final = 100
"""Counters asked about at once."""
EMPTY_BATCHES: Final = 3
"""So many batches without a signature end the search in a keyset."""
_MAX_BATCHES: Final = 1_000


class _Found(msgspec.Struct, frozen=True):
    """What a keyset's counters brought: all signed ones end before `next`; those that can be spent."""

    next: int
    unspent: tuple[OwnProof, ...]


class SeedRestore:
    """Asks a mint about every counter of every keyset it has."""

    def __init__(
        self,
        db: Database,
        rows: ServiceRows,
        mints: MintBook,
        keys: EscrowKeys,
        chosen: Callable[[str | None], str],
        *,
        cap: ProofCap,
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._mints, self._chosen, self._now = db, rows, mints, chosen, now
        self._cap = cap
        self._secrets = UnlockedSecrets(keys.seed())

    async def run(self, mint_url: str | None, *, dry_run: bool) -> dict[str, Any]:
        """What was found at a mint (the primary one for None), taken in unless `dry_run`; `not_asked`: the
        other mints that are named. What an operation without an end gives away, or holds for somebody, is
        left to it. Raises PaymentFailed when the mint does not answer rightly, Capacity where the wallet is
        full; then nothing was taken in."""
        url = self._chosen(mint_url)
        mint, keysets = self._mints.at(url), listed(await self._mints.keysets(url))
        known = await self._db.read(
            lambda tx: {each.id: self._rows.counter(tx, url, each.id) for each in keysets.values()}
        )
        found = {each.id: await self._search(mint, each, least=known[each.id]) for each in keysets.values()}

        def body(tx: Tx) -> tuple[int, int]:
            added = sat = 0
            theirs = self._of_others(tx, url)
            for keyset_id, result in found.items():
                here = self._rows.known(tx, [own.y for own in result.unspent])
                new = [own for own in result.unspent if own.y not in here and own.y not in theirs]
                added, sat = added + len(new), sat + sum(own.proof.amount for own in new)
                if not dry_run:
                    if not self._cap.make_room(tx, len(new)):
                        raise self._cap.full(len(new))
                    self._rows.add_proofs(tx, url, new, ProofStatus.UNSPENT, "restore", self._now())
                    self._rows.raise_counter(tx, url, keyset_id, result.next)
            return added, sat

        added, sat = await (self._db.read(body) if dry_run else self._db.write(body))
        every = [own for result in found.values() for own in result.unspent]
        return {
            "mint": url,
            "not_asked": [other for other in self._mints.accepted() if other != url],
            "keysets": len(found),
            "unspent_sats": sum(own.proof.amount for own in every),
            "unspent_proofs": len(every),
            "new_sats": sat,
            "new_proofs": added,
        }

    def _of_others(self, tx: Tx, url: str) -> set[str]:
        outputs = [each for op in self._rows.undecided(tx, url, self._now()) for each in op.body.outputs]
        # What is locked has no counter: it is not found by the seed.
        given = [each for each in outputs if each.use != "keep" and each.counter is not None]
        return {y_of(each.output.secret) for each in given}

    async def beyond_signed(self, mint_url: str, keyset: Keyset) -> None:
        """Raise a counter that stands where the mint has signed before: of a database that is older than the
        ecash made with its seed, or new. Raises PaymentFailed when the mint does not answer rightly."""
        start = await self._db.read(lambda tx: self._rows.counter(tx, mint_url, keyset.id))
        found = await self._search(self._mints.at(mint_url), keyset, start)
        if found.next > start:
            await self._db.write(lambda tx: self._rows.raise_counter(tx, mint_url, keyset.id, found.next))

    async def _search(self, mint: Mint, keyset: Keyset, start: int = 0, least: int = 0) -> _Found:
        """From `start` until nothing is signed any more. Counters below `least` are known to be used: of what
        a mint refused for a while there may be many that it signed nothing for."""
        signed: list[OwnProof] = []
        empty, following = 0, start
        end = max(start, least) + _MAX_BATCHES * BATCH
        while empty < EMPTY_BATCHES and start < end:
            batch = await self._batch(mint, keyset, start)
            signed += batch
            empty = 0 if batch or start < least else empty + 1
            following = max([following, *(own.counter + 1 for own in batch if own.counter is not None)])
            start += BATCH
        return _Found(following, tuple(await self._unspent(mint, signed)))

    async def _batch(self, mint: Mint, keyset: Keyset, start: int) -> list[OwnProof]:
        asked = await beside(BATCH, lambda: self._asked(keyset, start))
        outputs = [each for _, each in asked.values()]
        answer = await mint.restore([each.message for each in outputs])
        proofs = await beside(
            len(answer.outputs),
            lambda: restored(outputs, answer.outputs, answer.signatures, {keyset.id: keyset}),
        )
        return [
            OwnProof(y_of(proof.secret), proof, asked[blinded][0])
            for blinded, proof in proofs.items()
            if proof.amount
        ]

    def _asked(self, keyset: Keyset, start: int) -> dict[str, tuple[int, Output]]:
        found = {}
        for counter in range(start, start + BATCH):
            derived = self._secrets.derive(keyset.id, counter)
            each = output(0, keyset.id, derived.secret, derived.r)
            found[each.blinded] = (counter, each)
        return found

    async def _unspent(self, mint: Mint, signed: list[OwnProof]) -> list[OwnProof]:
        found = []
        for start in range(0, len(signed), BATCH):
            part = signed[start : start + BATCH]
            states = {entry.Y: entry.state for entry in await mint.checkstate([own.y for own in part])}
            found += [own for own in part if states.get(own.y) is SpendState.UNSPENT]
        return found
