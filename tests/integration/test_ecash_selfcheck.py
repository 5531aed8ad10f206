"""What the self-check says of the wallet (docs/protocol/08-client-and-plugins.md §8.6)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

from cl_hive_comms.services.selfcheck_hive import Hive, HiveChecks
from ecash_world import EcashWorld
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_shared.cashu.wallet_service import WalletService


async def _check(wallet: WalletService | None) -> dict[str, str]:
    hive = cast(Hive, SimpleNamespace(ecash=lambda: wallet))
    return (await HiveChecks(hive).all()["proofs"]()).to_doc()


async def test_what_has_had_no_end_for_an_hour_is_named(tmp_path: Path, mint_url: str) -> None:
    assert (await _check(None))["status"] == "ok"
    async with MintFaultFront.before(mint_url) as front:
        world = EcashWorld(tmp_path, front.url)
        assert (await _check(world.service))["detail"] == "0 held"
        await world.service.fund(64, None, "f", 60.0)
        assert (await _check(world.service))["detail"] == "1 held"
        front.set(MintFault(MintFaultKind.LOSE_AFTER, times=0))
        assert (await world.service.send(10, None, None, "s", 0.0)).open
        assert (await _check(world.service))["status"] == "ok"
        world.now += 3_600
        told = await _check(world.service)
        assert told["status"] == "warn" and f"send of 10 sat at {front.url}" in told["detail"], told
        assert told["fix"].startswith("`hive-client-wallet action=ops`")
        front.clear()
        await world.sweep()
        assert (await _check(world.service))["status"] == "ok"
        await world.close()
