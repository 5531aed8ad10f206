"""Advisors found by a node over real relays (docs/protocol/04-marketplace-and-nostr.md §8, §17)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import market_documents as made
from advert_world import withdrawn
from comms_world import call, killed, refused, until, world
from hive_devnet.node import NodeHandle
from hive_devnet.relay import RelayProcess
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr.event import Event
from hive_shared.nostr.keys import npub_encode
from hive_shared.nostr.relay import RelayPool

ANN, BEA = made.key(101), made.key(102)


class Publisher:
    """Puts events on a relay."""

    def __init__(self, relay: RelayProcess) -> None:
        self._urls = [relay.url]
        self._pool = RelayPool(on_event=self._ignore, private_relays=True)

    async def __aenter__(self) -> Publisher:
        await self._pool.set_relays(self._urls, self._urls, [])
        await self._pool.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.stop()

    async def _ignore(self, url: str, name: str, event: Event) -> None:
        return None

    async def put(self, *events: Event) -> None:
        for event in events:
            results = await self._pool.publish(event, self._urls)
            assert all(one.accepted for one in results.values()), results


def advert(secret: Secret, name: str, **more: Any) -> Event:
    return made.profile_event(secret, int(time.time()), displayName=name, **more)


async def shown(node: NodeHandle, **params: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (await call(node, "hive-client-discover", **params))["items"]
    return rows


async def test_acceptance_04_02_advisors_are_found_and_hired_by_number(tmp_path: Path) -> None:
    async with world(tmp_path) as (network, node, relay), Publisher(relay) as publisher:
        # By a cold query: published before anybody asked.
        old = advert(ANN, "Ann", pricing=monthly(3000))
        await publisher.put(old, made.offer_event(ANN, int(time.time()), trial_days=14))
        (ann,) = await shown(node, capabilities="fee optimization")
        assert (ann["index"], ann["name"], ann["price"], ann["verified"]) == (
            1,
            "Ann",
            "3000 sats/month",
            True,
        )
        assert not [
            value for value in ann.values() if "npub" in str(value) or xonly_pubkey(ANN) in str(value)
        ]
        # By the subscription, without asking anew.
        await publisher.put(advert(BEA, "Bea", availability={"maxNodes": 10, "currentLoad": 9}))

        async def both() -> bool:
            return len(await shown(node, source="local")) == 2

        await until(both, "the second advert came by itself")
        found = await call(node, "hive-marketplace-discover", criteria={"capabilities": ["fee-optimization"]})
        # .35·.30 + .25 + .15 + .10·.5 + .10·(1 − load) + .05
        assert [(one["name"], one["match_score"]) for one in found["advisors"]] == [
            ("Ann", 0.685),
            ("Bea", 0.615),
        ]
        assert found["single_source"] is True and found["sources"]["archon"] == "unavailable"
        profile = await call(node, "hive-marketplace-profile", profile="1")
        assert profile["npub"] == npub_encode(xonly_pubkey(ANN)) and profile["offers"][0]["trial_days"] == 14
        checked = await call(node, "hive-marketplace-verify", event=old.id)
        assert checked["ok"] is True, checked
        hired = await call(node, "hive-client-authorize", advisor=1, access="fees")
        assert hired["name"] == "Ann"
        listed = (await call(node, "hive-mgmt-credential-list"))["items"]
        assert [row["name"] for row in listed] == ["Ann"]
        # A proposal begins with what was advertised.
        scope = {"constraints": {"max_fee_change_pct": 20}}
        proposed = await call(node, "hive-marketplace-propose", advisor="2", scope=scope)
        contract = await call(
            node, "hive-marketplace-contract", contract_id=proposed["contract_id"], verbose=True
        )
        assert contract["terms"]["compensation"]["baseMonthlySats"] == 5000, contract
        assert contract["terms"]["scope"]["capabilities"] == ["fee-optimization"]
        await asked_wrongly(node)
        # What was heard outlives the plugin, and what was withdrawn stays away.
        await killed(network.kind, node, lambda: None)
        error = await refused(node, "hive-marketplace-profile", profile="1")
        assert error.code == 4001 and error.data == {"reason": "stale_index"}
        assert sorted(row["name"] for row in await shown(node, source="local")) == ["Ann", "Bea"]
        await publisher.put(*withdrawn(ANN, old, int(time.time()) + 1))

        async def one_left() -> bool:
            return [row["name"] for row in await shown(node, source="local")] == ["Bea"]

        await until(one_left, "the withdrawal came")
        blocked = await call(node, "hive-marketplace-block", ref="Bea", action="add", reason="spam", days=1)
        assert blocked["count"] == 1 and await shown(node, refresh=True) == []
        status = await call(node, "hive-marketplace-status")
        assert status["cache"]["profiles"] == 0 and status["cache"]["rejected"]["blocked"] >= 1
        assert status["privacy"] == "standard" and status["relays"]


async def asked_wrongly(node: NodeHandle) -> None:
    for method, params, code, says in (
        ("hive-client-discover", {"capabilities": ["ä"]}, -32602, "words"),
        ("hive-client-discover", {"type": "liquidity"}, -32602, "advisor"),
        ("hive-marketplace-discover", {"criteria": {"colour": "red"}}, -32602, "unknown keys"),
        ("hive-marketplace-discover", {"criteria": []}, -32602, "object"),
        ("hive-marketplace-profile", {}, -32602, "whose profile"),
        ("hive-marketplace-profile", {"profile": "9"}, 4001, "search again"),
        ("hive-marketplace-verify", {"event": "x"}, -32602, "64 hex"),
        ("hive-marketplace-verify", {"event": "0" * 64}, 4001, "no relay"),
        ("hive-marketplace-block", {"action": "add"}, -32602, "needs ref"),
        ("hive-marketplace-block", {"reason": "x"}, -32602, "action=add"),
        ("hive-marketplace-block", {"ref": "Bea", "action": "remove"}, 4001, "not blocked"),
        ("hive-client-authorize", {"advisor": "7"}, 4001, "no search result"),
    ):
        error = await refused(node, method, **params)
        assert error.code == code and says in error.message, (method, params, error)


def monthly(sats: int) -> dict[str, Any]:
    return {"models": [{"type": "subscription", "monthlyRate": sats}]}
