"""Entries of hive:peer/v1 for the table of actions (02 §4 item 8)."""

from __future__ import annotations

from action_table import Answer, Entry, Params, Stage, given
from hive_devnet.node import DevnetRpcError, NodeHandle
from hive_devnet.world import until
from hive_shared.registry import PEER

NOBODY = "02" + "ab" * 32


async def _carol(stage: Stage) -> tuple[NodeHandle, int]:
    """A node without channels, and where it listens."""
    if "carol" not in stage.kept:
        stage.kept["carol"] = await stage.world.network.add_node("carol")
    carol: NodeHandle = stage.kept["carol"]
    return carol, int((await carol.call("getinfo"))["binding"][0]["port"])


async def _there(stage: Stage, peer_id: str) -> bool:
    rows = (await stage.call("listpeers", id=peer_id))["peers"]
    return any(row["connected"] for row in rows)


async def _gone(stage: Stage, peer_id: str) -> None:
    async def gone() -> bool:
        return not await _there(stage, peer_id)

    await until(gone, "the peer to be gone")


async def _near(stage: Stage) -> Params:
    """Carol is connected."""
    carol, port = await _carol(stage)
    await stage.call("connect", id=carol.node_id, host="127.0.0.1", port=port)
    return {"peer_id": carol.node_id}


async def _far(stage: Stage) -> Params:
    carol, port = await _carol(stage)
    if await _there(stage, carol.node_id):
        await stage.call("disconnect", id=carol.node_id)
        await _gone(stage, carol.node_id)
    return {"node_id": carol.node_id, "host": "127.0.0.1", "port": port}


async def _is_there(stage: Stage, params: Params, result: Answer) -> None:
    assert await _there(stage, str(params["node_id"]))
    assert result["peer_id"] == params["node_id"] and result["direction"] == "out"


async def _is_gone(stage: Stage, params: Params, result: Answer) -> None:
    await _gone(stage, str(params["peer_id"]))


async def _ban(stage: Stage) -> Params:
    return {**await _near(stage), "reason": "spam", "hours": 2}


async def _is_banned(stage: Stage, params: Params, result: Answer) -> None:
    carol, _ = await _carol(stage)
    await _gone(stage, carol.node_id)
    assert result["stays_connected"] is False and result["until"] > 0
    port = int((await stage.call("getinfo"))["binding"][0]["port"])
    try:
        await carol.call("connect", {"id": stage.world.alice.node_id, "host": "127.0.0.1", "port": port})
    except DevnetRpcError:
        pass  # hung up before the handshake was through
    await _gone(stage, carol.node_id)
    await stage.run(PEER, "unban", {"peer_id": carol.node_id})


async def _banned(stage: Stage) -> Params:
    await stage.run(PEER, "ban", await _ban(stage))
    carol, _ = await _carol(stage)
    return {"peer_id": carol.node_id}


async def _is_free(stage: Stage, params: Params, result: Answer) -> None:
    await _near(stage)
    carol, _ = await _carol(stage)
    assert await _there(stage, carol.node_id)


ENTRIES = (
    Entry(PEER, "connect", _far, _is_there, given(peer_id=NOBODY, host="127.0.0.1", port=65_536)),
    Entry(PEER, "disconnect", _near, _is_gone, given(peer_id=NOBODY)),
    Entry(PEER, "ban", _ban, _is_banned, given(peer_id=NOBODY, reason="", hours=1)),
    Entry(PEER, "unban", _banned, _is_free, given(peer_id=NOBODY)),
)
