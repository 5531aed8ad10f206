"""Ecash under conditions for sibling plugins, which hold no key and reach no mint
(docs/protocol/03-escrow-and-payments.md §1, §9; docs/decisions/0530-ecash-for-siblings.md).

A sibling sees its own locks and operations only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from hive_shared.canonical import encode
from hive_shared.cashu import curve
from hive_shared.cashu.curve import verify_proof_dleq, y_of
from hive_shared.cashu.derive import EscrowKeys, lock_nonce, public_key
from hive_shared.cashu.journal import Op, OpKind, OpState
from hive_shared.cashu.keysets import Keyset, expand, fee_sats, listed
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.outputs import Output
from hive_shared.cashu.reasons import TokenInvalid
from hive_shared.cashu.secrets import Lock, SigFlag, build_secret, is_plain, multisig, parse_secret
from hive_shared.cashu.terms import (
    Hex32,
    Moment,
    PointText,
    Terms,
    lock_key_text,
    sign_text,
    terms_hash,
)
from hive_shared.cashu.ticket import CheckedTicket, check_share, outputs_under
from hive_shared.cashu.token import decode_token
from hive_shared.cashu.wire import BlindedMessage, Proof, ProofState
from hive_shared.cashu.witness import all_digest, check_all_alike, sign
from hive_shared.crypto import Secret, sha256
from hive_shared.errors import InvalidParams, NotFound, PaymentFailed
from hive_shared.store import Tx
from msgspec import Meta, Struct
from msgspec.structs import replace

from ..domain.cashu_lock import LockRow
from .lock_service import LockOrder, LockService, Piece, Wanted
from .ports_commands import Database
from .ports_locks import LockMints, LockRows

OWNER: Final = "hive"
"""Who owns what siblings have locked."""
MOST_YS: Final = 500
"""Proofs that one question names."""
_Sats = Annotated[int, Meta(ge=1, le=10_000_000)]


class Conditions(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A lock that several hold together: `n_sigs` of `keys` (and the preimage of `hash`) spend it, after
    `locktime` the refund key does."""

    ref: Annotated[str, Meta(min_length=1, max_length=128)]
    amount_sats: _Sats
    keys: Annotated[list[PointText], Meta(min_length=1, max_length=8)]
    n_sigs: Annotated[int, Meta(ge=1, le=8)]
    refund_pubkey: PointText
    locktime: Moment
    hash: Hex32 | msgspec.UnsetType = msgspec.UNSET
    sigflag: SigFlag | msgspec.UnsetType = msgspec.UNSET


class SignInput(Struct, frozen=True, forbid_unknown_fields=True):
    """A proof that is spent together."""

    amount: _Sats
    id: str
    secret: str
    C: PointText


class SignOutput(Struct, frozen=True, forbid_unknown_fields=True):
    """An output in clear: everything that makes its `B_`."""

    amount: _Sats
    id: str
    secret: str
    r: Hex32


class Package(Struct, frozen=True, forbid_unknown_fields=True):
    """A swap that several sign."""

    inputs: Annotated[list[SignInput], Meta(min_length=1, max_length=100)]
    outputs: Annotated[list[SignOutput], Meta(min_length=1, max_length=100)]


class Inspected(msgspec.Struct, frozen=True):
    """What a token is. `state` is unspent, pending, spent or mixed; `problems` is empty for a good one."""

    mint: str
    proofs: tuple[Proof, ...]
    locks: tuple[Lock | None, ...]
    dleq_ok: bool
    state: str
    problems: tuple[str, ...]
    lock_id: str | None = None


class SiblingLocks:
    """What the methods hive-comms-cashu-* do. `nostr_key` is this node's, which binds its lock keys."""

    def __init__(
        self,
        db: Database,
        rows: LockRows,
        locks: LockService,
        mints: LockMints,
        keys: EscrowKeys,
        *,
        nostr_key: Callable[[], Secret],
        read_op: Callable[[Tx, str], Op],
        answers: Callable[[Tx, Sequence[str]], dict[str, list[dict[str, Any]]]],
    ) -> None:
        self._db, self._rows, self._locks, self._mints, self._keys = db, rows, locks, mints, keys
        self._nostr_key, self._read_op, self._answers = nostr_key, read_op, answers

    def pubkey(self, context: str, refund: bool) -> tuple[str, str]:
        """The key that others lock to for a context, or with `refund` the one that takes a ticket's money
        back, and this node's Nostr signature that binds it to the context."""
        key = self._keys.refund(context) if refund else self._keys.lock(context)
        pubkey = public_key(key)
        return pubkey, sign_text(self._nostr_key(), lock_key_text(context, pubkey))

    async def lock_ticket(
        self,
        key: str,
        budget: str,
        terms: Terms,
        shares: Sequence[tuple[int, int]] | None,
        timeout: float,
    ) -> tuple[LockRow, ...]:
        """As `LockService.lock`, out of a sibling's budget."""
        order = LockOrder(key, OWNER, budget)
        return await self._locks.lock(order, terms, shares, timeout)

    async def lock_multisig(
        self, key: str, budget: str, conditions: Conditions, mint_url: str, timeout: float
    ) -> LockRow:
        """Lock for several signers; the hash of the conditions takes the place of the terms'."""
        hash_ = sha256(encode(msgspec.to_builtins(conditions)))
        lock = _multisig(conditions)
        seed = self._keys.lock_seed()

        def outputs(keyset: Keyset) -> tuple[Output, ...]:
            return outputs_under(lock, hash_, conditions.amount_sats, keyset, seed)

        ours = public_key(self._keys.refund(conditions.ref)) == conditions.refund_pubkey
        wanted = Wanted(
            conditions.ref,
            hash_.hex(),
            conditions.ref if ours else "",
            (Piece(0, 0, self._mints.at(mint_url).url, conditions.amount_sats, lock, outputs),),
            fits_ticket=False,
        )
        (row,) = await self._locks.lock_wanted(LockOrder(key, OWNER, budget), wanted, timeout)
        return row

    async def inspect(
        self, token: str, terms: Terms | None, item: int, context: str | None, *, save: bool
    ) -> Inspected:
        """Read a token and ask its mint. Raises TokenInvalid for what is no token, PaymentFailed
        `mint_not_allowed` with no connection made; `lock_mismatch` where `save` is asked for a token that is
        not the terms' item for our key `lock/<context>`, unspent."""
        given = decode_token(token)
        mint = self._mints.at(given.mint)
        keysets = listed(await self._mints.keysets(mint.url))
        problems: list[str] = []
        proofs, locks = [], []
        for number, proof in enumerate(given.proofs):
            proofs.append(msgspec.structs.replace(proof, id=expand(proof.id, keysets.keys())))
            locks.append(_condition(proof.secret, number, problems))
        signed = await asyncio.to_thread(_signed, proofs, keysets, problems)
        states = await mint.checkstate([y_of(proof.secret) for proof in proofs])
        state = _state(states)
        if state != "unspent":
            problems.append(f"token_spent: its proofs are {state}")
        found = Inspected(mint.url, tuple(proofs), tuple(locks), signed, state, ())
        share = None
        if terms is not None:
            share = self._share(terms, item, found, keysets, problems)
        found = replace(found, problems=tuple(problems))
        if not save:
            return found
        if share is None or problems or context is None:
            why = "; ".join(problems) or "terms and context are needed"
            raise PaymentFailed(f"the token is not taken into the books: {why}", reason="lock_mismatch")
        return replace(found, lock_id=await self._saved(share, context))

    def _share(
        self,
        terms: Terms,
        item: int,
        found: Inspected,
        keysets: Mapping[str, Keyset],
        problems: list[str],
    ) -> CheckedTicket | None:
        if item >= len(terms.items):
            raise InvalidParams(f"the terms have {len(terms.items)} items, there is no item {item}")
        at = [number for number, each in enumerate(terms.mints) if each.url == found.mint]
        if not at:
            problems.append(f"mint: the terms do not name {found.mint}")
            return None
        hash_ = terms_hash(terms)
        ordered = sorted(found.proofs, key=lambda proof: proof.amount)
        try:
            share = check_share(terms, hash_, item, at[0], _by_nonce(hash_, at[0], item, ordered), keysets)
        except TokenInvalid as error:
            problems.append(f"{error.check}: {error.detail}")
            return None
        return CheckedTicket(terms, hash_, (share,))

    async def _saved(self, ticket: CheckedTicket, context: str) -> str:
        if ticket.terms.payee.lock_pubkey != public_key(self._keys.lock(context)):
            raise PaymentFailed(
                f"the terms lock to {ticket.terms.payee.lock_pubkey}, not to this node's key of context"
                f" {context!a} (hive-comms-cashu-pubkey)",
                reason="lock_mismatch",
            )
        rows = await self._db.write(lambda tx: self._locks.take_in(tx, ticket, context, owner=OWNER))
        return rows[0].lock_id

    async def redeem(self, preimages: Mapping[str, str], timeout: float) -> tuple[LockRow, ...]:
        """Take what is locked for us."""
        await self._owned(list(preimages))
        return await self._locks.redeem(preimages, timeout)

    async def refund(self, lock_ids: Sequence[str], timeout: float) -> tuple[LockRow, ...]:
        """Take back what we locked."""
        await self._owned(lock_ids)
        return await self._locks.refund(lock_ids, timeout)

    async def look(self, lock_ids: Sequence[str]) -> tuple[LockRow, ...]:
        """These locks after asking their mints."""
        await self._owned(lock_ids)
        return await self._locks.swaps.look(lock_ids)

    async def answers(self, lock_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """What agents answered about these."""
        return await self._db.read(lambda tx: self._answers(tx, lock_ids))

    async def known(self, lock_ids: Sequence[str]) -> tuple[LockRow, ...]:
        """These locks as the books have them, no mint asked. Raises NotFound."""
        await self._owned(lock_ids)
        return await self._locks.rows(lock_ids)

    async def states(self, mint_url: str, ys: Sequence[str]) -> Sequence[ProofState]:
        """What a mint says of proofs by their names."""
        return await self._mints.at(mint_url).checkstate(ys)

    async def op(self, op_id: str) -> Op:
        """An operation of a sibling. Raises NotFound."""
        op = await self._db.read(lambda tx: self._read_op(tx, op_id))
        if op.owner != OWNER:
            # The operator's own are nothing for a sibling.
            raise NotFound(f"there is no wallet operation {op_id[:40]!a} of a sibling plugin")
        return op

    async def net_sats(self, rows: Sequence[LockRow]) -> int:
        """What the swaps of these locks brought in, after fees; several locks may share one. A swap that
        is in the journal no longer (30 d) counts what its locks were made to bring."""
        return await self._db.read(
            lambda tx: sum(self._net_of(tx, name, rows) for name in {row.op_id for row in rows if row.op_id})
        )

    def _net_of(self, tx: Tx, op_id: str, rows: Sequence[LockRow]) -> int:
        try:
            op = self._read_op(tx, op_id)
        except NotFound:
            ended = (LockState.REDEEMED, LockState.REFUNDED)
            return sum(row.amount_sats for row in rows if row.op_id == op_id and row.state in ended)
        done = op.state is OpState.DONE and op.kind in (OpKind.REDEEM, OpKind.REFUND)
        return op.amount_sats if done else 0

    async def sign(self, package: Package, context: str, mint_url: str) -> str:
        """Our signature on a swap that several sign (SIG_ALL), every `B_` made anew from what is shown.

        Raises TokenInvalid for inputs that are not of one lock with our key `lock/<context>`, or outputs that
        are not the inputs less the mint's fee in amounts that it signs.
        """
        keysets = await self._mints.keysets(mint_url)
        inputs = [Proof(each.amount, each.id, each.secret, each.C) for each in package.inputs]
        return await asyncio.to_thread(self._signed_package, package, inputs, context, keysets)

    def _signed_package(
        self, package: Package, inputs: Sequence[Proof], context: str, keysets: Mapping[str, Keyset]
    ) -> str:
        lock = check_all_alike(inputs).lock
        key = self._keys.lock(context)
        if public_key(key) not in lock.keys:
            raise TokenInvalid("pubkeys", f"the inputs are not locked to this node's key of {context!a}")
        _check_package(package, keysets)
        made = []
        for each in package.outputs:
            try:
                blinded = curve.blind(each.secret, bytes.fromhex(each.r))
                made.append(BlindedMessage(each.amount, each.id, blinded))
            except ValueError as error:
                raise InvalidParams(f"an output cannot be made: {error}") from None
        return sign(key, all_digest(inputs, made))

    async def _owned(self, lock_ids: Sequence[str]) -> None:
        for row in await self._locks.rows(lock_ids):
            if row.owner != OWNER:
                raise NotFound(f"there is no lock {row.lock_id!a} of a sibling plugin")


def _multisig(wanted: Conditions) -> Lock:
    lock = multisig(
        tuple(wanted.keys),
        wanted.n_sigs,
        locktime=wanted.locktime,
        refund=wanted.refund_pubkey,
        hash_hex=wanted.hash if isinstance(wanted.hash, str) else None,
        sigflag=wanted.sigflag if isinstance(wanted.sigflag, SigFlag) else None,
    )
    try:
        build_secret(lock, "0" * 32)
    except ValueError as error:
        raise InvalidParams(f"conditions: {error}", data={"param": "conditions"}) from None
    return lock


def _condition(secret: str, number: int, problems: list[str]) -> Lock | None:
    if is_plain(secret):
        return None
    try:
        return parse_secret(secret).lock
    except TokenInvalid as error:
        problems.append(f"{error.check}: proof {number}: {error.detail}")
        return None


def _signed(proofs: Sequence[Proof], keysets: Mapping[str, Keyset], problems: list[str]) -> bool:
    good = True
    for number, proof in enumerate(proofs):
        dleq = proof.dleq
        if dleq is None or dleq.r is None:
            problems.append(f"dleq_missing: proof {number} does not show that the mint signed it")
            good = False
        elif not verify_proof_dleq(
            keysets[proof.id].key(proof.amount), proof.secret, proof.C, dleq.e, dleq.s, dleq.r
        ):
            problems.append(f"dleq_invalid: the mint did not sign proof {number}")
            good = False
    return good


def _state(states: Sequence[ProofState]) -> str:
    told = {each.state for each in states}
    return told.pop().value.lower() if len(told) == 1 else "mixed"


def _by_nonce(hash_: bytes, mint: int, item: int, proofs: Sequence[Proof]) -> list[Proof]:
    """In the order of their nonces where they have those of the terms; else as they are, to be refused."""
    place = {lock_nonce(hash_, mint, item, number): number for number in range(len(proofs))}

    def at(proof: Proof) -> int:
        try:
            return place.get(parse_secret(proof.secret).nonce, len(place))
        except TokenInvalid:
            return len(place)

    return sorted(proofs, key=at)


def _check_package(package: Package, keysets: Mapping[str, Keyset]) -> None:
    for keyset_id in [*(one.id for one in package.inputs), *(one.id for one in package.outputs)]:
        if keyset_id not in keysets:
            raise TokenInvalid("keyset", f"the mint has no keyset {keyset_id[:70]!a}")
    total = sum(each.amount for each in package.inputs)
    fee = fee_sats(keysets[each.id].input_fee_ppk for each in package.inputs)
    given = sum(each.amount for each in package.outputs)
    if given != total - fee:
        raise TokenInvalid(
            "amount", f"the outputs are {given} sat, the inputs less the mint's fee {total - fee} sat"
        )
    if len({each.secret for each in package.outputs}) != len(package.outputs):
        raise TokenInvalid("repeated_secret", "two outputs have one secret: only one could be spent")
    for each in package.outputs:
        if each.amount not in keysets[each.id].keys:
            raise TokenInvalid("amount", f"the mint signs no {each.amount} sat")
