"""Who is banned, as every command asks it: what was read stands until something is committed
(docs/protocol/02-fleet-management.md §4 `ban`)."""

from __future__ import annotations

from pathlib import Path

from hive_shared.registry import PEER
from node_with_wallet import STRANGER
from wallet_world import BANNED, trusted


async def test_a_ban_holds_from_its_commit_to_its_end_and_is_read_once_between(tmp_path: Path) -> None:
    world = trusted(tmp_path)
    bans, peeks = world.pipeline.bans, 0
    peek = world.db.peek

    def counted(body):  # type: ignore[no-untyped-def]
        nonlocal peeks
        peeks += 1
        return peek(body)

    assert bans.banned() == frozenset()
    assert (await world.ask(*BANNED))["status"] == 0
    assert bans.banned() == {STRANGER}
    world.db.peek = counted  # type: ignore[method-assign]
    assert bans.banned() == {STRANGER} and peeks == 0
    # The clock needs no commit to end it.
    world.pass_time(3 * 3_600)
    assert bans.banned() == frozenset() and peeks == 0
    world.pass_time(-60)
    assert bans.banned() == {STRANGER}
    await bans.end_due()
    assert (await world.ask(PEER, "unban", {"peer_id": STRANGER}))["status"] == 0
    assert bans.banned() == frozenset() and peeks > 0
    world.close()
