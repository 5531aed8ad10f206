"""The emergency stop's watch over a real database and the scripted node
(docs/protocol/08-client-and-plugins.md §6 "Kill switch")."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cl_hive_comms.domain.emergency import Stop
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.emergency_service import EmergencyService
from cl_hive_comms.services.forwarding_freeze import ForwardingFreeze
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.storage.saved_channel_store import SavedChannelStore
from cl_hive_comms.storage.state_store import StateStore
from hive_shared.store import StoreError
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
            receipts=world.receipts,
            alerts=alerts,
            waiting=lambda: self,
            revoke_all=self._revoke_all,
            announce=self.announced.append,
            token_key=b"t" * 32,
            now=lambda: world.now,
            log=_quiet,
        )

    async def _revoke_all(self, _reason: str) -> int:
        return 0

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
    with pytest.raises(StoreError):
        await stops.service.watch()
    assert stops.switch.engaged()
    await stops.service.watch()
    assert stops.cancelled == 1
    assert len(stops.announced) == 1
