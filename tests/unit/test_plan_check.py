"""What the kit does not even send (11 §5.1): the symbols are the node's, and nothing is refused that a node
could allow."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hive_advisor.domain.plan_check import check_scope, check_served, least_danger
from hive_shared import credential as credentials
from hive_shared import credential_scope, registry
from hive_shared.credential import Credential
from hive_shared.errors import CredentialInvalid, HiveError, Unsupported
from hive_shared.registry import DangerFacts, Tier

SCID = "103x1x0"
SINGLE = ("hive:fee-policy/v1", "set_single", {"channel_id": SCID, "fee_ppm": 150})


def held(access: str = "fees", **changes: Any) -> Credential:
    template = credential_scope.resolve_access(access)
    made = credentials.new(
        template=template,
        credential_id="00000000-0000-4000-8000-000000000001",
        node_id="02" + "ab" * 32,
        agent_key="f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9",
        valid_from=1,
        valid_until=10,
    )
    import msgspec

    return msgspec.structs.replace(made, **changes)


def refusal(credential: Credential, schema: str, action: str, params: dict[str, Any]) -> str | None:
    spec = registry.find(schema, action)
    try:
        check_scope(spec, registry.parse_params(spec, params), credential)
    except CredentialInvalid as error:
        return error.symbol
    return None


def test_what_the_credential_gives_is_sent() -> None:
    assert refusal(held(), *SINGLE) is None
    assert refusal(held("monitoring"), "hive:monitor/v1", "health_summary", {}) is None


def test_each_part_of_a_credential_forbids_by_its_own_name() -> None:
    assert refusal(held("monitoring"), *SINGLE) == "schema_not_allowed"
    assert refusal(held(permissions={}), *SINGLE) == "permission_denied"
    assert refusal(held(tier=Tier.MONITOR), *SINGLE) == "tier_insufficient"
    # A limit this version does not know lowers the tier, as it does at the node.
    assert refusal(held(constraints={"moon_phase": 1}), *SINGLE) == "tier_insufficient"


@pytest.mark.parametrize(
    ("constraints", "action", "params", "broken"),
    [
        ({"max_fee_ppm": 150}, "set_single", {"channel_id": SCID, "fee_ppm": 150}, False),
        ({"max_fee_ppm": 149}, "set_single", {"channel_id": SCID, "fee_ppm": 150}, True),
        ({"max_fee_ppm": 149}, "set_bulk", {"channels": [SCID], "policy": {"fee_ppm": 150}}, True),
        ({"max_channels_per_call": 1}, "set_bulk", {"channels": [SCID], "policy": {"fee_ppm": 150}}, False),
        (
            {"max_channels_per_call": 1},
            "set_bulk",
            {"channels": [SCID, "104x1x0"], "policy": {"fee_ppm": 150}},
            True,
        ),
        ({"denied_channels": [SCID]}, "set_single", {"channel_id": SCID, "fee_ppm": 150}, True),
        ({"denied_channels": ["9x9x9"]}, "set_single", {"channel_id": SCID, "fee_ppm": 150}, False),
        ({"denied_channels": [SCID]}, "set_bulk", {"channels": [SCID], "policy": {"fee_ppm": 1}}, True),
        # These depend on what only the node knows.
        ({"max_fee_change_pct": 1}, "set_single", {"channel_id": SCID, "fee_ppm": 50_000}, False),
        ({"max_daily_actions": 0}, "set_single", {"channel_id": SCID, "fee_ppm": 150}, False),
        ({"allowed_channels": ["ab" * 32]}, "set_single", {"channel_id": SCID, "fee_ppm": 150}, False),
    ],
)
def test_limits_that_the_parameters_alone_break(
    constraints: dict[str, Any], action: str, params: dict[str, Any], broken: bool
) -> None:
    found = refusal(held(constraints=constraints), "hive:fee-policy/v1", action, params)
    assert found == ("constraint_violated" if broken else None)


@pytest.mark.parametrize(
    "spec", [spec for spec in registry.actions() if spec.served], ids=lambda s: f"{s.schema}#{s.name}"
)
def test_the_least_danger_is_never_above_what_a_node_computes(spec: registry.ActionSpec) -> None:
    facts = [
        DangerFacts(channels_total=total, amount_sat=amount, foreign_destination=foreign, peer_channels=peer)
        for total, amount, foreign, peer in itertools.product(
            (1, 10_000), (1, 50_000, None), (False, True), (0, 3)
        )
    ]
    channels = [f"{block}x1x0" for block in range(1, 60)]
    for params in ({}, {"channels": channels}):
        least = least_danger(spec, params).total
        assert all(least <= spec.danger(params, given).total for given in facts)


def test_a_tier_is_refused_only_where_no_parameters_could_reach_it() -> None:
    """Every action against every template: what `out_of_reach` lets pass, the kit lets pass."""
    for access in ("monitoring", "fees", "full"):
        try:
            credential = held(access)
        except HiveError:
            continue
        lost = {
            (row.schema, row.action)
            for row in credential_scope.out_of_reach(
                credential.effective_tier,
                credential.allowed_schemas,
                credential.permissions,
                credential.constraints,
            )
        }
        for spec in registry.actions():
            names = registry.glob_names(spec, {})
            if spec.schema == "hive:control/v1" or (spec.schema, spec.name) in lost:
                continue
            if not credential.allows(spec.schema, spec.name, names) or "*" in credential.allowed_schemas:
                continue
            try:
                check_scope(spec, {}, credential)
            except CredentialInvalid as error:
                pytest.fail(f"{access} {spec.schema}#{spec.name}: {error}")


def test_what_the_node_said_it_does_not_do_is_not_asked_for() -> None:
    spec = registry.find(*SINGLE[:2])
    row = {"schema": SINGLE[0], "action": SINGLE[1], "reason": "this node lacks the calls for it"}
    with pytest.raises(Unsupported, match="lacks the calls") as refused:
        check_served(spec, {}, {"unsupported_actions": [row]})
    assert refused.value.symbol == "unsupported_action"
    for word in (
        None,
        {},
        {"unsupported_actions": "x"},
        {"unsupported_actions": [1, {**row, "action": "y"}]},
    ):
        check_served(spec, {}, word)


def test_a_parameter_that_nothing_reads_there_is_not_asked_for() -> None:
    spec = registry.find("hive:config/v1", "adjust")
    row = {"schema": spec.schema, "action": "adjust", "parameters": ["kelly_fraction"], "reason": "no tool"}
    told = {"unsupported_actions": [row]}
    check_served(spec, {"parameter": "min_fee_ppm"}, told)
    with pytest.raises(Unsupported, match="kelly_fraction in adjust of hive:config/v1: no tool"):
        check_served(spec, {"parameter": "kelly_fraction"}, told)
