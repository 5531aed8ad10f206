"""Entries of hive:config/v1 for the table of actions (02 §4 item 12)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import fee_tool
import pytest
from action_table import Answer, Entry, Params, Stage, given
from actions_rebalance import ring_of
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import until
from hive_shared.registry import CONFIG


async def _listed(stage: Stage, params: Params, result: Answer) -> None:
    (item,) = result["items"]
    shown = (await stage.call("listconfigs", config="min-capacity-sat"))["configs"]["min-capacity-sat"]
    assert (item["value"], item["dynamic"]) == (shown["value_int"], True)


async def _another_size(stage: Stage) -> Params:
    shown = (await stage.call("listconfigs", config="min-capacity-sat"))["configs"]["min-capacity-sat"]
    return {"sats": int(shown["value_int"]) + 1_000}


async def _allowed(stage: Stage) -> Params:
    await stage.call("hive-client-policy", action="set", overrides={"allowed_config": ["min-capacity-sat"]})
    return {"key": "min-capacity-sat", "value": (await _another_size(stage))["sats"]}


async def _is_set(stage: Stage, params: Params, result: Answer) -> None:
    shown = (await stage.call("listconfigs", config="min-capacity-sat"))["configs"]["min-capacity-sat"]
    assert shown["value_int"] == params.get("sats", params.get("value")) == result["new"]


async def _proposed(stage: Stage, params: Params, result: Answer) -> None:
    for each in result["options"]:
        shown = (await stage.call("listconfigs", config=each["option"]))["configs"].get(each["option"], {})
        assert each["proposed"] not in map(str, shown.values())


async def _rules(stage: Stage) -> Params:
    """A rate for a day that never comes while the test runs, and one for a share the channel never has."""
    day = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[(datetime.now(UTC).weekday() + 3) % 7]
    time = {"from": "22:00", "to": "06:00", "days": [day], "timezone": "Europe/Berlin"}
    share = {"local_permille_above": 999}
    channels = [stage.world.scid]
    return {
        "rules": [
            {"channels": channels, "fee_ppm": 300, "time": time},
            {"channels": channels, "fee_ppm": 200, "threshold": share},
        ]
    }


async def _rules_of_no_channel(stage: Stage) -> Params:
    params = await _rules(stage)
    first = params["rules"][0]  # type: ignore[index, call-overload]
    return {"rules": [{**first, "channels": ["1x1x1"]}]}  # type: ignore[dict-item]


async def _stored(stage: Stage, params: Params, result: Answer) -> None:
    assert result == {"state": "set", "rules": 2}
    assert (await stage.world.channel_fees())[1] not in (200, 300)


_MOVE: Params = {"amount_sats": 5_000, "max_fee_ppm": 500, "to_permille_below": 1}
"""Of a rule that is never in force where what it fills holds more than a thousandth."""


async def _moves(stage: Stage) -> Params:
    out, home = await ring_of(stage)
    # Not the other way: the channel home is empty, and the rule would be in force on a slow machine.
    return {
        "rules": [{"from_channel": home, "to_channel": out, **_MOVE}],
        "daily_budget_sats": 100,
    }


async def _kept(stage: Stage, params: Params, result: Answer) -> None:
    assert result == {"state": "set", "rules": 1}


async def _with_tool(stage: Stage) -> Params:
    """A fee tool on the node; each time another value of the same parameter."""
    if "tool" not in stage.kept:
        await stage.call("plugin", subcommand="start", plugin=str(Path(fee_tool.__file__).resolve()))
        stage.kept["tool"] = fee_tool.DEFAULTS["min_fee_ppm"]

        async def known() -> bool:
            told = (await stage.call("hive-client-capabilities"))["unsupported_actions"]
            missing = [row.get("parameters", ()) for row in told if row["action"] == "adjust"]
            return bool(missing) and "vegas_decay_rate" in missing[0] and "min_fee_ppm" not in missing[0]

        # The plugin looks anew when another one has started; a command may be quicker.
        await until(known, "the parameters that nothing here reads")
    stage.kept["tool"] += 5
    reason = {"trigger_reason": "profitability_low", "confidence": 0.8}
    return {"parameter": "min_fee_ppm", "value": stage.kept["tool"], **reason}


async def _adjusted(stage: Stage, params: Params, result: Answer) -> None:
    shown = await stage.call("revenue-config", action="get", key="min_fee_ppm")
    assert shown["value"] == params["value"] == result["new"] != result["old"]


async def _others_open_less(stage: Stage, params: Params, result: Answer) -> None:
    """Bob opens no larger channel."""
    assert result["new"] == params["sats"] == 150_000
    bob, alice = stage.world.bob, stage.world.alice
    if "bob has coins" not in stage.kept:
        await stage.world.network.fund(bob, 1_000_000)
        stage.kept["bob has coins"] = True
    with pytest.raises(DevnetRpcError) as caught:
        await bob.call("fundchannel", {"id": alice.node_id, "amount": 150_001})
    assert "channels of more than 150000 sat are not taken" in caught.value.message


ENTRIES = (
    Entry(
        CONFIG,
        "adjust",
        _with_tool,
        _adjusted,
        given(parameter="max_fee_ppm", value=4, trigger_reason="stagnation"),
    ),
    Entry(CONFIG, "get_config", given(key="min-capacity-sat"), _listed, given(key="no-such-option")),
    Entry(CONFIG, "fee_schedule", _rules, _stored, _rules_of_no_channel),
    Entry(
        CONFIG,
        "auto_rebalance_rules",
        _moves,
        _kept,
        given(rules=[{"from_channel": "1x1x1", "to_channel": "2x1x1", **_MOVE}], daily_budget_sats=10),
    ),
    Entry(CONFIG, "set_max_channel_size", given(sats=150_000), _others_open_less, given(sats=1)),
    Entry(CONFIG, "set_min_channel_size", _another_size, _is_set, given(sats=-1)),
    Entry(CONFIG, "set_config", _allowed, _is_set, given(key="cltv-delta", value=50), slug="policy_blocked"),
    *(
        Entry(CONFIG, action, given(**right), _proposed, given(**wrong), answers="requires_restart")
        for action, right, wrong in (
            ("set_alias", {"alias": "another name"}, {"alias": ""}),
            ("set_network_address", {"address": "203.0.113.9:9735"}, {"address": "a path/x"}),
            ("set_tor", {"enabled": True}, {"enabled": "yes"}),
            ("set_dust_limit", {"max_dust_exposure_msat": 60_000_000}, {"max_dust_exposure_msat": -1}),
        )
    ),
)
