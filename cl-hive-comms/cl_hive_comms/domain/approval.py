"""How much approval a command needs: danger against trust (docs/protocol/02-fleet-management.md §7.3)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from enum import StrEnum
from fractions import Fraction
from typing import Final

from hive_shared.canonical import JsonValue

MAX_PENDING_PER_ADVISOR: Final = 20
MAX_PENDING: Final = 100
CHALLENGE_S: Final = 1_800
"""How long an agent has to sign the challenge of a confirmed command."""
MULTISIG_S: Final = 7 * 86_400
LOCAL: Final = "local"
"""The operator at the node's own RPC, as an approver."""

_KEY: Final = re.compile(r"[0-9a-f]{64}")
_LOWER_BOUND: Final = re.compile(r"min_|htlc_?min|reserve|keep_|.*_min(_|$)")

_LOWEST, _HIGHEST = Fraction(1, 2), Fraction(2)
_STANDING: Final = {
    "newcomer": _LOWEST,
    "recognized": Fraction(1),
    "trusted": Fraction(3, 2),
    "senior": _HIGHEST,
}


class Workflow(StrEnum):
    """How a command gets its permission, from nothing to several signatures; see `rank`."""

    AUTO = "auto"
    QUEUE = "queue"
    CONFIRM = "confirm"
    MULTISIG = "multisig"


_ORDER: Final = tuple(Workflow)


def rank(workflow: Workflow) -> int:
    """Strictness: a higher number asks for more."""
    return _ORDER.index(workflow)


def strictest(*workflows: Workflow) -> Workflow:
    """The one that asks for most; auto when there is none."""
    return max(workflows, key=rank, default=Workflow.AUTO)


def level(danger: int, trust: Fraction) -> Fraction:
    """L = max(d/r, d/2), with r held to [0.5, 2]."""
    return max(danger / min(max(trust, _LOWEST), _HIGHEST), Fraction(danger, 2))


def level_text(value: Fraction) -> str:
    """The level as decimal text with at most two places, rounded up: receipts hold no fractions."""
    hundredths = -(-value.numerator * 100 // value.denominator)
    whole, rest = divmod(hundredths, 100)
    return f"{whole}.{rest:02}".rstrip("0").rstrip(".")


def workflow_of(value: Fraction) -> Workflow:
    """The band of a level: <4 auto, <7 queue, 7 to 8 confirm, above multisig."""
    if value < 4:
        return Workflow.AUTO
    if value < 7:
        return Workflow.QUEUE
    return Workflow.CONFIRM if value <= 8 else Workflow.MULTISIG


def floor_of(danger: int, *, proposal: bool = False) -> Workflow:
    """The floor nobody lowers: d7-8 confirm, d9-10 multisig, expansion proposals queue."""
    if danger >= 9:
        return Workflow.MULTISIG
    if danger >= 7:
        return Workflow.CONFIRM
    return Workflow.QUEUE if proposal else Workflow.AUTO


def expires_in(workflow: Workflow, hours_low: int, hours_high: int) -> int:
    """Seconds a decision may take; `hours_low` up to danger 6, `hours_high` for 7-8 (08 §5.1)."""
    return {
        Workflow.AUTO: 0,
        Workflow.QUEUE: hours_low * 3_600,
        Workflow.CONFIRM: hours_high * 3_600,
        Workflow.MULTISIG: MULTISIG_S,
    }[workflow]


def approvals_needed(workflow: Workflow, approvers: int, named: int | None = None) -> int:
    """Votes a workflow needs: none, the operator's, or N of M with N = ⌊M/2⌋+1, at least 2.

    `named` is the N of a multi_sig_N_of_M override; it may ask for more or fewer, never fewer than 2.
    """
    if workflow is Workflow.AUTO:
        return 0
    if workflow is not Workflow.MULTISIG:
        return 1
    return max(2, approvers // 2 + 1 if named is None else named)


def voters(approvers: Collection[str], requester: str) -> frozenset[str]:
    """Approvers whose vote on a command of `requester` can count: the operator and keys, never the requester.

    A DID that is not a key's own needs its document to check a signature, which this version does not read.
    """
    return frozenset(
        name for name in approvers if name == LOCAL or (_KEY.fullmatch(name) and name != requester)
    )


def trust_of(
    credential_trust: Fraction,
    *,
    age_days: int = 0,
    receipts: int = 0,
    success: Fraction = Fraction(0),
    violations: int = 0,
    standing: str | None = None,
    pin: Fraction | None = None,
) -> Fraction:
    """The r of a command's agent, always within [0.5, 2].

    The operator's pin wins, then archon's standing, then history: below 30 days or 10 receipts the
    credential's trust; then linear to 2 at 90 days, but only with at least 95 % success and no violation.
    """
    if pin is not None:
        chosen = pin
    elif standing is not None:
        chosen = _STANDING.get(standing, _LOWEST)
    elif age_days < 30 or receipts < 10 or success < Fraction(95, 100) or violations:
        chosen = credential_trust
    else:
        share = Fraction(min(age_days, 90) - 30, 60)
        chosen = max(credential_trust, credential_trust + (_HIGHEST - credential_trust) * share)
    return min(max(chosen, _LOWEST), _HIGHEST)


def only_reduces(original: JsonValue, edited: JsonValue) -> bool:
    """Whether an operator's edit of parameters only takes away: smaller amounts, fewer items (§7.3).

    Numbers may move towards zero, lists may lose items, everything else must stay; no key comes or goes.
    A lower bound (`min_…`) must stay too: lowering it would allow more.
    """
    if isinstance(original, bool) or isinstance(edited, bool):
        return original is edited
    if isinstance(original, int | float) and isinstance(edited, int | float):
        same_kind = type(original) is type(edited)
        return same_kind and (0 <= edited <= original or original <= edited <= 0)
    if isinstance(original, Mapping) and isinstance(edited, Mapping):
        return original.keys() == edited.keys() and all(
            original[k] == edited[k] and type(original[k]) is type(edited[k])
            if _LOWER_BOUND.match(k)
            else only_reduces(original[k], edited[k])
            for k in original
        )
    if isinstance(original, list) and isinstance(edited, list):
        return bool(edited or not original) and _is_subsequence(original, edited)
    return type(original) is type(edited) and original == edited


def _is_subsequence(original: list[JsonValue], edited: list[JsonValue]) -> bool:
    remaining = iter(original)
    return all(any(only_reduces(candidate, item) for candidate in remaining) for item in edited)
