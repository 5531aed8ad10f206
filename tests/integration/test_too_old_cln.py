"""On a Core Lightning that is too old the plugin says so and steps back (Protocol 08 §2)."""

from __future__ import annotations

from pathlib import Path

import pytest
from comms_world import PLUGIN, call, refused, until
from hive_devnet.network import open_network
from hive_devnet.node import DevnetRpcError

SENTENCE = "Core Lightning v24.11.1 is too old: v25.02 or newer is needed"


async def test_a_node_that_is_too_old_runs_on_without_the_plugin(tmp_path: Path) -> None:
    network = await open_network(tmp_path, "embedded")
    try:
        node = await network.add_node("alice", {"dev-claim-version": "v24.11.1"}, [PLUGIN])
        assert (await call(node, "getinfo"))["version"] == "v24.11.1"

        async def said() -> bool:
            return SENTENCE in node.log_text()

        await until(said, "the reason in the log")
        error = await refused(node, "hive-client-status")
        assert error.code == -32601
        # Nothing was made or brought up to date for a node that it cannot serve.
        assert not (node.net_dir / "cl_hive_comms.db").exists()
        with pytest.raises(DevnetRpcError, match="too old"):
            await node.call("plugin", {"subcommand": "start", "plugin": str(PLUGIN)})
        assert (await call(node, "getinfo"))["id"] == node.node_id
        assert "Traceback" not in node.log_text()
    finally:
        await network.close()
