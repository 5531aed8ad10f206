"""HiveManagementContract: what both sides sign (docs/protocol/04-marketplace-and-nostr.md §10).

Everything in it but five values follows from the agreed terms, so the advisor reads a contract by making it
itself: what differs in one byte is another contract.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from hive_shared import vc
from hive_shared.canonical import JsonValue, encode
from hive_shared.crypto import Secret
from hive_shared.errors import InvalidParams
from hive_shared.registry import is_uuid

DAY_S: Final = 86_400
TYPE: Final = "HiveManagementContract"
CONTEXT: Final = (vc.CONTEXT, "https://hive.lightning/marketplace/v1")
SIGNING_S: Final = 72 * 3_600
"""How long the advisor has to sign."""
_SLACK_S: Final = 86_400
_SALT: Final = re.compile(r"[0-9a-f]{64}")
_NODE: Final = re.compile(r"0[23][0-9a-f]{64}")
_MAX_NODES: Final = 32


class Contract(Struct, frozen=True):
    """What a contract says beside the terms. Keys are x-only hex, times Unix seconds."""

    contract_id: str
    operator_key: str
    advisor_key: str
    credential_ref: str
    salt: str
    node_ids: tuple[str, ...]
    valid_from: int


def build(contract: Contract, terms: Mapping[str, Any], *, members: bool = False) -> dict[str, Any]:
    """The document of a contract, without proofs. `terms` were read by `read_terms`; `members`: both belong
    to a hive, and settle there."""
    start, days = contract.valid_from, terms["duration"]
    trial_end = start + days["trialDays"] * DAY_S
    term_end = trial_end + days["fullTermDays"] * DAY_S
    pay = dict(terms["compensation"])
    if members:
        pay["settlementType"] = "Type 9 (Advisor Fee Settlement)"
    subject: dict[str, Any] = {
        "id": vc.did_of(contract.advisor_key),
        "contractId": contract.contract_id,
        "managementCredentialRef": contract.credential_ref,
        "salt": contract.salt,
        "sla": terms["sla"],
        "compensation": pay,
        "duration": {
            "trialStart": vc.moment(start),
            "trialEnd": vc.moment(trial_end),
            "fullTermStart": vc.moment(trial_end),
            "fullTermEnd": vc.moment(term_end),
            "noticePeriodDays": days.get("noticePeriodDays", 7),
            "autoRenew": days.get("autoRenew", False),
        },
        "scope": {
            "nodeIds": list(contract.node_ids),
            "capabilities": terms["scope"]["capabilities"],
            "permissionTier": terms["scope"]["permissionTier"],
            "schemas": terms["scope"]["schemas"],
            "constraints": terms["scope"]["constraints"],
        },
    }
    for name in ("trialEvaluation", "coordination", "referral", "dispute"):
        if terms.get(name) is not None:
            subject[name] = terms[name]
    return {
        "@context": list(CONTEXT),
        "id": f"urn:uuid:{contract.contract_id}",
        "type": ["VerifiableCredential", TYPE],
        "issuer": vc.did_of(contract.operator_key),
        "validFrom": vc.moment(start),
        "validUntil": vc.moment(term_end),
        "credentialSubject": subject,
    }


def contract_hash(document: Mapping[str, Any]) -> str:
    """What identifies a contract, whoever has signed it: hex SHA-256 of the canonical document without
    `proof`."""
    return vc.content_hash(document)


def sign(document: Mapping[str, Any], secret: Secret, at: int) -> dict[str, Any]:
    """The document with one proof more, made at `at`."""
    given = document.get("proof", [])
    return {**document, "proof": [*given, vc.prove(document, secret, at)]}


def read_contract(document: Mapping[str, Any]) -> Contract:
    """What a contract says beside its terms, read strictly; signatures are not looked at.

    Raises InvalidParams naming the field.
    """
    subject = document.get("credentialSubject")
    if not isinstance(subject, dict):
        raise InvalidParams("contract: credentialSubject is not an object")
    scope = subject.get("scope")
    nodes = scope.get("nodeIds") if isinstance(scope, dict) else None
    if (
        not isinstance(nodes, list)
        or not 1 <= len(nodes) <= _MAX_NODES
        or not all(isinstance(node, str) and _NODE.fullmatch(node) for node in nodes)
        or len(set(nodes)) != len(nodes)
    ):
        raise InvalidParams(f"contract: scope.nodeIds is not a list of 1 to {_MAX_NODES} node ids")
    salt = subject.get("salt")
    if not isinstance(salt, str) or not _SALT.fullmatch(salt):
        raise InvalidParams("contract: salt is not 64 hex digits")
    return Contract(
        contract_id=_uuid(subject, "contractId"),
        operator_key=_key(document.get("issuer"), "issuer"),
        advisor_key=_key(subject.get("id"), "credentialSubject.id"),
        credential_ref=_uuid(subject, "managementCredentialRef"),
        salt=salt,
        node_ids=tuple(nodes),
        valid_from=vc.unix(document.get("validFrom"), "contract: validFrom"),
    )


def check_contract(document: Mapping[str, Any], terms: Mapping[str, Any]) -> Contract:
    """What a contract says beside its terms, when it says of them exactly what was agreed.

    Raises InvalidParams: as `read_contract`, and reason `stale_terms` naming what stands there instead.
    """
    found = read_contract(document)
    bare = {name: value for name, value in document.items() if name != "proof"}
    pay = bare["credentialSubject"].get("compensation")
    members = isinstance(pay, dict) and "settlementType" in pay
    ours = build(found, terms, members=members)
    if encode(ours) != encode(bare):
        raise InvalidParams(f"contract: {_where(ours, bare)} is not what was agreed", reason="stale_terms")
    return found


def check_proofs(document: Mapping[str, Any], *keys: str) -> None:
    """Whether the contract has exactly the proofs of these keys (x-only hex), in their order.

    Raises InvalidParams: reason `proof_missing`, `issuer_mismatch`, or as hive_shared.vc.signer gives.
    """
    proofs = vc.proofs(document)
    if len(proofs) != len(keys):
        raise InvalidParams(
            f"contract: {len(proofs)} proofs where {len(keys)} belong", reason="proof_missing"
        )
    begun = vc.unix(document.get("validFrom"), "contract: validFrom")
    for key, proof in zip(keys, proofs, strict=True):
        if vc.signer(document, proof) != key:
            raise InvalidParams(f"contract: a proof is not that of {key}", reason="issuer_mismatch")
        if not begun - _SLACK_S <= vc.created(proof) <= begun + SIGNING_S + _SLACK_S:
            raise InvalidParams(
                "contract: a proof was not made when the contract was", reason="proof_invalid"
            )


def verify_contract(document: Mapping[str, Any]) -> Contract:
    """A contract that both have signed, checked by itself: for readers who were no part of it.

    Raises InvalidParams as `read_contract` and `check_proofs` do.
    """
    found = read_contract(document)
    check_proofs(document, found.operator_key, found.advisor_key)
    return found


def _where(ours: JsonValue, theirs: JsonValue, path: str = "") -> str:
    """The first place where two documents differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted({*ours, *theirs}):
            if encode(ours.get(name)) != encode(theirs.get(name)) or (name in ours) != (name in theirs):
                return _where(ours.get(name), theirs.get(name), f"{path}.{name}" if path else name)
    return path or "the document"


def _key(value: JsonValue, name: str) -> str:
    key = vc.key_of(value)
    if key is None:
        raise InvalidParams(f"contract: {name} {value!r:.100} is not did:nostr: and a key")
    return key


def _uuid(subject: Mapping[str, Any], name: str) -> str:
    value = subject.get(name)
    if not isinstance(value, str) or not is_uuid(value):
        raise InvalidParams(f"contract: {name} {value!r:.60} is not a UUID")
    return value
