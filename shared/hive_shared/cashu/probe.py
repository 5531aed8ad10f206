"""What a mint does, tried out with a few sats: what it says of itself proves nothing
(docs/protocol/03-escrow-and-payments.md §2.3, §4.2).

Seven small locks are made in one swap. Each is first offered with what must not open it, then with what must.
What comes back is kept; the cost is the mint's input fees.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from hive_shared.cashu.derive import public_key
from hive_shared.cashu.keysets import Keyset, fee_sats, split
from hive_shared.cashu.mint_caps import Caps
from hive_shared.cashu.outputs import Output, finish, output, restored
from hive_shared.cashu.ports import Mint, MintRefused, MintUnavailable
from hive_shared.cashu.secrets import Kind, Lock, SigFlag, build_secret, htlc, multisig
from hive_shared.cashu.wire import BlindedMessage, BlindSignature, Proof
from hive_shared.cashu.witness import all_digest, build, inputs_digest, sign
from hive_shared.crypto import Secret, sha256

__all__ = ["Probe", "probe_sats"]

_DAY_S: Final = 86_400
_LOCKS: Final = 7
_LONGEST_PAUSE_S: Final = 120.0
_Witness = Callable[[Proof, Sequence[BlindedMessage]], str | None]
_Sleep = Callable[[float], Awaitable[None]]


def _lock_sats(keyset: Keyset) -> int:
    """The smallest proof that is worth more than the fee for spending it."""
    fee = fee_sats([keyset.input_fee_ppk])
    return next(amount for amount in keyset.denominations if amount > fee)


def probe_sats(keyset: Keyset) -> int:
    """How many sats a probe with this keyset needs at hand: at least 32 (03 §4.2)."""
    return max(32, _LOCKS * _lock_sats(keyset) + fee_sats([keyset.input_fee_ppk] * 32))


@dataclass(frozen=True, slots=True)
class _Keys:
    payee: Secret
    second: Secret
    refund: Secret
    stranger: Secret
    preimage: str


class Probe:
    """One probe of one mint.

    `random_bytes` makes every key, nonce and blinding factor: whoever can give the same bytes again can make
    every output again and restore it. `coins` holds what is ours at any moment, also after an exception.
    """

    def __init__(
        self,
        mint: Mint,
        keyset: Keyset,
        coins: Sequence[Proof],
        *,
        now: Callable[[], int],
        sleep: _Sleep,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._mint, self._keyset, self._sleep, self._random = mint, keyset, sleep, random_bytes
        self.coins: list[Proof] = list(coins)
        self._at = now()
        payee, second, refund, stranger = (
            Secret(sha256(b"hive-probe-key/v1" + random_bytes(32))) for _ in range(4)
        )
        self._keys = _Keys(payee, second, refund, stranger, random_bytes(32).hex())
        self._worth = _lock_sats(keyset)
        self._restores = False

    async def run(self) -> Caps:
        """Try everything out. Raises ValueError when the coins do not suffice, MintUnavailable when the mint
        stops answering, MintNonconformant when a signature is false."""
        keys, late = self._keys, self._at - _DAY_S
        hashed = sha256(bytes.fromhex(keys.preimage)).hex()
        payee, second, refund = (public_key(key) for key in (keys.payee, keys.second, keys.refund))
        soon = self._at + _DAY_S
        both = (payee, second)
        plain, back, race, two, two_hashed, bound, refunds = await self._locked(
            [
                htlc(hashed, payee, locktime=soon, refund=refund),
                htlc(hashed, payee, locktime=late, refund=refund),
                htlc(hashed, payee, locktime=late, refund=refund),
                multisig(both, 2, locktime=soon, refund=refund),
                multisig(both, 2, locktime=soon, refund=refund, hash_hex=hashed),
                multisig(both, 2, locktime=soon, refund=refund, sigflag=SigFlag.SIG_ALL),
                Lock(Kind.P2PK, None, (payee,), late, (refund, second), None, 2, None),
            ]
        )
        restores = self._restores
        opened = await self._opens_only_by(
            plain,
            self._signed(keys.payee, preimage=keys.preimage),
            _nothing,
            self._preimage_alone,
            self._signed(keys.payee),
            self._signed(keys.stranger, preimage=keys.preimage),
            self._signed(keys.payee, preimage=keys.stranger.reveal().hex()),
        )
        refunded = await self._opens_only_by(
            back, self._signed(keys.refund), _nothing, self._signed(keys.stranger)
        )
        late_redeem = await self._opens_only_by(race, self._signed(keys.payee, preimage=keys.preimage))
        if not late_redeem:
            await self._opens_only_by(race, self._signed(keys.refund))
        pair = self._signed(keys.payee, keys.second)
        multi = await self._opens_only_by(two, pair, self._signed(keys.payee, keys.payee))
        multi_hashed = await self._opens_only_by(
            two_hashed,
            self._signed(keys.payee, keys.second, preimage=keys.preimage),
            self._signed(keys.payee, preimage=keys.preimage),
        )
        return Caps(
            htlc=opened and refunded,
            multisig=multi and multi_hashed,
            sigall=await self._opens_only_by(bound, self._signed_all(keys.payee, keys.second), pair),
            late_redeem=late_redeem,
            restore=restores,
            n_sigs_refund=await self._opens_only_by(
                refunds, self._signed(keys.refund, keys.second), self._signed(keys.refund)
            ),
        )

    async def _locked(self, locks: Sequence[Lock]) -> list[Proof]:
        """The locks as proofs, made of the coins in one swap; what the mint restores of it is noted."""
        fee = fee_sats([self._keyset.input_fee_ppk] * len(self.coins))
        change = sum(coin.amount for coin in self.coins) - fee - self._worth * len(locks)
        if change < 0:
            raise ValueError(f"a probe of {self._mint.url} needs {probe_sats(self._keyset)} sat")
        secrets = [build_secret(lock, self._random(16).hex()) for lock in locks]
        made = [self._output(self._worth, secret) for secret in secrets]
        made += [
            self._output(part, self._random(32).hex()) for part in split(change, self._keyset.denominations)
        ]
        made.sort(key=lambda each: each.amount)
        messages = [each.message for each in made]
        signatures = await self._swap(self.coins, messages)
        proofs = finish(made, signatures, {self._keyset.id: self._keyset})
        self.coins = [proof for proof in proofs if proof.secret not in secrets]
        self._restores = await self._gives_back(made, proofs)
        by_secret = {proof.secret: proof for proof in proofs}
        return [by_secret[secret] for secret in secrets]

    async def _gives_back(self, made: Sequence[Output], proofs: Sequence[Proof]) -> bool:
        try:
            answer = await self._mint.restore([each.message for each in made])
        except MintRefused:
            return False
        found = restored(made, answer.outputs, answer.signatures, {self._keyset.id: self._keyset})
        return {each.C for each in found.values()} == {each.C for each in proofs}

    async def _opens_only_by(self, locked: Proof, right: _Witness, *wrong: _Witness) -> bool:
        """Whether everything wrong is refused and the right witness accepted."""
        for witness in wrong:
            if await self._spent(locked, witness):
                return False
        return await self._spent(locked, right)

    async def _spent(self, locked: Proof, witness: _Witness) -> bool:
        worth = locked.amount - fee_sats([self._keyset.input_fee_ppk])
        made = [
            self._output(part, self._random(32).hex()) for part in split(worth, self._keyset.denominations)
        ]
        messages = [each.message for each in made]
        try:
            signatures = await self._swap(
                [msgspec.structs.replace(locked, witness=witness(locked, messages))], messages
            )
        except MintRefused:
            return False
        self.coins += finish(made, signatures, {self._keyset.id: self._keyset})
        return True

    async def _swap(
        self, inputs: Sequence[Proof], messages: Sequence[BlindedMessage]
    ) -> Sequence[BlindSignature]:
        """One swap; the mint's request budget is waited for, it is ours to keep."""
        while True:
            try:
                return await self._mint.swap(inputs, messages)
            except MintUnavailable as error:
                if error.sent or not 0 < error.retry_after_s <= _LONGEST_PAUSE_S:
                    raise
                await self._sleep(error.retry_after_s)

    def _plain(self, amount: int) -> list[Output]:
        parts = split(amount, self._keyset.denominations)
        return [self._output(part, self._random(32).hex()) for part in parts]

    def _output(self, amount: int, secret: str) -> Output:
        return output(amount, self._keyset.id, secret, sha256(b"hive-probe-r/v1" + self._random(32)))

    def _signed(self, *signers: Secret, preimage: str | None = None) -> _Witness:
        def witness(proof: Proof, _outputs: Sequence[BlindedMessage]) -> str:
            digest = inputs_digest(proof.secret)
            return build(preimage, [sign(key, digest, self._random(32)) for key in signers])

        return witness

    def _signed_all(self, *signers: Secret) -> _Witness:
        def witness(proof: Proof, outputs: Sequence[BlindedMessage]) -> str:
            digest = all_digest([proof], outputs)
            return build(None, [sign(key, digest, self._random(32)) for key in signers])

        return witness

    def _preimage_alone(self, _proof: Proof, _outputs: Sequence[BlindedMessage]) -> str:
        return msgspec.json.encode({"preimage": self._keys.preimage}).decode()


def _nothing(_proof: Proof, _outputs: Sequence[BlindedMessage]) -> None:
    return None
