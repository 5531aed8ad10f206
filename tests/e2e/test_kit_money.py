"""The kit with a node of its own behind it: paid by a node for what it did, and paying a node for access
(docs/protocol/11-advisor-kit.md §8, §10 `pay`, §15.8, §15.11)."""

from __future__ import annotations

from typing import Any

import pytest
from hive_devnet.world import AdvisorFailed, World, until
from mcp_client import config_dir

LIMITS = "hive:htlc-policy/v1"
PAY_CONFIG = """
[receive]
method = "cln"
cln = "mine"
[spend]
method = "cln"
daily_sats = 100
"""


@pytest.mark.timeout(500)
async def test_the_kit_is_paid_and_pays_through_its_own_node(world: World) -> None:
    shell = world.advisor
    channel = (await world.alice.call("listpeerchannels"))["channels"][0]["short_channel_id"]
    await world.alice.call("setconfig", {"config": "hive-comms-escrow-min-danger", "val": "10"})
    identity = await shell.run("identity", "create")
    issue = {"agent_id": identity["npub"], "tier": "standard", "allowed_schemas_json": ["*"]}
    await world.alice.call(
        "hive-mgmt-credential-issue",
        {**issue, "compensation_json": {"model": "per_action", "rate_sats": 25}},
    )
    await world.accept_offer("alice")
    write = ("--yes", "send", "alice", f"{LIMITS}/set_htlc_limits", f"channel_id={channel}")

    await shell.run("node", "add", "mine", "--socket", str(world.bob.net_dir / "lightning-rpc"))
    (config_dir(shell) / "config.toml").write_text(PAY_CONFIG)
    methods = await shell.run("pay", "methods", "--check", "--offer")
    assert methods["offer"].startswith("lno1")
    assert [row["status"] for row in methods["checks"]] == ["ok", "ok"] and methods["methods"] == ["bolt11"]

    done = await shell.run(*write, "htlc_minimum_msat=6", "--pay")
    assert done["state"] == "done", done
    (invoice,) = (await world.bob.call("listinvoices"))["invoices"]
    assert invoice["amount_msat"] == 25_000 and done["command_id"] in invoice["description"]

    async def paid() -> dict[str, Any] | None:
        await shell.run("run", "--once")
        rows = (await shell.run("pay", "list", "--kind", "earning"))["items"]
        return next((row for row in rows if row["state"] == "paid"), None)

    earning = await until(paid, "the pay of the command")
    assert earning["command_id"] == done["command_id"] and earning["payment_hash"] == invoice["payment_hash"]
    await pays(world)
    await is_paid_by_the_month(world)


async def pays(world: World) -> None:
    """Another profile, hired for a fee, which its own node pays."""
    shell, buyer = world.advisor, ("--profile", "buyer")
    identity = await shell.run(*buyer, "identity", "create")
    await shell.run(*buyer, "node", "add", "mine", "--socket", str(world.bob.net_dir / "lightning-rpc"))
    (config_dir(shell).parent / "buyer" / "config.toml").write_text(PAY_CONFIG)
    await world.alice.call(
        "hive-mgmt-credential-issue",
        {
            "agent_id": identity["npub"],
            "tier": "standard",
            "allowed_schemas_json": ["*"],
            "access_json": {"model": "per_action"},
        },
    )

    async def offered() -> str | None:
        await shell.run(*buyer, "run", "--once")
        clients = (await shell.run(*buyer, "client", "list"))["items"]
        return next((row["alias"] for row in clients if row["state"] == "offered"), None)

    await shell.run(*buyer, "client", "accept", await until(offered, "the offer"), "--name", "alice")
    # Not the channel that another advisor has just changed.
    write = (*buyer, "--yes", "send", "alice", "hive:peer/connect", f"peer_id={world.bob.node_id}")
    assert await failed(world, *write) == (8, "payment_required")
    (command, *_) = (await shell.run(*buyer, "command", "list"))["items"]
    asked = (*buyer, "pay", "l402", command["command_id"], "--one")
    assert await failed(world, *asked) == (5, "confirmation_required")
    payment = await shell.run("--yes", *asked)
    assert payment["state"] == "paid" and payment["amount_sats"] > 0
    sent = (await world.bob.call("listpays"))["pays"]
    assert [row["payment_hash"] for row in sent] == [payment["payment_hash"]]
    assert (await shell.run(*write))["state"] == "done"
    assert [row["kind"] for row in (await shell.run(*buyer, "pay", "list"))["items"]] == ["fee", "payment"]


async def is_paid_by_the_month(world: World) -> None:
    """A third profile, hired by a contract with a monthly fee: nobody types anything to have it paid."""
    shell, keeper = world.advisor, ("--profile", "keeper")
    identity = await shell.run(*keeper, "identity", "create")
    await shell.run(*keeper, "node", "add", "mine", "--socket", str(world.bob.net_dir / "lightning-rpc"))
    (config_dir(shell).parent / "keeper" / "config.toml").write_text(PAY_CONFIG)
    pricing = {"model": "subscription", "baseMonthlySats": 300, "acceptedMethods": ["cashu", "bolt11"]}
    scope = {"capabilities": ["fee-optimization"], "schemas": ["hive:monitor/*"]}
    proposed = await world.alice.call(
        "hive-marketplace-propose",
        {"advisor": identity["npub"], "scope": scope, "tier": "monitor", "pricing": pricing},
    )
    contract_id = proposed["contract_id"]

    async def heard() -> bool:
        await shell.run(*keeper, "run", "--once")
        return bool((await shell.run(*keeper, "inbox", "list"))["items"])

    await until(heard, "the proposal")
    await shell.run(*keeper, "--yes", "thread", "accept", contract_id, "--sign")

    async def month_paid() -> dict[str, Any] | None:
        await shell.run(*keeper, "run", "--once")
        rows = (await shell.run(*keeper, "pay", "list", "--kind", "earning"))["items"]
        return next((row for row in rows if row["state"] == "paid"), None)

    earning = await until(month_paid, "the first month")
    assert (earning["purpose"], earning["contract_id"], earning["amount_sats"]) == (
        *("period", contract_id, 300),
    )
    (row,) = (await world.alice.call("hive-client-payments", {"action": "subscriptions"}))["items"]
    assert (row["state"], row["periods_paid"], row["amount_sats"]) == ("active", 1, 300)


async def failed(world: World, *arguments: str) -> tuple[int, str]:
    """The exit code and reason with which the command line refuses."""
    with pytest.raises(AdvisorFailed) as refused:
        await world.advisor.run(*arguments)
    error = refused.value.error
    return refused.value.code, str((error.get("data") or {}).get("reason") or error.get("slug"))
