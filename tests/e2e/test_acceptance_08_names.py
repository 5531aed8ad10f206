"""Sheet 08 §13.16 and §6 "Identity": names of advisors, and who is meant by them."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from typing import Any

import pytest
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import PLUGINS, World
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr.keys import npub_encode


def somebody() -> str:
    """A new npub."""
    return npub_encode(xonly_pubkey(Secret(os.urandom(32))))


async def hire(world: World, **parameters: object) -> dict[str, Any]:
    return await world.alice.call("hive-client-authorize", {"access": "monitoring", **parameters})


async def refused(world: World, method: str, **parameters: object) -> DevnetRpcError:
    with pytest.raises(DevnetRpcError) as caught:
        await world.alice.call(method, parameters)
    return caught.value


NO_NAMES = (
    ("7", "digits"),
    ("20261121", "digits"),
    ("npub1alice", "looks like a key"),
    ("NPUB-friend", "looks like a key"),
    ("nsec1secret", "secret key"),
    ("did:friend", "looks like a key"),
    ("all", "meaning of its own"),
    ("ALL", "meaning of its own"),
    ("advisor-3", "meaning of its own"),
    ("my-node", "meaning of its own"),
    ("ab" * 32, "looks like a key"),
    ("x" * 65, "1 to 64"),
    ("two\nlines", "printable"),
    ("right\u202eleft", "printable"),
    ("zero\u200bwidth", "printable"),
)


async def test_acceptance_08_16_a_name_that_could_be_something_else_is_refused(world: World) -> None:
    npub = somebody()
    await hire(world, advisor=npub)
    for name, why in NO_NAMES:
        error = await refused(world, "hive-client-alias", action="set", alias=name, target=npub)
        assert error.code == -32602, error
        assert error.message.startswith("invalid_params: ") and why in error.message, error.message
        assert (await world.alice.call("hive-client-alias"))["count"] == 0, name
        # The same rules where a name is given while hiring.
        error = await refused(world, "hive-client-authorize", advisor=name, advisor_npub=somebody())
        assert error.code in (-32602, 4001), error
        assert len((await world.alice.call("hive-client-status"))["advisors"]) == 1, name


async def test_acceptance_08_16_a_name_is_given_while_hiring_and_found_whatever_the_case(
    world: World,
) -> None:
    npub = somebody()
    hired = await hire(world, advisor="Fée Doctor", advisor_npub=npub)
    assert hired["name"] == "Fée Doctor" and hired["npub"] == npub
    for spelling in ("fée doctor", "FÉE  DOCTOR", "Fe\u0301e Doctor", npub, hired["advisor_id"]):
        found = await world.alice.call("hive-client-credential", {"advisor": spelling})
        assert found["credential_id"] == hired["credential_id"], spelling
    # Hiring by the name renews; nobody new appears.
    again = await hire(world, advisor="fée doctor")
    assert again["advisor_id"] == hired["advisor_id"] and again["credential_id"] != hired["credential_id"]


async def test_acceptance_08_16_blanks_are_no_name(world: World) -> None:
    npub = somebody()
    hired = await hire(world, advisor=" ", advisor_npub=npub)
    assert hired["name"] == "advisor-1"
    error = await refused(world, "hive-client-alias", action="set", alias="  ", target=npub)
    assert error.code == -32602 and "1 to 64" in error.message, error


async def test_acceptance_08_16_one_local_name_is_one_advisor(world: World) -> None:
    first, second = somebody(), somebody()
    await hire(world, advisor="Alice", advisor_npub=first)
    error = await refused(world, "hive-client-authorize", advisor="ALICE", advisor_npub=second)
    assert error.code in (4015, 4002), error
    await hire(world, advisor=second)
    error = await refused(world, "hive-client-alias", action="set", alias="alice", target=second)
    assert error.code == 4015 and "already the name" in error.message, error
    listed = (await world.alice.call("hive-client-alias"))["items"]
    assert [(row["alias"], row["npub"]) for row in listed] == [("Alice", first)]
    # Removed and given anew it means the other; the key was never the name.
    await world.alice.call("hive-client-alias", {"action": "remove", "alias": "aLiCe"})
    await world.alice.call("hive-client-alias", {"action": "set", "alias": "alice", "target": second})
    assert (await world.alice.call("hive-client-alias", {"action": "get", "alias": "Alice"}))[
        "npub"
    ] == second


LOOK_ALIKES = (
    *(("alice", "аlice"), ("corner", "comer"), ("b0b", "bob"), ("walter", "vvalter")),
    ("malice", "maIice"),
)


async def test_acceptance_08_16_a_look_alike_is_pointed_out(world: World) -> None:
    for known, similar in LOOK_ALIKES:
        first = await hire(world, advisor=known, advisor_npub=somebody())
        assert "warning_look_alike" not in first, first
        other = await hire(world, advisor=similar, advisor_npub=somebody())
        assert known in other["warning_look_alike"] and "check" in other["warning_look_alike"], other
        third = somebody()
        await hire(world, advisor=third)
        warned = await world.alice.call(
            "hive-client-alias", {"action": "set", "alias": similar + "!", "target": third}
        )
        assert known in warned["warning_look_alike"]
    unlike = await hire(world, advisor="somebody else", advisor_npub=somebody())
    assert "warning_look_alike" not in unlike


async def test_acceptance_08_16_a_similar_name_that_nobody_has_is_not_guessed(world: World) -> None:
    npub = somebody()
    hired = await hire(world, advisor="alice", advisor_npub=npub)
    error = await refused(world, "hive-client-revoke", advisor="aIice")
    assert error.code == 4001 and "did you mean alice" in error.message, error
    still = await world.alice.call("hive-client-credential", {"advisor": "alice"})
    assert still["credential_id"] == hired["credential_id"]


async def test_acceptance_08_16_a_stale_index_of_a_search_is_refused(world: World) -> None:
    """Nothing was searched for here (an index that is good: tests/e2e/test_market_search_on_a_node.py)."""
    await hire(world, advisor=somebody())
    for index in ("1", 1, "01"):
        error = await refused(world, "hive-client-authorize", advisor=index, access="fees")
        assert error.code == 4001 and error.data == {"reason": "stale_index"}, error
        assert "no search result" in error.message
    error = await refused(world, "hive-client-authorize", advisor="1", result_id="abc")
    assert error.code == 4001, error


async def test_acceptance_08_16_same_profile_names_are_ambiguous(world: World) -> None:
    """Two advisors whose profiles carry one name: the operator is asked, with the candidates."""
    first, second = somebody(), somebody()
    for npub in (first, second):
        await hire(world, advisor=npub)
    rows = (await world.alice.call("hive-mgmt-credential-list"))["items"]
    assert sorted(row["name"] for row in rows) == ["advisor-1", "advisor-2"]
    await give_both_the_profile_name(world, "Same Name")
    error = await refused(world, "hive-client-revoke", advisor="same name")
    assert error.code == 4002 and error.data == {"candidates": ["advisor-1", "advisor-2"]}, error
    # By number, and by key, it stays clear who is meant.
    found = await world.alice.call("hive-client-alias", {"action": "get", "alias": "advisor-1"})
    assert found["npub"] == first
    done = await world.alice.call("hive-client-revoke", {"advisor": second})
    assert len(done["revoked"]) == 1
    left = (await world.alice.call("hive-mgmt-credential-list"))["items"]
    assert {row["agent_id"][-64:]: row["status"] for row in left} != {}
    assert sum(row["status"] == "active" for row in left) == 1


async def give_both_the_profile_name(world: World, name: str) -> None:
    """What the market's profile cache will do, by hand and with the plugin stopped."""
    path = world.alice.net_dir / "cl_hive_comms.db"
    await world.alice.kill_plugin("cl-hive-comms.py")

    def write() -> None:
        with sqlite3.connect(path, timeout=60) as database:
            database.execute("UPDATE comms_advisors SET display_name = ?", (name,))
        database.close()

    await asyncio.to_thread(write)
    await world.alice.call(
        "plugin",
        {
            "subcommand": "start",
            "plugin": str(PLUGINS["cl-hive-comms"]),
            "hive-comms-nostr-relays": world.relay.url,
            "hive-comms-nostr-profile-relays": "",
        },
    )


async def test_acceptance_08_16_an_advisor_has_at_most_ten_names(world: World) -> None:
    npub = somebody()
    await hire(world, advisor=npub)
    for number in range(10):
        await world.alice.call(
            "hive-client-alias", {"action": "set", "alias": f"name {number}", "target": npub}
        )
    error = await refused(world, "hive-client-alias", action="set", alias="one more", target=npub)
    assert error.code == 4016 and "at most 10" in error.message, error
