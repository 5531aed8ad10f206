"""The chapters of the demo. Each step does what a user would type, then checks what the node says."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

from hive_devnet.demo.story import Step, Story
from hive_devnet.world import PLUGINS, START_PPM, AdvisorFailed, World, until

SET_SINGLE = "hive:fee-policy/set_single"


async def authorise(story: Story, world: World) -> None:
    """The operator reads who they are, authorises an advisor, and the advisor accepts by DM."""
    async with story.step("operator: who am I, and is everything in order?") as step:
        status = await world.alice.call("hive-client-status")
        npub = status["identity"]["npub"]
        step.check(npub.startswith("npub1"), f"the node has a Nostr identity: {npub[:20]}…")
        checks = (await world.alice.call("hive-client-selfcheck"))["checks"]
        failed = [check["id"] for check in checks if check["status"] == "fail"]
        step.check(not failed, f"self-check: {len(checks)} checks, none failed")
        step.result(f"{npub[:16]}…, policy {status['policy']['preset']}")
    async with story.step(
        "operator authorises an advisor for fees, the offer travels by encrypted DM"
    ) as step:
        npub = await world.hire("fees")
        client = await world.advisor.run("client", "show", "alice")
        step.check(client["state"] == "active", "the advisor holds a credential signed by the node")
        step.result(f"advisor {npub[:16]}…, tier {client['credentials'][0]['tier']}")


async def raise_a_fee(story: Story, world: World) -> None:
    """A change inside every limit: executed, seen on the node, proven by a receipt."""
    async with story.step("advisor raises a fee within the limits") as step:
        base, before = await world.channel_fees()
        wanted = before + max(1, before // 5)
        done = await world.advisor.run(
            "--yes", "send", "alice", SET_SINGLE, f"channel_id={world.scid}", f"fee_ppm={wanted}"
        )
        step.check(done["state"] == "done", f"command {done['command_id'][:8]}… answered: done")
        after = await world.channel_fees()
        step.check(after == (base, wanted), f"listpeerchannels shows {before} → {after[1]} ppm")
        step.check(bool(done.get("receipt_id")), f"receipt {done.get('receipt_id')}, verified by the advisor")
        step.result(f"{before} → {wanted} ppm, receipt {done['receipt_id']}")


async def ask_too_much(story: Story, world: World) -> None:
    """More than the policy allows: refused with the rule's name, nothing changed."""
    async with story.step("advisor asks for too much") as step:
        base, before = await world.channel_fees()
        # The credential would allow +50 %; the moderate policy allows +30 % in 24 h.
        channel = await second_channel(world, step)
        base, before = await world.channel_fees(channel)
        refused = await expect_refusal(
            world, SET_SINGLE, f"channel_id={channel}", f"fee_ppm={before + before * 45 // 100}"
        )
        step.check(refused["state"] == "rejected", f"refused: {refused['slug']}: {refused['message']}")
        rule = (refused.get("data") or {}).get("rule")
        step.check(bool(rule), f"the rule is named: {rule}")
        step.check(await world.channel_fees(channel) == (base, before), f"still {before} ppm")
        step.result(f"{refused['slug']} by {rule}")


async def needs_approval(story: Story, world: World) -> None:
    """Bulk changes score danger 5: they wait for the operator, who approves."""
    async with story.step("advisor asks for something that needs approval") as step:
        channel = await second_channel(world, step)
        _, before = await world.channel_fees(channel)
        wanted = before + before // 10
        pending = await expect_refusal(
            world,
            "hive:fee-policy/set_bulk",
            f'channels=["{channel}"]',
            f'policy={{"fee_ppm": {wanted}}}',
            "--note",
            "flow moved",
        )
        step.check(pending["state"] == "pending", "the node queued it and said so")
        step.check((await world.channel_fees(channel))[1] == before, f"nothing changed yet: {before} ppm")
        waiting = (await world.alice.call("hive-client-pending"))["items"]
        step.check(
            len(waiting) == 1, f"operator sees it: {waiting[0]['action']}, danger {waiting[0]['danger']}"
        )
        step.result(f"queued as {waiting[0]['action_id'][:8]}…")
    async with story.step("operator approves it") as step:
        action_id = waiting[0]["action_id"]
        await world.alice.call("hive-client-approve", {"action_id": action_id})
        done = await world.advisor.run("--wait", "30", "command", "wait", pending["command_id"])
        step.check(done["state"] == "done", "the advisor got the final, signed answer")
        step.check((await world.channel_fees(channel))[1] == wanted, f"listpeerchannels shows {wanted} ppm")
        step.result(f"{before} → {wanted} ppm after approval")


async def killed_in_the_act(story: Story, world: World) -> None:
    """kill -9 between the act and its receipt: the restart finds out what happened, once."""
    async with story.step("kill -9 between 'executing' and the receipt") as step:
        channel = await third_channel(world)
        _, before = await world.channel_fees(channel)
        wanted = before + before // 5 + 1  # a number nothing else in the story asks for
        reached = world.arm_fault("after_cln")
        sending = asyncio.create_task(
            expect_refusal(world, SET_SINGLE, f"channel_id={channel}", f"fee_ppm={wanted}", wait=3)
        )
        await until(_exists(reached), "the plugin to reach the point after the act")
        step.say("the node acted; the plugin has not recorded it")
        await world.alice.kill_plugin("cl-hive-comms.py")
        sent = await sending
        step.check(sent["state"] == "sent", "killed; the advisor has no answer and does not guess")
        step.check((await world.channel_fees(channel))[1] == wanted, f"the effect is there: {wanted} ppm")
        step.result("plugin dead, effect done, no receipt")
    async with story.step("restart: what really happened is asked of the node") as step:
        world.disarm_faults()
        await world.alice.call("plugin", ["start", str(PLUGINS["cl-hive-comms"])])
        done = await world.advisor.run("--wait", "60", "command", "wait", sent["command_id"])
        step.check(done["state"] == "done", "the advisor gets the answer it was owed")
        mine = [
            item
            for item in (await world.alice.call("hive-client-receipts", {"limit": 100}))["items"]
            if item.get("command_id") == sent["command_id"]
        ]
        step.check(len(mine) == 1, "exactly one receipt for it")
        result = mine[0].get("result") or {}
        step.check(result.get("reconciled") is True, f"and it says how it is known: {result.get('how')}")
        writes = [call for call in world.witnessed("setchannel") if _asks(call, wanted)]
        step.check(len(writes) == 1, f"the node was asked for {wanted} ppm exactly once")
        step.result("one effect, one receipt, reconciled")


async def verify_receipts(story: Story, world: World) -> None:
    """The chain verifies; one flipped byte is found and named."""
    async with story.step("receipts verified, then one byte flipped") as step:
        report = await world.alice.call("hive-client-receipts-verify")
        step.check(report["ok"], f"{report['checked']} receipts: hashes, links and signatures hold")
        synced = await world.advisor.run("receipt", "sync", "alice")
        verified = await world.advisor.run("receipt", "verify", "alice")
        agrees = verified["ok"] and synced["head"] == verified["head"] >= report["checked"]
        step.check(agrees, f"the advisor's copy agrees up to receipt {synced['head']}")
        victim = int(report["checked"]) // 2 + 1
        await world.alice.call("plugin", ["stop", "cl-hive-comms.py"])
        database = world.alice.net_dir / "cl_hive_comms.db"
        original = flip_byte(database, victim)
        await world.alice.call("plugin", ["start", str(PLUGINS["cl-hive-comms"])])
        broken = await _verify_again(world)
        step.check(
            not broken["ok"] and broken["first_bad"] == victim,
            f"the flipped byte is named: receipt {broken['first_bad']}",
        )
        await world.alice.call("plugin", ["stop", "cl-hive-comms.py"])
        replace_document(database, victim, original)
        await world.alice.call("plugin", ["start", str(PLUGINS["cl-hive-comms"])])
        report = await _verify_again(world)
        step.check(report["ok"], "put back: the chain holds again")
        step.result(f"{report['checked']} receipts; flipped byte found in receipt {victim}")


async def siblings_come_and_go(story: Story, world: World) -> None:
    """archon and hive are added and removed live; comms tells the truth each time."""
    changes = [
        ("cl-hive-archon", "start"),
        ("cl-hive", "start"),
        ("cl-hive-archon", "stop"),
        ("cl-hive", "stop"),
    ]
    async with story.step("cl-hive-archon and cl-hive started and stopped live") as step:
        present = {"cl-hive-comms"}
        seen: list[str] = []
        for name, what in changes:
            target = str(PLUGINS[name]) if what == "start" else f"{name}.py"
            await world.alice.call("plugin", [what, target])
            (present.add if what == "start" else present.discard)(name)
            wanted = {_short(plugin) for plugin in present}
            await until(_sees(world, wanted), f"comms to see {sorted(wanted)}", 15)
            if "cl-hive" in present:
                await until(_hive_sees(world, wanted), f"cl-hive to see {sorted(wanted)}", 15)
                step.check(True, f"{what} {name}: comms sees {sorted(wanted)}, hive-siblings agrees")
            else:
                step.check(True, f"{what} {name}: comms sees {sorted(wanted)}")
            seen.append("+".join(sorted(wanted)))
        step.result(" → ".join(seen))


async def second_channel(world: World, step: Step) -> str:
    """A channel for the refusal and approval chapters: the first one had its hourly write."""
    return await _extra_channel(world, "second", step)


async def third_channel(world: World) -> str:
    """A channel nobody wrote to yet."""
    return await _extra_channel(world, "third", None)


_EXTRA: dict[str, str] = {}


async def _extra_channel(world: World, name: str, step: Step | None) -> str:
    if name not in _EXTRA:
        peer = await world.network.add_node(f"peer-{name}")
        await world.network.fund(world.alice, 2_000_000)
        _EXTRA[name] = await world.network.open_channel(world.alice, peer, 1_000_000, 200_000_000)
        await world.alice.call("setchannel", {"id": _EXTRA[name], "feebase": 1_000, "feeppm": START_PPM})
        if step is not None:
            step.say(f"another channel: {_EXTRA[name]}")
    return _EXTRA[name]


async def expect_refusal(world: World, target: str, *pairs: str, wait: int = 30) -> dict[str, Any]:
    """Send a command that is not expected to be simply done; returns what the kit printed."""
    # Its advisor says yes to what its own guard would hold: here the node decides.
    options = ["--wait", str(wait), "--yes"]
    try:
        return dict(await world.advisor.run(*options, "send", "alice", target, *pairs))
    except AdvisorFailed as failed:
        if "state" not in failed.error:
            raise
        return failed.error


def _short(plugin: str) -> str:
    return plugin.removeprefix("cl-hive-").removeprefix("cl-")


def _asks(call: dict[str, Any], ppm: int) -> bool:
    params = call["params"]
    values = list(params.values()) if isinstance(params, dict) else list(params)
    return ppm in values or str(ppm) in values


def _exists(path: Path) -> Any:
    async def look() -> bool:
        return path.exists()

    return look


def _sees(world: World, wanted: set[str]) -> Any:
    async def look() -> bool:
        siblings = (await world.alice.call("hive-client-status"))["siblings"]
        present = {_short(row["plugin"]) for row in siblings["plugins"] if row["present"]}
        return present | {"comms"} == wanted

    return look


def _hive_sees(world: World, wanted: set[str]) -> Any:
    async def look() -> bool:
        siblings = await world.alice.call("hive-siblings")
        present = {_short(row["plugin"]) for row in siblings["siblings"] if row["present"]}
        return present | {"hive"} == wanted

    return look


async def _verify_again(world: World) -> dict[str, Any]:
    async def answered() -> dict[str, Any]:
        try:
            return await world.alice.call("hive-client-receipts-verify")
        except Exception:
            return {}

    return dict(await until(answered, "hive-client-receipts-verify after the restart"))


def flip_byte(database: Path, receipt_id: int) -> str:
    """Change one digit of a stored receipt; returns the document as it was."""
    with sqlite3.connect(database) as db:
        found = db.execute("SELECT document FROM management_receipts WHERE receipt_id = ?", (receipt_id,))
        original = str(found.fetchone()[0])
    at = original.index('"created_at":') + len('"created_at":') + 9
    replace_document(
        database, receipt_id, f"{original[:at]}{(int(original[at]) + 1) % 10}{original[at + 1 :]}"
    )
    return original


def replace_document(database: Path, receipt_id: int, document: str) -> None:
    """What a thief of the disk would do: change a receipt behind the database's own triggers."""
    with sqlite3.connect(database) as db:
        triggers = db.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'management_receipts'"
        ).fetchall()
        for name, _sql in triggers:
            db.execute(f"DROP TRIGGER {name}")
        db.execute("UPDATE management_receipts SET document = ? WHERE receipt_id = ?", (document, receipt_id))
        for _name, sql in triggers:
            db.execute(sql)
