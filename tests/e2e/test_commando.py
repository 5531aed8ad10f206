"""Commands by commando: another node as messenger, the same envelope, the same door (Protocol 02 §6.3)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from agent import Agent
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World

METHOD = "hive-comms-rpc"
REFUSED_BY_COMMANDO = (0x4C50, 0x4C51)


async def by_commando(world: World, rune: str | None, params: dict[str, Any]) -> dict[str, Any]:
    """Bob, who is connected to alice, hands it over."""
    call = {"peer_id": world.alice.node_id, "method": METHOD, "params": params}
    return dict(await world.bob.call("commando", call if rune is None else {**call, "rune": rune}))


async def as_text(world: World, rune: str, params: str) -> dict[str, Any]:
    """The same with parameters as they stand: objects of Python cannot repeat a name."""
    reader, writer = await asyncio.open_unix_connection(str(world.bob.rpc_path), limit=1 << 22)
    try:
        call = f'{{"peer_id":"{world.alice.node_id}","method":"{METHOD}","params":{params},"rune":"{rune}"}}'
        writer.write(f'{{"jsonrpc":"2.0","id":"twice","method":"commando","params":{call}}}\n\n'.encode())
        await writer.drain()
        text = b""
        async with asyncio.timeout(60):
            while True:
                text += await reader.read(65_536)
                try:
                    return dict(json.loads(text))
                except ValueError:
                    continue
    finally:
        writer.close()
        await writer.wait_closed()


async def refused(world: World, rune: str | None, params: dict[str, Any]) -> DevnetRpcError:
    with pytest.raises(DevnetRpcError) as error:
        await by_commando(world, rune, params)
    return error.value


async def rune_for(world: World, key: str) -> str:
    restrictions = [[f"method={METHOD}"], [f"pnamesender={key}"]]
    return str((await world.alice.call("createrune", {"restrictions": restrictions}))["rune"])


async def test_acceptance_02_02_by_commando_the_same_envelope_runs_once_and_gets_the_same_answer(
    world: World, agent: Agent
) -> None:
    rune = await rune_for(world, agent.key)
    document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 540})
    params = {"request": document, "sender": agent.key}
    first = await by_commando(world, rune, params)
    assert first["status"] == 0 and (await world.channel_fees())[1] == 540
    # The socket, commando with the text of the envelope, and a relay: one command.
    assert await agent.rest(document) == first
    assert await by_commando(world, rune, {**params, "request": json.dumps(document)}) == first
    await agent.dm(document)
    assert await agent.answer(document["nonce"]) == first
    items = (await world.alice.call("hive-client-receipts", {"limit": 200}))["items"]
    assert sum(item.get("command_id") == document["command_id"] for item in items) == 1
    # An envelope larger than one message of the Lightning wire arrives whole, and is too large for a command.
    answer = await by_commando(world, rune, {**params, "request": {**document, "note": "x" * 200_000}})
    assert (answer["error"]["code"], answer["error"]["slug"]) == (-32602, "too_large"), answer


async def test_acceptance_08_05_by_commando_the_rune_holds_for_the_sender_that_runs(
    world: World, agent: Agent
) -> None:
    async with Agent(world.alice, world.relay.url) as other:
        await other.hired("fees")
        rune = await rune_for(world, agent.key)
        before = await world.channel_fees()
        theirs = other.signed("set_single", {"channel_id": world.scid, "fee_ppm": 550})
        request = json.dumps(json.dumps(theirs))
        # Without a rune, with another's sender, and with both names: one for the rune, one for the command.
        error = await refused(world, None, {"request": theirs, "sender": other.key})
        assert error.code in REFUSED_BY_COMMANDO, error
        error = await refused(world, rune, {"request": theirs, "sender": other.key})
        assert error.code in REFUSED_BY_COMMANDO, error
        for first, last in ((agent.key, other.key), (other.key, agent.key)):
            params = f'{{"sender":"{first}","request":{request},"sender":"{last}"}}'
            answer = await as_text(world, rune, params)
            if "error" in answer:
                assert answer["error"]["code"] in (*REFUSED_BY_COMMANDO, -32602), answer
            else:
                # A node that reads one of the two everywhere: then that one is not the envelope's.
                assert answer["result"]["error"]["slug"] == "unauthorized", answer
        assert await world.channel_fees() == before
        # Closing the method closes this way too.
        await world.alice.call("setconfig", {"config": "hive-comms-rest-enabled", "val": False})
        mine = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 560})
        error = await refused(world, rune, {"request": mine, "sender": agent.key})
        assert error.code == 4011, error
        assert await world.channel_fees() == before
