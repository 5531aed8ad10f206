"""Outputs from their secrets, and proofs from the mint's signatures on them, each one checked
(docs/protocol/03-escrow-and-payments.md §2.2, §5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from hive_shared.cashu import curve
from hive_shared.cashu.keysets import Keyset
from hive_shared.cashu.reasons import MintNonconformant, TokenInvalid
from hive_shared.cashu.wire import BlindedMessage, BlindSignature, Dleq, Proof

IN_ONE_GO: Final = 50
"""Curve work on so many outputs is done where it is asked for; more would hold up everything else that the
process does, and is done beside it (03 §3.3)."""
_T = TypeVar("_T")


class Output(msgspec.Struct, frozen=True):
    """One output of ours: everything that makes a proof of the mint's signature. `amount` 0 is a blank one.

    Stored before the request leaves; `secret` and `r` are money together with the signature.
    """

    amount: int
    keyset_id: str
    secret: str
    r: bytes
    blinded: str

    def __repr__(self) -> str:
        return f"<output of {self.amount} {self.blinded}>"

    @property
    def message(self) -> BlindedMessage:
        """What the mint is shown of it."""
        return BlindedMessage(self.amount, self.keyset_id, self.blinded)


def output(amount: int, keyset_id: str, secret: str, r: bytes) -> Output:
    """Blind one secret. Raises ValueError for a blinding factor of 0 or beyond the order of the curve."""
    return Output(amount, keyset_id, secret, r, curve.blind(secret, r))


def finish(
    outputs: Sequence[Output],
    signatures: Sequence[BlindSignature],
    keysets: Mapping[str, Keyset],
    *,
    fewer: bool = False,
) -> tuple[Proof, ...]:
    """The proofs of a mint's answer to these outputs, in their order, each with its DLEQ and `r`.

    One signature per output, of its amount and keyset, with a DLEQ that holds; a blank output takes the
    amount the mint gave it. With `fewer` (change of a melt) the mint may answer only the first ones.
    Raises MintNonconformant, naming the output: then nothing of the answer counts.
    """
    if len(signatures) > len(outputs) or (len(signatures) < len(outputs) and not fewer):
        raise MintNonconformant(f"{len(signatures)} signatures answer {len(outputs)} outputs")
    return tuple(
        _proof(number, sent, signed, keysets)
        for number, (sent, signed) in enumerate(zip(outputs, signatures, strict=False))
    )


def restored(
    outputs: Iterable[Output],
    answered: Sequence[BlindedMessage],
    signatures: Sequence[BlindSignature],
    keysets: Mapping[str, Keyset],
) -> dict[str, Proof]:
    """The proofs of a restore, by the `B_` of their output: the mint names those of ours that it signed.

    A blank output is known by its `B_` alone. Raises MintNonconformant when the answer names an output that
    is not ours, one twice, or does not pair, and as `finish` does.
    """
    ours = {each.blinded: each for each in outputs}
    if len(answered) != len(signatures):
        raise MintNonconformant(f"restore answers {len(answered)} outputs with {len(signatures)} signatures")
    found: dict[str, Proof] = {}
    for number, (message, signed) in enumerate(zip(answered, signatures, strict=True)):
        sent = ours.get(message.B_)
        if sent is None or message.B_ in found:
            raise MintNonconformant(
                f"restore answers output {message.B_}, which was not asked for or is twice"
            )
        found[message.B_] = _proof(number, sent, signed, keysets)
    return found


def _proof(number: int, sent: Output, signed: BlindSignature, keysets: Mapping[str, Keyset]) -> Proof:
    place = f"signature {number} of the mint's answer"
    if signed.id != sent.keyset_id or (sent.amount and signed.amount != sent.amount):
        raise MintNonconformant(
            f"{place} is for {signed.amount} of keyset {signed.id}, not {sent.amount} of {sent.keyset_id}"
        )
    keyset = keysets.get(signed.id)
    if keyset is None or signed.amount not in keyset.keys:
        raise MintNonconformant(f"{place}: keyset {signed.id} has no key for {signed.amount} that we know")
    if signed.dleq is None:
        raise MintNonconformant(f"{place} comes without the proof that the published key made it (DLEQ)")
    dleq = signed.dleq
    try:
        c = curve.unblind_verified(
            keyset.keys[signed.amount], sent.blinded, signed.C_, dleq.e, dleq.s, sent.r
        )
    except TokenInvalid as err:
        raise MintNonconformant(f"{place}: {err.detail}") from None
    if c is None:
        raise MintNonconformant(f"{place} was not made with the published key (its DLEQ does not hold)")
    return Proof(signed.amount, signed.id, sent.secret, c, dleq=Dleq(dleq.e, dleq.s, sent.r.hex()))


async def beside(count: int, work: Callable[[], _T]) -> _T:
    """What curve work on `count` outputs gives, without holding up the loop."""
    return work() if count <= IN_ONE_GO else await asyncio.to_thread(work)
