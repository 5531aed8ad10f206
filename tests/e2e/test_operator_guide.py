"""The walkthrough of docs/operator-guide.md: every command works, in its order, and answers what the guide
shows. The lines that install are typed by tests/slow/test_guide_from_install.py."""

from __future__ import annotations

from collections.abc import Callable

from guide import check_outcome, two_channels, walkthrough
from hive_devnet.world import World


def test_the_walkthrough_installs_first_and_then_does_what_it_promises() -> None:
    commands = walkthrough()
    installs = [typed.installs for typed in commands]
    assert any(installs) and installs == sorted(installs, reverse=True), "what installs stands first"
    text = "\n".join(typed.line for typed in commands)
    for promised in (
        "reckless install",
        "pip",
        "hive-client-status",
        "hive-client-setup",
        "hive-client-authorize",
        "hive-mgmt-credential-issue",
        "hive-advisor --yes send",
        "hive-client-approve",
        "hive-client-receipts ",
        "hive-client-receipts-verify",
        "hive-client-emergency-stop reason",
        "action=release",
        "hive-client-revoke",
    ):
        assert promised in text, promised


async def test_the_guide_works_as_it_is_typed(
    world: World, record_property: Callable[[str, object], None]
) -> None:
    terminal = await two_channels(world)
    before = await world.channel_fees()
    typed = [each for each in walkthrough() if not each.installs]
    assert len(typed) > 25
    for each in typed:
        await terminal.type(each)
    record_property("figure", terminal.times())
    assert await world.channel_fees() != before, "the first fee change was made"
    await check_outcome(world)
