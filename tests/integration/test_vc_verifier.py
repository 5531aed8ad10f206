"""Credentials of archon's over a real database: an hour's word, kept over restarts (02 §2.5, 08 §13)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.domain.advisor import Advisor, CredentialRow
from cl_hive_comms.services.vc_verifier import METHOD, VcVerifier
from cl_hive_comms.storage.advisor_store import AdvisorStore
from hive_shared.errors import Busy, HiveError, NotFound, SiblingUnavailable
from hive_shared.store import Db
from msgspec.structs import replace
from pipeline_world import MIGRATIONS, NOW, issue

DID = "did:cid:bagaaieraexample"
VC = '{"type":["VerifiableCredential"]}'
CHECKED = ("hive:fee-policy/v1", "set_single")


class Archon:
    """The sibling contract towards an archon in the test's hand."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.capable = self.running = True
        self.calls: list[Mapping[str, Any]] = []
        self.changes: dict[str, Any] = {}
        self.fails: HiveError | None = None
        self.hold: asyncio.Event | None = None

    def has(self, who: str, capability: str, v: int = 1) -> bool:
        return self.running and self.capable and (who, capability, v) == ("archon", "vc", 1)

    def present(self, who: str) -> bool:
        return self.running

    def session(self, who: str) -> Mapping[str, Any] | None:
        return {"did": DID} if self.running else None

    async def call(
        self, who: str, method: str, params: Mapping[str, Any], *, timeout: float = 30.0
    ) -> dict[str, Any]:
        assert (who, method) == ("archon", METHOD)
        if not self.running:
            raise SiblingUnavailable("it is not running; start it")
        self.calls.append(params)
        if self.hold is not None:
            await self.hold.wait()
        if self.fails is not None:
            raise self.fails
        return {
            "valid": True,
            "issuer": DID,
            "subject": params["expected_subject"],
            "npub": params["expected_subject"].removeprefix("did:nostr:"),
            "valid_until": self.world.now + 1_000,
            "revocation": {"status": "good", "checked_at": self.world.now},
            **self.changes,
        }


class World:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "comms.db"
        self.now = NOW
        self.archon = Archon(self)
        self.ended: list[tuple[str, str]] = []
        self.db = Db.open(self.path, MIGRATIONS)
        self.rows: list[CredentialRow] = []
        self.verifier = self._verifier()

    def _verifier(self) -> VcVerifier:
        return VcVerifier(
            self.db,
            AdvisorStore(),
            lambda: self.archon,
            rows=lambda: self.rows,
            find=lambda wanted: next((row for row in self.rows if row.credential_id == wanted), None),
            revoke=self._revoke,
            now=lambda: self.now,
            log=lambda level, event, /, **fields: None,
        )

    async def _revoke(self, credential_id: str, reason: str) -> None:
        if credential_id in [ended for ended, _ in self.ended]:
            raise NotFound("it ended")
        self.ended.append((credential_id, reason))

    async def add(self, number: int = 1, **changes: Any) -> str:
        """Store a credential of archon's; returns its id."""
        advisor = Advisor(f"adv-{number}", number, None, None, "x", "active", "fees", NOW, NOW)
        row = CredentialRow(issue(number=number), f"adv-{number}", "vc", "active", "operator", NOW, vc=VC)
        row = replace(row, **changes)

        def body(tx: Any) -> None:
            AdvisorStore().add(tx, advisor)
            AdvisorStore().add_credential(tx, row)

        await self.db.write(body)
        await self.load()
        return row.credential_id

    async def load(self) -> None:
        self.rows = await self.db.read(AdvisorStore().credentials)

    async def restart(self) -> None:
        self.db.close()
        self.db = Db.open(self.path, MIGRATIONS)
        await self.load()
        self.verifier = self._verifier()

    async def said(self, credential_id: str) -> str:
        """`good`, or the symbol of the refusal."""
        try:
            await self.verifier.check(credential_id, *CHECKED)
        except HiveError as error:
            return error.symbol
        return "good"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.db.close()


async def test_a_native_credential_is_none_of_archons_business(world: World) -> None:
    mine = await world.add(format="native", vc=None)
    world.archon.running = False
    assert await world.said(mine) == "good"
    assert await world.said("00000000-0000-4000-8000-00000000ffff") == "good"
    await world.verifier.refresh()
    assert world.archon.calls == []


async def test_archon_is_asked_once_an_hour_about_whom_and_what(world: World) -> None:
    mine = await world.add()
    assert await world.said(mine) == "good"
    (asked,) = world.archon.calls
    assert asked == {
        "credential": {"type": ["VerifiableCredential"]},
        "expected_subject": issue().agent_id,
        "schema": CHECKED[0],
        "action": CHECKED[1],
    }
    world.now += 3_599
    assert await world.said(mine) == "good" and len(world.archon.calls) == 1
    world.now += 1
    assert await world.said(mine) == "good" and len(world.archon.calls) == 2


async def test_acceptance_08_13_archon_gone_honours_for_an_hour_also_over_a_restart(world: World) -> None:
    mine = await world.add()
    assert await world.said(mine) == "good"
    world.archon.running = False
    world.now += 1_800
    await world.restart()
    world.now += 1_799
    assert await world.said(mine) == "good"
    world.now += 1
    assert await world.said(mine) == "revocation_unverifiable"
    world.archon.running = True
    assert await world.said(mine) == "good"


@pytest.mark.parametrize("lack", ["running", "capable"])
async def test_a_credential_archon_never_saw_is_unverifiable_without_it(world: World, lack: str) -> None:
    mine = await world.add()
    setattr(world.archon, lack, False)
    assert await world.said(mine) == "credential_unverifiable"
    with pytest.raises(HiveError) as refused:
        await world.verifier.check(mine, *CHECKED)
    assert refused.value.code == 4019 and "cl-hive-archon" in refused.value.detail


async def test_a_hung_or_busy_archon_is_no_permission(world: World) -> None:
    mine = await world.add()
    world.archon.fails = Busy("starting")
    assert await world.said(mine) == "credential_unverifiable"
    world.archon.fails = None
    assert await world.said(mine) == "good"
    world.now += 3_600
    world.archon.fails = SiblingUnavailable("no answer within 30 s")
    assert await world.said(mine) == "revocation_unverifiable"
    world.archon.fails = None
    world.archon.changes = {"revocation": {"status": "unknown", "checked_at": world.now}}
    assert await world.said(mine) == "revocation_unverifiable"
    without = await world.add(2, vc=None)
    assert await world.said(without) == "credential_unverifiable"


async def test_commands_that_come_together_ask_once(world: World) -> None:
    mine = await world.add()
    world.archon.hold = asyncio.Event()
    asking = [asyncio.create_task(world.said(mine)) for _ in range(5)]
    while not world.archon.calls:
        await asyncio.sleep(0)
    world.archon.hold.set()
    assert await asyncio.gather(*asking) == ["good"] * 5
    assert len(world.archon.calls) == 1


async def test_acceptance_08_12_what_archon_says_is_revoked_ends_here_and_stays_ended(world: World) -> None:
    mine = await world.add()
    assert await world.said(mine) == "good"
    world.archon.changes = {"revocation": {"status": "revoked", "checked_at": world.now}}
    # Within the hour nobody asks, unless somebody says that it is time to.
    assert await world.said(mine) == "good"
    await world.verifier.doubt("did:cid:archonsownnameforit")
    assert await world.said(mine) == "credential_revoked"
    await world.restart()
    world.archon.running = False
    assert await world.said(mine) == "credential_revoked"
    await world.verifier.refresh()
    assert world.ended == [(mine, "revoked by its issuer")]
    await world.verifier.refresh()
    assert len(world.ended) == 1


async def test_a_hint_about_one_credential_leaves_the_others(world: World) -> None:
    mine, other = await world.add(), await world.add(2)
    assert [await world.said(mine), await world.said(other)] == ["good", "good"]
    world.archon.running = False
    await world.verifier.doubt(mine)
    assert [await world.said(mine), await world.said(other)] == ["revocation_unverifiable", "good"]
    await world.restart()
    assert await world.said(mine) == "revocation_unverifiable"


async def test_findings_are_renewed_before_they_end(world: World) -> None:
    mine = await world.add()
    await world.verifier.refresh()
    assert len(world.archon.calls) == 1
    await world.verifier.refresh()
    assert len(world.archon.calls) == 1
    world.now += 1_800
    await world.verifier.refresh()
    assert len(world.archon.calls) == 2
    world.archon.running = False
    world.now += 3_599
    assert await world.said(mine) == "good"
    await world.verifier.refresh()
    assert world.ended == []


async def test_the_loop_looks_when_it_is_woken_and_survives_an_archon_that_fails(world: World) -> None:
    await world.add()
    world.archon.fails = Busy("starting")
    loop = asyncio.create_task(world.verifier.run())
    try:
        async with asyncio.timeout(60):
            for wanted in (1, 2, 3):
                while len(world.archon.calls) < wanted:
                    await asyncio.sleep(0)
                world.verifier.wake()
        assert not loop.done()
    finally:
        loop.cancel()
