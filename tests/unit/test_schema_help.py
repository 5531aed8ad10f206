"""Help about actions comes from the registry alone, for every one of them (11 §10)."""

from __future__ import annotations

import itertools

import pytest
from hive_advisor.domain.schema_help import (
    danger_by_size,
    fields_of,
    name_of,
    rules_of,
    search,
    split_target,
    usage,
)
from hive_shared import registry
from hive_shared.errors import InvalidParams
from hive_shared.registry import ActionSpec, DangerFacts

EVERY = list(registry.actions())
SERVED = [spec for spec in EVERY if spec.served]


def found(target: str) -> ActionSpec:
    return registry.find(*split_target(target))


@pytest.mark.parametrize("spec", SERVED, ids=name_of)
def test_every_action_that_can_be_sent_says_how(spec: ActionSpec) -> None:
    assert spec.params is not None
    described = spec.params.describe()
    fields = fields_of(spec)
    assert {field.name for field in fields} == set(described["properties"])  # type: ignore[arg-type]
    assert all(field.kind for field in fields)
    # Required ones first, and bare in the usage; the others in brackets.
    assert [field.required for field in fields] == sorted((f.required for f in fields), reverse=True)
    for field in fields:
        assert (f"[{field.name}=" in usage(spec)) is not field.required
    assert registry.find(*split_target(name_of(spec))) is spec


@pytest.mark.parametrize("spec", EVERY, ids=lambda spec: f"{spec.schema}#{spec.name}")
def test_bands_of_danger_are_what_the_registry_computes(spec: ActionSpec) -> None:
    bands = danger_by_size(spec)
    names = {field.name for field in fields_of(spec)}

    def total(amount: int) -> int:
        params = {"amount_sats": amount} if "amount_sats" in names else {}
        return spec.danger(params, DangerFacts(amount_sat=amount)).total

    if not bands:
        assert len({total(10**power) for power in range(15)}) == 1
        return
    assert "below_sats" not in bands[-1] and total(10**15) == bands[-1]["danger"]
    for band, following in itertools.pairwise(bands):
        bound = int(str(band["below_sats"]))
        assert (total(bound - 1), total(bound)) == (band["danger"], following["danger"])


def test_kinds_values_and_rules_are_words() -> None:
    health = {field.name: field for field in fields_of(found("hive:monitor/health_summary"))}
    assert health["format"].values == ("full", "brief") and health["format"].default == "full"
    assert health["hours"].kind == "integer 1 to 720" and not health["hours"].required
    assert health["include_channels"].values == ("true", "false")
    single = found("fee-policy/set_single")
    assert rules_of(single) == ["at least one of base_msat, fee_ppm"]
    assert "vegas_decay_rate: number 0.7 to 0.95" in rules_of(found("config/adjust"))
    assert usage(single).startswith("hive-advisor send CLIENT hive:fee-policy/set_single channel_id=CHANNEL ")
    assert "fee_delta_pct (integer -50 to 50)" in next(
        field.kind for field in fields_of(found("fee-policy/set_bulk")) if field.name == "policy"
    )


def test_search_wants_every_word_and_looks_at_parameters_too() -> None:
    def names(*words: str) -> set[str]:
        return {name_of(spec) for spec in search(words)}

    assert names("zero", "FEE") == {"hive:fee-policy/set_zero_fee"}
    assert "hive:fee-policy/set_single" in names("fee_ppm") and "hive:fee-policy/set_single" in names(
        "fee-ppm"
    )
    assert names("no such thing") == set()


def test_what_is_no_action_is_refused() -> None:
    for bad in ("set_single", "a/b/c/d", "/x", "x/", ""):
        with pytest.raises(InvalidParams, match="name an action as"):
            split_target(bad)
