"""Payment proofs of agents, read strictly, and what a macaroon's caveats allow
(docs/protocol/02-fleet-management.md §8; 03 §7.5)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from hive_shared.canonical import JsonValue
from hive_shared.credential import patterns_allow
from hive_shared.credential_scope import check_pattern_syntax
from hive_shared.errors import HiveError, InvalidParams, from_symbol
from hive_shared.l402 import Rights
from hive_shared.registry import Tier

from .access_fee import BOLT11, BOLT12, CASHU, L402, Proof

_HEX64: Final = re.compile(r"[0-9a-f]{64}")
_FIELDS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    BOLT11: (("preimage",), ("payment_hash",)),
    L402: (("macaroon", "preimage"), ()),
    BOLT12: (("preimage",), ("payment_hash",)),
    CASHU: (("token",), ()),
}


def read_proof(given: Mapping[str, JsonValue], taken: Collection[str]) -> Proof:
    """A proof of one of the ways to pay that are taken here. Raises PaymentFailed (payment_invalid)."""
    method = str(given.get("method"))
    if method not in taken:
        raise _bad(f"payment method {method[:32]!a} is not taken here; use {' or '.join(taken) or 'none'}")
    required, optional = _FIELDS[method]
    for name in required:
        if not isinstance(given.get(name), str):
            raise _bad(f"payment_proof of {method} lacks {name}")
    for name in given:
        if name not in ("method", *required, *optional):
            raise _bad(f"payment_proof of {method} has an unknown field {name[:32]!a}")
    for name in ("preimage", "payment_hash"):
        value = given.get(name)
        if value is not None and not (isinstance(value, str) and _HEX64.fullmatch(value)):
            raise _bad(f"payment_proof.{name} must be 64 lower-case hex characters")
    texts = {name: str(value) for name, value in given.items()}
    return Proof(
        method,
        texts.get("preimage", ""),
        texts.get("macaroon", ""),
        texts.get("payment_hash", ""),
        texts.get("token", ""),
    )


def check_rights(
    rights: Rights,
    *,
    node_id: str,
    agents: Collection[str],
    credentials: Collection[str],
    tier: Tier,
    action: tuple[str, str, tuple[str, ...]],
    danger: int,
    now: int,
) -> None:
    """Whether caveats allow a command of this tier, action (schema, name, names for patterns) and danger.

    Raises PaymentFailed (payment_invalid) that names the caveat which does not.
    """
    if rights.node is not None and rights.node != node_id:
        raise _bad("the macaroon is for another node")
    if rights.agent is not None and rights.agent not in agents:
        raise _bad("the macaroon is for another agent")
    if rights.credential is not None and rights.credential not in credentials:
        raise _bad("the macaroon is for another credential")
    if rights.contract is not None:
        raise _bad("the macaroon is for a contract, and this credential is under none")
    if rights.tier is not None and tier > rights.tier:
        raise _bad(f"the macaroon is for tier {rights.tier.word}, the command needs {tier.word}")
    if rights.expires is not None and now >= rights.expires:
        raise _bad(f"the macaroon expired at {rights.expires}")
    if rights.max_danger is not None and danger > rights.max_danger:
        raise _bad(f"the macaroon is for danger {rights.max_danger}, the command has {danger}")
    for patterns in rights.schemas:
        if not _allowed(patterns, *action):
            raise _bad(f"the macaroon's schemas do not cover {action[0]}#{action[1]}")


def _allowed(patterns: Sequence[str], schema: str, name: str, glob_names: tuple[str, ...]) -> bool:
    try:
        for pattern in patterns:
            check_pattern_syntax(pattern)
    except InvalidParams:
        raise _bad("the macaroon's schemas are no patterns") from None
    return patterns_allow(tuple(patterns), schema, name, glob_names)


def _bad(what: str) -> HiveError:
    return from_symbol("payment_invalid", what)
