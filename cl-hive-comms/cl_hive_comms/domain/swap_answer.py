"""What a swap service answers, read with care: it is somebody else's plugin (docs/protocol/02 §4 item 5;
docs/decisions/0412).

Only words, numbers and ids of a known form are taken over; its texts are not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

State = Literal["done", "pending", "rejected", "failed", "unknown", "unclear"]
"""`rejected`: nothing was begun. `failed`: begun and given up. `unknown`: it never heard of the swap.
`unclear`: its answer does not say."""

_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,80}\Z")
_TXID: Final = re.compile(r"[0-9a-f]{64}\Z")
_OWN_WORDS: Final = ("done", "pending", "rejected", "failed", "unknown")
_BOLTZ_DONE: Final = ("success", "completed", "claimed")
_BOLTZ_OVER: Final = ("error", "refunded", "abandoned", "failed", "expired")
_BOLTZ_FEES: Final = ("boltzFee", "networkFee", "serviceFee", "routingFee", "onchainFee")


class SwapAnswer(msgspec.Struct, frozen=True):
    """How a swap stands. `fee_sat` None: the service did not say."""

    state: State
    swap_id: str | None = None
    fee_sat: int | None = None
    txid: str | None = None


def own_answer(answer: Mapping[str, Any]) -> SwapAnswer:
    """The answer of a configured method: {status, id?, fee_sats?, txid?}."""
    word = answer.get("status")
    state: State = word if word in _OWN_WORDS else "unclear"
    return SwapAnswer(
        state, _matching(_ID, answer.get("id")), _sats(answer.get("fee_sats")), _txid(answer.get("txid"))
    )


def boltz_quote(answer: Mapping[str, Any]) -> int | None:
    """The fee in sat that revenue-boltz-quote names; None when it names none."""
    return _sats(answer.get("estimated_total_fee_sats"))


def boltz_answer(answer: Mapping[str, Any]) -> SwapAnswer:
    """The answer of revenue-boltz-loop-out and -loop-in: accepted with the swap's id, or rejected."""
    if answer.get("status") == "rejected":
        return SwapAnswer("rejected")
    made = answer.get("result")
    swap_id = _matching(_ID, made.get("id")) if isinstance(made, Mapping) else None
    return SwapAnswer("pending" if answer.get("status") == "accepted" and swap_id else "unclear", swap_id)


def boltz_status(answer: Mapping[str, Any], swap_id: str) -> SwapAnswer:
    """The answer of revenue-boltz-status about one swap."""
    entries = (answer.get(name) for name in ("swapinfo_entry", "listswaps_entry"))
    entry = next((each for each in entries if isinstance(each, Mapping) and each.get("id") == swap_id), None)
    if entry is None:
        return SwapAnswer("pending", swap_id)
    fees = [fee for fee in (_sats(entry.get(name)) for name in _BOLTZ_FEES) if fee is not None]
    fee = sum(fees) if fees else None
    txid = _txid(entry.get("claimTransactionId")) or _txid(entry.get("lockupTransactionId"))
    # `state` is boltz-client's word, `status` the service's; what gave up may have succeeded in part before.
    for word in (str(entry.get(name) or "").casefold() for name in ("state", "status")):
        if any(each in word for each in _BOLTZ_OVER):
            return SwapAnswer("failed", swap_id, fee, txid)
        if any(each in word for each in _BOLTZ_DONE):
            return SwapAnswer("done", swap_id, fee, txid)
    return SwapAnswer("pending", swap_id, fee, txid)


def _matching(form: re.Pattern[str], value: object) -> str | None:
    return value if isinstance(value, str) and form.match(value) else None


def _txid(value: object) -> str | None:
    return _matching(_TXID, value)


def _sats(value: object) -> int | None:
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    return int(text) if re.fullmatch(r"[0-9]{1,16}", text) else None
