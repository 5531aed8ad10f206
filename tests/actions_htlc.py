"""Entries of hive:htlc-policy/v1 and hive:htlc-mgmt/v1 for the table of actions (02 §4 items 3 and 15)."""

from __future__ import annotations

from action_table import Answer, Entry, Params, Stage, given
from channel_world import channels
from hive_devnet.world import until
from hive_shared.registry import HTLC_MGMT, HTLC_POLICY

_BOUNDS = {"htlc_minimum_msat": 3_000, "htlc_maximum_msat": 50_000_000}


async def _one(stage: Stage) -> Params:
    stage.kept["limits"] = (await channels(stage.world))[stage.world.scid]
    return {"channel_id": stage.world.scid, **_BOUNDS}


async def _many(stage: Stage) -> Params:
    stage.kept["limits"] = (await channels(stage.world))[stage.world.scid]
    return {"channels": [stage.world.scid], **_BOUNDS}


async def _set(stage: Stage, params: Params, result: Answer) -> None:
    low, high, *fees = (await channels(stage.world))[stage.world.scid]
    old_low, old_high, *old_fees = stage.kept["limits"]
    assert (low, high, fees) == (3_000, 50_000_000, old_fees)
    await stage.call("setchannel", id=stage.world.scid, htlcmin=old_low, htlcmax=old_high)


async def _above_capacity(stage: Stage) -> Params:
    return {"channel_id": stage.world.scid, "htlc_maximum_msat": 10**15}


async def _one_unknown(stage: Stage) -> Params:
    return {"channels": [stage.world.scid, "9x9x9"], **_BOUNDS}


async def _proposed(stage: Stage, params: Params, result: Answer) -> None:
    shown = await stage.call("listconfigs", config="cltv-delta")
    assert result["config_lines"] == ["cltv-delta=77"]
    assert result["options"][0]["now"] == shown["configs"]["cltv-delta"]["value_int"] != 77


async def _paid(stage: Stage) -> str:
    """The id of an HTLC that settled."""
    label = f"htlc-{len((await stage.call('listhtlcs'))['htlcs'])}"
    asked = {"amount_msat": 11_000, "label": label, "description": "an HTLC to look at"}
    invoice = await stage.world.bob.call("invoice", asked)
    await stage.call("pay", bolt11=invoice["bolt11"])

    async def settled() -> bool:
        return not any(row["htlcs"] for row in (await stage.call("listpeerchannels"))["channels"])

    await until(settled, "the HTLC to be off the channel")
    last = (await stage.call("listhtlcs"))["htlcs"][-1]
    return f"{last['short_channel_id']}:{last['id']}:{last['direction']}"


async def _after_a_payment(stage: Stage) -> Params:
    """Earlier entries may have opened other channels: the payment chose one of them."""
    stage.kept["htlc"] = await _paid(stage)
    return {"channel_id": stage.kept["htlc"].partition(":")[0], "limit": 1_000}


async def _listed(stage: Stage, params: Params, result: Answer) -> None:
    (item,) = [each for each in result["items"] if each["htlc_id"] == stage.kept["htlc"]]
    assert item["amount_msat"] == 11_000 and "payment_preimage" not in item


async def _an_htlc(stage: Stage) -> Params:
    return {"htlc_id": await _paid(stage)}


async def _inspected(stage: Stage, params: Params, result: Answer) -> None:
    assert result["htlc_id"] == params["htlc_id"] and result["amount_msat"] == 11_000


async def _none_stuck(stage: Stage, params: Params, result: Answer) -> None:
    assert result["items"] == []


async def _no_such_htlc(stage: Stage) -> Params:
    return {"htlc_id": f"{stage.world.scid}:999999:out"}


ENTRIES = (
    Entry(HTLC_POLICY, "set_htlc_limits", _one, _set, _above_capacity),
    Entry(HTLC_POLICY, "set_htlc_limits_bulk", _many, _set, _one_unknown),
    Entry(
        HTLC_POLICY,
        "set_cltv_delta",
        given(cltv_expiry_delta=77),
        _proposed,
        given(cltv_expiry_delta=17),
        answers="requires_restart",
    ),
    Entry(HTLC_MGMT, "list_htlcs", _after_a_payment, _listed, given(channel_id="9x9x9")),
    Entry(HTLC_MGMT, "list_stuck", given(min_age_seconds=3_600), _none_stuck, given(min_age_seconds=-1)),
    Entry(HTLC_MGMT, "inspect", _an_htlc, _inspected, _no_such_htlc),
)
