"""Ways by which money comes and goes, against real servers: wallet connect on a relay, a Lightning address
over TLS (docs/protocol/11-advisor-kit.md §8, §18.19)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from address_server import HOST, AddressServer
from hive_advisor.advisor import Advisor
from hive_advisor.config import ReceiveConfig, SpendConfig
from hive_advisor.domain.earning import Earning
from hive_advisor.domain.nwc import Connection, parse_uri
from hive_advisor.domain.outgoing import Outgoing, OutState
from hive_advisor.payments.nwc import NwcWallet, Silence
from hive_devnet.relay import RelayProcess
from hive_shared.bolt11 import read_invoice
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import HiveError, TransportUnavailable
from hive_shared.public_web import PublicWeb
from kit_world import KitWorld
from kit_world import run_fee as run
from nwc_wallet import NwcWalletService, until
from pocket_wallet import PocketWallet
from selling_node import PaidNode, hire

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relay() -> AsyncIterator[RelayProcess]:
    process = await RelayProcess.start()
    yield process
    await process.stop()


@pytest.fixture
def world(tmp_path: Path) -> KitWorld:
    return KitWorld(tmp_path)


@pytest.fixture
def pocket(world: KitWorld) -> PocketWallet:
    return PocketWallet(world.now)


@pytest_asyncio.fixture(loop_scope="module")
async def service(relay: RelayProcess, pocket: PocketWallet) -> AsyncIterator[NwcWalletService]:
    made = NwcWalletService(relay.url, pocket)
    yield made
    await made.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def server(tmp_path: Path, pocket: PocketWallet) -> AsyncIterator[AddressServer]:
    made = AddressServer(tmp_path / "tls", pocket)
    await made.start()
    yield made
    await made.stop()


@asynccontextmanager
async def by_wallet(
    world: KitWorld, service: NwcWalletService, answer_s: float = 20
) -> AsyncIterator[Advisor]:
    """The kit with a wallet connection, in and out; it waits so long for answers."""
    world.settings = {"receive": ReceiveConfig("nwc"), "spend": SpendConfig("nwc", daily_sats=10_000)}
    async with world.open() as kit:
        await kit.money.keep_wallet(service.uri)
        kit.money._wallet = NwcWallet(
            parse_uri(service.uri),
            heard=kit.money._heard,
            now=world.now,
            rng=kit.money._rng,
            proxy=None,
            silence=await kit.money._silence(),
            silent=kit.money._keep_silence,
            answer_s=answer_s,
        )
        yield kit


@asynccontextmanager
async def by_address(world: KitWorld, server: AddressServer) -> AsyncIterator[Advisor]:
    """The kit with a Lightning address."""
    world.settings = {"receive": ReceiveConfig("lnaddress", server.address)}
    async with world.open() as kit:
        kit.money._web = PublicWeb(trust=server.trust, resolve=server.resolve)
        yield kit


async def ordered(kit: Advisor, world: KitWorld, amount_sats: int = 25) -> Earning:
    """An invoice for a command that is about to be sent."""
    if not await kit.clients.all():
        await world.hired(kit)
    (client,) = await kit.clients.all()
    number = len(await kit.money.earnings.listed(100))
    return await kit.money.earnings.order(client, f"00000000-0000-4000-8000-{number:012x}", amount_sats)


async def seen(kit: Advisor, world: KitWorld, earning: Earning) -> Earning:
    """How it stands after the wallet was asked."""
    world.ahead += 60
    await kit.money.tick()
    return await kit.money.earnings.get(earning.earning_id)


# -- wallet connect --------------------------------------------------------------------------------------


async def test_a_wallet_makes_invoices_and_shows_and_tells_that_they_are_paid(
    world: KitWorld, service: NwcWalletService, pocket: PocketWallet
) -> None:
    await service.start()
    service.repeats = 3
    async with by_wallet(world, service) as kit:
        earning = await ordered(kit, world)
        assert (earning.state, earning.way) == ("invoiced", "nwc") and len(pocket.invoices) == 1
        assert (await seen(kit, world, earning)).state == "invoiced"
        pocket.pay_in(earning.invoice)
        paid = await seen(kit, world, earning)
        assert (paid.state, paid.evidence, paid.preimage) == ("paid", "wallet", pocket.invoices[0].preimage)

        other = await ordered(kit, world)
        pocket.pay_in(other.invoice)
        await service.notify(other.payment_hash)

        async def noticed() -> bool:
            return (await kit.money.earnings.get(other.earning_id)).state == "paid"

        await until(noticed)
        assert [request["method"] for request in service.asked].count("make_invoice") == 2
    rows = await stored(world)
    assert service.client.reveal().hex() not in rows and "walletconnect" not in rows


async def stored(world: KitWorld) -> str:
    """What the database holds of ways, as text."""
    async with world.open() as kit:
        return str(
            await kit._db.read(lambda tx: [tuple(row) for row in tx.execute("SELECT * FROM adv_ways")])
        )


async def test_acceptance_11_19_a_wallet_of_nip04_only_is_refused(
    world: KitWorld, service: NwcWalletService, pocket: PocketWallet
) -> None:
    await service.start(encryption=None)
    async with by_wallet(world, service) as kit:
        with pytest.raises(HiveError, match="nip04 only"):
            await ordered(kit, world)
        (check, *_) = await kit.money.checks()
        assert check["status"] == "fail" and "nip04 only" in check["detail"]
    assert not service.asked and not pocket.invoices


async def test_a_wallet_that_does_not_serve_what_is_needed_is_refused(
    world: KitWorld, service: NwcWalletService
) -> None:
    await service.start(serves="get_balance make_invoice")
    async with by_wallet(world, service) as kit:
        with pytest.raises(HiveError, match="does not serve lookup_invoice"):
            await ordered(kit, world)


@asynccontextmanager
async def demanded(
    world: KitWorld, service: NwcWalletService, answer_s: float = 20
) -> AsyncIterator[tuple[Advisor, Any]]:
    """The kit, and what a node demands that its wallet could pay."""
    node = PaidNode(world)
    node.sells = ("bolt11",)
    world.node.answer = node.answer
    async with AsyncExitStack() as stack:
        kit = await stack.enter_async_context(by_wallet(world, service, answer_s))
        await hire(world, kit)
        (demand,) = await kit.fees.demands(await run(kit))
        service.pocket.knows[demand.payment_hash] = node.preimage(node.made).hex()
        yield kit, demand


async def test_acceptance_11_19_a_repeated_answer_counts_once(
    world: KitWorld, service: NwcWalletService, pocket: PocketWallet
) -> None:
    await service.start()
    service.repeats = 3
    async with demanded(world, service) as (kit, demand):
        payment = await kit.money.spending.pay(demand)
        assert payment.state == "paid" and pocket.sent == [demand.payment_hash]
        wallet = kit.money._wallet
        assert wallet is not None

        async def repeated() -> bool:
            return wallet.repeats >= 2

        await until(repeated)
        assert [how for _, how in await kit.fees.listed(10)] == ["good"]
        assert (await kit.money.spending.pay(demand)).state == "paid" and len(pocket.sent) == 1


async def test_acceptance_11_19_a_wallet_that_is_offline_leaves_it_unknown_and_pays_at_most_once(
    world: KitWorld, service: NwcWalletService, pocket: PocketWallet
) -> None:
    await service.start()
    service.offline = True
    async with demanded(world, service, 0.5) as (kit, demand):
        assert (await kit.money.spending.pay(demand)).state == "unknown"
        service.offline, service.mute = False, True
        await kit.money.tick()
        assert (await kit.money.spending.pay(demand)).state == "unknown"
        assert not [request for request in service.asked if request["method"] == "pay_invoice"]
        # It had got the request after all, and acts on it now.
        assert kit.money._wallet is not None
        kit.money._wallet._answer_s = 20
        pocket.pay_out(demand.invoice)
        service.mute = False
        world.ahead += 60
        await kit.money.tick()
        (payment,) = await kit.money.spending.listed(10)
        assert payment.state == "paid" and pocket.sent == [demand.payment_hash]
        assert [how for _, how in await kit.fees.listed(10)] == ["good"]


async def test_a_wallets_word_that_it_failed_leaves_it_unknown(
    world: KitWorld, service: NwcWalletService, pocket: PocketWallet
) -> None:
    await service.start()
    pocket.failing = True
    async with demanded(world, service) as (kit, demand):
        payment = await kit.money.spending.pay(demand)
        assert payment.state == "unknown" and "PAYMENT_FAILED" in payment.why


async def test_a_wallet_that_is_not_reached_is_waited_for_once_in_half_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hive_advisor.payments.nwc.CONNECT_S", 0.01)
    clock, secret = [1_000], Secret(b"\x06" * 32)

    async def kept(_silence: Silence) -> None:
        return

    wallet = NwcWallet(
        Connection(xonly_pubkey(secret), secret, ("ws://127.0.0.1:1",)),
        heard=lambda _hash: None,
        now=lambda: clock[0],
        rng=bytes,
        proxy=None,
        silence=Silence(),
        silent=kept,
    )
    waits: list[float] = []
    wait_for = wallet._pool.wait_for

    async def counted(condition: Any, timeout: float) -> bool:
        waits.append(timeout)
        return await wait_for(condition, timeout)

    monkeypatch.setattr(wallet._pool, "wait_for", counted)
    for at, waited in ((1_000, 1), (1_029, 1), (1_030, 2)):
        clock[0] = at
        for _ in range(3):
            with pytest.raises(TransportUnavailable):
                await wallet.look("ab" * 32, "", "")
        assert len(waits) == waited
    await wallet.close()


async def test_a_wallet_that_never_answers_is_not_asked_for_a_while_by_the_next_process_either(
    world: KitWorld, service: NwcWalletService, pocket: PocketWallet
) -> None:
    await service.start()
    # While it answers it has its time; what is not answered is given up soon.
    async with by_wallet(world, service) as kit:
        earning = await ordered(kit, world)
        service.mute, kit.money._wallet._answer_s = True, 2
        asked = len(service.asked)
        await seen(kit, world, earning)
        (told,) = (await kit.brief())["wallets_silent"]
        assert (told["way"], told["times"]) == ("nwc", 1) and "did not answer in 2 s" in told["why"]
        with pytest.raises(TransportUnavailable, match=r"asked again in (30|[12]?\d) s"):
            await ordered(kit, world)
    wallet_silent = kit.money._wallet
    async with world.open() as kit:
        way = await kit.money.way_in(None)
        assert way is not None and way is not wallet_silent
        with pytest.raises(TransportUnavailable, match="asked again in"):
            await way.look(earning.payment_hash, earning.invoice, "")
        assert len(service.asked) == asked + 1
        # Each time longer, ten minutes at most; one answer ends it.
        for before, pause in ((30, 60), (60, 120)):
            world.ahead += before
            kit.money._wallet._answer_s = 2
            with pytest.raises(TransportUnavailable, match="did not answer"):
                await way.look(earning.payment_hash, earning.invoice, "")
            (told,) = await kit.money.silent()
            assert pause / 2 < told["asked_again"] - world.now() <= pause
        service.mute = False
        world.ahead += 120
        kit.money._wallet._answer_s = 20
        await way.look(earning.payment_hash, earning.invoice, "")
        assert await kit.money.silent() == [] and "wallets_silent" not in await kit.brief()


async def test_what_another_key_answers_is_no_answer(
    world: KitWorld, service: NwcWalletService, pocket: PocketWallet
) -> None:
    await service.start()
    service.forged = True
    async with demanded(world, service, 0.5) as (kit, demand):
        assert (await kit.money.spending.pay(demand)).state == "unknown"
        assert await kit.fees.listed(10) == []


async def test_a_wallet_that_shows_no_preimage_or_a_wrong_one_did_not_pay(
    world: KitWorld, service: NwcWalletService, pocket: PocketWallet
) -> None:
    await service.start()
    async with demanded(world, service) as (kit, demand):
        pocket.knows[demand.payment_hash] = "07" * 32
        payment: Outgoing = await kit.money.spending.pay(demand)
        assert payment.state is OutState.UNKNOWN and await kit.fees.listed(10) == []


# -- Lightning address -----------------------------------------------------------------------------------


async def test_an_address_gives_an_invoice_and_verifies_that_it_was_paid(
    world: KitWorld, server: AddressServer, pocket: PocketWallet
) -> None:
    async with by_address(world, server) as kit:
        earning = await ordered(kit, world)
        assert read_invoice(earning.invoice).amount_msat == 25_000
        assert server.asked == ["/.well-known/lnurlp/me", "/callback?for=me&amount=25000"]
        assert (await seen(kit, world, earning)).state == "invoiced"
        pocket.pay_in(earning.invoice)
        assert (await seen(kit, world, earning)).evidence == "wallet"


ASKED = "/.well-known/lnurlp/me"
ELSE = "https://else.example.net/x"
REFUSED: dict[str, tuple[str, dict[str, Any] | bytes, str]] = {
    "another amount": ("/callback", {"pr": "AMOUNT"}, "26000 msat, 25000 msat were ordered"),
    "no invoice": ("/callback", {"pr": "lnbcrt1"}, "no BOLT 11 invoice"),
    "a private callback": (ASKED, {"callback": "https://127.0.0.1/x"}, "private network"),
    "a foreign callback": (
        "/.well-known/lnurlp/me",
        {"callback": "https://else.example.net/x"},
        "--allow-host",
    ),
    "a foreign verify URL": ("/callback", {"verify": ELSE}, "--allow-host"),
    "plain http": (ASKED, {"callback": f"http://{HOST}/x"}, "must use https"),
    "too little": (ASKED, {"maxSendable": 24_999}, "takes 1000 to 24999 msat"),
    "an error": ("/callback", {"status": "ERROR", "reason": "closed\x1b[2J"}, r"refuses: closed\[2J"),
    "no amounts": (ASKED, {"minSendable": True}, "no payRequest"),
    "a redirect": (
        "/callback",
        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
        "redirects",
    ),
    "a huge body": ("/callback", b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 70_000, "more than 65536 bytes"),
    "no JSON": ("/callback", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "no JSON object"),
    "a server error": ("/callback", b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "HTTP 500"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_acceptance_11_19_an_address_that_answers_otherwise_is_refused(
    world: KitWorld, server: AddressServer, pocket: PocketWallet, what: str
) -> None:
    path, answer, why = REFUSED[what]
    if isinstance(answer, bytes):
        server.raw[path] = answer
    else:
        wrong = pocket.invoice(26_000, "more").text
        server.says[path] = {key: wrong if value == "AMOUNT" else value for key, value in answer.items()}
    async with by_address(world, server) as kit:
        with pytest.raises(HiveError, match=why):
            await ordered(kit, world)
        (earning,) = await kit.money.earnings.listed(10)
        assert (earning.state, earning.invoice) == ("void", "")


async def test_acceptance_11_19_an_address_on_this_machine_is_refused_by_name_and_after_dns(
    world: KitWorld, server: AddressServer
) -> None:
    for address, why in (
        (f"me@127.0.0.1:{server.port}", "private network"),
        ("me@10.1.2.3", "private network"),
        ("me@[::1]", "no Lightning address"),
        ("me@printer.local", "private network"),
        ("nobody", "no Lightning address"),
        ("me@ex ample.org", "no Lightning address"),
    ):
        world.settings = {"receive": ReceiveConfig("lnaddress", address)}
        async with world.open() as kit:
            with pytest.raises(HiveError, match=why):
                await ordered(kit, world)
    # A public name that leads here: the resolver of this machine knows it, what it says is refused.
    web = PublicWeb(trust=server.trust)
    with pytest.raises(HiveError, match="private address"):
        await web.get(f"https://localhost:{server.port}/.well-known/lnurlp/me")
    assert server.asked == []


async def test_a_host_that_a_human_allowed_may_stand_behind_the_address(
    world: KitWorld, server: AddressServer, pocket: PocketWallet
) -> None:
    async with by_address(world, server) as kit:
        for bad in ("a/b", "127.0.0.1", "https://x.org", "x@y.org"):
            with pytest.raises(HiveError):
                await kit.money.trust_host(bad)
        server.says["/callback"] = {"verify": "https://else.example.net/x"}
        assert await kit.money.trust_host("Else.example.net") == "else.example.net"
        earning = await ordered(kit, world)
        assert earning.look_at == "https://else.example.net/x"
        assert (await kit.money.methods(check=False))["trusted_hosts"] == ["else.example.net"]


async def test_verify_of_another_invoice_or_a_wrong_preimage_pays_nothing(
    world: KitWorld, server: AddressServer, pocket: PocketWallet
) -> None:
    async with by_address(world, server) as kit:
        earning = await ordered(kit, world)
        for says in (
            {"pr": "lnbcrt1other", "settled": True},
            {"settled": True, "preimage": "07" * 32},
            {"settled": "true"},
        ):
            server.says["/verify"] = says
            assert (await seen(kit, world, earning)).state == "invoiced"
            world.ahead += 600
        server.says["/verify"] = {"settled": True}
        assert (await seen(kit, world, earning)).state == "paid"


async def test_a_certificate_of_nobody_is_not_spoken_to(world: KitWorld, server: AddressServer) -> None:
    web = PublicWeb(resolve=server.resolve)
    with pytest.raises(HiveError, match="TLS"):
        await web.get(f"https://{HOST}:{server.port}/.well-known/lnurlp/me")
    assert server.asked == []
