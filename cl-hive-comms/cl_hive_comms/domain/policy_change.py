"""How one policy differs from the one before it (docs/protocol/08-client-and-plugins.md §5.4): what the
operator's alert names as looser, and what a receipt says of a change that no call of theirs announced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256

from hive_shared.canonical import JsonValue, encode

from .policy import PolicySnapshot
from .policy_rules import Rule
from .policy_settings import loosened


def policy_hash(policy: PolicySnapshot) -> str:
    """SHA-256 in hex over document, rules and timed override, in canonical JSON."""
    override = policy.override
    doc: dict[str, JsonValue] = {
        "document": policy.document.to_doc(),
        # Sorted: of several rules the strictest wins, their order says nothing.
        "rules": [
            {"rule": rule.to_doc(), "source": rule.source}
            for rule in sorted(_rules(policy), key=lambda rule: rule.id)
        ],
        "override": None
        if override is None
        else {
            "id": override.id,
            "values": dict(override.values),
            "starts_at": override.starts_at,
            "expires_at": override.expires_at,
        },
    }
    return sha256(encode(doc)).hexdigest()


def differences(before: PolicySnapshot, after: PolicySnapshot) -> tuple[str, ...]:
    """What is not the same: `preset`, keys of the document, `rule <id>`, `timed override`."""
    return tuple(_differences(before, after))


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names with commas between them, the first ones where there are many."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def looser(before: PolicySnapshot, after: PolicySnapshot, now: int) -> tuple[str, ...]:
    """What `after` allows and `before` did not, also where a timed override hides it for the moment.

    A sibling's own rules are its to take back: only the operator's (`rules`) are missed.
    """
    pairs = (
        (before.settings(now), after.settings(now)),
        (before.document.settings, after.document.settings),
    )
    found = [key for was, will in pairs for key in loosened(was, will)]
    was, will = pairs[0]
    if str(was.zone) != str(will.zone):
        # Their days and hours go by the zone of the quiet hours: they stop to hold at some moments.
        found += [f"rule {rule.id}, now in {will.zone}" for rule in after.rules if rule.timed]
    found += [f"rule {name}" for name in sorted(rule.id for rule in before.rules if rule not in after.rules)]
    return tuple(dict.fromkeys(found))


def _differences(before: PolicySnapshot, after: PolicySnapshot) -> Iterator[str]:
    if before.preset != after.preset:
        yield "preset"
    was, will = before.document.overrides, after.document.overrides
    yield from sorted(key for key in {*was, *will} if was.get(key) != will.get(key))
    old, new = set(_texts(before)), set(_texts(after))
    yield from sorted({f"rule {rule_id}" for rule_id, _ in old ^ new})
    if before.override != after.override:
        yield "timed override"


def _rules(policy: PolicySnapshot) -> tuple[Rule, ...]:
    return (*policy.rules, *policy.sibling_rules)


def _texts(policy: PolicySnapshot) -> Iterator[tuple[str, bytes]]:
    return ((rule.id, encode([rule.source, rule.to_doc()])) for rule in _rules(policy))
