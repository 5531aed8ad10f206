"""Authorising, naming and dismissing advisors on a running plugin (Protocol 02 §2, 08 §5.2, §6)."""

from pathlib import Path

from comms_world import Agent, call, refused, until, world
from hive_shared import credential, envelope
from hive_shared.crypto import cln_recover_message
from hive_shared.nostr.keys import parse_pubkey


async def test_an_authorised_advisor_receives_a_credential_that_the_node_signed(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        hired = await call(
            node, "hive-client-authorize", advisor=agent.npub, access="fee optimization", days=10
        )
        push = await agent.push("credential_offer")
        node_id = (await call(node, "getinfo"))["id"]
        node_key = parse_pubkey((await call(node, "hive-client-identity"))["npub"])
        shown = await call(node, "hive-client-credential", advisor=agent.npub)
    decoded = envelope.decode_push(
        envelope.encode_text(push) if hasattr(envelope, "encode_text") else _text(push)
    )
    assert decoded.node_key == node_key == agent.senders[0]
    offer = push["schema_payload"]["params"]
    document = credential.parse(offer["credential"])
    assert credential.is_signed_by(document, node_id)
    assert document.credential_id == hired["credential_id"] == shown["credential_id"]
    assert document.agent_key == agent.pubkey
    assert document.valid_until - document.valid_from == 10 * 86_400
    assert offer["node"]["node_id"] == node_id and offer["node"]["node_key"] == node_key
    assert cln_recover_message(f"hive-mkt/v1/bind:{node_key}:{node_id}", offer["binding"]) == node_id
    assert offer["relays"] == [relay.url] and offer["max_skew_s"] == 300
    assert shown["constraints"]["max_fee_change_pct"] == 50


def _text(message: dict[str, object]) -> bytes:
    from hive_shared.canonical import encode

    return encode(message)


async def test_authorising_again_renews_and_the_former_credential_is_superseded(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        first = await call(node, "hive-client-authorize", advisor=agent.npub, access="fees")
        second = await call(node, "hive-client-authorize", advisor=first["name"], access="monitoring")
        rows = (await call(node, "hive-mgmt-credential-list"))["items"]
        status = await call(node, "hive-client-status")
    by_id = {row["credential_id"]: row["status"] for row in rows}
    assert by_id == {first["credential_id"]: "superseded", second["credential_id"]: "active"}
    assert [row["access"] for row in status["advisors"]] == ["monitor_only"]


async def test_a_revoked_advisor_is_told_and_shown_no_more_and_comes_back_only_by_confirmation(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        hired = await call(
            node, "hive-client-authorize", advisor="Fleet", advisor_npub=agent.npub, access="fees"
        )
        done = await call(node, "hive-client-revoke", advisor="fleet", reason="moved on")
        assert done["revoked"] == ["Fleet"]
        told = await agent.push("credential_revoked")
        assert told["schema_payload"]["params"] == {
            "credential_id": hired["credential_id"],
            "reason": "moved on",
        }
        assert (await call(node, "hive-client-status"))["advisors"] == []
        assert (await refused(node, "hive-client-revoke", advisor="Fleet")).code == 4001
        error = await refused(node, "hive-client-authorize", advisor="Fleet", access="fees")
        assert error.code == 4005
        again = await call(node, "hive-client-authorize", advisor="Fleet", access="fees", confirm=True)
        assert again["advisor_id"] == hired["advisor_id"]


async def test_lockdown_revokes_everybody(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as one, Agent(relay.url) as two:
        for agent in (one, two):
            await call(node, "hive-client-authorize", advisor=agent.npub, access="monitoring")
        assert (await refused(node, "hive-client-revoke")).code == -32602
        done = await call(node, "hive-client-revoke", all=True)
        assert sorted(done["revoked"]) == ["advisor-1", "advisor-2"]
        rows = (await call(node, "hive-mgmt-credential-list"))["items"]
        assert {row["status"] for row in rows} == {"revoked"}


async def test_acceptance_08_16_same_names_are_ambiguous_and_look_alikes_are_pointed_out(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as one, Agent(relay.url) as two:
        await call(node, "hive-client-authorize", advisor="Alice", advisor_npub=one.npub, access="fees")
        second = await call(
            node, "hive-client-authorize", advisor="A1ice", advisor_npub=two.npub, access="fees"
        )
        assert "looks like" in second["warning_look_alike"]
        taken = await refused(
            node, "hive-client-authorize", advisor="ALICE", advisor_npub=two.npub, access="fees"
        )
        assert taken.code == 4015
        assert (
            await refused(node, "hive-client-alias", action="set", alias="alice", target="A1ice")
        ).code == 4015
        stale = await refused(node, "hive-client-authorize", advisor="1", access="fees")
        assert stale.code == 4001 and stale.data == {"reason": "stale_index"}
        assert (await refused(node, "hive-client-authorize", advisor="Alcie", access="fees")).code == 4001


async def test_aliases_are_set_listed_found_and_removed(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        await call(node, "hive-client-authorize", advisor=agent.npub, access="fees")
        await call(node, "hive-client-alias", action="set", alias="Hex Fleet", target="advisor-1")
        found = await call(node, "hive-client-alias", action="get", alias="hex  fleet")
        assert found["npub"] == agent.npub and found["aliases"] == ["Hex Fleet"]
        assert (await call(node, "hive-client-alias"))["count"] == 1
        for number in range(9):
            await call(node, "hive-client-alias", action="set", alias=f"name {number}", target=agent.npub)
        over = await refused(node, "hive-client-alias", action="set", alias="one more", target=agent.npub)
        assert over.code == 4016
        await call(node, "hive-client-alias", action="remove", alias="HEX FLEET")
        assert (await refused(node, "hive-client-alias", action="get", alias="Hex Fleet")).code == 4001


async def test_what_cannot_be_granted_is_refused_with_the_reason(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, object], int]] = [
        ({"access": "world domination"}, -32602),
        ({"access": "fees", "days": 731}, -32602),
        ({"access": "fees", "trial": 31}, -32602),
        ({"access": "fees", "trial": "soon"}, -32602),
        ({"access": "fees", "trial": 14, "days": 30}, -32602),
        ({"access": "custom", "allow": "payments", "trial": 14}, -32602),
        ({"access": "fees", "allow": "fees"}, -32602),
        ({"access": "custom"}, -32602),
        ({"access": "custom", "allow": "fees,teleport"}, -32602),
        ({"access": "fees", "max_fee_change": 101}, -32602),
        ({"access": "fees", "advisor_did": "did:cid:bagaaiera"}, 4010),
        ({"access": "fees", "colour": "red"}, -32602),
    ]
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        for params, code in cases:
            error = await refused(node, "hive-client-authorize", **{"advisor": agent.npub, **params})
            assert error.code == code, (params, error.message)
        assert (await call(node, "hive-mgmt-credential-list"))["count"] == 0
        custom = await call(
            node,
            "hive-client-authorize",
            advisor=agent.npub,
            access="custom",
            allow=["fees", "monitoring"],
            max_fee_change=7,
        )
        shown = await call(node, "hive-client-credential", advisor=custom["name"])
        assert shown["constraints"] == {"max_fee_change_pct": 7}


async def test_no_credential_is_issued_under_the_emergency_stop(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        stop = node.net_dir / "hive" / "EMERGENCY_STOP"
        stop.parent.mkdir(exist_ok=True)
        stop.touch()
        assert (await refused(node, "hive-client-authorize", advisor=agent.npub, access="fees")).code == 4012
        status = await call(node, "hive-client-status")
        assert status["emergency"]["engaged"] is True
        stop.unlink()
        assert (await refused(node, "hive-client-authorize", advisor=agent.npub, access="fees")).code == 4012
        shown = await call(node, "hive-client-emergency-stop", action="status")
        await call(node, "hive-client-emergency-stop", action="release", token=shown["release"]["token"])
        await call(node, "hive-client-authorize", advisor=agent.npub, access="fees")


async def test_advisors_survive_a_kill_of_the_plugin(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        await call(node, "hive-client-authorize", advisor="Fleet", advisor_npub=agent.npub, access="fees")
        await node.kill_plugin("cl-hive-comms.py")
        await node.call("plugin", {"subcommand": "start", "plugin": str(_plugin())})
        status = await until(lambda: call(node, "hive-client-status"), "the plugin answers")
        assert [row["name"] for row in status["advisors"]] == ["Fleet"]
        check = await call(node, "hive-client-selfcheck")
        assert {row["id"]: row["status"] for row in check["checks"]}["receipts"] == "ok"


def _plugin() -> Path:
    from comms_world import PLUGIN

    return PLUGIN
