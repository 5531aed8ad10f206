"""Entries of hive:wallet/v1 for the table of actions (02 §4 item 10)."""

from __future__ import annotations

from typing import Any

from action_table import Answer, Entry, Params, Stage, given
from hive_shared.registry import WALLET

NONE = "00" * 32 + ":0"


async def _foreign(stage: Stage) -> str:
    return str((await stage.world.bob.call("newaddr", {"addresstype": "bech32"}))["bech32"])


async def _coins(stage: Stage, count: int = 1) -> list[str]:
    """Fresh confirmed coins of 400,000 sat and a little."""
    made = set()
    for number in range(count):
        made.add(await stage.world.network.fund(stage.world.alice, 400_000 + number))
    return [_name(row) for row in (await _outputs(stage)) if row["txid"] in made]


async def _outputs(stage: Stage) -> list[dict[str, Any]]:
    return list((await stage.call("listfunds"))["outputs"])


def _name(row: dict[str, Any]) -> str:
    return f"{row['txid']}:{row['output']}"


async def _paid(stage: Stage, txid: str, address: str) -> int:
    """What bob's wallet got by a transaction at an address, once a block has it."""
    await stage.world.network.mine(1)
    rows = (await stage.world.bob.call("listfunds"))["outputs"]
    return sum(int(row["amount_msat"]) for row in rows if row["txid"] == txid and row["address"] == address)


async def _send(stage: Stage) -> Params:
    (coin,) = await _coins(stage)
    return {
        "destination": await _foreign(stage),
        "amount_sats": 150_000,
        "utxos": [coin],
        "feerate_perkw": 500,
    }


async def _sent(stage: Stage, params: Params, result: Answer) -> None:
    assert await _paid(stage, result["txid"], str(params["destination"])) == 150_000_000
    assert result["inputs"] == params["utxos"] and 0 < result["fee_sats"] < 2_000
    listed = (await stage.call("listtransactions"))["transactions"]
    assert sum(row["hash"] == result["txid"] for row in listed) == 1


async def _too_much(stage: Stage) -> Params:
    return {"destination": await _foreign(stage), "amount_sats": 2_000_000_000}


async def _all(stage: Stage) -> Params:
    await _coins(stage)
    return {"destination": await _foreign(stage)}


async def _swept(stage: Stage, params: Params, result: Answer) -> None:
    assert await _paid(stage, result["txid"], str(params["destination"])) > 370_000_000
    left = [row for row in await _outputs(stage) if row["status"] == "confirmed" and not row["reserved"]]
    # Real CLN keeps a little back for the fees of closing channels with anchors.
    assert sum(int(row["amount_msat"]) for row in left) <= 26_000_000


async def _nowhere(stage: Stage) -> Params:
    return {"destination": "bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"}


async def _three(stage: Stage) -> Params:
    coins = await _coins(stage, 3)
    return {"utxos": list(coins), "feerate_perkw": 300}


async def _one(stage: Stage, params: Params, result: Answer) -> None:
    await stage.world.network.mine(1)
    rows = [row for row in await _outputs(stage) if row["txid"] == result["txid"]]
    assert [int(row["amount_msat"]) // 1_000 for row in rows] == [1_200_003 - result["fee_sats"]]
    assert not {_name(row) for row in await _outputs(stage)}.intersection(map(str, params["utxos"]))  # type: ignore[arg-type]


async def _frozen(stage: Stage) -> Params:
    return {"utxos": list(await _coins(stage)), "blocks": 30}


async def _is_frozen(stage: Stage, params: Params, result: Answer) -> None:
    height = int((await stage.call("getinfo"))["blockheight"])
    (coin,) = params["utxos"]  # type: ignore[misc, str-unpack]
    (row,) = [row for row in await _outputs(stage) if _name(row) == coin]
    assert row["reserved"] and row["reserved_to_block"] == height + 30
    stage.kept["frozen"] = coin


async def _freeze_first(stage: Stage) -> Params:
    params = await _frozen(stage)
    await stage.run(WALLET, "freeze_utxos", params)
    return {"utxos": params["utxos"]}


async def _is_free(stage: Stage, params: Params, result: Answer) -> None:
    (coin,) = params["utxos"]  # type: ignore[misc, str-unpack]
    (row,) = [row for row in await _outputs(stage) if _name(row) == coin]
    assert row["reserved"] is False
    assert result["unfrozen"] == [coin]


async def _waiting(stage: Stage) -> Params:
    """A transaction at the lowest rate that no block has yet; its output is ours."""
    (coin,) = await _coins(stage)
    own = (await stage.call("newaddr", addresstype="p2tr"))["p2tr"]
    made = await stage.call("withdraw", destination=own, satoshi="all", utxos=[coin], feerate="253perkw")
    return {"txid": made["txid"], "vout": 0, "feerate_perkw": 1_000, "max_fee_sats": 5_000}


async def _bumped(stage: Stage, params: Params, result: Answer) -> None:
    assert result["inputs"] == [f"{params['txid']}:0"] and 500 < result["fee_sats"] <= 5_000
    await stage.world.network.mine(1)
    assert any(
        row["txid"] == result["txid"] and row["status"] == "confirmed" for row in await _outputs(stage)
    )


async def _too_dear(stage: Stage) -> Params:
    return {**await _waiting(stage), "max_fee_sats": 10}


async def _any_address(stage: Stage) -> Params:
    return {"type": "p2tr"}


async def _own_address(stage: Stage, params: Params, result: Answer) -> None:
    found = (await stage.call("listaddresses", address=result["address"]))["addresses"]
    assert found[0]["p2tr"] == result["address"]


async def _listed(stage: Stage, params: Params, result: Answer) -> None:
    rows = await _outputs(stage)
    assert {f"{item['txid']}:{item['output']}" for item in result["items"]} == set(map(_name, rows))
    confirmed = sum(int(row["amount_msat"]) for row in rows if row["status"] == "confirmed")
    assert result["confirmed_sats"] == confirmed // 1_000


ENTRIES = (
    Entry(WALLET, "list_funds", given(), _listed, given(limit=0)),
    Entry(WALLET, "generate_address", _any_address, _own_address, given(type="p2sh-segwit")),
    Entry(WALLET, "send_onchain", _send, _sent, _too_much),
    Entry(WALLET, "consolidate_utxos", _three, _one, given(utxos=[NONE, NONE[:-1] + "1"])),
    Entry(WALLET, "freeze_utxos", _frozen, _is_frozen, given(utxos=[NONE], blocks=30)),
    Entry(WALLET, "unfreeze_utxos", _freeze_first, _is_free, given(utxos=[NONE])),
    Entry(WALLET, "bump_fee", _waiting, _bumped, _too_dear),
    Entry(WALLET, "sweep", _all, _swept, _nowhere, critical=True),
)
