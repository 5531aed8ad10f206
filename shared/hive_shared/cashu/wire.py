"""The mint's API as it goes over the wire (docs/protocol/03-escrow-and-payments.md §2.1; NUT-01 to NUT-09).

Answers are read tolerantly in what they have beside (versions differ) and strictly in what we use: amounts
are integers, ids and points hex of the right length, lists bounded. Points of signatures are put on the curve
where they are unblinded, `outputs.finish`; `Y` and `B_` of an answer count only when they are ones we sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from hive_shared.cashu.keysets import Keyset, keyset
from hive_shared.cashu.reasons import MintNonconformant

MAX_ANSWER_BYTES: Final = 4 * 2**20
"""Largest answer of a mint that is read (03 §4.2)."""
MAX_ANSWER_DEPTH: Final = 16
"""Deepest nesting of a mint's answer."""
MAX_ARRAY: Final = 1_000
"""Most elements of one array we send or read; a mint may name less (`max_array_length`)."""
MAX_AMOUNT: Final = 2_100_000_000_000_000
"""All bitcoin there will be, in sat: no amount is above."""

Amount = Annotated[int, Meta(ge=0, le=MAX_AMOUNT)]
PointHex = Annotated[str, Meta(pattern=r"^0[23][0-9a-f]{64}\Z")]
Hex32 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Text = Annotated[str, Meta(max_length=4_096)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Seconds = Annotated[int, Meta(ge=0, le=2**53)]
KeysetIdText = Annotated[str, Meta(min_length=1, max_length=66)]
"""An id as mints list it: older ones also list forms that we do not use (`keysets.is_keyset_id`)."""


class Dleq(Struct, frozen=True, omit_defaults=True):
    """NUT-12: the mint's proof that it signed with its published key; `r` only in tokens, never to a mint."""

    e: Hex32
    s: Hex32
    r: Hex32 | None = None


class BlindedMessage(Struct, frozen=True):
    """An output: what the mint is to sign. Amount 0 is a blank one (NUT-08)."""

    amount: Amount
    id: KeysetIdText
    B_: PointHex


class BlindSignature(Struct, frozen=True):
    """The mint's signature on an output, still blinded."""

    amount: Amount
    id: KeysetIdText
    C_: PointHex
    dleq: Dleq | None = None


class Proof(Struct, frozen=True, omit_defaults=True):
    """One piece of ecash. `secret` and `C` are its money: whoever has them (and what the secret asks for) has
    it. `amount` is in the keyset's unit; `witness` is JSON text."""

    amount: Amount
    id: KeysetIdText
    secret: str
    C: PointHex
    witness: str | None = None
    dleq: Dleq | None = None

    def __repr__(self) -> str:
        return f"<proof of {self.amount}>"  # a proof in a log line would be money in a log line


class NutSetting(Struct, frozen=True):
    """What a mint says about one NUT; older and newer ones say it in different shapes."""

    supported: Any = None
    methods: Any = None
    disabled: bool = False


class MintInfo(Struct, frozen=True):
    """`GET /v1/info`. `time` in Unix seconds (not in 0.16)."""

    name: Text | None = None
    version: Text | None = None
    pubkey: Text | None = None
    time: Seconds | None = None
    max_array_length: Annotated[int, Meta(ge=1)] | None = None
    nuts: dict[str, NutSetting] = {}

    def supports(self, nut: int) -> bool:
        """Whether the mint says it has this NUT; for 4 and 5, whether it is enabled for bolt11 in sat."""
        setting = self.nuts.get(str(nut))
        if setting is None:
            return False
        if nut in (4, 5):
            return not setting.disabled and _has_bolt11_sat(setting.methods)
        return setting.supported is True

    @property
    def array_limit(self) -> int:
        """Most elements of one array in a request to this mint."""
        return min(MAX_ARRAY, self.max_array_length or MAX_ARRAY)


def _has_bolt11_sat(methods: object) -> bool:
    if not isinstance(methods, list):
        return False
    return any(
        isinstance(each, dict) and each.get("method") == "bolt11" and each.get("unit") == "sat"
        for each in methods
    )


class KeysetInfo(Struct, frozen=True):
    """One keyset as `GET /v1/keysets` lists it; `final_expiry` in Unix seconds."""

    id: KeysetIdText
    unit: Name
    active: bool
    input_fee_ppk: Annotated[int, Meta(ge=0)] | None = None
    final_expiry: Seconds | None = None


class KeysetList(Struct, frozen=True):
    """`GET /v1/keysets`."""

    keysets: Annotated[list[KeysetInfo], Meta(max_length=MAX_ARRAY)]


class KeysetKeys(Struct, frozen=True):
    """The keys of one keyset, amount (decimal text) to public key, as `GET /v1/keys/{id}` gives them."""

    id: KeysetIdText
    unit: Name
    keys: Annotated[dict[str, PointHex], Meta(max_length=128)]


class KeysAnswer(Struct, frozen=True):
    """`GET /v1/keys/{id}`."""

    keysets: Annotated[list[KeysetKeys], Meta(max_length=MAX_ARRAY)]


class QuoteState(StrEnum):
    """Where a quote stands; ISSUED only for mint quotes, PENDING only for melt quotes."""

    UNPAID = "UNPAID"
    PENDING = "PENDING"
    PAID = "PAID"
    ISSUED = "ISSUED"


class MintQuote(Struct, frozen=True):
    """An invoice of the mint that buys ecash. `expiry` in Unix seconds; `amount` in `unit` where given."""

    quote: Name
    request: Annotated[str, Meta(min_length=1, max_length=8_192)]
    state: QuoteState | None = None
    paid: bool | None = None
    amount: Amount | None = None
    unit: Name | None = None
    expiry: int | None = None
    pubkey: Annotated[str, Meta(pattern=r"^(0[23][0-9a-f]{64})?\Z")] | None = None
    """The key the quote is bound to (NUT-20); 0.19 says "" where there is none."""

    @property
    def status(self) -> QuoteState:
        """The state, also of a mint that only says `paid`. Raises MintNonconformant when it says neither."""
        return _status(self.state, self.paid)


class MeltQuote(Struct, frozen=True):
    """What the mint asks for paying an invoice: `amount` and at most `fee_reserve`, in the unit."""

    quote: Name
    amount: Amount
    fee_reserve: Amount
    state: QuoteState | None = None
    paid: bool | None = None
    expiry: int | None = None
    payment_preimage: Text | None = None
    change: Annotated[list[BlindSignature], Meta(max_length=MAX_ARRAY)] | None = None

    @property
    def status(self) -> QuoteState:
        """The state, also of a mint that only says `paid`. Raises MintNonconformant when it says neither."""
        return _status(self.state, self.paid)


class MeltAnswer(Struct, frozen=True):
    """`POST /v1/melt/bolt11`; `change` are signatures on the first of the blank outputs."""

    state: QuoteState | None = None
    paid: bool | None = None
    payment_preimage: Text | None = None
    change: Annotated[list[BlindSignature], Meta(max_length=MAX_ARRAY)] | None = None

    @property
    def status(self) -> QuoteState:
        """The state, also of a mint that only says `paid`. Raises MintNonconformant when it says neither."""
        return _status(self.state, self.paid)


def _status(state: QuoteState | None, paid: bool | None) -> QuoteState:
    if state is not None:
        return state
    if paid is None:
        raise MintNonconformant("a quote has neither state nor paid")
    return QuoteState.PAID if paid else QuoteState.UNPAID


class Signatures(Struct, frozen=True):
    """The answer to a swap or a mint: one signature per output, in the order of the outputs."""

    signatures: Annotated[list[BlindSignature], Meta(max_length=MAX_ARRAY)]


class SpendState(StrEnum):
    """What a mint knows about a `Y`. UNSPENT is also its answer for what it never signed (03 §2.3)."""

    UNSPENT = "UNSPENT"
    PENDING = "PENDING"
    SPENT = "SPENT"


class ProofState(Struct, frozen=True):
    """State of one proof; a spent one shows the witness it was spent with."""

    Y: PointHex
    state: SpendState
    witness: Annotated[str, Meta(max_length=65_536)] | None = None


class StateAnswer(Struct, frozen=True):
    """`POST /v1/checkstate`."""

    states: Annotated[list[ProofState], Meta(max_length=MAX_ARRAY)]


class RestoreAnswer(Struct, frozen=True):
    """`POST /v1/restore`: those of our outputs that the mint signed, and its signatures, pairwise."""

    outputs: Annotated[list[BlindedMessage], Meta(max_length=MAX_ARRAY)]
    signatures: Annotated[list[BlindSignature], Meta(max_length=MAX_ARRAY)]


class MintError(Struct, frozen=True):
    """Why a mint refused. For people: what became of money is asked, never read from here (03 §2.1)."""

    detail: Any = None
    code: Any = None


class MintQuoteRequest(Struct, frozen=True, omit_defaults=True):
    """`POST /v1/mint/quote/bolt11`; `pubkey` binds the quote to a key (NUT-20)."""

    amount: int
    unit: str
    description: str | None = None
    pubkey: str | None = None


class MintRequest(Struct, frozen=True, omit_defaults=True):
    """`POST /v1/mint/bolt11`."""

    quote: str
    outputs: Sequence[BlindedMessage]
    signature: str | None = None


class MeltQuoteRequest(Struct, frozen=True):
    """`POST /v1/melt/quote/bolt11`; `request` is the invoice."""

    request: str
    unit: str


class MeltRequest(Struct, frozen=True):
    """`POST /v1/melt/bolt11`; the outputs are blank ones for what remains of the fee reserve."""

    quote: str
    inputs: Sequence[Proof]
    outputs: Sequence[BlindedMessage]


class SwapRequest(Struct, frozen=True):
    """`POST /v1/swap`."""

    inputs: Sequence[Proof]
    outputs: Sequence[BlindedMessage]


class StateRequest(Struct, frozen=True):
    """`POST /v1/checkstate`."""

    Ys: Sequence[str]


class RestoreRequest(Struct, frozen=True):
    """`POST /v1/restore`."""

    outputs: Sequence[BlindedMessage]


_A = TypeVar("_A", bound=Struct)
# Possessive, and an open string reaches to the end: whatever the bytes, each is looked at once.
_STRINGS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def decode(answer: bytes, kind: type[_A]) -> _A:
    """Read a mint's answer as `kind`. Raises MintNonconformant, naming the field, for anything else."""
    if len(answer) > MAX_ANSWER_BYTES:
        raise MintNonconformant(
            f"the mint's answer is {len(answer)} bytes, at most {MAX_ANSWER_BYTES} are read"
        )
    if _depth(answer) > MAX_ANSWER_DEPTH:
        raise MintNonconformant(f"the mint's answer is nested deeper than {MAX_ANSWER_DEPTH}")
    try:
        return msgspec.json.decode(answer, type=kind)
    except msgspec.ValidationError as err:
        raise MintNonconformant(f"the mint's {kind.__name__} is not as it must be: {err}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise MintNonconformant(f"the mint's answer is not JSON: {err}") from None


def encode(request: Struct) -> bytes:
    """A request's body. The same request always has the same bytes: it may have to be sent again."""
    return msgspec.json.encode(request)


def as_inputs(proofs: Iterable[Proof]) -> list[Proof]:
    """The proofs as a mint is to see them: without the DLEQ, whose `r` would link them to their making."""
    return [Proof(each.amount, each.id, each.secret, each.C, each.witness) for each in proofs]


def read_keyset(info: KeysetInfo, answer: KeysAnswer) -> Keyset:
    """The keyset of a mint's list, with the keys from its answer for that id, the id recomputed.

    Raises MintNonconformant when the answer has not exactly this keyset in this unit or its id is not that of
    the keys.
    """
    found = [each for each in answer.keysets if each.id == info.id]
    if len(found) != 1:
        raise MintNonconformant(f"asked for keyset {info.id}, the mint's answer has it {len(found)} times")
    if found[0].unit != info.unit:
        raise MintNonconformant(f"keyset {info.id} is listed in {info.unit} and has keys in {found[0].unit}")
    amounts: dict[int, str] = {}
    for text, key in found[0].keys.items():
        if not (text.isascii() and text.isdigit() and len(text) <= 20) or text.startswith("0"):
            raise MintNonconformant(f"keyset {info.id} has a key for {text[:40]!a}, which is no amount")
        amounts[int(text)] = key
    return keyset(
        info.id,
        info.unit,
        amounts,
        active=info.active,
        input_fee_ppk=info.input_fee_ppk or 0,
        final_expiry=info.final_expiry,
    )


def _depth(answer: bytes) -> int:
    deepest = depth = 0
    for bracket in _STRINGS.sub(b"", answer).translate(None, _NOT_BRACKETS):
        if bracket in b"[{":
            depth += 1
            if depth > deepest:
                deepest = depth
                if deepest > MAX_ANSWER_DEPTH:
                    break
        else:
            depth -= 1
    return deepest
