"""Every action of the listed schemas, carried out by direct message and by hive-comms-rpc; each has a twin
with a wrong parameter, which changes nothing (02 §4)."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import actions_backup
import actions_channel
import actions_config
import actions_forwarding
import actions_htlc
import actions_payment
import actions_peer
import actions_plugin
import actions_rebalance
import actions_splice
import actions_wallet
import actions_whole_node
import pytest
import pytest_asyncio
from action_table import Stage, Way, carry_out
from hive_devnet.world import World
from hive_shared.crypto import xonly_pubkey
from hive_shared.nostr.keys import npub_encode

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENTRIES = (
    *actions_channel.ENTRIES,
    *actions_backup.ENTRIES,
    *actions_config.ENTRIES,
    *actions_forwarding.ENTRIES,
    *actions_htlc.ENTRIES,
    *actions_payment.ENTRIES,
    *actions_peer.ENTRIES,
    *actions_plugin.ENTRIES,
    *actions_rebalance.ENTRIES,
    *actions_splice.ENTRIES,
    *actions_wallet.ENTRIES,
    # Last: what they leave of the world is made anew for the next round.
    *actions_whole_node.ENTRIES,
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    """One world for all of them."""
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    os.environ["HIVE_SWAP_FILE"] = str(directory / "swaps.jsonl")
    operator = npub_encode(xonly_pubkey(actions_backup.OPERATOR))
    world = await World.start(
        directory, options={"hive-comms-alert-nostr-dm": operator, "hive-comms-supervised": True}
    )
    yield await Stage(world).open()
    await world.close()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize("way", ["dm", "rest"])
@pytest.mark.parametrize("entry", ENTRIES, ids=str)
async def test_the_node_shows_what_was_asked_for_and_nothing_after_the_wrong_twin(
    stage: Stage, entry: object, way: Way
) -> None:
    await carry_out(stage, entry, way)  # type: ignore[arg-type]
