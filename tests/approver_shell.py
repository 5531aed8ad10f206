"""Approvers as people: a kit of their own, a PIN, the requests that reach them."""

from __future__ import annotations

from typing import Any

from hive_devnet.world import AdvisorShell, World, until
from terminal import at_terminal

PIN = "246810"


async def approver(world: World, name: str) -> tuple[AdvisorShell, str]:
    """Another person with a kit of their own and a PIN; shell and key as the policy wants it."""
    shell = AdvisorShell(world.directory / name, [world.relay.url])
    await shell.run("identity", "create")
    key = str((await shell.run("identity", "show"))["key"])
    done = await at_terminal(
        shell, "identity", "pin", answers={"New PIN": PIN, "Repeat for confirmation": PIN}
    )
    assert done["pin"] == "set"
    # Says where it reads messages.
    await shell.run("run", "--once")
    return shell, key


async def request_of(shell: AdvisorShell) -> dict[str, Any]:
    """The first request that waits, fetched if need be."""

    async def came() -> Any:
        await shell.run("run", "--once")
        return next(iter((await shell.run("approvals", "list"))["items"]), None)

    item = await until(came, "the approval request")
    return dict(await shell.run("approvals", "show", item["approval_id"]))
