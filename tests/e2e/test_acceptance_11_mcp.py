"""Sheet 11 §11 and §18.13-17: programs with the MCP server's two roles, on real nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hive_advisor.domain.figure_tools import FIGURE_TOOLS
from hive_devnet.certificates import make_certificates
from hive_devnet.world import AdvisorShell, World
from mcp_client import McpProgram, config_dir, mcp_program
from rest_calls import post_in_turn


@asynccontextmanager
async def hung_socket(path: Path) -> AsyncIterator[None]:
    """A node that takes calls and never answers."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(silent, path)
    try:
        yield
    finally:
        server.close()


def three_nodes(world: World, shell: AdvisorShell, hung: Path, rune: Path) -> None:
    other = shell.directory / "other-authority"
    other.mkdir()
    make_certificates(other, "127.0.0.1")
    (config_dir(shell) / "nodes.toml").write_text(
        f'[nodes.own]\nsocket = "{world.alice.net_dir / "lightning-rpc"}"\n'
        f'[nodes.hung]\nsocket = "{hung}"\n'
        f'[nodes.wrong]\nrest_url = "{world.rest_url}"\nrune_file = "{rune}"\n'
        f'ca_cert = "{other / "ca.pem"}"\n'
    )


async def test_acceptance_11_17_three_nodes_one_hung_one_with_a_wrong_certificate(rest_world: World) -> None:
    world, shell = rest_world, rest_world.advisor
    hung, rune = world.directory / "hung.sock", shell.directory / "r.rune"
    (config_dir(shell) / "nodes.toml").write_text(
        f'[nodes.own]\nsocket = "{world.alice.net_dir / "lightning-rpc"}"\n'
    )
    await shell.run("node", "rune", "own", "--out", str(rune))
    three_nodes(world, shell, hung, rune)
    invoice = await world.bob.call("invoice", {"amount_msat": 10_000, "label": "a", "description": "for bob"})
    await world.alice.call("pay", {"bolt11": invoice["bolt11"]})
    async with hung_socket(hung), mcp_program(shell, "--role", "operator") as program:
        listed = await program.tools()
        assert set(FIGURE_TOOLS) < set(listed) and "hive_client_policy" not in listed
        assert len(listed) <= 25 and all(tool.annotations.read_only_hint for tool in listed.values())
        said = await program.call("fleet_snapshot")
        assert said["data"]["errors"] == {"hung": "timeout", "wrong": "transport_unavailable"}
        (node,) = said["data"]["nodes"]
        assert (node["id"], node["channels_open"]) == (world.alice.node_id, 1)
        assert said["data"]["totals"]["capacity_msat"] == 1_000_000_000
        await every_figure(world, program)
        await searched_and_called(program)
        status = await program.session.read_resource("hive://node/own/status")
        assert json.loads(status.contents[0].text)["data"]["policy"]["preset"] == "moderate"
        assert "Traceback" not in program.errors.read_text()
    await a_rune_holds(world, rune.read_text().strip())


async def every_figure(world: World, program: McpProgram) -> None:
    """Each is made of what this node answers."""
    needed: dict[str, dict[str, Any]] = {
        "channel_deep_dive": {"channel": world.scid},
        "graph_peer": {"peer_id": world.bob.node_id},
    }
    said = {
        name: (await program.call(name, node="own", **needed.get(name, {})))["data"] for name in FIGURE_TOOLS
    }
    assert said["fleet_health"]["answers"] is True and said["fleet_health"]["channels_offline"] == 0
    assert said["channel_deep_dive"]["channel"]["fee_ppm"] == 500
    assert [row["short_channel_id"] for row in said["stagnant_channels"]["items"]] == [world.scid]
    assert said["pending"]["queues"] == {"hive-client-pending": []}
    assert said["compare_periods"]["recent"]["forwards"] == 0 and said["forwards"]["items"] == []
    (payment,) = said["payments"]["items"]
    assert (payment["status"], payment["amount_msat"]) == ("complete", 10_000)
    assert "preimage" not in json.dumps(payment) and "lnbc" not in json.dumps(payment)
    assert said["graph_peer"]["peer_id"] == world.bob.node_id
    assert "deposit" in said["earnings"]["income"]


async def searched_and_called(program: McpProgram) -> None:
    """What is not shown is found and called, under the same rules."""
    found = (await program.call("tools_search", words="policy explain"))["data"]["items"]
    assert [row["tool"] for row in found] == ["hive_client_policy"]
    policy = await program.call(
        "hive_call", node="own", method="hive-client-policy", params={"action": "get"}
    )
    assert policy["data"]["preset"] == "moderate"
    error = await program.refused(
        "hive_call", node="own", method="hive-client-policy", params={"action": "reset"}, dry_run=False
    )
    assert error["slug"] == "operator_only"
    for method in ("hive-client-approve", "hive_client_approve", "pay", "hive_call"):
        error = await program.refused("hive_call", node="own", method=method, params={}, dry_run=False)
        assert error["slug"] in ("operator_only", "not_found"), error
    error = await program.refused("hive_call", node="own", method="hive-client-alias", params={"node": "x"})
    assert error["slug"] == "invalid_params" and "beside params" in error["message"]


async def a_rune_holds(world: World, rune: str) -> None:
    """It opens what the tools read, and nothing beside."""
    for method, body, status in (
        ("wait", {"subsystem": "forwards", "indexname": "created", "nextvalue": 0}, 201),
        ("listforwards", {"index": "created", "start": 1, "limit": 5}, 201),
        ("listpays", {}, 201),
        ("bkpr-listincome", {}, 201),
        ("pay", {"bolt11": "x"}, 401),
        ("hive-client-policy", {"action": "set", "overrides": {"max_danger": 10}}, 401),
        ("setchannel", {"id": "all", "feeppm": 1}, 401),
    ):
        response = await post_in_turn(world, f"/v1/{method}", rune, body)
        assert response.status_code == status, (method, response.text)
