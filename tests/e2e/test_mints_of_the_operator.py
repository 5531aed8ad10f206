"""The operator names a mint: it is checked at once and shown; no other is spoken of or spoken to."""

from __future__ import annotations

from typing import Any

import pytest
from hive_devnet.mint_faults import MintFaultFront
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World, until


async def _mints(world: World) -> list[dict[str, Any]]:
    return list((await world.alice.call("hive-client-wallet", {"action": "mints"}))["items"])


async def _name(world: World, url: str) -> None:
    await world.alice.call("setconfig", {"config": "hive-comms-escrow-mint", "val": url, "transient": True})


async def test_a_named_mint_is_checked_at_once_and_shown(world: World, mint_url: str) -> None:
    assert await _mints(world) == []
    async with MintFaultFront.before(mint_url) as front:
        await _name(world, front.url + "/")

        async def checked() -> bool:
            return any(each["checked_at"] for each in await _mints(world))

        await until(checked, "the mint to be checked")
        (shown,) = await _mints(world)
        assert (shown["mint"], shown["role"], shown["status"]) == (front.url, "primary", "probation")
        assert (shown["version"], shown["detail"], shown["breaker"]) == ("Nutshell/0.19.2", "", "closed")
        assert abs(shown["clock_skew_s"]) <= 1 and shown["probe_due"] and shown["caps"] is None
        (keyset,) = shown["keysets"]
        assert (keyset["active"], keyset["input_fee_ppk"]) == (True, 100)
        text = await world.alice.call("hive-client-wallet", {"action": "mints", "format": "text"})
        assert f"mint: {front.url}" in text["text"]
        with pytest.raises(DevnetRpcError, match=r"needs 32 sat.*action=fund"):
            await world.alice.call("hive-client-wallet", {"action": "probe"})
        await world.alice.call("hive-client-wallet", {"action": "fund", "amount_sats": 64})
        found = await world.alice.call("hive-client-wallet", {"action": "probe"})
        assert (found["state"], found["status"], found["cost_sats"]) == ("done", "trusted", 4)
        assert found["caps"]["htlc"] and found["caps"]["multisig"] and not found["caps"]["sigall"]
        (shown,) = await _mints(world)
        assert shown["status"] == "trusted" and not shown["probe_due"] and shown["caps"] == found["caps"]

        await _name(world, "")

        async def let_go() -> bool:
            return [each["role"] for each in await _mints(world)] == ["former"]

        await until(let_go, "the mint to be let go")
        before = front.connections
        (shown,) = await _mints(world)
        assert "breaker" not in shown
        with pytest.raises(DevnetRpcError, match="must use https://"):
            await _name(world, "http://mint.example.com")
        with pytest.raises(DevnetRpcError, match="2 mints are named, one is wanted here"):
            await _name(world, f"{front.url},{mint_url}")
        assert front.connections == before
