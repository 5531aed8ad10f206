"""The chapters about money: an advisor's work paid by a ticket of ecash, a mint that lies, a refund.

The mint is nutshell with its FakeWallet: what it says about Lightning is play money, its ecash is as real as
any mint's. Before it stands a front that can falsify its answers.
"""

from __future__ import annotations

from typing import Any

from hive_devnet.clock import PluginClock
from hive_devnet.demo.story import Story
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World, until

SCHEMA, ACTION = "hive:rebalance/v1", "circular_rebalance"
FUND_SAT = 2_000
WORK_SAT = 25
MINUTE_S = 61
"""Plugin and mint see so much time pass between the chapters: 20 money calls a minute are all a mint gets."""
LATE_S = 600
"""How long after its locktime a ticket is certainly taken back by the plugin's own loop."""


async def fund(story: Story, world: World, front: MintFaultFront) -> None:
    """Operator and advisor name the mint; the operator's wallet is funded and probes what the mint does."""
    async with story.step("operator names a mint and funds a wallet there; the mint is probed") as step:
        await world.alice.call("setconfig", {"config": "hive-comms-escrow-mint", "val": front.url})
        done = await _wallet(world, "fund", amount_sats=FUND_SAT)
        step.check(done["state"] == "done", f"{FUND_SAT} sat of ecash, each signature proved by the mint")
        probed = await _wallet(world, "probe", timeout=60)
        caps = probed["caps"]
        step.check(
            caps["htlc"] and caps["restore"],
            "the mint refuses locked ecash without preimage, without signature, with a wrong key",
        )
        added = await world.advisor.run("wallet", "mint", "add", front.url)
        npub = (await world.advisor.run("identity", "show"))["npub"]
        await world.alice.call("hive-client-authorize", {"advisor": npub, "access": "routing"})
        step.check(bool(added), "the advisor names the same mint; tokens of others it refuses unasked")
        step.result(f"{await _sats(world)} sat after the probe's fees")


async def paid_work(story: Story, world: World, clock: PluginClock) -> None:
    """A ticket locks the price before the work; the receipt's preimage makes it the advisor's."""
    async with story.step(
        "a ticket locks the price of a rebalance; the advisor checks and accepts it"
    ) as step:
        params = await _ring(world)
        step.say("alice's ring: alice → bob → carol → alice")
        ticket = await _ticket(world, params, "rebalance")
        step.check(ticket["amount_sats"] == WORK_SAT, f"{WORK_SAT} sat locked: key, hash, locktime")
        ticket_id = ticket["ticket_id"]
        await until(_accepted(world, ticket_id), "the advisor to accept the ticket", 60, 0.5)
        shown = await world.advisor.run("ticket", "show", ticket_id)
        step.check(shown["status"] == "active", "every check held: amount, key, hash, locktime, unspent")
        step.result(f"ticket {ticket_id[:8]}…, {WORK_SAT} sat, accepted")
    async with story.step("the advisor does the work and is paid by the receipt's preimage") as step:
        before = await _sats(world)
        pairs = [f"{name}={value}" for name, value in params.items()]
        done = await world.advisor.run(
            *("--yes", "--wait", "60", "send", "alice", f"{SCHEMA}/{ACTION}", *pairs, "--ticket", ticket_id)
        )
        step.check(done["state"] == "done", f"rebalanced, receipt {done['receipt_id']}")
        await world.advisor.run("ticket", "redeem", ticket_id)
        await world.advisor.run("run", "--once")
        held = await world.advisor.run("wallet", "balance")
        step.check(held["total_sats"] == WORK_SAT, f"the advisor holds {WORK_SAT} sat of its own")
        clock.wait(MINUTE_S)
        await until(_item(world, ticket_id, "redeemed"), "alice to see the redemption", 90, 0.5)
        step.check(await _sats(world) == before, "alice's mint shows the ticket spent, with the preimage")
        step.result(f"{WORK_SAT} sat paid for receipt {done['receipt_id']}")


async def lying_mint(story: Story, world: World, front: MintFaultFront, clock: PluginClock) -> None:
    """A false signature is noticed at once; nothing is lost when the mint is itself again."""
    async with story.step("the mint answers with signatures that are not its own") as step:
        clock.wait(MINUTE_S)
        before = await _sats(world)
        own = (await _wallet(world, "balance"))["receive_pubkey"]
        order = {"amount_sats": 77, "to_pubkey": own, "idempotency_key": "lie"}
        front.set(MintFault(MintFaultKind.BAD_DLEQ, times=0))
        try:
            sent = await _wallet(world, "send", **order, timeout=5)
            step.check("token" not in sent, "no token was made of it")
        except DevnetRpcError as error:
            step.check(error.code == 4014, f"refused: {error.message[:90]}")
        rows = (await _wallet(world, "mints"))["items"]
        step.check(
            rows[0]["status"] == "disabled", "the mint is disabled for new locks, the operator is told"
        )
        front.clear()

        async def whole() -> Any:
            rows = (await _wallet(world, "balance"))["mints"]
            return (
                sum(row["free_sats"] for row in rows) if not any(row["held_sats"] for row in rows) else None
            )

        await until(whole, "the wallet to settle what the mint really did", 90, 0.5)
        token = (await _wallet(world, "send", **order))["token"]
        back = await _wallet(world, "receive", token=token)
        step.check(back["state"] == "done", "the real signatures were restored from the mint")
        after = await _sats(world)
        step.check(before - 10 <= after <= before, f"{before} → {after} sat: fees of the mint, nothing else")
        step.result("false answer refused, no sat lost")


async def refund(story: Story, world: World, clock: PluginClock) -> None:
    """Nobody works: after the locktime the sats come back by themselves."""
    async with story.step("a ticket nobody works for comes back after its locktime") as step:
        clock.wait(MINUTE_S)
        probed = await _wallet(world, "probe", timeout=60)
        step.check(probed["caps"]["htlc"], "probed anew, the mint is trusted again")
        before = await _sats(world)
        ticket = await _ticket(world, {"channel_id": world.scid, "fee_ppm": 1}, "idle")
        try:
            await world.alice.call(
                "hive-client-escrow", {"action": "refund", "ticket_id": ticket["ticket_id"]}
            )
            step.check(False, "a refund before the locktime is refused")
        except DevnetRpcError as error:
            step.check("too_early" in error.message, f"before the locktime: {error.message[:90]}")
        clock.pass_to(ticket["locktime"] + LATE_S)
        step.say("the clocks of plugin and mint are set ahead to the locktime")
        await until(_item(world, ticket["ticket_id"], "refunded"), "the refund", 120, 0.5)
        after = await _sats(world)
        step.check(before - 10 <= after <= before, f"{before} → {after} sat: all but the mint's fees")
        step.result(f"{WORK_SAT} sat back after the locktime")


async def _wallet(world: World, action: str, **params: object) -> dict[str, Any]:
    return await world.alice.call("hive-client-wallet", {"action": action, **params})


async def _sats(world: World) -> int:
    return int((await _wallet(world, "balance"))["total_sats"])


async def _ticket(world: World, params: dict[str, Any], key: str) -> dict[str, Any]:
    npub = (await world.advisor.run("identity", "show"))["npub"]
    schema, action = (SCHEMA, ACTION) if "from_channel" in params else ("hive:fee-policy/v1", "set_single")
    asked = {
        **{"action": "create", "advisor": npub, "amount_sats": WORK_SAT, "danger": 4},
        **{"schema": schema, "task_action": action, "params": params, "idempotency_key": key},
    }

    async def made() -> dict[str, Any] | None:
        try:
            return await world.alice.call("hive-client-escrow", asked)
        except DevnetRpcError as error:
            if "has not told which key" not in error.message:
                raise
        # The advisor's next round tells it, for the credential that it has by then.
        await world.advisor.run("run", "--once")
        return None

    return dict(await until(made, "the advisor to tell its key", 60, 0.5))


async def _ring(world: World) -> dict[str, Any]:
    """A way from alice over bob and carol back to her."""
    carol = await world.network.add_node("carol")
    for node in (world.bob, carol):
        await world.network.fund(node, 2_000_000)
    between = await world.network.open_channel(world.bob, carol, 300_000)
    home = await world.network.open_channel(carol, world.alice, 300_000)

    async def known() -> bool:
        found = (await world.alice.call("listchannels", {"short_channel_id": between}))["channels"]
        return len([row for row in found if row["active"]]) == 2

    await until(known, "alice to know the channel between her peers", 90)
    return {"from_channel": world.scid, "to_channel": home, "amount_sats": 12_000, "max_fee_ppm": 500}


def _accepted(world: World, ticket_id: str) -> Any:
    async def look() -> bool:
        await world.advisor.run("run", "--once")
        found = await world.alice.call("hive-client-escrow", {"action": "get", "ticket_id": ticket_id})
        return bool(found["items"][0]["state"] == "accepted")

    return look


def _item(world: World, ticket_id: str, state: str) -> Any:
    async def look() -> bool:
        found = await world.alice.call("hive-client-escrow", {"action": "get", "ticket_id": ticket_id})
        return bool(found["items"][0]["state"] == state)

    return look
