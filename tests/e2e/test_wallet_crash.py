"""kill -9 around a withdrawal: paid once or not at all, and the receipt says which (02 §7.1, §15.12)."""

from __future__ import annotations

from hive_devnet.world import World
from hive_shared.canonical import JsonValue
from hive_shared.registry import WALLET
from killed_command import killed_at, receipt_of, trusted_agent

AMOUNT = 40_000
SEND = (WALLET, "send_onchain")


async def _received(world: World) -> int:
    """Sats that bob's wallet got, once a block has what waits."""
    await world.network.mine(1)
    rows = (await world.bob.call("listfunds"))["outputs"]
    return sum(int(row["amount_msat"]) for row in rows) // 1_000


async def test_acceptance_02_12_a_withdrawal_killed_is_paid_once_or_not_at_all(
    world: World,
) -> None:
    async with trusted_agent(world, {"wallet_*": "auto_execute"}) as agent:
        destination = str((await world.bob.call("newaddr", {"addresstype": "bech32"}))["bech32"])
        params: dict[str, JsonValue] = {
            "destination": destination,
            "amount_sats": AMOUNT,
            "feerate_perkw": 500,
        }
        before = await _received(world)
        sent = await killed_at(world, agent, "after_cln", SEND, params)
        receipt = await receipt_of(world, sent)
        assert receipt["status"] == "success" and receipt["result"]["reconciled"] is True, receipt
        assert await _received(world) == before + AMOUNT
        unsent = await killed_at(world, agent, "wallet_prepared", SEND, params)
        if world.network.kind != "embedded":
            # With the plugin the node went down: only blocks can tell now.
            await world.network.mine(6)
        receipt = await receipt_of(world, unsent)
        expected = "error" if world.network.kind == "embedded" else "indeterminate"
        assert receipt["status"] == expected, receipt
        assert await _received(world) == before + AMOUNT
        assert (await world.alice.call("hive-client-receipts-verify"))["ok"] is True
