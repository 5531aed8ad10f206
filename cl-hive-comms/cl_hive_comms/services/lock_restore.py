"""Locked ecash found again from the node's seed and the terms it was locked by
(docs/protocol/03-escrow-and-payments.md §2.4, §5 "restore").

Seed and terms say what this node asked the mint to sign; the mint says what of it it signed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from hive_shared.cashu.curve import y_of
from hive_shared.cashu.derive import EscrowKeys, public_key
from hive_shared.cashu.keysets import Keyset, face_sats, listed, split
from hive_shared.cashu.lock_machine import LockState, lock_id_of
from hive_shared.cashu.outputs import Output, restored
from hive_shared.cashu.terms import Terms, share_sats, terms_hash
from hive_shared.cashu.ticket import lock_of, outputs_of
from hive_shared.cashu.token import Token, encode_token
from hive_shared.cashu.wire import Proof, SpendState
from hive_shared.errors import InvalidParams
from hive_shared.store import Tx

from ..domain.cashu_lock import LockRow, Role
from .lock_books import LockBooks
from .lock_swaps import MOST_PROOFS
from .ports_commands import Database
from .ports_locks import LockMints, LockRows

_MORE_PROOFS: Final = 8
"""Proofs of a lock beyond the binary digits of its amount: what the fees of a mint add to it."""


class _Place(msgspec.Struct, frozen=True):
    """An item's share."""

    terms: Terms
    terms_hash: str
    item: int
    share: int


class _Found(msgspec.Struct, frozen=True):
    """A lock that a mint signed, as it goes into the books, and what of it nobody has spent."""

    row: LockRow
    unspent_sats: int


class LockRestore:
    """Asks mints about the locks of terms. `stored` are those that the database has; `grace_s` as in
    `LockSettings`."""

    def __init__(
        self,
        db: Database,
        rows: LockRows,
        books: LockBooks,
        mints: LockMints,
        keys: EscrowKeys,
        *,
        stored: Callable[[Tx], Sequence[Terms]],
        grace_s: Callable[[], int],
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._books, self._mints, self._keys = db, rows, books, mints, keys
        self._stored, self._grace_s, self._now = stored, grace_s, now

    async def run(self, mint_url: str, given: Sequence[Terms], *, dry_run: bool) -> dict[str, Any]:
        """What of these terms, and of those in the database, is locked at a mint and not in the books; taken
        in unless `dry_run`, to be redeemed by the payee or taken back. Raises InvalidParams for terms that
        this node did not make, PaymentFailed when the mint does not answer rightly; then nothing is taken
        in."""
        for terms in given:
            if not self._ours(terms):
                raise InvalidParams(
                    f"terms of ticket {terms.ticket_id}: the refund key is not this node's; nothing of them"
                    " can be taken back here",
                    data={"param": "terms"},
                )
        stored = await self._db.read(self._stored)
        every = {terms_hash(terms).hex(): terms for terms in (*given, *filter(self._ours, stored))}
        missing = await self._db.read(lambda tx: self._missing(tx, mint_url, every))
        found: list[_Found] = []
        for keyset in listed(await self._mints.keysets(mint_url)).values():
            for part in _parts(await asyncio.to_thread(self._wanted, missing, keyset)):
                found += await self._signed(mint_url, keyset, part)
        if not dry_run and found:
            await self._db.write(lambda tx: self._take_in(tx, found))
        return {
            "locks": len(found),
            "locked_sats": sum(each.unspent_sats for each in found),
            "lock_ids": [each.row.lock_id for each in found],
        }

    def _ours(self, terms: Terms) -> bool:
        return terms.payer.refund_pubkey == public_key(self._keys.refund(terms.ticket_id))

    def _missing(self, tx: Tx, mint_url: str, every: Mapping[str, Terms]) -> list[_Place]:
        """The items whose share at this mint is not in the books."""
        found = []
        for hash_, terms in every.items():
            known = {(row.item, row.share, row.role) for row in self._rows.of_terms(tx, hash_)}
            for share, mint in enumerate(terms.mints):
                if mint.url == mint_url:
                    found += [
                        _Place(terms, hash_, item, share)
                        for item in range(len(terms.items))
                        if (item, share, Role.PAYER) not in known
                    ]
        return found

    def _wanted(self, missing: Sequence[_Place], keyset: Keyset) -> list[tuple[_Place, tuple[Output, ...]]]:
        """Outputs without amounts, more of each place than any lock of it has: into which proofs it was cut
        depends on the fee that the mint took then."""
        seed, found = self._keys.lock_seed(), []
        for place in missing:
            lock, hash_ = lock_of(place.terms, place.item, place.share), bytes.fromhex(place.terms_hash)
            sats = share_sats(place.terms, place.item, place.share)
            blank = [0] * _most_proofs(sats, keyset)
            outputs = outputs_of(blank, lock, hash_, keyset.id, seed, item=place.item, mint=place.share)
            found.append((place, outputs))
        return found

    async def _signed(
        self, url: str, keyset: Keyset, part: Sequence[tuple[_Place, tuple[Output, ...]]]
    ) -> list[_Found]:
        mint, outputs = self._mints.at(url), [each for _, several in part for each in several]
        answer = await mint.restore([each.message for each in outputs])
        made = restored(outputs, answer.outputs, answer.signatures, {keyset.id: keyset})
        whole = [
            (place, tuple(made[each.blinded] for each in several if each.blinded in made))
            for place, several in part
            if several[0].blinded in made
        ]
        if not whole:
            return []
        ys = {proof.secret: y_of(proof.secret) for _, proofs in whole for proof in proofs}
        told = await mint.checkstate(list(ys.values()))
        unspent = {each.Y for each in told if each.state is SpendState.UNSPENT}
        return [
            _Found(
                self._row(url, keyset.id, place, proofs, tuple(ys[proof.secret] for proof in proofs)),
                sum(proof.amount for proof in proofs if ys[proof.secret] in unspent),
            )
            for place, proofs in whole
        ]

    def _row(
        self, url: str, keyset_id: str, place: _Place, proofs: tuple[Proof, ...], ys: tuple[str, ...]
    ) -> LockRow:
        now, terms = self._now(), place.terms
        lock = lock_of(terms, place.item, place.share)
        return LockRow(
            lock_id=lock_id_of(place.terms_hash, place.item, place.share, Role.PAYER),
            owner="comms",
            ref=terms.ticket_id,
            role=Role.PAYER,
            mint_url=url,
            keyset_id=keyset_id,
            amount_sats=share_sats(terms, place.item, place.share),
            face_sats=sum(proof.amount for proof in proofs),
            lock=lock,
            key_context=terms.ticket_id,
            terms_hash=place.terms_hash,
            item=place.item,
            share=place.share,
            ys=ys,
            state=LockState.DELIVERED,
            request_key=f"restored:{place.terms_hash}",
            content=place.terms_hash,
            created_at=now,
            updated_at=now,
            next_at=now,
            token=encode_token(Token(url, proofs)),
            # Whether it was released nobody knows any more.
            refund_hold_until=(lock.locktime or 0) + self._grace_s(),
        )

    def _take_in(self, tx: Tx, found: Sequence[_Found]) -> None:
        for each in found:
            if not self._rows.known(tx, [each.row.lock_id]):
                self._books.add(tx, each.row)


def _most_proofs(sats: int, keyset: Keyset) -> int:
    """More than a share of so many sat takes of a keyset, whatever its mint's fee was."""
    try:
        now = len(split(face_sats(sats, keyset.input_fee_ppk, keyset.denominations), keyset.denominations))
    except ValueError:
        now = 0
    return max(2 * now, sats.bit_length()) + _MORE_PROOFS


def _parts(
    wanted: Sequence[tuple[_Place, tuple[Output, ...]]],
) -> Iterator[list[tuple[_Place, tuple[Output, ...]]]]:
    part: list[tuple[_Place, tuple[Output, ...]]] = []
    for place, outputs in wanted:
        if part and sum(len(each) for _, each in part) + len(outputs) > MOST_PROOFS:
            yield part
            part = []
        part.append((place, outputs))
    if part:
        yield part
