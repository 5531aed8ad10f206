"""The management credential: what an operator lets an agent do, as one signed document.

docs/protocol/02-fleet-management.md §2. The document's exact bytes count: a node and an agent hash and
sign what stands in it, so parsing keeps nested objects as they came and `to_doc` gives them back. What
may stand in `allowed_schemas`, `constraints` and the templates: `credential_scope`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Final, TypeAlias

import msgspec

from . import crypto
from .canonical import JsonValue, encode
from .credential_scope import (
    PERMISSIONS,
    TEMPLATES,
    Template,
    check_constraints,
    check_pattern_syntax,
    check_patterns,
    custom_template,
    denied_as,
    patterns_allow,
    resolve_access,
    unknown_constraints,
)
from .errors import InvalidParams
from .registry import Tier, is_uuid

SIGNING_TAG: Final = "hive-mgmt-credential:v2:"
MAX_BYTES: Final = 16_384
MAX_SPAN_S: Final = 730 * 86_400
MAX_SECTION_BYTES: Final = 4_096

_Test: TypeAlias = Callable[[str], bool]

_NODE_ID: Final = re.compile(r"0[23][0-9a-f]{64}")
_XONLY: Final = re.compile(r"[0-9a-f]{64}")
_DID_CID: Final = re.compile(r"did:cid:[A-Za-z0-9]{1,100}")
_ZBASE: Final = re.compile(r"[a-z0-9]{104}")

_FIELDS: Final = (
    "credential_id",
    "issuer_id",
    "node_id",
    "agent_id",
    "agent_key",
    "tier",
    "permissions",
    "allowed_schemas",
    "constraints",
    "compensation",
    "access",
    "trust",
    "coordination",
    "valid_from",
    "valid_until",
    "signature",
)

_DEFAULT_COMPENSATION: Final[Mapping[str, JsonValue]] = MappingProxyType(
    {"model": "per_action", "rate_sats": 0, "accepted_methods": []}
)
_DEFAULT_ACCESS: Final[Mapping[str, JsonValue]] = MappingProxyType({"model": "none"})
_DEFAULT_COORDINATION: Final[Mapping[str, JsonValue]] = MappingProxyType(
    {
        "peer_advisors": [],
        "action_cooldown_s": 300,
        "conflict_resolution": "escalate_to_operator",
        "shared_state": "receipts_readonly",
    }
)


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed credential; field by field 02 §2.1. Times are Unix seconds, `trust` is 0.5..2 exactly.

    Build one with `new` or `parse`: both check every rule that does not depend on the node's state.
    """

    credential_id: str
    issuer_id: str
    node_id: str
    agent_id: str
    agent_key: str
    tier: Tier
    permissions: Mapping[str, bool]
    allowed_schemas: tuple[str, ...]
    constraints: Mapping[str, JsonValue]
    compensation: Mapping[str, JsonValue]
    access: Mapping[str, JsonValue]
    trust: Fraction
    coordination: Mapping[str, JsonValue]
    valid_from: int
    valid_until: int
    signature: str = ""

    def has_permission(self, *alternatives: str) -> bool:
        """Whether any of the permissions is granted; no alternatives means nothing is needed."""
        return not alternatives or any(self.permissions.get(name, False) for name in alternatives)

    def valid_at(self, now: int) -> bool:
        """Whether `now` lies in the window: valid_from <= now < valid_until (02 §2.5)."""
        return self.valid_from <= now < self.valid_until

    @property
    def effective_tier(self) -> Tier:
        """The tier, or monitor when a constraint is unknown here: we must not ignore a limit (02 §2.4)."""
        return Tier.MONITOR if unknown_constraints(self.constraints) else self.tier

    def allows(self, schema: str, action: str, glob_names: tuple[str, ...] = ()) -> bool:
        """Whether the patterns admit the action; see `patterns_allow`."""
        return patterns_allow(self.allowed_schemas, schema, action, glob_names)

    def denied_as(self, schema: str, action: str) -> str:
        """The denied action that this one amounts to, as `schema#action`; empty when there is none."""
        other = denied_as(self.allowed_schemas, schema, action)
        return "" if other is None else f"{other.schema}#{other.name}"


def _bad(what: str) -> InvalidParams:
    return InvalidParams(f"credential {what}", reason="malformed")


def new(
    *,
    credential_id: str,
    node_id: str,
    agent_key: str,
    template: Template,
    valid_from: int,
    valid_until: int,
    trust: Fraction = Fraction(1),
    agent_id: str | None = None,
    issuer_id: str | None = None,
    constraints: Mapping[str, JsonValue] | None = None,
    permissions: Mapping[str, JsonValue] | None = None,
    compensation: Mapping[str, JsonValue] | None = None,
    access: Mapping[str, JsonValue] | None = None,
    coordination: Mapping[str, JsonValue] | None = None,
) -> Credential:
    """An unsigned credential of a template for an agent key; given constraints and permissions replace the
    template's, keys of `coordination` the defaults.

    `agent_id` defaults to `did:nostr:<agent_key>`, `issuer_id` to the node. Raises InvalidParams for
    anything `parse` or the issue checks of 02 §2.3 and §2.4 would refuse.
    """
    chosen = dict(template.constraints if constraints is None else constraints)
    check_patterns(template.schemas)
    check_constraints(chosen)
    doc: dict[str, JsonValue] = {
        "credential_id": credential_id,
        "issuer_id": issuer_id or node_id,
        "node_id": node_id,
        "agent_id": agent_id or f"did:nostr:{agent_key}",
        "agent_key": agent_key,
        "tier": template.tier.word,
        "permissions": dict.fromkeys(template.permissions, True)
        if permissions is None
        else dict(permissions),
        "allowed_schemas": list(template.schemas),
        "constraints": chosen,
        "compensation": dict(compensation or _DEFAULT_COMPENSATION),
        "access": dict(access or _DEFAULT_ACCESS),
        "trust": number_of(trust),
        "coordination": {**_DEFAULT_COORDINATION, **(coordination or {})},
        "valid_from": valid_from,
        "valid_until": valid_until,
        "signature": "",
    }
    return _read(doc, signed=False)


def parse(doc: JsonValue) -> Credential:
    """Read a credential document strictly. Raises InvalidParams (reason malformed, too_large).

    The signature's form is checked here, whose it is by `is_signed_by`. Constraints a later version
    knows are kept: they only lower the effective tier.
    """
    return _read(doc, signed=True)


def _read(doc: JsonValue, *, signed: bool) -> Credential:
    if not isinstance(doc, dict):
        raise _bad("is not a JSON object")
    unknown = sorted(set(doc) - set(_FIELDS))
    missing = [name for name in _FIELDS if name not in doc]
    if unknown or missing:
        names = ", ".join(unknown or missing)[:200]
        raise _bad(f"has unknown fields: {names!a}" if unknown else f"lacks fields: {names}")
    if len(encode(doc)) > MAX_BYTES:
        raise InvalidParams(f"credential is larger than {MAX_BYTES} bytes", reason="too_large")
    valid_from, valid_until = _time(doc, "valid_from"), _time(doc, "valid_until")
    if not 0 < valid_until - valid_from <= MAX_SPAN_S:
        raise _bad(f"runs from {valid_from} to {valid_until}: the span must be 1 s to 730 days")
    return Credential(
        credential_id=_text(doc, "credential_id", is_uuid, "a lower-case UUID"),
        issuer_id=_text(doc, "issuer_id", _matches(_NODE_ID), "a 66-hex node id"),
        node_id=_text(doc, "node_id", _matches(_NODE_ID), "a 66-hex node id"),
        **_agent(doc),
        tier=_tier(doc["tier"]),
        permissions=_permissions(doc["permissions"]),
        allowed_schemas=_schemas(doc["allowed_schemas"]),
        constraints=_section(doc, "constraints", 50),
        compensation=_compensation(doc),
        access=_shaped(doc, "access"),
        trust=_trust(doc["trust"]),
        coordination=_shaped(doc, "coordination"),
        valid_from=valid_from,
        valid_until=valid_until,
        signature=_text(doc, "signature", _matches(_ZBASE), "104 zbase32 characters") if signed else "",
    )


def to_doc(credential: Credential) -> dict[str, JsonValue]:
    """The JSON document of the credential, signature included (empty when unsigned)."""
    doc: dict[str, JsonValue] = {}
    for name in _FIELDS:
        value = getattr(credential, name)
        if isinstance(value, Mapping):
            doc[name] = dict(value)
        elif isinstance(value, tuple):
            doc[name] = list(value)
        else:
            doc[name] = value
    doc["tier"] = credential.tier.word
    doc["trust"] = number_of(credential.trust)
    return doc


def signing_text(credential: Credential) -> str:
    """The text the issuer's node signs with `signmessage`."""
    doc = to_doc(credential)
    del doc["signature"]
    return SIGNING_TAG + encode(doc).decode()


def with_signature(credential: Credential, zbase: str) -> Credential:
    """The credential carrying the `zbase` of `signmessage`."""
    if not _ZBASE.fullmatch(zbase):
        raise _bad("signature is not 104 zbase32 characters")
    return msgspec.structs.replace(credential, signature=zbase)


def doc_hash(credential: Credential) -> str:
    """SHA-256 (hex) of the canonical signed document: `credential.hash` of commands, `credential_ack`."""
    return crypto.sha256(encode(to_doc(credential))).hex()


def is_signed_by(credential: Credential, node_id: str) -> bool:
    """Whether the signature was made by the CLN key of `node_id`."""
    return crypto.cln_recover_message(signing_text(credential), credential.signature) == node_id


def number_of(value: Fraction) -> JsonValue:
    """The JSON number of a decimal fraction such as trust: an integer when it is whole."""
    return value.numerator if value.denominator == 1 else value.numerator / value.denominator


def _matches(pattern: re.Pattern[str]) -> _Test:
    return lambda text: pattern.fullmatch(text) is not None


def _text(doc: Mapping[str, JsonValue], name: str, test: _Test, expected: str) -> str:
    value = doc[name]
    if not isinstance(value, str) or not test(value):
        raise _bad(f"{name} must be {expected}")
    return value


def _time(doc: Mapping[str, JsonValue], name: str) -> int:
    value = doc[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**40:
        raise _bad(f"{name} must be a Unix time in seconds")
    return value


def _agent(doc: Mapping[str, JsonValue]) -> dict[str, str]:
    agent_key = _text(doc, "agent_key", _matches(_XONLY), "a 64-hex x-only key")
    agent_id = doc["agent_id"]
    if not isinstance(agent_id, str):
        raise _bad("agent_id must be a string")
    if agent_id.startswith("did:nostr:"):
        if agent_id.removeprefix("did:nostr:") != agent_key:
            raise _bad("agent_id is a Nostr key other than agent_key")
    elif not (_NODE_ID.fullmatch(agent_id) or _DID_CID.fullmatch(agent_id)):
        raise _bad("agent_id must be did:nostr:<64 hex>, a 66-hex node id or did:cid:…")
    if agent_id == doc["node_id"]:
        raise _bad("agent_id is the node itself")
    return {"agent_id": agent_id, "agent_key": agent_key}


def _tier(value: JsonValue) -> Tier:
    try:
        return Tier.parse(value if isinstance(value, str) else "")
    except ValueError as err:
        raise _bad(str(err)) from None


def _permissions(value: JsonValue) -> Mapping[str, bool]:
    if not isinstance(value, dict):
        raise _bad("permissions must be an object of booleans")
    result: dict[str, bool] = {}
    for name, granted in value.items():
        if name not in PERMISSIONS or not isinstance(granted, bool):
            raise _bad(f"permission {name[:40]!a} is unknown or not a boolean")
        result[name] = granted
    return MappingProxyType(result)


def _schemas(value: JsonValue) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= 100 or len(encode(value)) > MAX_SECTION_BYTES:
        raise _bad(f"allowed_schemas must be 1 to 100 patterns in at most {MAX_SECTION_BYTES} bytes")
    patterns = tuple(pattern for pattern in value if isinstance(pattern, str))
    if len(patterns) != len(value):
        raise _bad("allowed_schemas must be strings")
    for pattern in patterns:
        check_pattern_syntax(pattern)
    return patterns


def _section(doc: Mapping[str, JsonValue], name: str, max_keys: int) -> Mapping[str, JsonValue]:
    value = doc[name]
    if not isinstance(value, dict) or len(value) > max_keys or len(encode(value)) > MAX_SECTION_BYTES:
        raise _bad(f"{name} must be an object of at most {max_keys} keys and {MAX_SECTION_BYTES} bytes")
    return MappingProxyType(value)


def _trust(value: JsonValue) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad("trust must be a number from 0.5 to 2")
    # The shortest decimal of the number, so that 0.7 means seven tenths and not its binary neighbour.
    exact = Fraction(repr(value))
    if not Fraction(1, 2) <= exact <= 2 or 1000 % exact.denominator:
        raise _bad(f"trust {value} must be from 0.5 to 2 with at most three decimals")
    return exact


_COUNT: Final = "a count"
_WORDS: Final = "a list of words"
_SHAPES: Final[Mapping[str, Mapping[str, tuple[str, ...] | str]]] = {
    "compensation": {
        "model": ("per_action", "subscription", "performance"),
        "rate_sats": _COUNT,
        "accepted_methods": _WORDS,
        "escrow_method": ("cashu",),
        "subscription_method": ("bolt12",),
        "base_monthly_sats": _COUNT,
        "performance_share_pct": _COUNT,
        "baseline_ref": "a text",
    },
    "access": {
        "model": ("none", "per_action", "subscription"),
        "price_table": "a list of counts",
        "accepted_methods": _WORDS,
    },
    "coordination": {
        "peer_advisors": _WORDS,
        "action_cooldown_s": _COUNT,
        "conflict_resolution": ("escalate_to_operator",),
        "shared_state": ("receipts_readonly",),
    },
}


def _is_count(value: JsonValue) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _fits(value: JsonValue, shape: tuple[str, ...] | str) -> bool:
    if isinstance(shape, tuple):
        return isinstance(value, str) and value in shape
    if shape == _COUNT:
        return _is_count(value)
    if shape == "a text":
        return isinstance(value, str) and len(value) <= 200
    if not isinstance(value, list) or len(value) > 50:
        return False
    if shape == _WORDS:
        return all(isinstance(item, str) and 0 < len(item) <= 200 for item in value)
    return all(_is_count(item) for item in value)


def _shaped(doc: Mapping[str, JsonValue], name: str) -> Mapping[str, JsonValue]:
    section, shapes = _section(doc, name, 20), _SHAPES[name]
    for key, value in section.items():
        shape = shapes.get(key)
        if shape is None:
            raise _bad(f"{name} has an unknown key {key[:40]!a}")
        if not _fits(value, shape):
            expected = shape if isinstance(shape, str) else "one of " + ", ".join(shape)
            raise _bad(f"{name}.{key} must be {expected}")
    return section


def _compensation(doc: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    section = _shaped(doc, "compensation")
    share = section.get("performance_share_pct", 0)
    if isinstance(share, int) and share > 100:
        raise _bad(f"compensation.performance_share_pct must be at most 100, not {share}")
    return section


__all__ = [
    "MAX_SPAN_S",
    "PERMISSIONS",
    "SIGNING_TAG",
    "TEMPLATES",
    "Credential",
    "Template",
    "check_constraints",
    "check_patterns",
    "custom_template",
    "doc_hash",
    "is_signed_by",
    "new",
    "number_of",
    "parse",
    "patterns_allow",
    "resolve_access",
    "signing_text",
    "to_doc",
    "unknown_constraints",
    "with_signature",
]
