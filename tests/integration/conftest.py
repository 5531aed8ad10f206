"""Both ends of an escrow ticket at a real mint."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from escrow_world import EscrowWorld
from payee_world import PayeeWorld


@pytest_asyncio.fixture(loop_scope="module")
async def payer(mint_url: str, tmp_path: Path) -> AsyncIterator[EscrowWorld]:
    world = EscrowWorld(tmp_path / "payer", mint_url)
    await world.service.fund(1_500, None, None, 30)
    yield world
    await world.close()


@pytest_asyncio.fixture(loop_scope="module")
async def payee(mint_url: str, tmp_path: Path) -> AsyncIterator[PayeeWorld]:
    world = PayeeWorld(tmp_path / "payee", mint_url)
    world.now = int(time.time())
    yield world
    await world.close()
