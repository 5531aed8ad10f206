"""The gate's answers to the node's hooks (Protocol 08 §5.4, §6; decision 0120)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest
from cl_hive_comms.services.peer_gate import PeerGate
from hive_shared.cln import ClnError

FORBIDDEN = "02" + "ab" * 32
OTHER = "03" + "cd" * 32
CONTINUE = {"result": "continue"}


class Node:
    """Channels by peer; counts what it is asked."""

    def __init__(self) -> None:
        self.channels: dict[str | None, list[dict[str, Any]]] = {}
        self.asked: list[str] = []
        self.broken = False
        self.peers: list[dict[str, Any]] = []
        self.disconnected: list[object] = []

    async def listpeerchannels(
        self, peer_id: str | None = None, short_channel_id: str | None = None
    ) -> list[dict[str, Any]]:
        self.asked.append("listpeerchannels")
        if self.broken:
            raise ClnError("listpeerchannels", -1, "broken")
        return self.channels.get(peer_id, [])

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, timeout: float = 30.0
    ) -> dict[str, Any]:
        self.asked.append(method)
        if self.broken:
            raise ClnError(method, -1, "broken")
        if method == "disconnect":
            self.disconnected.append((params or {})["id"])
        return {"peers": self.peers}


def quiet(level: str, event: str, /, **fields: object) -> None:
    return None


@pytest.fixture
def node() -> Node:
    return Node()


def gate(node: Node, *forbidden: str) -> PeerGate:
    return PeerGate(node, lambda: frozenset(forbidden), log=quiet)


async def test_a_forbidden_peer_is_disconnected_unless_it_has_channels(node: Node) -> None:
    payload = {"peer": {"id": FORBIDDEN}}
    assert (await gate(node, FORBIDDEN).peer_connected(payload))["result"] == "disconnect"
    node.channels[FORBIDDEN] = [{"state": "CHANNELD_NORMAL"}]
    assert await gate(node, FORBIDDEN).peer_connected(payload) == CONTINUE


async def test_channels_of_a_forbidden_peer_are_rejected_without_asking_the_node(node: Node) -> None:
    node.broken = True
    shut = gate(node, FORBIDDEN)
    assert (await shut.openchannel({"openchannel": {"id": FORBIDDEN}}))["result"] == "reject"
    assert (await shut.openchannel2({"openchannel2": {"id": FORBIDDEN}}))["result"] == "reject"
    assert await shut.openchannel({"openchannel": {"id": OTHER}}) == CONTINUE
    assert node.asked == []


async def test_a_node_that_does_not_answer_leaves_the_connection_alone(node: Node) -> None:
    node.broken = True
    assert await gate(node, FORBIDDEN).peer_connected({"peer": {"id": FORBIDDEN}}) == CONTINUE
    await gate(node, FORBIDDEN).enforce()
    assert node.disconnected == []


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"peer": None},
        {"peer": []},
        {"peer": {}},
        {"peer": {"id": None}},
        {"peer": {"id": [FORBIDDEN]}},
        {"peer": {"id": FORBIDDEN.upper()}},
        {"openchannel": 3},
        {"openchannel2": {"id": {"a": 1}}},
    ],
)
async def test_a_malformed_payload_never_holds_up_the_node(node: Node, payload: dict[str, Any]) -> None:
    shut = gate(node, FORBIDDEN)
    for hook in (shut.peer_connected, shut.openchannel, shut.openchannel2):
        assert await hook(payload) == CONTINUE
    assert node.asked == []


async def test_others_pass_without_a_question_and_at_once(node: Node) -> None:
    many = frozenset(f"02{n:064x}" for n in range(10_000))
    shut = PeerGate(node, lambda: many, log=quiet)
    payload = {"peer": {"id": OTHER}}
    began = time.process_time()
    for _ in range(1_000):
        assert await shut.peer_connected(payload) == CONTINUE
    assert time.process_time() - began < 2, "a thousand peers in two seconds on any machine"
    assert node.asked == []


async def test_enforcing_puts_out_only_connected_forbidden_peers_without_channels(node: Node) -> None:
    with_channel = "02" + "ee" * 32
    node.channels[with_channel] = [{}]
    node.peers = [
        {"id": FORBIDDEN, "connected": True},
        {"id": with_channel, "connected": True},
        {"id": OTHER, "connected": True},
        {"id": "02" + "99" * 32, "connected": False},
    ]
    await gate(node, FORBIDDEN, with_channel, "02" + "99" * 32).enforce()
    assert node.disconnected == [FORBIDDEN]
    node.asked.clear()
    await gate(node).enforce()
    assert node.asked == [], "without forbidden peers nothing is asked"


def limited(node: Node, sats: int | None) -> PeerGate:
    return PeerGate(node, lambda: frozenset({FORBIDDEN}), largest=lambda: sats, log=quiet)


@pytest.mark.parametrize(
    ("sats", "msat", "taken"),
    [
        (None, 10**15, True),
        (100_000, 100_000_000, True),
        (100_000, 100_000_001, False),
        (100_000, "100001000msat", False),
        # The limit is no wall: what a node does not tell in a known way is let through.
        (100_000, None, True),
        (100_000, "much", True),
        (100_000, {}, True),
    ],
)
async def test_channels_of_others_are_no_larger_than_the_limit(
    node: Node, sats: int | None, msat: object, taken: bool
) -> None:
    gate = limited(node, sats)
    one = await gate.openchannel({"openchannel": {"id": OTHER, "funding_msat": msat}})
    # With two funders it is what the other one puts in.
    two = await gate.openchannel2(
        {"openchannel2": {"id": OTHER, "their_funding_msat": msat, "channel_max_msat": 10**15}}
    )
    for answer in (one, two):
        assert (answer == CONTINUE) == taken
        assert taken or answer["error_message"] == "channels of more than 100000 sat are not taken"
    assert node.asked == []


async def test_a_forbidden_peer_hears_nothing_of_the_limit(node: Node) -> None:
    answer = await limited(node, 5).openchannel({"openchannel": {"id": FORBIDDEN, "funding_msat": 10**9}})
    assert answer["result"] == "reject" and "5" not in answer["error_message"]
    assert await limited(node, 5).openchannel({"openchannel": "odd"}) == CONTINUE
