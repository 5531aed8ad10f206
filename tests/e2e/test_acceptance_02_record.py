"""Sheet 02 §15, checks 12, 16, 22 and 25: what is on record stays true, whatever dies, fills up or peeks."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import hive_advisor
import pytest
from agent import Agent
from cl_hive_comms.domain.identity import derive
from hive_devnet.faults import FaultKind, NodeFaults
from hive_devnet.network import EmbeddedNetwork
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World, until
from hive_shared import receipts
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr.keys import npub_encode, nsec_encode
from outside import (
    COMMS,
    StoreWatch,
    exists,
    full_disk,
    receipts_of,
    restart_plugin,
    tampering,
)

MONITOR = "hive:monitor/v1"


async def set_fees(world: World, ppm: int) -> None:
    """By the operator's own hand."""
    await world.alice.call("setchannel", {"id": world.scid, "feebase": 1_000, "feeppm": ppm})


async def count_setchannel(world: World) -> NodeFaults | None:
    """From here on calls of setchannel on alice are counted, where the network can."""
    if not isinstance(world.network, EmbeddedNetwork):
        return None
    counter = NodeFaults(world.network, world.alice)
    await counter.set("setchannel", FaultKind.DELAY_BEFORE, times=0)
    return counter


async def killed_at(world: World, agent: Agent, point: str, *, by_dm: bool) -> dict[str, Any]:
    """Raise the fee from 100 to 120 ppm and kill the plugin at `point`. Returns the envelope; the plugin is
    down."""
    await set_fees(world, 100)
    reached = world.arm_fault(point)
    document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 120})
    sending = asyncio.create_task(agent.dm(document) if by_dm else agent.rest(document))
    await exists(reached)
    await world.alice.kill_plugin(COMMS)
    (outcome,) = await asyncio.gather(sending, return_exceptions=True)
    assert by_dm or isinstance(outcome, DevnetRpcError | ConnectionError), outcome
    world.disarm_faults()
    return document


# -- check 12 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_dm", [False, True], ids=["rest", "dm"])
@pytest.mark.parametrize(
    ("point", "ppm", "status", "slug", "reconciled"),
    [
        ("after_received", 100, 2, "shutting_down", False),
        ("after_executing", 100, 2, "shutting_down", True),
        ("after_cln", 120, 0, None, True),
        ("after_outcome", 120, 0, None, False),
    ],
)
async def test_acceptance_02_12_kill_9_leaves_one_effect_or_none_and_one_receipt(
    world: World,
    agent: Agent,
    point: str,
    ppm: int,
    status: int,
    slug: str | None,
    reconciled: bool,
    by_dm: bool,
) -> None:
    counter = await count_setchannel(world)
    document = await killed_at(world, agent, point, by_dm=by_dm)
    await restart_plugin(world)

    async def on_record() -> bool:
        return bool(await receipts_of(world.alice, document["command_id"]))

    await until(on_record, "the receipt")
    assert (await world.channel_fees())[1] == ppm
    (receipt,) = await receipts_of(world.alice, document["command_id"])
    assert receipts.verify(receipt, agent.node_key)
    assert (receipt["status"] == "success") is (ppm == 120), receipt
    assert (receipt.get("result", {}).get("reconciled") is True) is reconciled, receipt
    if by_dm:
        # The relay may hand the command over again meanwhile: that copy is told it is still executing.
        owed = await agent.answer(document["nonce"], status=status)
        assert (owed["status"], owed.get("error", {}).get("slug")) == (status, slug), owed
        assert owed["receipt"] == receipt
    # The operator changes the fee; the same envelope sent again must bring the old answer and no new run.
    await set_fees(world, 333)
    again = await agent.rest(document)
    assert (again["status"], again.get("error", {}).get("slug")) == (status, slug), again
    assert again["receipt"] == receipt
    assert again == await agent.rest(document)
    assert (await world.channel_fees())[1] == 333
    assert len(await receipts_of(world.alice, document["command_id"])) == 1
    assert (await world.alice.call("hive-client-receipts-verify"))["ok"]
    if counter is not None:
        by_operator = 2
        assert await counter.struck("setchannel") - by_operator == (1 if ppm == 120 else 0)


@pytest.mark.parametrize("point", ["after_executing", "after_cln"])
async def test_acceptance_02_12_what_nobody_can_prove_is_indeterminate(
    world: World, agent: Agent, point: str
) -> None:
    document = await killed_at(world, agent, point, by_dm=False)
    # While the plugin is down somebody else writes: neither the old nor the new fee is there any more.
    await set_fees(world, 777)
    await restart_plugin(world)

    async def on_record() -> bool:
        return bool(await receipts_of(world.alice, document["command_id"]))

    await until(on_record, "the receipt")
    (receipt,) = await receipts_of(world.alice, document["command_id"])
    assert receipt["status"] == "indeterminate", receipt
    assert receipt["result"]["reconciled"] is True
    answer = await agent.rest(document)
    assert (answer["status"], answer["error"]["slug"]) == (2, "indeterminate"), answer
    assert (await world.channel_fees())[1] == 777
    alerts = (await world.alice.call("hive-client-status"))["alerts"]
    assert any(alert["level"] == "critical" for alert in alerts), alerts


async def test_acceptance_02_12_two_kills_in_a_row_change_nothing_more(world: World, agent: Agent) -> None:
    document = await killed_at(world, agent, "after_cln", by_dm=False)
    await restart_plugin(world)
    await world.alice.kill_plugin(COMMS)
    await restart_plugin(world)

    async def on_record() -> bool:
        return bool(await receipts_of(world.alice, document["command_id"]))

    await until(on_record, "the receipt")
    (receipt,) = await receipts_of(world.alice, document["command_id"])
    assert receipt["status"] == "success"
    assert (await agent.rest(document))["status"] == 0


# -- check 16 ---------------------------------------------------------------------------------------------


def flipped(value: Any, at: int) -> Any:
    """The value with one bit of one byte changed."""
    if isinstance(value, int):
        return value ^ 1
    data = bytearray(str(value).encode())
    data[at % len(data)] ^= 1
    return data.decode()


async def some_history(world: World, agent: Agent) -> None:
    """A success, a refusal, operator events: receipts of every kind there is so far."""
    await set_fees(world, 100)
    assert (await agent.rest(agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 120})))[
        "status"
    ] == 0
    refused = await agent.rest(agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 900}))
    assert refused["status"] == 1
    await world.alice.call("hive-client-policy", {"action": "set-preset", "preset": "conservative"})
    await world.alice.call("hive-client-policy", {"action": "set-preset", "preset": "moderate"})


async def test_acceptance_02_16_any_flipped_byte_of_any_receipt_is_named(world: World, agent: Agent) -> None:
    await some_history(world, agent)
    sound = await world.alice.call("hive-client-receipts-verify")
    assert sound["ok"] and sound["checked"] >= 4, sound
    missed: list[str] = []
    with tampering(world.alice) as store:
        columns = [row[1] for row in store.execute("PRAGMA table_info(management_receipts)")]
        # The advisor's local number is for searching only: it is not part of a receipt (§9.1).
        columns = [name for name in columns if name not in ("receipt_id", "advisor_id")]
        ids = [row[0] for row in store.execute("SELECT receipt_id FROM management_receipts ORDER BY 1")]
        for receipt_id in ids:
            for column in columns:
                (value,) = store.execute(
                    f"SELECT {column} FROM management_receipts WHERE receipt_id = ?", (receipt_id,)
                ).fetchone()
                if value is None:
                    continue
                size = len(str(value))
                for at in sorted({0, size // 3, size // 2, size - 2, size - 1}):
                    change = f"UPDATE management_receipts SET {column} = ? WHERE receipt_id = ?"
                    store.execute(change, (flipped(value, at), receipt_id))
                    report = await world.alice.call("hive-client-receipts-verify")
                    if report["ok"] or report["first_bad"] != receipt_id:
                        missed.append(f"receipt {receipt_id} {column}[{at}]: {report}")
                    store.execute(change, (value, receipt_id))
    assert not missed, "\n".join(missed)
    assert (await world.alice.call("hive-client-receipts-verify"))["ok"]


async def test_acceptance_02_16_missing_and_exchanged_receipts_are_named(world: World, agent: Agent) -> None:
    await some_history(world, agent)
    copy = "CREATE TEMP TABLE kept AS SELECT * FROM management_receipts"
    restore = (
        "DELETE FROM management_receipts",
        "INSERT INTO management_receipts SELECT * FROM kept ORDER BY receipt_id",
    )
    changes = {
        "deleted": ("DELETE FROM management_receipts WHERE receipt_id = 2", {2, 3}),
        "exchanged": (
            "UPDATE management_receipts SET receipt_id = CASE receipt_id WHEN 2 THEN -2 ELSE -3 END"
            " WHERE receipt_id IN (2, 3);"
            "UPDATE management_receipts SET receipt_id = CASE receipt_id WHEN -2 THEN 3 ELSE 2 END"
            " WHERE receipt_id < 0",
            {2},
        ),
        "renumbered": ("UPDATE management_receipts SET receipt_id = 99 WHERE receipt_id = 2", {2, 3, 99}),
    }
    with tampering(world.alice) as store:
        store.execute("PRAGMA foreign_keys = OFF")
        store.execute(copy)
        for name, (change, expected) in changes.items():
            for statement in change.split(";"):
                store.execute(statement)
            report = await world.alice.call("hive-client-receipts-verify")
            assert not report["ok"] and report["first_bad"] in expected, (name, report)
            told = (await world.alice.call("hive-client-alerts"))["items"][0]
            assert (told["level"], told["code"]) == ("critical", "receipt_chain_broken"), told
            for statement in restore:
                store.execute(statement)
            assert (await world.alice.call("hive-client-receipts-verify"))["ok"], name


async def test_acceptance_02_16_the_table_refuses_update_and_delete(world: World, agent: Agent) -> None:
    await some_history(world, agent)
    store = sqlite3.connect(world.alice.net_dir / "cl_hive_comms.db", isolation_level=None, timeout=60)
    for statement in (
        "UPDATE management_receipts SET status = 'success' WHERE receipt_id = 1",
        "UPDATE management_receipts SET advisor_id = '' ",
        "DELETE FROM management_receipts WHERE receipt_id = 1",
        "DELETE FROM management_receipts",
        "REPLACE INTO management_receipts SELECT * FROM management_receipts WHERE receipt_id = 1",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            store.execute(statement)
    store.close()
    assert (await world.alice.call("hive-client-receipts-verify"))["ok"]


# -- check 22 ---------------------------------------------------------------------------------------------


async def test_acceptance_02_22_disk_full_writes_wait_and_reads_go_on(world: World, agent: Agent) -> None:
    await set_fees(world, 100)
    pid = await world.alice.plugin_pid(COMMS)
    write = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 120})
    with full_disk(pid):
        refused = await agent.rest(write)
        assert (refused["status"], refused["error"]["slug"]) == (2, "receipt_store_unavailable"), refused
        assert (await world.channel_fees())[1] == 100
        read = await agent.rest(agent.signed("health_summary", {}, MONITOR))
        assert read["status"] == 0, read
        assert (await world.alice.call("hive-client-status"))["identity"]["npub"] == npub_encode(
            agent.node_key
        )
        assert (await world.alice.call("hive-client-receipts-verify"))["ok"]
    assert await world.alice.plugin_pid(COMMS) == pid
    # Nothing of the refused command was stored, so its nonce is unused and it can be sent again as it is.
    done = await agent.rest(write)
    assert done["status"] == 0, done
    assert (await world.channel_fees())[1] == 120
    assert (await world.alice.call("hive-client-receipts-verify"))["ok"]


async def test_acceptance_02_22_disk_full_after_the_act_still_gets_its_receipt(
    world: World, agent: Agent
) -> None:
    """The disk fills between the intent and the outcome: nothing else is written until it is on record."""
    if not isinstance(world.network, EmbeddedNetwork):
        pytest.skip("needs a node whose setchannel can be held")
    await set_fees(world, 100)
    faults = NodeFaults(world.network, world.alice)
    await faults.set("setchannel", FaultKind.DELAY_AFTER, seconds=60)
    document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 120})
    running = asyncio.create_task(agent.rest(document))

    async def acted() -> bool:
        return (await world.channel_fees())[1] == 120

    await until(acted, "the node to act")
    with full_disk(await world.alice.plugin_pid(COMMS)):
        await faults.release()
        answer = await running
        assert (answer["status"], answer["error"]["slug"]) == (2, "receipt_store_unavailable"), answer
        other = await agent.rest(agent.signed("set_single", {"channel_id": world.scid, "base_msat": 900}))
        assert (other["status"], other["error"]["slug"]) == (2, "receipt_store_unavailable"), other
        assert await world.channel_fees() == (1_000, 120)
    # The next write stores what waited first; so does the timer.
    await agent.rest(agent.signed("set_single", {"channel_id": world.scid, "base_msat": 900}))

    async def on_record() -> bool:
        return bool(await receipts_of(world.alice, document["command_id"]))

    await until(on_record, "the receipt of what had run")
    (receipt,) = await receipts_of(world.alice, document["command_id"])
    assert receipt["status"] == "success", receipt
    again = await agent.rest(document)
    assert (again["status"], again["receipt"]) == (0, receipt), again
    assert (await world.alice.call("hive-client-receipts-verify"))["ok"]


async def test_acceptance_02_22_relays_down_rest_serves_and_the_outbox_drains_later(
    world: World, agent: Agent
) -> None:
    await set_fees(world, 100)
    await agent.hired("everything")
    await world.relay.kill()
    read = await agent.rest(agent.signed("health_summary", {}, MONITOR))
    assert read["status"] == 0, read
    # A bulk change waits for the operator; its final response is pushed, and has no relay to go to.
    held = agent.signed("set_bulk", {"channels": [world.scid], "policy": {"fee_ppm": 130}})
    waiting = await agent.rest(held)
    assert waiting["status"] == 3, waiting
    pending = (await world.alice.call("hive-client-pending"))["items"]
    assert [item["action_id"] for item in pending] == [held["command_id"]]
    await world.alice.call("hive-client-approve", {"action_id": held["command_id"], "reject": True})
    rows = (await world.alice.call("hive-comms-transports"))["items"]
    assert next(row for row in rows if row["name"] == "nostr_dm")["queue"] >= 1
    # What waits survives the plugin, too.
    await world.alice.kill_plugin(COMMS)
    await restart_plugin(world)
    await world.relay.restart()
    # The agent may have been waiting for a relay for longer than the plugin, which has just begun.
    agent.dial()
    final = await agent.answer(held["nonce"])
    assert (final["status"], final["error"]["slug"]) == (1, "approval_rejected"), final

    async def drained() -> bool:
        found = (await world.alice.call("hive-comms-transports"))["items"]
        return bool(next(row for row in found if row["name"] == "nostr_dm")["queue"] == 0)

    await until(drained, "an empty outbox")


# -- check 25 ---------------------------------------------------------------------------------------------


async def every_output(world: World) -> dict[str, str]:
    """All that the operator can see, ask for, or carry away: every method that only reads is called."""
    shown: dict[str, str] = {"log": world.alice.log_text()}
    for method in declared():
        reads = method["klass"] == "R" or "R" in method.get("by", {}).get("classes", {}).values()
        if method["plugin"] != "cl-hive-comms" or not reads:
            continue
        params = {param["name"] for param in method["params"] if param.get("required")}
        by = method.get("by", {})
        action = next((word for word, klass in by.get("classes", {}).items() if klass == "R"), None)
        given: dict[str, object] = {} if action is None else {by["param"]: action}
        try:
            answer = await world.alice.call(method["name"], given)
        except DevnetRpcError as error:
            assert params or given, f"{method['name']}: {error}"
            answer = {"error": f"{error} {json.dumps(error.data)}"}
        shown[method["name"]] = json.dumps(answer)
    calls: list[tuple[str, dict[str, object]]] = [
        ("listconfigs", {}),
        ("help", {}),
        ("plugin", {"subcommand": "list"}),
        ("hive-client-status", {}),
        ("hive-client-identity", {}),
        ("hive-client-policy", {}),
        ("hive-client-alias", {"action": "list"}),
        ("hive-client-pending", {}),
        ("hive-client-receipts", {"limit": 500}),
        ("hive-client-receipts-verify", {}),
        ("hive-client-selfcheck", {}),
        ("hive-comms-transports", {}),
        ("hive-mgmt-credential-list", {}),
        ("hive-schema-list", {}),
    ]
    for method, params in calls:
        shown[method] = json.dumps(await world.alice.call(method, params))
    return shown


def declared() -> list[dict[str, Any]]:
    """Every method of the plugins, as the reference lists them."""
    methods: list[dict[str, Any]] = json.loads(
        (Path(hive_advisor.__file__).parent / "methods.json").read_text()
    )
    assert len(methods) > 40
    return methods


def found_in(shown: dict[str, str], secrets: dict[str, str]) -> list[str]:
    """Which secret appears where."""
    return [
        f"{name} in {place}"
        for place, text in shown.items()
        for name, value in secrets.items()
        if value in text
    ]


async def refused(world: World, method: str, params: dict[str, object]) -> str:
    """The whole error of a call that has to fail."""
    with pytest.raises(DevnetRpcError) as error:
        await world.alice.call(method, params)
    return f"{error.value} {json.dumps(error.value.data)}"


PASTED_INTO: list[tuple[str, str, dict[str, object]]] = [
    ("hive-client-authorize", "advisor", {"access": "fees"}),
    ("hive-client-authorize", "access", {"advisor": "x"}),
    ("hive-client-authorize", "advisor_npub", {"access": "fees"}),
    ("hive-client-revoke", "advisor", {}),
    ("hive-client-credential", "advisor", {}),
    ("hive-client-alias", "target", {"action": "set", "alias": "mine"}),
    ("hive-client-alias", "alias", {"action": "set", "target": "x"}),
    ("hive-client-identity", "action", {}),
    ("hive-client-identity", "relays", {"action": "set-relays"}),
    ("hive-client-approve", "action_id", {}),
    ("hive-client-policy", "action", {}),
    ("hive-client-policy", "preset", {"action": "set-preset"}),
    ("hive-comms-rpc", "request", {"sender": "ab" * 32}),
    ("hive-comms-rpc", "sender", {"request": "{}"}),
    ("hive-client-trial", "advisor", {"action": "start"}),
    ("hive-client-receipts", "cursor", {}),
    ("hive-client-receipts", "advisor", {}),
    ("hive-client-receipts-export", "path", {}),
    ("hive-client-backup", "path", {"passphrase_file": "/nowhere"}),
    ("hive-client-restore", "path", {"passphrase_file": "/nowhere"}),
    ("hive-client-setup", "session", {}),
    ("hive-client-emergency-stop", "token", {"action": "release"}),
    ("hive-comms-import-key", "file", {"confirm": True}),
    ("hive-comms-migrate", "source", {}),
    (
        "hive-mgmt-credential-issue",
        "agent_id",
        {"tier": "monitor", "allowed_schemas_json": ["hive:monitor/*"]},
    ),
    ("hive-mgmt-credential-revoke", "credential_id", {}),
    ("setconfig", "val", {"config": "hive-comms-nsec"}),
    ("setconfig", "val", {"config": "hive-comms-nostr-relays"}),
    ("setconfig", "val", {"config": "hive-comms-policy-preset"}),
]
"""Calls that fail, and the parameter into which somebody pastes a private key."""


CLNREST = """#!/usr/bin/env python3
from pyln.client import Plugin

plugin = Plugin()
plugin.add_option("clnrest-port", 3010, "Where clnrest would listen.", "int")
plugin.run()
"""


async def pretend_clnrest(world: World, directory: Path) -> None:
    """The option by which clnrest is recognised, so that advisors get runes."""
    path = directory / "clnrest.py"
    path.write_text(CLNREST)
    path.chmod(0o700)
    await world.alice.call("plugin", ["start", str(path)])


async def test_acceptance_02_25_08_23_no_secret_in_any_log_error_receipt_or_table(tmp_path: Path) -> None:
    imported = Secret(os.urandom(32))
    nsec = nsec_encode(imported)
    word, mail = "correct horse battery staple", "mail-password-91c2"
    world = await World.start(
        tmp_path / "world",
        options={"hive-comms-nsec": nsec, "hive-comms-alert-smtp": f"smtp://me:{mail}@127.0.0.1:9"},
    )
    try:
        assert (await world.alice.call("hive-client-identity"))["npub"] == npub_encode(xonly_pubkey(imported))
        await pretend_clnrest(world, tmp_path)
        async with Agent(world.alice, world.relay.url) as agent:
            await agent.hired("fees")
            await some_history(world, agent)
            # Secrets that people paste into the wrong field.
            pasted = nsec_encode(Secret(os.urandom(32)))
            errors = {
                f"error of {method} {params}": await refused(world, method, {**params, field: pasted})
                for method, field, params in PASTED_INTO
            }
            token = "cashuB" + os.urandom(60).hex()
            await refused(world, "hive-client-authorize", {"advisor": agent.npub, "access": token})
            # What an agent sends where it does not belong: refused, and in the receipt only as its hash. The
            # command itself is kept as it was signed.
            sent = {"preimage": os.urandom(32).hex(), "nsec": nsec_encode(Secret(os.urandom(32)))}
            sent["token"] = "cashuA" + os.urandom(60).hex()
            for params in ({"preimage": sent["preimage"]}, {"reason": f"{sent['nsec']} {sent['token']}"}):
                document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 130, **params})
                assert (await agent.rest(document))["status"] == 1
            await agent.rest(agent.signed("log_stream", {"level": "info"}, MONITOR))
            (tmp_path / "word").write_text(word)
            (tmp_path / "word").chmod(0o600)
            backup = {"path": str(tmp_path / "b.backup"), "passphrase_file": str(tmp_path / "word")}
            await world.alice.call("hive-client-backup", backup, timeout=120)
            given = Secret(os.urandom(32))
            await world.alice.call("hive-comms-import-key", {"nsec": nsec_encode(given), "confirm": True})
            await world.alice.call("hive-client-emergency-stop", {"reason": "drill"})
            await world.alice.call("hive-client-alerts", {"action": "test"})
            await world.alice.call("hive-client-identity", {"action": "rotate", "confirm": True})
            await some_more(world, agent)
            # The offer of the credential is the one message that has to carry the rune.
            answers = json.dumps([sent for sent in agent.inbox if "request_nonce" in sent])
        secrets = await secrets_of(world, imported)
        secrets |= {"pasted nsec": pasted, "pasted token": token, "passphrase": word, "mail password": mail}
        secrets |= {"given key": given.reveal().hex(), "given nsec": nsec_encode(given)}
        assert "rune 0" in secrets
        shown = await every_output(world)
        watch = StoreWatch.of(world.alice)
        shown |= errors | {"database": watch.text(), "answers": answers}
        watch.close()
        assert not found_in(shown, secrets)
        spoken = {place: text for place, text in shown.items() if place != "database"}
        assert not found_in(spoken, sent)
    finally:
        await world.close()


async def some_more(world: World, agent: Agent) -> None:
    """Traffic after a rotation, to the new key."""
    agent.node_key = await agent_key(world)
    answer = await agent.rest(agent.signed("health_summary", {}, MONITOR))
    assert answer["status"] in (0, 1), answer


async def agent_key(world: World) -> str:
    from hive_shared.nostr.keys import npub_decode

    return npub_decode(str((await world.alice.call("hive-client-identity"))["npub"]))


async def secrets_of(world: World, imported: Secret) -> dict[str, str]:
    """Every secret that the plugin holds, in each form it could leak in."""
    held: dict[str, Secret] = {"imported": imported}
    for name in ("hive-comms-nostr-v1", "hive-comms-at-rest-v1", "hive-sibling-v1", "hive/alert-webhook/v1"):
        made = await world.alice.call("makesecret", {"string": name})
        held[name] = Secret(bytes.fromhex(str(made["secret"])))
    for generation in range(3):
        held[f"derived {generation}"] = derive(held["hive-comms-nostr-v1"].reveal(), generation)[0]
    shown: dict[str, str] = {}
    for name, secret in held.items():
        shown[f"{name} hex"] = secret.reveal().hex()
        shown[f"{name} nsec"] = nsec_encode(secret)
        shown[f"{name} repr"] = repr(secret.reveal())[2:-1]
    for number, rune in enumerate((await world.alice.call("showrunes"))["runes"]):
        shown[f"rune {number}"] = str(rune["rune"])
    return shown
