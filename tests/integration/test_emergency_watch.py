"""The emergency stop's watch over a real database and the scripted node
(docs/protocol/08-client-and-plugins.md §6 "Kill switch")."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cl_hive_comms.domain.emergency import Stop
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.emergency_record import EmergencyRecord
from cl_hive_comms.services.emergency_service import EmergencyService
from cl_hive_comms.services.forwarding_freeze import ForwardingFreeze
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.storage.saved_channel_store import SavedChannelStore
from cl_hive_comms.storage.state_store import StateStore
from hive_shared.errors import ConfirmationRequired, Conflict, Internal
from hive_shared.store import StoreError, Tx
from pipeline_world import World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def _quiet(level: str, event: str, /, **fields: object) -> None:
    return None


async def _nothing(_point: str) -> None:
    return None


class Stops:
    """The real emergency stop over a directory; the queue's first `failing` cancellations fail."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self.cancelled = 0
        self.announced: list[Stop | None] = []
        self.failing = 0
        self.revoking_fails = 0
        self.revoked: list[str] = []
        facts = StateStore()
        self.switch = KillSwitch(world.db, facts, directory, now=lambda: world.now)
        alerts = AlertService(world.db, facts, now=lambda: world.now, log=_quiet)
        freeze = ForwardingFreeze(
            world.db,
            SavedChannelStore(),
            world.node,
            receipts=world.receipts,
            alerts=alerts,
            wanted=lambda: self.switch.stop is not None and self.switch.stop.freeze,
            now=lambda: world.now,
            log=_quiet,
            fault=_nothing,
        )
        self.service = EmergencyService(
            world.db,
            self.switch,
            freeze,
            record=EmergencyRecord(self.switch, world.receipts, alerts),
            receipts=world.receipts,
            alerts=alerts,
            waiting=lambda: self,
            revoke_all=self._revoke_all,
            announce=self.announced.append,
            token_key=b"t" * 32,
            now=lambda: world.now,
            log=_quiet,
        )

    async def _revoke_all(self, reason: str) -> int:
        if self.revoking_fails:
            self.revoking_fails -= 1
            raise Internal("the node does not answer")
        self.revoked.append(reason)
        return 2

    async def token(self) -> str:
        return str((await self.service.status())["release"]["token"])

    async def cancel_all(self, symbol: str, reason: str) -> int:
        if self.failing:
            self.failing -= 1
            raise StoreError("disk full")
        self.cancelled += 1
        return 0


async def test_a_stop_engaged_while_the_plugin_was_down_cancels_what_waits(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / "EMERGENCY_STOP").touch()
    stops = Stops(world, tmp_path)
    await stops.switch.load()
    await stops.service.watch()
    await stops.service.watch()
    assert stops.cancelled == 1
    assert [stop is not None and stop.by for stop in stops.announced] == ["file"]
    assert len(await world.docs()) == 1


async def test_a_cancelling_that_failed_is_done_at_the_next_look(world: World, tmp_path: Path) -> None:
    stops = Stops(world, tmp_path)
    await stops.switch.load()
    (tmp_path / "EMERGENCY_STOP").touch()
    stops.failing = 1
    await stops.service.watch()
    assert stops.switch.engaged()
    assert (await stops.service.overview())["due"] == ["cancel"]
    await stops.service.watch()
    assert stops.cancelled == 1
    assert (await stops.service.overview())["due"] == []
    assert len(stops.announced) == 1


async def test_a_revocation_that_failed_holds_up_nothing_and_is_done_at_the_next_look(
    world: World, tmp_path: Path
) -> None:
    stops = Stops(world, tmp_path)
    stops.revoking_fails = 1
    answer = await stops.service.engage("stolen", revoke_all=True, freeze_forwarding=True)
    # status() looks again, so that the second try came with the answer.
    assert stops.cancelled == 1 and stops.revoked == ["stolen"] and answer["revoked"] == 2, answer
    assert answer["forwarding"]["frozen"] == 4 and answer["due"] == []


async def test_a_second_engage_adds_effects_and_takes_none_away(world: World, tmp_path: Path) -> None:
    stops = Stops(world, tmp_path)
    first = await stops.service.engage("one", freeze_forwarding=True)
    world.now += 5
    second = await stops.service.engage("", revoke_all=True)
    assert (second["reason"], second["since"]) == ("one", first["since"])
    assert second["forwarding"]["frozen"] == 4 and second["revoked"] == 2
    third = await stops.service.engage("two")
    assert third["reason"] == "two" and third["forwarding"]["wanted"] is True and third["revoked"] == 2
    restarted = Stops(world, tmp_path)
    await restarted.switch.load()
    assert (await restarted.service.overview())["reason"] == "two"


async def test_a_token_is_good_for_ten_minutes_and_one_release(world: World, tmp_path: Path) -> None:
    stops = Stops(world, tmp_path)
    await stops.service.engage()
    token = await stops.token()
    world.now += 601
    with pytest.raises(ConfirmationRequired, match="older than 10 minutes"):
        await stops.service.release(token)
    world.now -= 602
    with pytest.raises(ConfirmationRequired, match="older than 10 minutes"):
        await stops.service.release(token)
    world.now += 601
    assert (await stops.service.release(token))["engaged"] is False
    # Engaged and released within one second: the old token is none for the new stop.
    await stops.service.engage()
    with pytest.raises(ConfirmationRequired, match="not one for the stop"):
        await stops.service.release(token)
    other = Stops(world, tmp_path / "other")
    await other.switch.load()
    assert (await other.service.release(await other.token()))["engaged"] is False


async def test_a_stop_that_cannot_be_written_holds_and_is_written_with_its_effects_later(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops = Stops(world, tmp_path)
    put = stops.switch.put

    def full(tx: Tx, stop: Stop | None) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(stops.switch, "put", full)
    with pytest.raises(Internal, match="the emergency stop is on, but it could not be written") as caught:
        await stops.service.engage("fire", revoke_all=True, freeze_forwarding=True)
    assert caught.value.data["reason"] == "emergency_not_stored"
    assert stops.switch.engaged() and not stops.revoked
    assert (await stops.service.status())["due"] == ["write", "cancel", "revoke"]
    monkeypatch.setattr(stops.switch, "put", put)
    await stops.service.watch()
    assert stops.revoked == ["fire"] and (await stops.service.status())["due"] == []
    monkeypatch.setattr(stops.switch, "put", full)
    with pytest.raises(Internal, match="so the emergency stop stays"):
        await stops.service.release(await stops.token())
    assert stops.switch.engaged()


async def test_a_release_while_the_file_is_there_says_what_to_do(world: World, tmp_path: Path) -> None:
    stops = Stops(world, tmp_path)
    await stops.service.engage()
    (tmp_path / "EMERGENCY_STOP").touch()
    with pytest.raises(Conflict, match="is still there; remove it, then release"):
        await stops.service.release(await stops.token())
    (tmp_path / "EMERGENCY_STOP").unlink()
    assert (await stops.service.release(await stops.token()))["engaged"] is False


async def test_a_place_that_may_not_be_looked_into_stops_and_drains(world: World, tmp_path: Path) -> None:
    # A name that is too long is an error the node's own user can have, too, and root has no other.
    stops = Stops(world, tmp_path / ("x" * 300))
    assert stops.switch.engaged() and stops.switch.draining()
