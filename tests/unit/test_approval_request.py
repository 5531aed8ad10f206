"""What is checked before a request for our vote is even kept (11 §15.6)."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hive_advisor.domain.approval_request import check_request, danger_here
from hive_shared import envelope
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import HiveError

NOW = 1_770_000_000
AGENT, NODE, ME = (Secret(os.urandom(32)) for _ in range(3))


def command(**changes: Any) -> dict[str, Any]:
    document = {
        "v": 1,
        "command_id": str(uuid.uuid4()),
        "schema_type": "hive:fee-policy/v1",
        "schema_payload": {"action": "set_single", "params": {"channel_id": "103x1x0", "fee_ppm": 150}},
        "credential": {"credential_id": "c1"},
        "payment_proof": {"method": "none"},
        "nonce": NOW * 1_000_000,
        "timestamp": NOW,
        "node": xonly_pubkey(NODE),
        "sender": xonly_pubkey(AGENT),
        **changes,
    }
    return dict(
        envelope.sign_command(AGENT, {name: value for name, value in document.items() if value is not None})
    )


def request(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    body = {
        "command_hash": envelope.command_digest(document).hex(),
        "envelope": document,
        "danger": {"r": 9, "f": 3, "t": 3, "b": 3, "d": 2, "total": 9},
        "expires": NOW + 3_600,
        **changes,
    }
    return {name: value for name, value in body.items() if value is not None}


def checked(body: dict[str, Any]) -> Any:
    return check_request(body, node_key=xonly_pubkey(NODE), agent_key=xonly_pubkey(ME), now=NOW)


def test_an_honest_request_is_taken_as_it_is() -> None:
    document = command()
    found = checked(request(document))
    assert (found.action, found.params["fee_ppm"], found.danger) == ("set_single", 150, 9)
    assert found.command_hash == envelope.command_digest(document).hex()
    assert (found.command_id, found.requester) == (document["command_id"], xonly_pubkey(AGENT))
    assert 1 <= danger_here(found) <= 10


def test_the_node_may_give_the_id_of_a_command_without_one() -> None:
    given = str(uuid.uuid4())
    assert checked(request(command(command_id=None), command_id=given)).command_id == given


def altered(**params: Any) -> dict[str, Any]:
    """Shown with other parameters than the hash is of."""
    document = command()
    body = request(document)
    body["envelope"] = {**document, "schema_payload": {"action": "set_single", "params": params}}
    return body


def forged() -> dict[str, Any]:
    document = {**command(), "signature": "00" * 64}
    return request(document)


def own() -> dict[str, Any]:
    document = command(sender=xonly_pubkey(ME))
    return dict(envelope.sign_command(ME, document))


HOSTILE: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "changed parameters": (lambda: altered(channel_id="103x1x0", fee_ppm=1), "hash is not that of"),
    "another node's command": (lambda: request(command(node=xonly_pubkey(AGENT))), "another node"),
    "unsigned": (forged, "not signed by its sender"),
    "expired": (lambda: request(command(), expires=NOW), "expired"),
    "never expires": (lambda: request(command(), expires=NOW + 8 * 86_400), "outlasts"),
    "our own command": (lambda: request(own()), "our own"),
    "no envelope": (lambda: request(command(), envelope=None), "no command"),
    "another command id": (lambda: request(command(), command_id=str(uuid.uuid4())), "command id"),
    "no command id at all": (lambda: request(command(command_id=None)), "command id"),
    "an action nobody knows": (
        lambda: request(command(schema_payload={"action": "take_all", "params": {}})),
        "take_all",
    ),
    "parameters out of range": (
        lambda: request(command(schema_payload={"action": "set_single", "params": {"fee_ppm": -1}})),
        "channel_id|fee_ppm",
    ),
    "danger as text": (lambda: request(command(), danger={"total": "9"}), "danger"),
    "danger 11": (lambda: request(command(), danger={"total": 11}), "danger"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_false_request_is_refused(what: str) -> None:
    make, sentence = HOSTILE[what]
    with pytest.raises(HiveError, match=sentence):
        checked(make())
