"""Credentials and revocations that other nodes told (Protocol 02 §2.5, 01 §7; docs/decisions/0340)."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.commands.credential_issue import CredentialIssueCommands
from cl_hive_comms.domain import gossip
from cl_hive_comms.domain.advisor import CredentialRow
from cl_hive_comms.services import gossip_credentials
from cl_hive_comms.services.advisor_requests import Hire
from gossip_messages import Issuer, agent_key
from hiring_world import HSM, NODE_ID, NOW, HiringWorld
from hive_shared.credential import to_doc
from hive_shared.errors import HiveError
from hive_shared.runtime_spec import parse_params

OURS = Issuer(int.from_bytes(HSM.reveal(), "big"))
TRUSTED, STRANGER, THIRD = Issuer(101), Issuer(102), Issuer(103)
AGENT, OTHER = agent_key(7), agent_key(8)
Answer = dict[str, Any]


class GossipWorld(HiringWorld):
    """A node that hears others; `TRUSTED` may issue for it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.trusted = (TRUSTED.node_id,)

    async def present(self, event: Answer) -> Answer:
        return (await self.gossip.ingest("present", event)).to_doc()

    async def revoke(self, event: Answer) -> Answer:
        return (await self.gossip.ingest("revoke", event)).to_doc()

    async def rows(self, table: str) -> list[dict[str, Any]]:
        found = await self.db.read(lambda tx: tx.execute(f"SELECT * FROM {table}").fetchall())
        return [dict(row) for row in found]

    def active(self) -> list[CredentialRow]:
        return [row for row in self.credentials.rows() if row.status == "active"]

    async def imported(self, **changes: Any) -> Answer:
        """A credential of the trusted issuer, in force."""
        event = TRUSTED.present(NODE_ID, AGENT, self.now, **changes)
        assert await self.present(event) == {"status": "stored", "relay": True}
        assert [row.credential_id for row in self.active()] == [event["credential"]["credential_id"]]
        return event


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GossipWorld]:
    made = GossipWorld(tmp_path)
    yield await made.start()  # type: ignore[misc]
    made.db.close()


def rejected(reason: str) -> Answer:
    return {"status": "rejected", "relay": False, "reason": reason}


STORED = {"status": "stored", "relay": True}
DUPLICATE = {"status": "duplicate", "relay": True}


async def test_acceptance_02_05_a_stranger_that_names_our_node_by_gossip_is_turned_away(
    world: GossipWorld,
) -> None:
    forged = STRANGER.present(NODE_ID, AGENT, NOW)
    assert await world.present(forged) == rejected("issuer_untrusted")
    # With our own id as issuer the signature is not ours.
    pretended = copy.deepcopy(forged)
    pretended["credential"]["issuer_id"] = NODE_ID
    assert await world.present(pretended) == rejected("bad_signature")
    assert not world.credentials.knows(AGENT) and world.credentials.rows() == ()
    assert await world.rows("comms_gossip_credentials") == []
    assert await world.rows("comms_advisors") == []


async def test_what_other_nodes_issue_for_themselves_is_kept_and_authorises_nobody(
    world: GossipWorld,
) -> None:
    event = STRANGER.present(STRANGER.node_id, AGENT, NOW)
    assert await world.present(event) == STORED
    assert await world.present({**event, "event_id": "another"}) == DUPLICATE
    (row,) = await world.gossip.known()
    assert row.credential is not None and row.credential.node_id == STRANGER.node_id
    assert not world.credentials.knows(AGENT) and world.credentials.rows() == ()
    # Who issues for a third node is none of ours to judge.
    assert await world.present(TRUSTED.present(THIRD.node_id, AGENT, NOW)) == rejected("issuer_untrusted")


async def test_a_credential_of_a_trusted_issuer_comes_into_force_and_is_told(world: GossipWorld) -> None:
    event = await world.imported(trust=Fraction(2))
    (row,) = world.credentials.rows()
    assert (row.source, row.trust, row.trust_pinned, row.rune_id) == ("gossip", Fraction(1, 2), False, None)
    assert world.credentials.knows(AGENT) and row.live(world.now)
    advisor = world.credentials.advisor(row.advisor_id)
    assert advisor is not None and (advisor.source, advisor.display_name) == ("gossip", "advisor-1")
    (alert,) = [each for each in await world.alerts.recent() if each.code == "advisor_imported"]
    assert TRUSTED.node_id in alert.text and "hive-client-revoke advisor=advisor-1" in alert.text
    (receipt,) = await world.rows("management_receipts")
    assert json.loads(receipt["document"])["params"]["issuer_id"] == TRUSTED.node_id
    assert await world.gossip.known() == []
    assert await world.present(event) == DUPLICATE
    await world.restart()
    assert await world.present(event) == DUPLICATE
    assert len(world.credentials.rows()) == 1 and world.runes.made == 0


CHANGED = [
    (
        "signature",
        lambda doc: {**doc, "signature": ("y" if doc["signature"][0] != "y" else "b") + doc["signature"][1:]},
    ),
    ("tier", lambda doc: {**doc, "tier": "admin"}),
    ("agent", lambda doc: {**doc, "agent_key": OTHER, "agent_id": f"did:nostr:{OTHER}"}),
    ("constraints", lambda doc: {**doc, "constraints": {}}),
    ("until", lambda doc: {**doc, "valid_until": doc["valid_until"] + 1}),
    ("issuer", lambda doc: {**doc, "issuer_id": STRANGER.node_id, "node_id": STRANGER.node_id}),
]


async def test_any_changed_byte_is_a_bad_signature(world: GossipWorld) -> None:
    event = TRUSTED.present(NODE_ID, AGENT, NOW)
    for what, change in CHANGED:
        changed = {**event, "credential": change(event["credential"])}
        assert await world.present(changed) == rejected("bad_signature"), what
    assert world.credentials.rows() == () and await world.rows("comms_gossip_credentials") == []


async def test_documents_nobody_should_send_are_rejected_and_leave_nothing(world: GossipWorld) -> None:
    event = STRANGER.present(STRANGER.node_id, AGENT, NOW)
    document = event["credential"]
    deep: Any = 1
    for _ in range(20):
        deep = {"a": deep}
    bad: list[dict[str, Any]] = [
        {},
        {"credential": None},
        {"credential": [document]},
        {"credential": json.dumps(document)},
        {**event, "approved": True},
        {**event, "event_id": "x" * 65},
        {**event, "event_id": 5},
        {"credential": {**document, "unknown": 1}},
        {"credential": {name: value for name, value in document.items() if name != "trust"}},
        {"credential": {**document, "trust": float("nan")}},
        {"credential": {**document, "trust": 2.5}},
        {"credential": {**document, "tier": "\ud800"}},
        {"credential": {**document, "valid_from": True}},
        {"credential": {**document, "valid_until": 2**70}},
        {"credential": {**document, "constraints": deep}},
        {"credential": {**document, "credential_id": "../../x"}},
        {"credential": {**document, "allowed_schemas": ["hive:monitor/*"] * 5_000}},
        {"credential": {**document, "signature": "y" * 103}},
    ]
    for each in bad:
        answer = await world.present(each)
        assert answer["status"] == "rejected" and answer["reason"] in ("malformed", "too_large"), (
            each,
            answer,
        )
    end = STRANGER.revoke(document["credential_id"])
    for changes in (
        {"reason": ""},
        {"reason": "x" * 501},
        {"reason": None},
        {"credential_id": "1"},
        {"issuer_id": "02"},
        {"signature": 5},
        {"revoked_at": 5},
    ):
        answer = await world.revoke({**end, **changes})
        assert (answer["status"], answer["reason"]) == ("rejected", "malformed"), (changes, answer)
    assert await world.rows("comms_gossip_credentials") == []


async def test_times_that_cannot_be_are_rejected(world: GossipWorld) -> None:
    for at, days, reason in (
        (1_700_000_000, 730, "malformed"),
        (NOW - 31 * 86_400, 31, "credential_expired"),
        (NOW + 86_401, 30, "credential_not_yet_valid"),
    ):
        event = STRANGER.present(STRANGER.node_id, AGENT, at, days=days)
        assert await world.present(event) == rejected(reason), reason
    ahead = TRUSTED.present(NODE_ID, AGENT, NOW + 86_400)
    assert await world.present(ahead) == STORED
    assert not world.credentials.rows()[0].live(world.now)


async def test_the_issuer_revokes_and_nobody_else(world: GossipWorld) -> None:
    event = await world.imported()
    number = event["credential"]["credential_id"]
    for issuer in (STRANGER, OURS):
        assert await world.revoke(issuer.revoke(number)) == rejected("not_issuer")
    signed = TRUSTED.revoke(number, "contract over")
    assert await world.revoke({**signed, "reason": "contract Over"}) == rejected("bad_signature")
    assert await world.revoke({**signed, "issuer_id": STRANGER.node_id}) == rejected("bad_signature")
    assert len(world.active()) == 1
    told: list[str] = []
    world.service.on_revoked = lambda rows: told.extend(row.credential_id for row in rows)
    assert await world.revoke(signed) == STORED
    (row,) = world.credentials.rows()
    assert (row.status, row.revocation_reason) == ("revoked", "contract over") and told == [number]
    actions = [receipt["action"] for receipt in await world.rows("management_receipts")]
    assert actions == ["import_credential", "revoke"]
    assert await world.revoke(signed) == DUPLICATE
    assert await world.revoke({**signed, "event_id": "again"}) == DUPLICATE
    assert await world.present(event) == rejected("credential_revoked")
    await world.restart()
    assert await world.present(event) == rejected("credential_revoked") and world.active() == []


async def test_a_revocation_that_came_first_stands(world: GossipWorld) -> None:
    event = TRUSTED.present(NODE_ID, AGENT, NOW)
    end = TRUSTED.revoke(event["credential"]["credential_id"])
    assert await world.revoke(end) == STORED
    assert await world.revoke(end) == DUPLICATE
    assert await world.present(event) == rejected("credential_revoked")
    # A stranger's word about the same id is about a credential of the stranger's own.
    other = TRUSTED.present(NODE_ID, OTHER, NOW)
    assert await world.revoke(STRANGER.revoke(other["credential"]["credential_id"])) == STORED
    assert await world.present(other) == STORED
    assert len(world.active()) == 1


async def test_our_own_credentials_end_by_our_own_signature_alone(world: GossipWorld) -> None:
    hired = await world.service.authorize(Hire(AGENT, "fees"))
    number = hired.row.credential_id
    document = {"credential": to_doc(hired.row.credential)}
    assert await world.present(document) == {"status": "duplicate", "relay": False}
    for issuer in (STRANGER, TRUSTED):
        assert await world.revoke(issuer.revoke(number)) == rejected("not_issuer")
        taken = issuer.present(issuer.node_id, OTHER, NOW, credential_id=number)
        assert await world.present(taken) == rejected("id_conflict")
    assert len(world.active()) == 1
    # As after a restore of a backup that is older than the revocation.
    assert await world.revoke(OURS.revoke(number)) == STORED
    assert world.active() == [] and world.runes.blacklisted == ["1"]
    assert await world.revoke(OURS.revoke(number)) == DUPLICATE
    # One of ours that this node does not know may have been revoked: it does not come back by gossip.
    assert await world.present(OURS.present(NODE_ID, OTHER, NOW)) == rejected("unknown_here")
    assert not world.credentials.knows(OTHER)


async def test_a_renewal_replaces_and_an_older_one_never_comes_back(world: GossipWorld) -> None:
    first = TRUSTED.present(NODE_ID, AGENT, NOW - 50, template="full_routing")
    await world.imported()
    assert await world.present(first) == {**STORED, "reason": "older"}
    assert [row.credential.tier.word for row in world.active()] == ["standard"]
    world.now += 60
    second = TRUSTED.present(NODE_ID, AGENT, world.now, template="monitor_only")
    assert await world.present(second) == STORED
    (row,) = world.active()
    assert row.credential_id == second["credential"]["credential_id"]
    assert await world.revoke(TRUSTED.revoke(row.credential_id)) == STORED
    # What the renewal replaced, and what is older still, stay ended when the renewal ends.
    assert await world.present(first) == {**DUPLICATE, "reason": "older"}
    assert world.active() == []
    world.now += 60
    third = TRUSTED.present(NODE_ID, AGENT, world.now)
    assert await world.present(third) == STORED
    assert [row.credential_id for row in world.active()] == [third["credential"]["credential_id"]]


async def test_gossip_never_acts_against_what_the_operator_decided(world: GossipWorld) -> None:
    hired = await world.service.authorize(Hire(AGENT, "monitoring"))
    wider = TRUSTED.present(NODE_ID, AGENT, NOW + 10, template="complete_management")
    assert await world.present(wider) == {**STORED, "reason": "hired_here"}
    assert [row.credential_id for row in world.active()] == [hired.row.credential_id]
    await world.service.revoke(AGENT, "dismissed")
    assert await world.present(wider) == {**DUPLICATE, "reason": "hired_here"}
    # An imported one that the operator ended, and its issuer later.
    one = TRUSTED.present(NODE_ID, OTHER, NOW)
    assert await world.present(one) == STORED
    await world.service.revoke(OTHER, "not on my node")
    world.now += 5
    assert await world.revoke(TRUSTED.revoke(one["credential"]["credential_id"])) == STORED
    again = TRUSTED.present(NODE_ID, OTHER, world.now)
    assert await world.present(again) == {**STORED, "reason": "dismissed_here"}
    assert world.active() == []


async def test_two_trusted_issuers_do_not_replace_each_other(world: GossipWorld) -> None:
    world.trusted = (TRUSTED.node_id, THIRD.node_id)
    event = await world.imported()
    other = THIRD.present(NODE_ID, AGENT, NOW + 10, template="complete_management")
    assert await world.present(other) == {**STORED, "reason": "other_issuer"}
    (row,) = world.active()
    assert row.credential.issuer_id == TRUSTED.node_id
    await world.revoke(TRUSTED.revoke(event["credential"]["credential_id"]))
    assert await world.present(other) == DUPLICATE
    assert [row.credential.issuer_id for row in world.active()] == [THIRD.node_id]


async def test_an_issuer_trusted_no_more_brings_nothing_new(world: GossipWorld) -> None:
    event = await world.imported()
    world.trusted = ()
    assert await world.present(event) == rejected("issuer_untrusted")
    assert await world.present(TRUSTED.present(NODE_ID, OTHER, NOW)) == rejected("issuer_untrusted")
    # Its revocation still counts.
    assert await world.revoke(TRUSTED.revoke(event["credential"]["credential_id"])) == STORED
    assert world.active() == []


async def test_nothing_comes_into_force_under_the_emergency_stop(world: GossipWorld) -> None:
    event = await world.imported()
    world.kill_switch.file.parent.mkdir(exist_ok=True)
    world.kill_switch.file.touch()
    late = TRUSTED.present(NODE_ID, OTHER, NOW)
    assert await world.present(late) == {"status": "deferred", "relay": False, "reason": "emergency_stop"}
    assert await world.present(STRANGER.present(STRANGER.node_id, OTHER, NOW)) == STORED
    assert await world.revoke(TRUSTED.revoke(event["credential"]["credential_id"])) == STORED
    assert world.active() == []


async def test_our_own_keys_are_nobodys_agent(world: GossipWorld) -> None:
    for key in (NODE_ID[2:], world.identity.pubkey):
        assert await world.present(TRUSTED.present(NODE_ID, key, NOW)) == rejected("own_key")


async def test_room_is_bounded_and_strangers_do_not_take_that_of_trusted_issuers(
    world: GossipWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gossip_credentials, "MAX_ROWS", 5)
    monkeypatch.setattr(gossip_credentials, "MAX_ROWS_PER_ISSUER", 3)
    first = STRANGER.present(STRANGER.node_id, AGENT, NOW, days=1)
    assert await world.present(first) == STORED
    for number in range(2):
        assert await world.revoke(STRANGER.revoke(f"00000000-0000-4000-8000-00000000000{number}")) == STORED
    more = STRANGER.present(STRANGER.node_id, OTHER, NOW)
    assert await world.present(more) == rejected("store_full")
    assert await world.present(first) == DUPLICATE
    # What is known can always be revoked, and a full table of strangers keeps nobody trusted out.
    assert await world.revoke(STRANGER.revoke(first["credential"]["credential_id"])) == STORED
    for issuer in (Issuer(201), Issuer(202)):
        assert await world.present(issuer.present(issuer.node_id, AGENT, NOW)) == STORED
    crowded = Issuer(203)
    assert await world.present(crowded.present(crowded.node_id, AGENT, NOW)) == rejected("store_full")
    assert await world.revoke(crowded.revoke("00000000-0000-4000-8000-000000000009")) == rejected(
        "store_full"
    )
    await world.imported()
    # What would be refused for its age needs no place any more.
    world.now += 86_400
    assert await world.present(crowded.present(crowded.node_id, AGENT, NOW)) == STORED
    world.now += gossip.UNSEEN_KEPT_S
    late = Issuer(204)
    assert await world.present(late.present(late.node_id, AGENT, world.now)) == STORED
    assert len(await world.rows("comms_gossip_credentials")) == 1


async def test_a_revocation_of_one_credential_does_not_end_the_next(world: GossipWorld) -> None:
    event = await world.imported()
    # The operator takes the advisor over; the revocation waits for that, and then finds another credential.
    hiring = asyncio.create_task(world.service.authorize(Hire(AGENT, "fees")))
    while not world.service.changing.locked():
        await asyncio.sleep(0)
    assert await world.revoke(TRUSTED.revoke(event["credential"]["credential_id"])) == STORED
    assert [row.credential_id for row in world.active()] == [(await hiring).row.credential_id]


@pytest.mark.parametrize(
    ("hive", "code", "words"),
    [
        ((False, False), 4010, "needs cl-hive, which is not running"),
        ((True, False), 4013, "does not gossip credentials"),
        ((True, True), 4013, "hands no credentials to cl-hive"),
    ],
)
async def test_gossip_at_issue_is_refused_by_name_not_ignored(
    world: GossipWorld, hive: tuple[bool, bool], code: int, words: str
) -> None:
    (spec,) = CredentialIssueCommands(lambda: world.service, lambda: hive).specs()
    given = {"agent_id": AGENT, "tier": "monitor", "allowed_schemas_json": ["hive:monitor/*"], "gossip": True}
    with pytest.raises(HiveError, match=words) as refused:
        await spec.handler(parse_params(spec, given))
    assert refused.value.code == code and world.credentials.rows() == ()
    await spec.handler(parse_params(spec, {**given, "gossip": False}))
    assert len(world.active()) == 1


async def test_cut_off_between_commit_and_memory_it_is_as_committed(
    world: GossipWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill -9 after the commit: the next start reads what is there, and the repeat changes nothing."""

    async def killed() -> None:
        raise RuntimeError("killed")

    event = TRUSTED.present(NODE_ID, AGENT, NOW)
    with monkeypatch.context() as patch:
        patch.setattr(world.credentials, "load", killed)
        with pytest.raises(RuntimeError, match="killed"):
            await world.present(event)
    await world.restart()
    (row,) = world.active()
    assert row.credential_id == event["credential"]["credential_id"]
    assert await world.present(event) == DUPLICATE
    end = TRUSTED.revoke(row.credential_id)
    with monkeypatch.context() as patch:
        patch.setattr(world.credentials, "load", killed)
        with pytest.raises(RuntimeError, match="killed"):
            await world.revoke(end)
    await world.restart()
    assert world.active() == []
    assert await world.revoke(end) == DUPLICATE
    assert await world.present(event) == rejected("credential_revoked")
    actions = [receipt["action"] for receipt in await world.rows("management_receipts")]
    assert actions == ["import_credential", "revoke"]


async def test_nothing_is_half_stored_when_the_transaction_fails(
    world: GossipWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("no receipt could be written")

    tables = ("comms_gossip_credentials", "comms_credentials", "comms_advisors", "comms_alerts")
    with monkeypatch.context() as patch:
        patch.setattr(world.receipts, "append", broken)
        with pytest.raises(OSError, match="no receipt"):
            await world.present(TRUSTED.present(NODE_ID, AGENT, NOW))
    assert [await world.rows(table) for table in tables] == [[], [], [], []]
    event = await world.imported()
    with monkeypatch.context() as patch:
        patch.setattr(world.receipts, "append", broken)
        with pytest.raises(OSError, match="no receipt"):
            await world.revoke(TRUSTED.revoke(event["credential"]["credential_id"]))
    assert len(world.active()) == 1 and await world.present(event) == DUPLICATE
