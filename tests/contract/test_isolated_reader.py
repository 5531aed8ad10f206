"""Adverts read over isolated sockets: nothing on them names this node (Protocol 04 §7.4)."""

from __future__ import annotations

import json
import time
from contextlib import AsyncExitStack
from typing import Any

from cl_hive_comms.transport.nostr_browse import IsolatedReader
from comms_world import until
from contract.hostile_relay import HostileRelay
from hive_shared.crypto import Secret
from hive_shared.nostr.event import Event, build

AUTHOR = Secret(b"\x05" * 32)


def advert(name: str) -> Event:
    return build(AUTHOR, 38381, [["d", name], ["t", "hive-advisor-offer"]], "{}", int(time.time()))


async def test_a_relay_that_wants_a_login_gets_none_and_every_change_is_followed() -> None:
    told: list[tuple[str, str]] = []

    async def on_event(url: str, name: str, event: Event) -> None:
        told.append((name, event.id))

    async def asks_who(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] == "REQ":
            await socket.send(json.dumps(["CLOSED", frame[1], "auth-required: who are you?"]))

    async def answers(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] == "REQ":
            await socket.send(json.dumps(["EVENT", frame[1], advert("one").to_json()]))
            await socket.send(json.dumps(["EOSE", frame[1]]))

    wanted = {"sibling-0-1": [{"kinds": [38381]}]}
    async with AsyncExitStack() as stack:
        shut = await stack.enter_async_context(HostileRelay(asks_who, greeting=["AUTH", "challenge"]))
        open_one = await stack.enter_async_context(HostileRelay(answers, greeting=["AUTH", "challenge"]))
        reader = IsolatedReader(
            on_event, now=lambda: int(time.time()), log=lambda *_, **__: None, private_relays=True
        )
        stack.push_async_callback(reader.stop)

        async def came() -> bool:
            return bool(told) and bool(shut.said("REQ"))

        # Nothing is opened while there is nothing to ask.
        await reader.follow([shut.url, open_one.url], {}, None)
        assert reader.status() == []
        await reader.follow([shut.url, open_one.url], wanted, None)
        await until(came, "the event of the open relay, the question at the other")
        assert {name for name, _ in told} == {"sibling-0-1"}
        assert shut.said("AUTH") == open_one.said("AUTH") == []
        assert shut.said("EVENT") == open_one.said("EVENT") == []

        async def asked_anew() -> bool:
            return any({"kinds": [38380], "limit": 5} in frame for frame in open_one.said("REQ"))

        await reader.follow([open_one.url], {"sibling-0-1": [{"kinds": [38380], "limit": 5}]}, None)
        await until(asked_anew, "the changed question")
        assert [row["url"] for row in reader.status()] == [open_one.url]
        await reader.follow([], wanted, None)
        assert reader.status() == []
