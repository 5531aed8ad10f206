"""What a sender is told of a message that cannot be taken, and who is told nothing (Protocol 04 §6)."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.services.inbound_errors import PER_MINUTE, VERB_TOLD_S
from cl_hive_comms.services.messenger_signed import PER_MINUTE as SIBLINGS_PER_MINUTE
from hive_shared.canonical import encode
from hive_shared.crypto import Secret, schnorr_sign, xonly_pubkey
from hive_shared.signed_message import OtherVersion, digest, parse
from message_world import NOW, UNKNOWN, world

OUTSIDE_ITS_TIMES = {
    "sent in the future": {"sent_at": NOW + 301},
    "run out": {"expires_at": NOW},
    "run out long ago": {"sent_at": NOW - 90_000, "expires_at": NOW - 80_000},
}


@pytest.mark.parametrize("what", OUTSIDE_ITS_TIMES)
async def test_a_message_outside_its_times_is_answered_expired_once(tmp_path: Path, what: str) -> None:
    async with world(tmp_path) as node:
        message = node.message(**OUTSIDE_ITS_TIMES[what])
        assert await node.take(message) == "refused"
        peer = xonly_pubkey(node.peer)
        expected = [(peer, "hive:gossip/error", message["msg_id"], "expired")]
        assert await node.told() == expected
        # In another wrap, and after a restart: the same message, which has its answer.
        assert await node.take(message) == "dropped"
        node.restart()
        await node.take(message)
        assert await node.told() == expected
        assert node.inbox.counters["expired"] == 1


async def test_the_last_second_and_five_minutes_ahead_are_within_its_times(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        await node.registry.register_handler("hive:gossip/*", "hive-probe-inbound")
        assert await node.take(node.message(sent_at=NOW + 300, expires_at=NOW + 301)) is None
        assert await node.take(node.message(expires_at=NOW + 1)) is None
        assert await node.told() == []


async def test_an_unknown_verb_is_answered_unsupported_once_an_hour(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        first = node.message()
        assert await node.take(first) == "refused"
        assert await node.take(first) == "dropped" and await node.take(node.message()) == "dropped"
        peer = xonly_pubkey(node.peer)
        assert await node.told() == [(peer, "hive:gossip/error", first["msg_id"], "unsupported")]
        other = node.message(schema="hive:archon/no-such-verb")
        assert await node.take(other) == "refused"
        node.now += VERB_TOLD_S
        later = node.message()
        assert await node.take(later) == "refused"
        assert [row[2] for row in await node.told()] == [one["msg_id"] for one in (first, other, later)]


async def test_another_version_is_answered_unsupported_if_its_signature_is_the_senders(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as node:
        await node.registry.register_handler("hive:gossip/*", "hive-probe-inbound")
        second = node.message(v=2, new_field=[1])
        assert await node.take(second) == "refused"
        ((recipient, schema, msg_id, code),) = await node.told()
        assert (schema, msg_id, code) == ("hive:gossip/error", second["msg_id"], "unsupported")
        assert recipient == xonly_pubkey(node.peer)
        third = node.message(v=3)
        assert await node.take(third) == "refused" and len(await node.told()) == 2
        # Once per version and verb.
        assert await node.take(node.message(v=2)) == "dropped"
        mallory = Secret(os.urandom(32))
        for wrong in (
            {**node.message(v=4), "more": 1},
            {**node.message(v=4), "sig": "00" * 64},
            node.message(mallory, v=4),
            node.message(v=4, msg_id="no uuid"),
            node.message(v=True),
            node.message(v="2"),
            node.message(v=None),
        ):
            assert await node.take(wrong) == "dropped"
        assert len(await node.told()) == 2 and not node.handed_over


async def test_who_is_unknown_or_did_not_sign_is_told_nothing_and_costs_no_write(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        writes, stranger = node.db.stats.writes, Secret(os.urandom(32))
        for changes in ({}, {"v": 2}, {"expires_at": NOW}):
            message = node.message(stranger, **changes)
            assert await node.take(message, known=False, sender=stranger) == "dropped"
            # A known peer's seal around what somebody else signed.
            assert await node.take(message) == "dropped"
            altered = {**node.message(**changes), "body": {"n": 2}}
            assert await node.take(altered) == "dropped"
            for_another = node.message(**changes)
            for_another["sig"] = schnorr_sign(node.peer, digest(for_another, "ab" * 32))
            assert await node.take(for_another) == "dropped"
        assert await node.told() == [] and node.db.stats.writes == writes
        assert node.inbox.counters == {"unhandled": 3, "invalid": 9}


async def test_an_error_is_never_answered_and_neither_is_a_schema_of_the_transport(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        writes = node.db.stats.writes
        for schema in (
            "hive:gossip/error",
            "hive:gossip/error/v1",
            "hive:gossip/error_again",
            "hive:chunk/v1",
            "hive:fee-policy/v1",
            "gossip/hello",
            "hive:/x",
            "hive:gossip\n/x",
        ):
            for changes in ({}, {"v": 2}, {"expires_at": NOW}):
                assert await node.take(node.message(schema=schema, **changes)) == "dropped", schema
                node.now += 10
        assert await node.told() == [] and node.db.stats.writes == writes


async def test_a_flood_of_a_known_sender_costs_ten_answers_a_minute_and_siblings_nothing(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as node:
        for number in range(200):
            await node.take(node.message(schema=f"hive:gossip/verb{number}"))
            await node.take(node.message(expires_at=NOW))
        assert len(await node.told()) == PER_MINUTE
        assert node.inbox.counters["dropped_rate"] == 400 - 60
        # Another peer has its own ten.
        other = Secret(os.urandom(32))
        assert await node.take(node.message(other), sender=other) == "refused"
        for number in range(SIBLINGS_PER_MINUTE):
            await node.messages.send("cc" * 32, {}, schema="hive:gossip/x", key=f"{number}", expires_at=None)


async def test_a_message_that_was_taken_is_not_called_expired_when_it_comes_again_later(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as node:
        await node.registry.register_handler("hive:gossip/*", "hive-probe-inbound")
        message = node.message()
        assert await node.take(message) is None
        node.now += 3_600
        assert await node.take(message) == "dropped"
        assert await node.told() == [] and node.inbox.counters["repeated"] == 1


async def test_an_answer_that_cannot_be_stored_is_no_answer(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        node.full = True
        assert await node.take(node.message()) == "dropped"
        node.full = False
        # The verb was not told yet, so the next message of it is.
        assert await node.take(node.message()) == "refused"


def test_another_version_is_read_as_far_as_its_signature() -> None:
    peer, node = Secret(b"\x01" * 32), "ab" * 32
    made: dict[str, Any] = {"schema": UNKNOWN, "v": 7, "msg_id": str(uuid.UUID(int=1)), "odd": {"x": 1}}
    made["sig"] = schnorr_sign(peer, digest(made, node))
    read = parse(encode(made).decode(), xonly_pubkey(peer), (node,))
    assert read == OtherVersion(7, made["msg_id"])
