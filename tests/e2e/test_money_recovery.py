"""The ways back that docs/money.md names, each gone: a lost database, a dead mint, a payment that hangs; and
escrow without a mint (docs/protocol/08-client-and-plugins.md §13.10)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from agent import Agent
from channel_world import plugin_again
from cln_contract import Probe
from clock_world import world_at
from hive_devnet.clock import PluginClock
from hive_devnet.mint import MintProcess
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World, until
from hive_shared.cashu.derive import public_key
from hive_shared.crypto import Secret

WALLET, ESCROW, MINT = "hive-client-wallet", "hive-client-escrow", "hive-comms-escrow-mint"
TICKET = {
    "action": "create",
    "amount_sats": 50,
    "danger": 5,
    "schema": "ci:review/v1",
    "task_action": "review",
    "params": {"pull": 7},
    "payee_pubkey": public_key(Secret(b"\x21" * 32)),
    "idempotency_key": "review",
}


async def _wallet(world: World, action: str, **params: object) -> dict[str, Any]:
    return await world.alice.call(WALLET, {"action": action, **params})


async def _sats(world: World) -> dict[str, int]:
    rows = (await _wallet(world, "balance"))["mints"]
    return {row["mint"]: row["free_sats"] for row in rows if row["free_sats"]}


async def _set(world: World, option: str, value: str) -> None:
    await world.alice.call("setconfig", {"config": option, "val": value})


@pytest.mark.timeout(500)
async def test_acceptance_08_10_no_mint_a_lost_database_and_a_mint_that_dies_under_a_ticket(
    tmp_path: Path,
) -> None:
    async with world_at(tmp_path, lambda now: now) as (world, clock):
        await _set(world, "hive-comms-escrow-auto-replenish", "false")
        await _without_a_mint(world)
        first, second = await asyncio.gather(
            *(
                MintProcess.start(tmp_path / name, input_fee_ppk=0, environment=clock.environment)
                for name in ("first", "second")
            )
        )
        try:
            await _set(world, MINT, first.url)
            await _set(world, "hive-comms-escrow-backup-mints", second.url)
            # Sats are counted here: none comes by itself.
            await _set(world, "hive-comms-escrow-auto-replenish", "false")
            for mint, sats in ((first.url, 1_000), (second.url, 300)):
                await _done(world, "fund", amount_sats=sats, mint=mint, idempotency_key=mint)
                await _probed(world, clock, mint)
            await _lost_database(world, clock, first.url, second.url)
            await _dead_mint(world, first, second.url, clock)
        finally:
            await asyncio.gather(first.stop(), second.stop())


async def _without_a_mint(world: World) -> None:
    """Each refusal says which option names one; nothing was begun."""
    async with Agent(world.alice, world.relay.url) as agent:
        order = {**TICKET, "advisor": (await agent.hired("fees")).npub}
    for method, params, code in (
        (ESCROW, order, 4014),
        (WALLET, {"action": "fund", "amount_sats": 100}, 4011),
        (WALLET, {"action": "withdraw", "amount_sats": 100}, 4011),
        (WALLET, {"action": "send", "amount_sats": 100}, 4011),
        (WALLET, {"action": "restore"}, 4011),
        (WALLET, {"action": "probe"}, 4011),
    ):
        with pytest.raises(DevnetRpcError) as refused:
            await world.alice.call(method, params)
        assert (refused.value.code, MINT in refused.value.message) == (code, True), (method, params)
    assert (await world.alice.call(ESCROW))["count"] == 0
    assert (await _wallet(world, "ops"))["count"] == 0


async def _done(world: World, action: str, **params: object) -> None:
    """What a busy machine does not finish in one call goes on, and the next call finds it."""

    async def done() -> bool:
        return bool((await _wallet(world, action, **params))["state"] == "done")

    await until(done, f"the end of {action}")


async def _probed(world: World, clock: PluginClock, mint: str) -> None:
    """Have the probe over that comes by itself a minute after the start: while it runs it has some of the
    sats that are counted here. It takes most of the calls that a mint gets in a minute."""
    await _done(world, "probe", mint=mint, timeout=50)
    clock.wait(61)


async def _lost_database(world: World, clock: PluginClock, first: str, second: str) -> None:
    await world.alice.stop()
    for file in world.alice.net_dir.glob("cl_hive_comms.db*"):
        file.unlink()
    await world.alice.start()
    assert await until(lambda: _answer(world, "balance"), "the plugin answers")
    assert await _sats(world) == {}
    shown = await _wallet(world, "restore")
    assert (shown["dry_run"], shown["new_sats"], await _sats(world)) == (True, 1_000, {})
    assert shown["not_asked"] == [second]
    for mint in (first, second):
        await _wallet(world, "restore", mint=mint, dry_run=False)
        await _probed(world, clock, mint)
    assert await _sats(world) == {first: 1_000, second: 300}
    # What was found can be spent, and nothing that was made before is made again.
    sent = await _wallet(world, "send", amount_sats=77)
    assert (await _wallet(world, "receive", token=sent["token"]))["state"] == "done"
    assert await _sats(world) == {first: 1_000, second: 300}


async def _answer(world: World, action: str) -> dict[str, Any] | None:
    with suppress(DevnetRpcError, ConnectionError, FileNotFoundError):
        return await _wallet(world, action)
    return None


async def _dead_mint(world: World, dead: MintProcess, other: str, clock: PluginClock) -> None:
    async with Agent(world.alice, world.relay.url) as agent:
        order = {**TICKET, "advisor": (await agent.hired("fees")).npub}

    async def made() -> dict[str, Any] | None:
        # A probe takes most of the calls a mint gets in a minute, and a step of the clock may break one off.
        clock.wait(61)
        await _wallet(world, "probe")
        try:
            return await world.alice.call(ESCROW, order)
        except DevnetRpcError as error:
            if "not probed" not in str(error):
                raise
            return None

    ticket = await until(made, "the mints to be probed and the ticket to be made")
    get = {"action": "get", "ticket_id": ticket["ticket_id"]}

    async def delivered() -> bool:
        return bool((await world.alice.call(ESCROW, get))["item_states"] == {"delivered": 1})

    await until(delivered, "the ticket to leave")
    # The other mint may be at its own probe, which has some of its sats until it is over.
    assert (await _sats(world))[dead.url] == 950
    await dead.kill()
    with pytest.raises(DevnetRpcError, match="mint_unavailable") as refused:
        await _wallet(world, "withdraw", amount_sats=7, timeout=3)
    assert refused.value.code == 4014
    # The locktime comes and goes: what nobody earned is due back, and nothing calls it back.
    clock.pass_to(ticket["locktime"] + 300)
    back = {"action": "refund", "ticket_id": ticket["ticket_id"], "timeout": 1}
    assert (await world.alice.call(ESCROW, back))["item_states"] == {"refundable": 1}
    await _set(world, MINT, other)
    await _set(world, "hive-comms-escrow-backup-mints", dead.url)
    assert (await _wallet(world, "send", amount_sats=50))["token"].startswith("cashuB")
    held = {row["mint"]: row for row in (await _wallet(world, "balance"))["mints"]}[dead.url]
    assert held["free_sats"] + held["held_sats"] == 950
    await dead.restart()

    async def refunded() -> bool:
        # The waits between questions are the plugin's; here they pass at once.
        clock.wait(60)
        return bool((await world.alice.call(ESCROW, get))["item_states"] == {"refunded": 1})

    assert await until(refunded, "the ticket's sats to come back", 120, 0.5)

    assert (await _sats(world))[dead.url] == 1_000

    async def whole() -> bool:
        # Steps of the clock broke off probes of the other mint: what they use is on its way back, or is the
        # one sat of a lock whose time ran out (docs/decisions/0555). Nothing else is missing there.
        ops = (await _wallet(world, "ops", limit=100))["items"]
        out = [op for op in ops if op["mint"] == other and op["state"] != "done"]
        assert {op["kind"] for op in out} <= {"receive", "probe"}
        return 250 - sum(op["amount_sats"] for op in out) <= (await _sats(world))[other] <= 250

    assert await until(whole, "what the other mint has and what its probes use to be 250 sats", pause=0.5)
    done = await _wallet(world, "withdraw", amount_sats=900, mint=dead.url)
    assert done["state"] == "done" and (await _sats(world))[dead.url] <= 100


async def test_a_payment_that_hangs_is_waited_for_and_paid_once(
    world: World, agent: Agent, tmp_path: Path
) -> None:
    """A node on the way holds the HTLC; the plugin is killed meanwhile."""
    holder = Probe(
        tmp_path,
        "hold.py",
        manifest={"hooks": ["htlc_accepted"]},
        answers={"htlc_accepted": {"__hold__": True}},
    )
    await world.bob.call("plugin", ["start", str(holder.path)])
    asked = {"amount_msat": 900_000, "label": "held", "description": "advice"}
    bill = await world.bob.call("invoice", asked)
    order = {"advisor": agent.npub, "amount_sats": 900, "target": bill["bolt11"]}
    paying = asyncio.create_task(world.alice.call("hive-client-pay", order))

    async def arrived() -> bool:
        return bool(holder.received("htlc_accepted"))

    await until(arrived, "the HTLC to be held")
    await plugin_again(world, None)
    await asyncio.gather(paying, return_exceptions=True)

    async def row() -> dict[str, Any]:
        found = await world.alice.call("hive-client-payments", {"action": "history"})
        return dict(next(each for each in found["items"] if each["payment_hash"] == bill["payment_hash"]))

    async def unknown() -> bool:
        with suppress(DevnetRpcError):
            return bool((await row())["state"] == "unknown")
        return False

    await until(unknown, "the plugin to ask what became of it")
    assert (await world.alice.call("hive-client-pay", order))["status"] == "unknown"
    listed = (await world.alice.call("listpays", {"payment_hash": bill["payment_hash"]}))["pays"]
    assert [each["status"] for each in listed] == ["pending"]
    await world.bob.call("plugin", ["stop", holder.name])
    # It asks every minute, and at its start.
    await plugin_again(world)

    async def settled() -> bool:
        return bool((await row())["state"] == "settled")

    await until(settled, "the payment's end to be taken over", 150, 0.5)
    assert (await world.alice.call("hive-client-pay", order))["status"] == "settled"
    assert (await world.bob.call("listinvoices", {"label": "held"}))["invoices"][0]["status"] == "paid"
