"""Actions that run by the same executor, or do the same to the node, say so in the registry (02 §2.3)."""

from __future__ import annotations

import inspect
from itertools import combinations, product
from typing import Any

import pytest
from cl_hive_comms.services.executors import channel_close, channel_open, fee_policy, forwarding, htlc_policy
from cl_hive_comms.services.executors.catalogue import Executors
from hive_shared.registry import contained

Key = tuple[str, str]

# Puts back the rate from before an anchor, chooses none.
SETS_NO_RATE = {("hive:fee-policy/v1", "clear_anchor")}
EFFECTS: list[tuple[type, Key]] = [
    (channel_close._Close, ("hive:channel/v1", "close_cooperative")),
    (channel_open._Opening, ("hive:channel/v1", "open")),
    (fee_policy.FeeAction, ("hive:fee-policy/v1", "set_single")),
    (forwarding._Disable, ("hive:forwarding/v1", "disable_channel")),
    (forwarding._Enable, ("hive:forwarding/v1", "enable_channel")),
    (htlc_policy._SetLimits, ("hive:htlc-policy/v1", "set_htlc_limits")),
]


@pytest.fixture(scope="module")
def executors() -> Executors:
    # Nothing is asked of these parts: only who runs what is looked at.
    parts: dict[str, Any] = dict.fromkeys(inspect.signature(Executors).parameters)
    return Executors(**parts)


def all_of(key: Key) -> set[Key]:
    return {key, *((spec.schema, spec.name) for spec in contained(*key))}


def run_by(executor: object) -> list[object]:
    """The executor and those it hands its work to."""
    held = [value for value in vars(executor).values() if hasattr(value, "prepare")]
    return [executor, *(inner for each in held for inner in run_by(each))]


def test_who_shares_an_executor_declares_it(executors: Executors) -> None:
    undeclared = []
    for (one, first), (other, second) in combinations(executors._writes.items(), 2):
        pairs = product(run_by(first), run_by(second))
        shared = any(isinstance(a, type(b)) or isinstance(b, type(a)) for a, b in pairs)
        if shared and one not in all_of(other) and other not in all_of(one):
            # Two that both are a third are both denied by the third's name.
            both = [executors._writes[key] for key in all_of(one) & all_of(other)]
            if not any(isinstance(first, type(each)) and isinstance(second, type(each)) for each in both):
                undeclared.append((one, other))
    assert undeclared == []
    assert len(executors._writes) > 40


def test_who_shares_a_read_declares_it(executors: Executors) -> None:
    reads = [(key, getattr(read, "_read", read)) for key, read in executors._reads.items()]
    shared = [
        (one, other)
        for (one, first), (other, second) in combinations(reads, 2)
        if getattr(first, "__func__", first) is getattr(second, "__func__", second)
    ]
    assert shared, "nothing was compared"
    assert [(a, b) for a, b in shared if a not in all_of(b) and b not in all_of(a)] == []


@pytest.mark.parametrize(("kind", "least"), EFFECTS, ids=[kind.__name__ for kind, _ in EFFECTS])
def test_who_does_the_same_to_the_node_declares_the_least_of_it(
    executors: Executors, kind: type, least: Key
) -> None:
    same = {
        key
        for key, executor in executors._writes.items()
        if any(isinstance(each, kind) for each in run_by(executor))
    }
    assert len(same) > 1
    assert {key for key in same - SETS_NO_RATE if least not in all_of(key)} == set()
