"""The wallet on a node: funded, killed, withdrawn from, found again from the seed
(docs/protocol/03-escrow-and-payments.md §5, §9, §14.1)."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from comms_world import call, killed, refused, until, world
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_devnet.node import DevnetRpcError, NodeHandle
from hive_shared.cashu.token import decode_token, encode_token, encode_v3
from msgspec.structs import replace

pytestmark = pytest.mark.asyncio(loop_scope="module")
WALLET = "hive-client-wallet"


class Place:
    """A node, and the front before its mint."""

    def __init__(self, kind: str, node: NodeHandle, front: MintFaultFront) -> None:
        self.kind, self.node, self.front = kind, node, front

    async def wallet(self, action: str, **params: object) -> dict[str, Any]:
        return await call(self.node, WALLET, action=action, **params)

    async def sats(self) -> int:
        return int((await self.wallet("balance"))["total_sats"])

    async def checked(self) -> bool:
        """Whether the mint was found unfit."""
        return [row["status"] for row in (await self.wallet("mints"))["items"]] == ["disabled"]

    async def killed(self) -> None:
        await killed(self.kind, self.node, self.front.clear)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(mint_url: str) -> AsyncIterator[Place]:
    """One node whose mint is behind a fault front."""
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    try:
        async with MintFaultFront.before(mint_url) as front:
            # Its clock shows that it takes no locks: no probe spends sats while these tests count them.
            front.set(MintFault(MintFaultKind.CLOCK_AHEAD, path="/v1/info", times=0))
            options = {"hive-comms-escrow-mint": front.url}
            async with world(directory, **options) as (network, node, _):
                place = Place(network.kind, node, front)
                await until(place.checked, "the first check of the mint")
                front.clear()
                yield place
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def test_acceptance_03_01_killed_after_the_mint_signed_has_its_sats_once(place: Place) -> None:
    first = await place.wallet("fund", amount_sats=1_000)
    assert (first["state"], await place.sats()) == ("done", 1_000)
    place.front.set(MintFault(MintFaultKind.HOLD_AFTER, path="/v1/mint/bolt11"))
    asked = asyncio.create_task(place.wallet("fund", amount_sats=500, idempotency_key="second"))
    await place.front.until_held()
    await place.killed()
    with suppress(DevnetRpcError, ConnectionError):
        await asked

    async def there() -> bool:
        return await place.sats() == 1_500

    await until(there, "the sats that the mint signed")
    again = await place.wallet("fund", amount_sats=500, idempotency_key="second")
    assert (again["state"], await place.sats()) == ("done", 1_500)
    found = await place.wallet("restore")
    assert (found["dry_run"], found["unspent_sats"], found["new_sats"]) == (True, 1_500, 0)
    ops = await place.wallet("ops")
    assert [(row["kind"], row["state"]) for row in ops["items"]] == [("fund", "done")] * 2


async def test_ecash_goes_out_and_comes_back(place: Place) -> None:
    start = await place.sats()
    sent = await place.wallet("send", amount_sats=100)
    assert sent["token"].startswith("cashuB") and await place.sats() == start - 100 - sent["fee_sats"]
    back = await place.wallet("receive", token=sent["token"])
    assert back["amount_sats"] == 100 - back["fee_sats"]
    assert (await place.wallet("receive", token=sent["token"]))["op_id"] == back["op_id"]
    own = (await place.wallet("balance"))["receive_pubkey"]
    locked = await place.wallet("send", amount_sats=50, to_pubkey=own)
    assert (await place.wallet("receive", token=locked["token"]))["state"] == "done"
    out = await place.wallet("withdraw", amount_sats=200)
    assert out["state"] == "done"
    # This mint only says that it paid; the node was asked, and the operator is told.
    alerts = (await call(place.node, "hive-client-alerts"))["items"]
    assert any("has not received" in alert["text"] for alert in alerts)
    fees = sum(row["fee_sats"] for row in (await place.wallet("ops"))["items"])
    assert await place.sats() == 1_500 - 200 - fees
    log = place.node.log_text()
    assert sent["token"][20:60] not in log and locked["token"][20:60] not in log


async def test_acceptance_03_06_a_token_of_a_foreign_mint_makes_no_connection(
    place: Place, mint_url: str
) -> None:
    sent = await place.wallet("send", amount_sats=8)
    async with MintFaultFront.before(mint_url) as foreign:
        token = replace(decode_token(sent["token"]), mint=foreign.url)
        for text in (encode_token(token), encode_v3(token)):
            error = await refused(place.node, WALLET, action="receive", token=text)
            assert "mint_not_allowed" in f"{error} {error.data}"
        assert foreign.connections == 0
        # A mint that is asked is seen to be asked.
        async with httpx.AsyncClient(timeout=60) as client:
            await client.get(f"{foreign.url}/v1/keysets")
        assert foreign.connections == 1
    assert (await place.wallet("receive", token=sent["token"]))["state"] == "done"


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"action": "fund"}, ("amount_sats",)),
        ({"action": "fund", "amount_sats": 0}, ("amount_sats", "from 1")),
        ({"action": "fund", "amount_sats": 60_000}, ("exposure_limit", "mint-max-balance", "50000")),
        ({"action": "fund", "amount_sats": 5, "mint": "https://other.example"}, ("mint_not_allowed",)),
        ({"action": "fund", "amount_sats": 5, "mint": "ftp://other"}, ("mint",)),
        ({"action": "fund", "amount_sats": 5, "token": "x"}, ("token", "fund")),
        ({"action": "withdraw", "amount_sats": 9_000_000}, ("insufficient_ecash", "fund")),
        ({"action": "withdraw", "amount_sats": 5, "destination": "lnbc1"}, ("destination", "own")),
        ({"action": "send", "amount_sats": 5, "to_pubkey": "02ab"}, ("to_pubkey", "66")),
        ({"action": "send", "amount_sats": 9_000_000}, ("insufficient_ecash",)),
        ({"action": "receive"}, ("token",)),
        ({"action": "receive", "token": "cashuBxxxx"}, ("token_invalid",)),
        ({"action": "receive", "token": "lnbc1"}, ("token_invalid", "cashuA")),
        ({"action": "ops", "state": "lost"}, ("state", "failed")),
        ({"action": "ops", "cursor": "x"}, ("cursor", "next_cursor")),
        ({"action": "steal"}, ("action", "withdraw")),
        ({"action": "balance", "amount_sats": 5}, ("amount_sats", "balance")),
    ],
    ids=str,
)
async def test_what_is_wrong_is_said_and_nothing_happens(
    place: Place, params: dict[str, object], words: tuple[str, ...]
) -> None:
    before = await place.wallet("ops")
    error = await refused(place.node, WALLET, **params)
    assert all(word in f"{error} {error.data}" for word in words), (error, error.data)
    assert await place.wallet("ops") == before
