"""The mint's half of Cashu for tests of the pure library: keys, blind signatures, DLEQ proofs. No server."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache

from coincurve import PrivateKey, PublicKey
from hive_shared.cashu import curve, keysets
from hive_shared.cashu.keysets import Keyset
from hive_shared.cashu.outputs import Output, finish, output
from hive_shared.cashu.wire import BlindedMessage, BlindSignature, Dleq, Proof


@dataclass
class PaperMint:
    """Signs what it is shown. `seed` decides its keys; `forged` signs with a key it does not publish."""

    seed: str = "mint"
    input_fee_ppk: int = 0
    unit: str = "sat"
    version: int = 1
    forged: bool = False
    amounts: tuple[int, ...] = tuple(2**power for power in range(22))
    keyset: Keyset = field(init=False)

    def __post_init__(self) -> None:
        self._private = _private_keys(self.seed, self.amounts)
        self.keyset = _keyset(self.seed, self.amounts, self.unit, self.input_fee_ppk, self.version)

    @property
    def keysets(self) -> dict[str, Keyset]:
        """Its one keyset, by id."""
        return {self.keyset.id: self.keyset}

    def sign(self, message: BlindedMessage) -> BlindSignature:
        """Sign one output, with the proof that the published key did it."""
        key = self._private[message.amount]
        point = PublicKey(bytes.fromhex(message.B_))
        signature = point.multiply((_key("forgery") if self.forged else key).secret)
        p = _key(f"nonce {message.B_}").secret
        first, second = PublicKey.from_valid_secret(p), point.multiply(p)
        text = "".join(
            each.format(compressed=False).hex() for each in (first, second, key.public_key, signature)
        )
        e = hashlib.sha256(text.encode()).digest()
        s = (int.from_bytes(p) + int.from_bytes(e) * int.from_bytes(key.secret)) % curve.ORDER
        dleq = Dleq(e.hex(), s.to_bytes(32).hex())
        return BlindSignature(message.amount, message.id, signature.format().hex(), dleq)

    def output(self, amount: int, secret: str) -> Output:
        """An output of its keyset for one secret, blinded by a factor that follows from the secret."""
        r = hashlib.sha256(b"r" + secret.encode()).digest()
        return output(amount, self.keyset.id, secret, r)

    def proof(self, amount: int, secret: str) -> Proof:
        """A whole proof for one secret."""
        made = self.output(amount, secret)
        return finish([made], [self.sign(made.message)], self.keysets)[0]


def _key(name: str) -> PrivateKey:
    return PrivateKey(hashlib.sha256(name.encode()).digest())


@cache
def _private_keys(seed: str, amounts: tuple[int, ...]) -> dict[int, PrivateKey]:
    return {amount: _key(f"{seed}/{amount}") for amount in amounts}


@cache
def _keyset(seed: str, amounts: tuple[int, ...], unit: str, input_fee_ppk: int, version: int) -> Keyset:
    keys = _private_keys(seed, amounts)
    public = {amount: key.public_key.format().hex() for amount, key in keys.items()}
    claimed = keysets.id_v1(public) if version == 1 else keysets.id_v2(public, unit, input_fee_ppk, None)
    return keysets.keyset(claimed, unit, public, active=True, input_fee_ppk=input_fee_ppk, final_expiry=None)
