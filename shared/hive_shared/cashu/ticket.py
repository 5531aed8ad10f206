"""An escrow ticket's locked proofs: derived by the payer, checked one by one by the payee before any work
(docs/protocol/03-escrow-and-payments.md §2.4, §6.6).

A lock is known in every byte from the terms, so a received secret is compared with the only one it may be;
reading it serves to say what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from hive_shared.cashu import secrets
from hive_shared.cashu.curve import verify_proof_dleq, y_of
from hive_shared.cashu.derive import lock_nonce, lock_r
from hive_shared.cashu.keysets import Keyset, expand, face_sats, fee_sats, split
from hive_shared.cashu.outputs import Output, output
from hive_shared.cashu.reasons import MintNonconformant, TokenInvalid, TokenSpent
from hive_shared.cashu.secrets import Lock, LockedSecret, build_secret, parse_secret
from hive_shared.cashu.terms import (
    Mode,
    Terms,
    share_locktime,
    share_sats,
    signed_by,
    terms_hash,
    terms_text,
)
from hive_shared.cashu.token import Token
from hive_shared.cashu.windows import MIN_BUFFER_S
from hive_shared.cashu.wire import Proof, ProofState, SpendState
from hive_shared.crypto import Secret

MIN_TIME_LEFT_S: Final = 900
"""No work is begun on an item whose locktime is nearer than this."""
KEYSET_AFTER_LOCK_S: Final = 7 * 86_400
"""How much longer than a lock its keyset must live."""


class Share(msgspec.Struct, frozen=True):
    """The proofs of one item at one mint, checked: `net_sats` is what a redemption of them alone gives."""

    item: int
    mint: int
    lock: Lock
    proofs: tuple[Proof, ...]
    ys: tuple[str, ...]
    net_sats: int


class CheckedTicket(msgspec.Struct, frozen=True):
    """A ticket that passed every check that needs nobody's answer; its `ys` are still to be asked about."""

    terms: Terms
    terms_hash: bytes
    shares: tuple[Share, ...]

    def ys_at(self, mint: int) -> tuple[str, ...]:
        """Every `Y` whose state the mint is to be asked for."""
        return tuple(y for share in self.shares if share.mint == mint for y in share.ys)


def lock_of(terms: Terms, item: int, mint: int) -> Lock:
    """The condition that every proof of an item at one mint has."""
    locktime = share_locktime(terms, item, mint)
    payee, refund = terms.payee.lock_pubkey, terms.payer.refund_pubkey
    hash_hex = terms.items[item].hash
    if isinstance(hash_hex, str) and terms.mode is not Mode.P2PK:
        return secrets.htlc(hash_hex, payee, locktime=locktime, refund=refund)
    return secrets.p2pk(payee, locktime=locktime, refund=refund)


def lock_outputs(terms: Terms, item: int, mint: int, keyset: Keyset, lock_seed: Secret) -> tuple[Output, ...]:
    """The outputs that lock an item's share at one mint: always the same for the same terms and seed.

    Ascending amounts; their sum is the share's face. Raises ValueError for a share the keyset cannot make.
    """
    sats, lock = share_sats(terms, item, mint), lock_of(terms, item, mint)
    return outputs_under(lock, terms_hash(terms), sats, keyset, lock_seed, item=item, mint=mint)


def outputs_under(
    lock: Lock, hash_: bytes, sats: int, keyset: Keyset, lock_seed: Secret, *, item: int = 0, mint: int = 0
) -> tuple[Output, ...]:
    """The same for any conditions, `hash_` (32 bytes) being what stands for the terms: whoever takes `sats`
    alone gets them whole, after the mint's fee. Raises ValueError."""
    face = face_sats(sats, keyset.input_fee_ppk, keyset.denominations)
    amounts = split(face, keyset.denominations)
    return outputs_of(amounts, lock, hash_, keyset.id, lock_seed, item=item, mint=mint)


def outputs_of(
    amounts: Iterable[int],
    lock: Lock,
    hash_: bytes,
    keyset_id: str,
    lock_seed: Secret,
    *,
    item: int = 0,
    mint: int = 0,
) -> tuple[Output, ...]:
    """The outputs of one share, into whatever `amounts` (sat; 0: the mint says which) it is cut."""
    return tuple(
        output(
            amount,
            keyset_id,
            build_secret(lock, lock_nonce(hash_, mint, item, number)),
            lock_r(lock_seed, hash_, mint, item, number),
        )
        for number, amount in enumerate(amounts)
    )


def check_ticket(
    terms: Terms,
    payer_signature: str,
    tokens: Sequence[Token],
    *,
    payer_id: str,
    payee_id: str,
    lock_pubkey: str,
    mints: Mapping[str, Mapping[str, Keyset]],
    seen_ys: Collection[str],
    now_s: int,
    did_signature_checked: bool = False,
) -> CheckedTicket:
    """All checks of a payee that need no answer of a mint.

    `payer_id` is who sent the ticket, `payee_id` and `lock_pubkey` are ours. `mints` are those we accept and
    whose probe passed, by normal address, with their keysets; `seen_ys` are of ecash received before.
    A payer that is a DID has its signature checked by cl-hive-archon, which the caller says.
    Raises TokenInvalid: `party`, `signature`, `own_key`, `mint`, `deadline`, `too_late`, `keyset`, `unit`,
    `repeated_secret`, `dleq_missing`, `dleq_invalid`, `nonce`, `order`, `split`, `amount_short`, `point`;
    for a secret that is not the one of the terms what `parse_secret` raises, `form`, `kind`, `hash`,
    `pubkeys`, `refund`, `locktime`, `n_sigs` or `sigflag`.
    """
    hash_ = terms_hash(terms)
    _check_parties(terms, payer_id, payee_id, lock_pubkey)
    if not did_signature_checked and not signed_by(payer_id, terms_text(hash_), payer_signature):
        raise TokenInvalid("signature", "the payer's signature is not on these terms")
    _check_times(terms, now_s)
    shares: list[Share] = []
    for mint, proofs in enumerate(_by_mint(terms, tokens, mints)):
        shares += _shares_at(terms, hash_, mint, proofs, mints[terms.mints[mint].url])
    if any(y in seen_ys for share in shares for y in share.ys):
        raise TokenInvalid("repeated_secret", "a proof of the ticket was received before")
    return CheckedTicket(terms, hash_, tuple(shares))


def check_states(checked: CheckedTicket, mint: int, states: Sequence[ProofState]) -> None:
    """The last check: the mint says every proof is unspent. UNSPENT alone proves nothing (03 §2.3).

    Raises TokenSpent for one that is spent or being spent, MintNonconformant for an answer about others.
    """
    wanted = checked.ys_at(mint)
    if [each.Y for each in states] != list(wanted):
        raise MintNonconformant(f"checkstate answers other Ys than the {len(wanted)} it was asked for")
    for each in states:
        if each.state is not SpendState.UNSPENT:
            raise TokenSpent(
                f"a proof of the ticket is {each.state.value.lower()} at {checked.terms.mints[mint].url}"
            )


def _check_parties(terms: Terms, payer_id: str, payee_id: str, lock_pubkey: str) -> None:
    if terms.payer.id != payer_id:
        raise TokenInvalid("party", "the terms name another payer than who sent them")
    if terms.payee.id != payee_id:
        raise TokenInvalid("party", "the terms name another payee than us")
    if terms.payee.lock_pubkey != lock_pubkey:
        raise TokenInvalid("own_key", "the terms lock to another key than the one we announced")


def _check_times(terms: Terms, now_s: int) -> None:
    for item in terms.items:
        if item.locktime < item.deadline + MIN_BUFFER_S:
            raise TokenInvalid(
                "deadline",
                f"item {item.i} leaves {item.locktime - item.deadline} s to redeem, not {MIN_BUFFER_S}",
            )
        if item.locktime < now_s + MIN_TIME_LEFT_S:
            raise TokenInvalid(
                "too_late", f"item {item.i} may be taken back in {max(0, item.locktime - now_s)} s"
            )


def _by_mint(
    terms: Terms,
    tokens: Sequence[Token],
    mints: Mapping[str, Mapping[str, Keyset]],
) -> list[list[Proof]]:
    found: list[list[Proof]] = [[] for _ in terms.mints]
    index = {mint.url: number for number, mint in enumerate(terms.mints)}
    for url in index:
        if url not in mints:
            raise TokenInvalid("mint", f"mint {url} is none we accept")
    met: set[str] = set()
    for token in tokens:
        number = index.get(token.mint.rstrip("/"))
        if number is None:
            raise TokenInvalid("mint", f"a token is of mint {token.mint[:80]!a}, which the terms do not name")
        found[number] += token.proofs
        for proof in token.proofs:
            if proof.secret in met:
                raise TokenInvalid("repeated_secret", "two proofs of the ticket have one secret")
            met.add(proof.secret)
    return found


def _shares_at(
    terms: Terms, hash_: bytes, mint: int, proofs: Sequence[Proof], keysets: Mapping[str, Keyset]
) -> list[Share]:
    by_nonce: dict[str, Proof] = {}
    for proof in proofs:
        read = parse_secret(proof.secret)
        if read.nonce in by_nonce:
            raise TokenInvalid("nonce", "two proofs of the ticket have one nonce")
        by_nonce[read.nonce] = proof
    received: list[list[Proof]] = []
    for item in range(len(terms.items)):
        taken: list[Proof] = []
        while (nonce := lock_nonce(hash_, mint, item, len(taken))) in by_nonce:
            taken.append(by_nonce.pop(nonce))
        received.append(taken)
    if by_nonce:
        raise TokenInvalid("nonce", f"{len(by_nonce)} proofs of the ticket have no nonce of these terms")
    return [check_share(terms, hash_, item, mint, taken, keysets) for item, taken in enumerate(received)]


def check_share(
    terms: Terms,
    hash_: bytes,
    item: int,
    mint: int,
    received: Sequence[Proof],
    keysets: Mapping[str, Keyset],
) -> Share:
    """The checks of one item's proofs at one mint, by ascending amounts; `hash_` is `terms_hash(terms)`.

    Raises TokenInvalid as `check_ticket` does from `keyset` on.
    """
    lock = lock_of(terms, item, mint)
    used: list[Keyset] = []
    for number, proof in enumerate(received):
        expected = LockedSecret(lock, lock_nonce(hash_, mint, item, number))
        if proof.secret != build_secret(lock, expected.nonce):
            raise _difference(proof.secret, expected, item)
        keyset = keysets[expand(proof.id, keysets)]
        _check_keyset(keyset, lock)
        used.append(keyset)
    amounts = [proof.amount for proof in received]
    if amounts != sorted(amounts):
        raise TokenInvalid("order", f"item {item}: the nonces are not in the order of ascending amounts")
    _check_split(amounts, used, item)
    proofs = []
    for proof, keyset in zip(received, used, strict=True):
        _check_dleq(proof, keyset, item)
        proofs.append(Proof(proof.amount, keyset.id, proof.secret, proof.C, dleq=proof.dleq))
    net = sum(amounts) - fee_sats(keyset.input_fee_ppk for keyset in used)
    due = share_sats(terms, item, mint)
    if net < due:
        raise TokenInvalid(
            "amount_short", f"item {item} nets {max(0, net)} sat at this mint, agreed are {due}"
        )
    return Share(item, mint, lock, tuple(proofs), tuple(y_of(proof.secret) for proof in proofs), net)


def _difference(secret: str, expected: LockedSecret, item: int) -> TokenInvalid:
    found, wanted = parse_secret(secret).lock, expected.lock
    for check, name in (
        ("kind", "kind"),
        ("hash", "hash"),
        ("pubkeys", "keys"),
        ("refund", "refund"),
        ("locktime", "locktime"),
        ("n_sigs", "n_sigs"),
        ("n_sigs", "n_sigs_refund"),
        ("sigflag", "sigflag"),
    ):
        if getattr(found, name) != getattr(wanted, name):
            return TokenInvalid(check, f"item {item}: a proof's {name} is not that of the terms")
    return TokenInvalid("form", f"item {item}: a secret says what it should in another spelling")


def _check_keyset(keyset: Keyset, lock: Lock) -> None:
    if keyset.unit != "sat":
        raise TokenInvalid("unit", f"keyset {keyset.id} is in {keyset.unit}, not in sat")
    if (
        keyset.final_expiry is not None
        and lock.locktime is not None
        and keyset.final_expiry <= lock.locktime + KEYSET_AFTER_LOCK_S
    ):
        raise TokenInvalid("keyset", f"keyset {keyset.id} expires less than 7 days after the lock")


def _check_split(amounts: Sequence[int], used: Sequence[Keyset], item: int) -> None:
    """One share is redeemed in one swap. Cut smaller than its sum needs it may be more than a mint takes at
    once: nobody could redeem it, while its payer takes it back piece by piece."""
    total = sum(amounts)
    for keyset in {keyset.id: keyset for keyset in used}.values():
        try:
            fewest = len(split(total, keyset.denominations))
        except ValueError as error:
            raise TokenInvalid("split", f"item {item}: {error}") from None
        if len(amounts) > fewest:
            raise TokenInvalid(
                "split", f"item {item}: {len(amounts)} proofs make {total} sat, which takes {fewest}"
            )


def _check_dleq(proof: Proof, keyset: Keyset, item: int) -> None:
    dleq = proof.dleq
    if dleq is None or dleq.r is None:
        raise TokenInvalid("dleq_missing", f"item {item}: a proof does not show that the mint signed it")
    key = keyset.key(proof.amount)
    if not verify_proof_dleq(key, proof.secret, proof.C, dleq.e, dleq.s, dleq.r):
        raise TokenInvalid("dleq_invalid", f"item {item}: the mint did not sign one of the proofs")
