"""The real mint starts, answers, keeps its keys over a restart, and ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from hive_devnet.clock import PluginClock
from hive_devnet.mint import MintError, MintProcess, mint_environment, mint_installed

needs_mint = pytest.mark.skipif(
    not mint_installed(), reason=f"no mint in {mint_environment()}: `make setup` puts nutshell there"
)


@pytest_asyncio.fixture
async def mint(tmp_path: Path) -> AsyncIterator[MintProcess]:
    started = await MintProcess.start(tmp_path / "mint", input_fee_ppk=0)
    try:
        yield started
    finally:
        await started.stop()


async def _keysets(mint: MintProcess) -> object:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        return (await client.get(f"{mint.url}/v1/keysets")).json()["keysets"]


@needs_mint
async def test_the_mint_answers_on_loopback_and_keeps_its_keysets(mint: MintProcess) -> None:
    assert mint.url == f"http://127.0.0.1:{mint.port}"
    assert await mint.healthy()
    (keyset,) = await _keysets(mint)  # type: ignore[misc]
    assert (keyset["unit"], keyset["active"], keyset["input_fee_ppk"]) == ("sat", True, 0)
    await mint.kill()
    assert not await mint.healthy()
    await mint.restart()
    assert await _keysets(mint) == [keyset]


@needs_mint
async def test_a_mint_quote_is_paid_by_itself(mint: MintProcess) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        quote = (
            await client.post(f"{mint.url}/v1/mint/quote/bolt11", json={"amount": 64, "unit": "sat"})
        ).json()
        state = (await client.get(f"{mint.url}/v1/mint/quote/bolt11/{quote['quote']}")).json()
    assert state["state"] == "PAID"


@needs_mint
async def test_a_mint_goes_by_the_clock_that_it_was_given(tmp_path: Path) -> None:
    clock = PluginClock(tmp_path / "clock")
    mint = await MintProcess.start(tmp_path / "mint", environment=clock.environment)
    try:
        clock.wait(90_000)
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            told = (await client.get(f"{mint.url}/v1/info")).json()["time"]
        assert told > clock.now() - 3_600
    finally:
        await mint.stop()


async def test_a_missing_mint_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVE_MINT_VENV", str(tmp_path))
    with pytest.raises(MintError, match="run `make setup` or set HIVE_MINT_VENV"):
        await MintProcess.start(tmp_path / "mint")
