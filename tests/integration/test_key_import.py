"""Taking a Nostr key of the operator's own (Protocol 08 §5.2 `hive-comms-import-key`, §6 "Identity").

One plugin for what an operator and an advisor see; the services alone for crashes, races and refusals.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from cl_hive_comms.domain.identity import READABLE_S
from cl_hive_comms.services.advisor_requests import Hire
from comms_world import Agent, call, refused, until, world
from hiring_world import HiringWorld
from hive_shared.canonical import encode
from hive_shared.crypto import Secret, schnorr_verify, tagged, xonly_pubkey
from hive_shared.errors import Conflict
from hive_shared.nostr.keys import npub_encode, nsec_encode
from hive_shared.store import Tx

IMPORT = "hive-comms-import-key"
FIRST, SECOND = Secret(b"\x41" * 32), Secret(b"\x42" * 32)
AGENT = xonly_pubkey(Secret(b"\x22" * 32))


class Killed(Exception):
    """The process ended here."""


async def test_an_operator_imports_a_key_and_the_secret_is_seen_nowhere(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        await agent.hired(node)
        before = (await call(node, "hive-client-identity"))["npub"]
        file = tmp_path / "key"
        file.write_text(nsec_encode(FIRST) + "\n")
        file.chmod(0o600)
        errors = [
            await refused(node, IMPORT, **params)
            for params in (
                {},
                {"file": str(file), "nsec": nsec_encode(FIRST)},
                {"nsec": FIRST.reveal().hex()[:-1], "confirm": True},
                {"file": str(tmp_path / "none"), "confirm": True},
                {"nsec": agent.npub, "confirm": True},
            )
        ]
        assert {error.code for error in errors} == {-32602}, errors
        taken = await refused(node, IMPORT, nsec=nsec_encode(agent.secret), confirm=True)
        assert taken.code == 4015 and "advisor" in taken.message
        unconfirmed = await refused(node, IMPORT, file=str(file))
        assert unconfirmed.code == 4005 and "confirm=true" in unconfirmed.message
        assert (await call(node, "hive-client-identity"))["npub"] == before
        seen = len(agent.received)
        imported = await call(node, IMPORT, file=str(file), confirm=True)
        assert imported == {"npub": npub_encode(xonly_pubkey(FIRST)), "previous": before}
        again = await refused(node, IMPORT, nsec=nsec_encode(FIRST), confirm=True)
        assert again.code == 4015 and "already" in again.message
        notice = await agent.wait_for(lambda message: message.get("schema") == "hive:identity/rotated")
        claim = {key: value for key, value in notice["body"].items() if key != "new_sig"}
        assert claim["new_key"] == xonly_pubkey(FIRST)
        assert schnorr_verify(
            claim["new_key"], tagged("hive-key-change:v1:", encode(claim)), notice["body"]["new_sig"]
        )
        offer = (await agent.push("credential_offer", after=seen))["schema_payload"]["params"]
        agent.node_key = offer["node"]["node_key"]
        assert agent.node_key == xonly_pubkey(FIRST)
        # The new key serves: the same credential commands under it.
        answer = await agent.run("hive:monitor/v1", "channel_list")
        assert answer["status"] == 0, answer
        # By nsec= and as hex, over an imported key; and back after a restart.
        done = await call(node, IMPORT, nsec=SECOND.reveal().hex(), confirm=True)
        assert done["previous"] == imported["npub"]
        await node.stop()
        await node.start()
        found = await until(lambda: call(node, "hive-client-identity"), "the plugin is back")
        assert (found["npub"], found["origin"]) == (npub_encode(xonly_pubkey(SECOND)), "imported")
        checks = (await call(node, "hive-client-selfcheck"))["checks"]
        assert {row["id"]: row["status"] for row in checks}["key"] == "ok"
        receipts = await call(node, "hive-client-receipts", limit=100)
        assert [row["action"] for row in receipts["items"]].count("rotate_key") == 2
        shown = "".join(
            (
                node.log_text(),
                json.dumps(await call(node, "listconfigs")),
                json.dumps(receipts),
                json.dumps(await call(node, "hive-client-status", verbose=True)),
                json.dumps(await call(node, "hive-client-alerts")),
                *(error.message for error in (*errors, taken, unconfirmed, again)),
            )
        )
        stored = b"".join(path.read_bytes() for path in node.net_dir.glob("cl_hive_comms.db*"))
        for key in (FIRST, SECOND):
            assert nsec_encode(key) not in shown and key.reveal().hex() not in shown
            for form in (key.reveal(), nsec_encode(key).encode(), key.reveal().hex().encode()):
                assert form not in stored


@pytest.fixture
async def hiring(tmp_path: Path) -> HiringWorld:
    made = HiringWorld(tmp_path)
    await made.start()
    made.identity.announce = made.offers.announce_rotation
    made.identity.import_guards += [made.contracts.none_live_in, made.credentials.not_known_in]
    return made


def notices(hiring: HiringWorld) -> int:
    """Notices of a key change that wait in the outbox."""

    def count(tx: Tx) -> int:
        row = tx.execute(
            "SELECT count(*) FROM comms_outbox WHERE idempotency_key LIKE 'rotated:%'"
        ).fetchone()
        return int(row[0])

    return hiring.db.peek(count)


@pytest.mark.parametrize(
    ("point", "whole"), [("key_before_store", "old"), ("commit", "old"), ("key_after_store", "new")]
)
async def test_a_kill_at_any_step_leaves_the_old_or_the_new_key_whole(
    hiring: HiringWorld, point: str, whole: str
) -> None:
    await hiring.service.authorize(Hire(AGENT, "fees"))
    old = hiring.identity.pubkey

    async def kill(at: str) -> None:
        if at == point:
            raise Killed

    hiring.identity._fault = kill
    if point == "commit":
        announce = hiring.identity.announce
        assert announce is not None

        async def announced(*args: object) -> object:
            stored = await announce(*args)  # type: ignore[arg-type]

            def also(tx: Tx) -> None:
                stored(tx)
                raise Killed

            return also

        hiring.identity.announce = announced  # type: ignore[assignment]
    with pytest.raises(Killed):
        await hiring.identity.import_key(FIRST)
    await hiring.restart()
    expected = xonly_pubkey(FIRST) if whole == "new" else old
    assert hiring.identity.pubkey == expected == xonly_pubkey(hiring.identity.secret())
    told = 1 if whole == "new" else 0
    assert notices(hiring) == told
    # What the kill cut short is made up for: the credential is offered again under the new key.
    assert await hiring.offers.reissue() == told
    assert await hiring.offers.reissue() == 0
    if whole == "new":
        assert old in hiring.identity.readable_secrets()
        hiring.now += READABLE_S
        assert list(hiring.identity.readable_secrets()) == [expected]
    hiring.db.close()


async def test_an_import_and_rotations_at_once_lose_no_key(hiring: HiringWorld) -> None:
    before = hiring.identity.pubkey
    done = await asyncio.gather(
        hiring.identity.rotate(),
        hiring.identity.import_key(FIRST),
        hiring.identity.rotate(),
        hiring.identity.import_key(SECOND),
    )
    keys = {before, *(record.pubkey for record in done)}
    assert len(keys) == 5 and set(hiring.identity.all_pubkeys()) == keys
    assert set(hiring.identity.readable_secrets()) == keys
    await hiring.restart()
    assert set(hiring.identity.readable_secrets()) == keys
    assert hiring.identity.pubkey == done[-1].pubkey
    assert [record.origin for record in done] == ["derived:1", "imported", "derived:2", "imported"]
    hiring.db.close()


async def test_keys_that_a_restore_changed_are_not_overwritten(hiring: HiringWorld) -> None:
    identity = hiring.identity
    restored = identity.ring.replaced(
        identity.ring.current.__class__(xonly_pubkey(SECOND), "imported", hiring.now), hiring.now, 1
    )
    secrets = {**identity.readable_secrets(), xonly_pubkey(SECOND): SECOND}
    await hiring.db.write(lambda tx: identity.store_in(tx, restored, secrets))
    with pytest.raises(Conflict, match="changed meanwhile"):
        await identity.import_key(FIRST)
    await identity.reload()
    assert identity.pubkey == xonly_pubkey(SECOND)
    await identity.import_key(FIRST)
    hiring.db.close()


async def test_a_live_contract_and_a_known_key_refuse_the_import_but_not_a_rotation(
    hiring: HiringWorld,
) -> None:
    hired = await hiring.service.authorize(Hire(AGENT, "fees", trial_days=14))
    await hiring.identity.check_import(FIRST)  # the trial of a direct hire is no contract
    with pytest.raises(Conflict, match="advisor or approver"):
        await hiring.identity.check_import(Secret(b"\x22" * 32))
    await hiring.db.write(
        lambda tx: tx.execute(
            "UPDATE marketplace_trials SET contract_id = 'c-1' WHERE credential_id = ?",
            (hired.row.credential_id,),
        )
    )
    before = hiring.identity.pubkey
    for attempt in (hiring.identity.check_import, hiring.identity.import_key):
        with pytest.raises(Conflict, match="contract c-1") as caught:
            await attempt(FIRST)
        assert caught.value.reason == "contract_live"
    assert hiring.identity.pubkey == before and notices(hiring) == 0
    await hiring.identity.rotate()
    hiring.now += 8 * 86_400 * 10
    await hiring.identity.import_key(FIRST)
    hiring.db.close()
