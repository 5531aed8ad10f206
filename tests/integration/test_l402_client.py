"""The node buys access to an advisor's web service by L402 (docs/protocol/03-escrow-and-payments.md §7.5,
08 §5.2; docs/decisions/0661)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio
from cl_hive_comms.commands.payments import PaymentCommands
from cl_hive_comms.domain.access_fee import AccessToken
from cl_hive_comms.domain.payment import SETTLE_S
from cl_hive_comms.domain.payment_limits import Limits
from cl_hive_comms.domain.payment_machine import State
from cl_hive_comms.services.l402_client import L402Client
from cl_hive_comms.storage.access_store import AccessStore, BoughtTokenStore
from crash_points import MOST_POINTS, Countdown
from hive_shared.errors import HiveError
from hive_shared.public_web import MAX_BYTES, PublicWeb
from l402_seller import BODY, HOST, Seller
from paying_world import ADA, SEALER, PayingWorld
from pipeline_world import Crash
from socks_proxy import SocksServer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Seller]:
    seller = Seller(tmp_path_factory.mktemp("tls"))
    await seller.start()
    yield seller
    await seller.stop()


class Buying(PayingWorld):
    """A paying node with its L402 client, driven by the operator's command."""

    def __init__(self, directory: Path, seller: Seller) -> None:
        self.seller = seller
        super().__init__(directory)
        self.methods = ("bolt11", "l402")
        self.hosts: tuple[str, ...] = (seller.place,)
        seller.reset(self.node)

    def open(self) -> None:
        super().open()
        self.web = self.seller.web()
        self.access = L402Client(
            self.db,
            BoughtTokenStore(SEALER),
            self.service,
            self.web,
            hosts=lambda: self.hosts,
            now=lambda: self.now,
        )
        advisor = SimpleNamespace(advisor_id=ADA)
        aliases = SimpleNamespace(
            resolve=lambda _text: advisor, find=lambda _id: advisor, name_of=lambda _advisor: "ada"
        )
        parts: list[Any] = [self.service, self.history, None, None, self.access, None, aliases]
        getters = [cast(Callable[[], Any], lambda part=part: part) for part in parts]
        self.commands = {spec.name: spec for spec in PaymentCommands(*getters).specs()}

    async def call(self, name: str, **given: Any) -> dict[str, Any]:
        spec = self.commands[name]
        params = {param.name: given.get(param.name, param.default) for param in spec.params}
        return cast(dict[str, Any], await spec.handler(params))

    async def buy(self, path: str = "/paid?days=7", **given: Any) -> dict[str, Any]:
        """`hive-client-pay method=l402`."""
        words = {"advisor": "ada", "amount_sats": 60, "method": "l402", "target": self.seller.url(path)}
        return await self.call("hive-client-pay", **{**words, **given})

    def tokens(self) -> list[tuple[Any, ...]]:
        sql = "SELECT role, service, agent_key, price_sats, status FROM comms_l402_tokens ORDER BY token_id"
        return self.db.peek(lambda tx: [tuple(row) for row in tx.execute(sql)])


@pytest.fixture
def world(tmp_path: Path, server: Seller) -> Any:
    made = Buying(tmp_path, server)
    yield made
    made.check_books()
    made.db.close()


async def test_acceptance_03_21_access_is_bought_once_and_used_until_its_server_refuses_it(
    world: Buying,
) -> None:
    seller = world.seller
    bought = await world.buy()
    assert bought["paid_now"] and (bought["status"], bought["amount_sats"]) == ("settled", 50)
    answer = bought["answer"]
    assert answer == {
        **{"status": 200, "content_type": "application/json", "bytes": len(BODY)},
        **{"encoding": "text", "body": BODY.decode()},
    }
    assert seller.asked[0] == ("/paid?days=7", "") and seller.shown[1].startswith("L402 ")
    assert world.tokens() == [("client", f"https://{seller.place}", ADA, 50, "paid")]

    world.restart()
    again = await world.buy("/paid?days=8")
    assert not again["paid_now"] and again["payment_id"] == bought["payment_id"] and again["answer"] == answer
    assert len(seller.asked) == 3 and seller.shown[2] == seller.shown[1], "the token is shown first"

    seller.refuses = 1
    anew = await world.buy()
    assert anew["paid_now"] and anew["payment_id"] != bought["payment_id"] and anew["answer"] == answer
    assert [bool(shown) for shown in seller.shown[3:]] == [True, False, True]
    assert sorted(row[-1] for row in world.tokens()) == ["paid", "revoked"]
    assert len(world.node.sent) == 2 and world.used() == 102

    shown = await world.call("hive-client-payments", action="history", kind="l402")
    assert [row["method"] for row in shown["items"]] == ["l402", "l402"]
    summed = await world.call("hive-client-payments", kind="l402")
    # Neither what the node answers nor what lies on its disk shows what opens the service.
    kept = world.path.read_bytes() + world.path.with_name("payments.db-wal").read_bytes()
    told = json.dumps([bought, again, anew, shown, summed])
    for secret in seller.secrets:
        assert secret not in told and secret.encode() not in kept
        assert len(secret) != 64 or bytes.fromhex(secret) not in kept


async def test_a_used_up_token_is_followed_by_one_challenge_of_the_same_answer(world: Buying) -> None:
    world.seller.caveats = ("max_actions=1",)
    await world.buy()
    anew = await world.buy()
    assert anew["paid_now"] and anew["answer"]["status"] == 200
    # 402 to the old token asks for money without knowing whose; the one that is paid is asked for without it.
    assert [bool(shown) for shown in world.seller.shown] == [False, True, True, False, True]


async def test_what_costs_nothing_is_not_paid_and_other_answers_are_shown(world: Buying) -> None:
    seller = world.seller
    seller.body, seller.status = b"\xff\x00", 503
    free = await world.buy("/free")
    assert free == {
        **{"method": "l402", "paid_now": False},
        "answer": {
            **{"status": 503, "content_type": "application/json", "bytes": 2},
            **{"encoding": "base64", "body": "/wA="},
        },
    }
    assert world.stored() == ()


async def test_an_older_server_is_paid_and_shown_its_own_word(world: Buying) -> None:
    world.seller.scheme = "LSAT"
    assert (await world.buy())["answer"]["status"] == 200
    assert world.seller.shown[1].startswith("LSAT ")


async def test_what_one_page_refuses_stays_good_for_the_page_it_was_bought_for(world: Buying) -> None:
    pages = ("/a/fees?node=1", "/b/peers")
    bought = {page: await world.buy(page) for page in pages}
    assert all(each["paid_now"] for each in bought.values())
    world.restart()
    for page in (*pages, *pages):
        again = await world.buy(page)
        assert again["answer"]["status"] == 200
        assert (again["paid_now"], again["payment_id"]) == (False, bought[page]["payment_id"])
    assert len(world.node.sent) == 2 and world.used() == 102
    assert "node=1" not in str(world.tokens()), "what the operator asked for is nobody's to read"
    # Used up, it is given up at its own page, and one more is bought.
    world.seller.uses.update(dict.fromkeys(world.seller.uses, 9))
    assert (await world.buy(pages[0]))["paid_now"] and len(world.node.sent) == 3
    assert sorted(row[-1] for row in world.tokens()) == ["paid", "paid", "revoked"]


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("price", {"price": 61}, {}, "costs 61 sat, amount_sats allows 60"),
    ("hash", {"other_hash": True}, {}, "bound to another payment"),
    ("basic", {"challenge": "Basic realm=y"}, {}, "not by L402"),
    ("text", {"challenge": 'L402 macaroon="AA", invoice='}, {}, "cannot be read"),
    (
        "macaroon",
        {"challenge": 'L402 macaroon="AAAA", invoice="lnbcrt1"'},
        {},
        "macaroon is not of version 2",
    ),
    ("expired", {"caveats": ("expires=5",)}, {}, "expired at 5"),
    ("other host", {}, {"target": "https://other.example.org/x"}, "not among the hosts"),
    ("port", {}, {"target": "https://api.example.org/x"}, "not among the hosts"),
    ("http", {}, {"target": "http://api.example.org/x"}, "must use https"),
    ("user", {}, {"target": "https://me:pw@api.example.org/x"}, "user name or password"),
    ("fragment", {}, {"target": "https://api.example.org/x#y"}, "fragment"),
    ("private", {}, {"target": "https://10.0.0.1/x"}, "private network"),
    ("purpose", {}, {"purpose": "subscription"}, "not bought by the period"),
]


@pytest.mark.parametrize(("name", "server_says", "given", "why"), REFUSED, ids=[each[0] for each in REFUSED])
async def test_what_may_not_be_paid_is_refused_and_nothing_is_kept(
    world: Buying, name: str, server_says: dict[str, Any], given: dict[str, Any], why: str
) -> None:
    for key, value in server_says.items():
        setattr(world.seller, key, value)
    with pytest.raises(HiveError, match=why):
        await world.buy(**given)
    assert world.stored() == () and world.tokens() == [] and world.node.sent == []
    assert len(world.seller.asked) == (1 if server_says else 0)


async def test_limits_methods_and_the_stop_hold_for_access_too(world: Buying) -> None:
    world.methods = ("bolt11",)
    with pytest.raises(HiveError, match="allows bolt11, not l402"):
        await world.buy()
    world.methods = ("l402",)
    world.limits_now = Limits(50, 200_000, 25_000, 0, 10_000, {})
    with pytest.raises(HiveError, match="do not fit"):
        await world.buy()
    world.engaged = True
    with pytest.raises(HiveError, match="emergency stop"):
        await world.buy()
    assert world.stored() == () and world.tokens() == [] and world.node.sent == []


async def test_what_cannot_be_shown_after_paying_is_kept_for_the_next_call(world: Buying) -> None:
    seller = world.seller
    for status, body, extra, why in (
        (302, b"", "Location: https://other.example.org/\r\n", "redirects elsewhere"),
        (200, b"x" * (MAX_BYTES + 4_464), "", "more than 65536 bytes"),
        (200, b"x", "Content-Encoding: gzip\r\n", "compressed"),
    ):
        seller.status, seller.body, seller.extra = status, body, extra
        with pytest.raises(HiveError, match=f"{why}.* is paid and kept") as told:
            await world.buy()
        assert told.value.data["payment_id"] == world.stored()[0].payment_id
        assert not any(secret in told.value.detail for secret in seller.secrets)
    seller.status, seller.body, seller.extra = 200, BODY, ""
    assert (await world.buy())["answer"]["body"] == BODY.decode()
    assert len(world.node.sent) == 1


async def test_a_token_refused_right_after_paying_is_shown_once_more_before_more_is_paid(
    world: Buying,
) -> None:
    world.seller.refuses = 1
    refused = await world.buy()
    assert refused["answer"]["status"] == 401 and refused["paid_now"] and "once more" in refused["note"]
    assert (await world.buy())["answer"]["status"] == 200 and len(world.node.sent) == 1


async def test_a_payment_without_an_end_is_waited_for(world: Buying) -> None:
    world.node.ends = "pending"
    first = await world.buy()
    assert first["status"] == "unknown" and "answer" not in first
    with pytest.raises(HiveError, match="has no end yet") as told:
        await world.buy()
    assert told.value.reason == "unknown_state" and told.value.data["payment_id"] == first["payment_id"]
    world.node.end("complete")
    bought = await world.buy()
    assert bought["payment_id"] == first["payment_id"] and bought["answer"]["status"] == 200
    assert len(world.node.sent) == 1


async def test_a_failed_payment_leaves_nothing_and_may_be_tried_again(world: Buying) -> None:
    world.node.ends = "failed"
    with pytest.raises(HiveError, match="no_route"):
        await world.buy()
    assert world.used() == 0
    # Its server asks for the same payment once more.
    world.seller.made, world.now, world.node.ends = 0, world.now + 1, "complete"
    assert (await world.buy())["answer"]["status"] == 200
    assert [row[-1] for row in world.tokens()] == ["paid"] and world.used() == 51
    assert len({row.payment_hash for row in world.stored()}) == 1 and len(world.stored()) == 2


async def test_a_key_pays_once_and_stands_for_one_target(world: Buying) -> None:
    bought = await world.buy(idempotency_key="march")
    again = await world.buy(idempotency_key="march")
    assert again["payment_id"] == bought["payment_id"] and not again["paid_now"] and again["answer"]
    with pytest.raises(HiveError, match="stands for another payment"):
        await world.buy("/paid?other", idempotency_key="march")
    world.seller.refuses = 1
    with pytest.raises(HiveError, match="used up"):
        await world.buy(idempotency_key="march")
    assert len(world.node.sent) == 1


async def test_two_calls_at_once_buy_one_token(world: Buying) -> None:
    both = await asyncio.gather(world.buy(), world.buy())
    assert [each["answer"]["status"] for each in both] == [200, 200] and len(world.node.sent) == 1


async def test_a_token_ends_when_it_says_and_another_advisors_is_not_used(world: Buying) -> None:
    world.seller.caveats = (f"expires={world.now + 100}",)
    await world.buy()
    world.now += 100
    world.seller.caveats = ("max_actions=9",)
    assert (await world.buy())["paid_now"] and world.seller.shown[2] == ""
    await world.db.write(lambda tx: tx.execute("UPDATE comms_l402_tokens SET agent_key = 'adv-bob'"))
    assert (await world.buy())["paid_now"]


async def test_onion_services_and_who_always_uses_a_proxy_go_by_it(world: Buying) -> None:
    seller, onion = world.seller, f"{'a' * 56}.onion"
    plain = await asyncio.start_server(seller._serve, "127.0.0.1", 0)

    async def resolve(_host: str, _port: int) -> str:
        raise OSError("names are the proxy's business")

    ports = {HOST: seller.port, onion: plain.sockets[0].getsockname()[1]}
    async with SocksServer(ports).running() as proxy:
        address = f"127.0.0.1:{proxy.port}"
        hidden = PublicWeb(address, only_onion=True, trust=seller.trust, resolve=resolve)
        assert (await hidden.ask(f"http://{onion}/free", {})).body == BODY
        with pytest.raises(HiveError, match="the proxy's business"):
            await hidden.ask(seller.url("/free"), {})
        always = PublicWeb(address, trust=seller.trust, resolve=resolve)
        assert (await always.ask(seller.url("/free"), {})).body == BODY
        assert proxy.asked == [(onion, 80), (HOST, seller.port)]
    plain.close()
    with pytest.raises(HiveError, match="set proxy in the node"):
        await PublicWeb(where_proxy="proxy in the node's configuration").ask(f"http://{onion}/free", {})


@pytest.mark.parametrize("ends", ["complete", "pending"])
async def test_acceptance_08_09_access_killed_anywhere_is_paid_once_and_opens_the_service(
    tmp_path: Path, server: Seller, ends: str
) -> None:
    seen: set[State | None] = set()
    for at in range(MOST_POINTS):
        (tmp_path / str(at)).mkdir()
        world, died = Buying(tmp_path / str(at), server), True
        world.node.ends = ends
        killer = Countdown(at)
        killer.watch(world.db, "write", "read")
        killer.watch(world.node, "call", "getinfo")
        killer.watch(world.web, "ask")
        try:
            await world.buy()
            died = False
        except Crash:
            pass
        killer.left = -1
        for name in ("call", "getinfo"):
            world.node.__dict__.pop(name, None)
        world.restart()
        world.node.end("complete")
        await world.service.settle()
        world.now += SETTLE_S
        await world.service.settle()
        rows = world.stored()
        seen.add(rows[0].state if rows else None)
        paid = world.paid_msat()
        # A token is there exactly where a payment is.
        assert len(world.tokens()) == len(rows) <= 1, at
        world.node.ends = "complete"
        bought = await world.buy()
        assert bought["answer"]["status"] == 200 and bought["paid_now"] == (paid == 0), at
        assert world.paid_msat() == 50_150 and world.used() == 51, at
        world.check_books()
        world.db.close()
        if not died:
            break
    else:
        pytest.fail(f"disk, node and server are touched at more than {MOST_POINTS} points")
    assert seen == {None, State.FAILED, State.SETTLED}


async def test_an_invoice_with_the_hash_of_one_of_ours_is_refused(world: Buying) -> None:
    with pytest.raises(HiveError, match="costs"):
        await world.buy(amount_sats=1)
    # The next invoice of this seller has the hash of access that this node sold.
    await world.seller._invoice(50, "x")
    digest = list(world.node.asked.values())[-1]["payment_hash"]
    sold = AccessToken("aa" * 32, "access", "ee" * 32, "c", digest, (), 5, 1, 0, world.now, "paid")
    await world.db.write(lambda tx: AccessStore().add(tx, sold))
    world.seller.made -= 1
    with pytest.raises(HiveError, match="this node sold access"):
        await world.buy()
    assert world.stored() == () and world.node.sent == [] and len(world.tokens()) == 1
