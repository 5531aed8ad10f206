"""Sheet 08 §13.12, §13.13: credentials of cl-hive-archon's, with an archon that speaks the real handshake."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

from agent import Agent
from hive_devnet.world import World, until
from json_lines import lines_of

SCRIPT = Path(__file__).parents[1] / "scripted_archon.py"
VC = {"type": ["VerifiableCredential", "HiveManagementCredential"], "issuer": "did:cid:bagaaierascripted"}
HOUR = 3_600


class Archon:
    """The scripted plugin on alice."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self.plugin = directory / "archon.py"
        shutil.copy(SCRIPT, self.plugin)
        self.script()

    def script(self, **members: Any) -> None:
        self.plugin.with_name("archon.py.json").write_text(json.dumps(members))

    def calls(self) -> list[dict[str, Any]]:
        return lines_of(self.plugin.with_name("archon.py.jsonl"))

    async def present(self) -> bool:
        rows = (await self.world.alice.call("hive-client-status"))["siblings"]["plugins"]
        return any(row["plugin"] == "cl-hive-archon" and row["present"] for row in rows)

    async def start(self) -> None:
        await self.world.alice.call("plugin", {"subcommand": "start", "plugin": str(self.plugin)})
        await until(self.present, "the handshake with archon")

    async def stop(self) -> None:
        await self.world.alice.call("plugin", {"subcommand": "stop", "plugin": str(self.plugin)})

        async def gone() -> bool:
            return not await self.present()

        await until(gone, "the end of archon's session")


async def make_theirs(world: World, agent: Agent, checked: int | None) -> None:
    """Turn an agent's credential into one that archon issued and looked up at that time."""
    with closing(sqlite3.connect(world.alice.net_dir / "cl_hive_comms.db", timeout=30)) as database, database:
        database.execute(
            "UPDATE comms_credentials SET format = 'vc', vc_json = ?, last_check_at = ?,"
            " last_check_status = ? WHERE credential_id = ?",
            (json.dumps(VC), checked, None if checked is None else "good", agent.credential_id),
        )


async def refusal(agent: Agent) -> tuple[str, int] | str:
    answer = await agent.rest(agent.signed("fee_report", {}, "hive:monitor/v1"))
    return (answer["error"]["slug"], answer["error"]["code"]) if "error" in answer else "good"


async def test_acceptance_08_13_archons_credentials_stand_while_its_word_is_fresh(
    world: World, tmp_path: Path
) -> None:
    archon = Archon(world, tmp_path)
    async with AsyncExitStack() as stack:

        async def hired() -> Agent:
            entered = await stack.enter_async_context(Agent(world.alice, world.relay.url))
            return await entered.hired("fees")

        fresh, stale, new, native = [await hired() for _ in range(4)]
        now = int(time.time())
        await make_theirs(world, fresh, now)
        await make_theirs(world, stale, now - HOUR)
        await make_theirs(world, new, None)
        # Whoever is hired next makes the plugin read the table again.
        await hired()
        assert await refusal(fresh) == "good"
        assert await refusal(stale) == ("revocation_unverifiable", 4019)
        assert await refusal(new) == ("credential_unverifiable", 4019)
        assert await refusal(native) == "good"
        shown = await world.alice.call("hive-client-credential", {"advisor": new.npub})
        assert (shown["verified"], shown["verified_at"]) == ("never", None)

        archon.script(error=4021)
        await archon.start()
        assert await refusal(new) == ("credential_unverifiable", 4019)
        archon.script()
        assert [await refusal(agent) for agent in (fresh, stale, new)] == ["good"] * 3
        asked = {call["expected_subject"]: call for call in archon.calls()}
        assert asked[f"did:nostr:{new.key}"]["credential"] == VC
        assert f"did:nostr:{native.key}" not in asked
        shown = await world.alice.call("hive-client-credential", {"advisor": new.npub})
        assert shown["verified"] == "good" and shown["verified_at"] >= now

        await archon.stop()
        assert [await refusal(agent) for agent in (fresh, stale, new)] == ["good"] * 3

        # What archon calls revoked ends here with all that belongs to it.
        archon.script(answer={"revocation": {"status": "revoked", "checked_at": now}})
        await archon.start()
        await world.alice.call("scripted-announce", {"credential_id": "did:cid:archonsname"})

        async def ended() -> bool:
            rows = (await world.alice.call("hive-mgmt-credential-list"))["items"]
            theirs = [row for row in rows if row["format"] == "vc"]
            return len(theirs) == 3 and all(row["status"] == "revoked" for row in theirs)

        await until(ended, "the end of what archon revoked")
        assert await refusal(fresh) == ("credential_revoked", 4018)
        assert await refusal(native) == "good"
        rows = (await world.alice.call("hive-mgmt-credential-list"))["items"]
        assert {row["reason"] for row in rows if row["format"] == "vc"} == {"revoked by its issuer"}
        await archon.stop()
