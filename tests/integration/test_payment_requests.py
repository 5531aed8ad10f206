"""Invoices that the node gives for siblings: noted before they exist, found wherever it is killed, each proof
good once (docs/protocol/03-escrow-and-payments.md §7.4, docs/decisions/0517)."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.domain.payment import Payment
from cl_hive_comms.domain.payment_machine import State
from cl_hive_comms.domain.request_macaroon import macaroon_of
from cl_hive_comms.services.payment_requests import PaymentRequests
from crash_points import MOST_POINTS, Countdown
from hive_shared.cln import LOST
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import Busy, EmergencyStop, FeatureDisabled, PaymentFailed
from hive_shared.l402 import decode
from hive_shared.nostr.keys import npub_encode
from hive_shared.store import Tx
from msgspec.structs import replace
from paying_world import PayingWorld
from pipeline_world import NOW, Crash, Stops

NODE_ID = "02" + "ab" * 32


class Asking(PayingWorld):
    """A world that asks for money."""

    def open(self) -> None:
        super().open()
        numbers, world = itertools.count(1), self
        done = self.db.peek(lambda tx: tx.execute("SELECT COUNT(*) FROM comms_payments").fetchone()[0])

        class Switch(Stops):
            def engaged(self) -> bool:
                return world.engaged

            def draining(self) -> bool:
                return False

        async def fault(point: str) -> None:
            self.points.append(point)

        self.requests = PaymentRequests(
            db=self.db,
            rows=self.rows,
            node=self.node,
            kill_switch=Switch(),
            random_bytes=lambda n: (done + next(numbers)).to_bytes(n, "big"),
            now=lambda: self.now,
            fault=fault,
            key=Secret(b"\x4c" * 32),
            node_id=NODE_ID,
            log=lambda *_, **__: None,
        )

    def pay(self, label: str) -> str:
        """Somebody pays the invoice of a label; its preimage."""
        preimage = hashlib.sha256(label.encode()).hexdigest()
        self.node.own[label] |= {"status": "paid", "payment_preimage": preimage}
        return preimage


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Asking]:
    made = Asking(tmp_path)
    yield made
    made.check_books()
    made.db.close()


async def test_a_proof_is_good_once_and_for_one(world: Asking) -> None:
    row = await world.requests.request(500, "lease:7", None, 600)
    assert row.payment_hash is not None and world.node.own[row.label]["payment_hash"] == row.payment_hash
    assert world.points == ["invoice_noted", "invoice_made"]
    digest = row.payment_hash
    preimage = hashlib.sha256(row.label.encode()).hexdigest()
    for price, proof, reason in ((500, preimage, "not_paid"), (500, "00" * 32, "preimage_mismatch")):
        with pytest.raises(PaymentFailed, match=reason):
            await world.requests.verify(digest, proof, price, "ada")
    assert world.pay(row.label) == preimage
    with pytest.raises(PaymentFailed, match="too_little: 500 sat were paid, the price is 501"):
        await world.requests.verify(digest, preimage, 501, "ada")
    ends = await asyncio.gather(
        *(world.requests.verify(digest, preimage, 500, who) for who in ("ada", "bob", "ada")),
        return_exceptions=True,
    )
    assert sorted(str(end).split(":")[1].strip() if isinstance(end, Exception) else "ok" for end in ends) == [
        *("ok", "payment_replayed", "payment_replayed")
    ]
    with pytest.raises(PaymentFailed, match="not_found"):
        await world.requests.verify(hashlib.sha256(b"\0" * 32).hexdigest(), "00" * 32, 1, "ada")
    assert world.used() == 0, "what comes in counts against no limit"


async def test_what_is_paid_is_heard_of_or_found_and_what_is_not_expires(world: Asking) -> None:
    rows = [await world.requests.request(5, "lease:1", None, 600) for _ in range(3)]
    world.pay(rows[0].label)
    await world.requests.heard(rows[0].label)
    await world.requests.heard("somebody else's")
    world.pay(rows[1].label)
    world.node.fail["listinvoices"] = LOST
    await world.requests.settle()
    await world.requests.heard(rows[1].label)
    assert [row.state for row in world.stored()] == [State.SETTLED, State.AWAITING, State.AWAITING]
    with pytest.raises(Busy):
        await world.requests.verify(str(rows[1].payment_hash), world.pay(rows[1].label), 5, "ada")
    del world.node.fail["listinvoices"]
    await world.requests.settle()
    world.now = NOW + 600 + 121
    await world.requests.settle()
    assert [row.state for row in world.stored()] == [State.SETTLED, State.SETTLED, State.EXPIRED]
    # Paid at the last moment, and told late.
    world.pay(rows[2].label)
    await world.requests.heard(rows[2].label)
    assert world.stored()[2].state is State.SETTLED


async def test_a_request_that_cannot_be_looked_at_holds_up_no_other(
    world: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [await world.requests.request(5, "lease:1", None, 600) for _ in range(2)]
    for row in rows:
        world.pay(row.label)
    move = world.rows.move

    def broken(tx: Tx, row: Payment, *args: Any, **changes: Any) -> Payment:
        if row.payment_id == rows[0].payment_id:
            raise ValueError("a row that nobody can write")
        return move(tx, row, *args, **changes)

    with monkeypatch.context() as patch:
        patch.setattr(world.rows, "move", broken)
        await world.requests.settle()
        assert [row.state for row in world.stored()] == [State.AWAITING, State.SETTLED]
    await world.requests.settle()
    assert [row.state for row in world.stored()] == [State.SETTLED, State.SETTLED]


async def test_no_invoice_while_stopped_nor_without_an_answer(world: Asking) -> None:
    world.engaged = True
    with pytest.raises(EmergencyStop):
        await world.requests.request(5, "lease:1", None, 600)
    world.engaged = False
    world.node.lose.add("invoice")
    assert (await world.requests.request(5, "lease:1", None, 600)).payment_hash is not None
    world.node.lose.clear()
    world.node.fail["invoice"] = LOST
    with pytest.raises(Busy, match="there is no invoice"):
        await world.requests.request(5, "lease:1", None, 600)
    world.node.fail["invoice"] = -32602
    with pytest.raises(PaymentFailed, match=r"code -32602"):
        await world.requests.request(5, "lease:1", None, 600)


async def test_an_offer_is_paid_once_and_proved_by_the_invoice_that_was_paid(world: Asking) -> None:
    rows = [await world.requests.request(5, "lease:1", None, 600, "bolt12") for _ in range(2)]
    assert rows[0].offer_id != rows[1].offer_id, "the same purpose at the same time"
    assert (rows[0].payment_hash, rows[0].target.text[:4]) == (None, "lno1")
    first, other = (world.node.fetched(str(rows[0].offer_id), f"02{word * 32}") for word in ("aa", "bb"))
    preimage = hashlib.sha256(other["label"].encode()).hexdigest()
    with pytest.raises(PaymentFailed, match="not_paid"):
        await world.requests.verify(other["payment_hash"], preimage, 5, "ada")
    assert world.pay(other["label"]) == preimage
    world.node.fail["listinvoices"] = LOST
    with pytest.raises(Busy):
        await world.requests.verify(other["payment_hash"], preimage, 5, "ada")
    del world.node.fail["listinvoices"]
    unpaid = hashlib.sha256(first["label"].encode()).hexdigest()
    with pytest.raises(PaymentFailed, match="not_found"):
        await world.requests.verify(first["payment_hash"], unpaid, 5, "ada")
    assert await world.requests.verify(other["payment_hash"], preimage, 5, "ada") == rows[0].payment_id
    with pytest.raises(PaymentFailed, match="payment_replayed"):
        await world.requests.verify(other["payment_hash"], preimage, 5, "bob")
    await world.requests.heard(world.node.fetched(str(rows[1].offer_id))["label"])
    world.now = NOW + 600 + 121
    await world.requests.settle()
    assert [row.state for row in world.stored()] == [State.SETTLED, State.EXPIRED]


async def test_no_offer_without_an_answer(world: Asking) -> None:
    world.node.fail["offer"] = LOST
    with pytest.raises(Busy, match="there is no offer"):
        await world.requests.request(5, "lease:1", None, 600, "bolt12")
    world.node.fail["offer"] = 1000
    with pytest.raises(PaymentFailed, match="refused to make an offer"):
        await world.requests.request(5, "lease:1", None, 600, "bolt12")
    world.now = NOW + 600 + 121
    await world.requests.settle()
    assert {row.state for row in world.stored()} == {State.EXPIRED}


async def test_an_offer_killed_anywhere_is_known_once_it_is_paid(tmp_path: Path) -> None:
    for at in range(MOST_POINTS):
        (tmp_path / str(at)).mkdir()
        world, died = Asking(tmp_path / str(at)), True
        killer = Countdown(at)
        killer.watch(world.db, "write", "read")
        killer.watch(world.node, "call")
        try:
            row = await world.requests.request(5, "lease:1", None, 600, "bolt12")
            invoice = world.node.fetched(str(row.offer_id))
            preimage = world.pay(invoice["label"])
            await world.requests.heard(invoice["label"])
            await world.requests.verify(invoice["payment_hash"], preimage, 5, "ada")
            died = False
        except Crash:
            pass
        killer.left = -1
        world.node.__dict__.pop("call", None)
        world.restart()
        await world.requests.settle()
        stored, paid = world.stored(), [each for each in world.node.own.values() if each["status"] == "paid"]
        assert len(world.node.offers) <= len(stored) <= 1, at
        if paid:
            # Only an offer that its asker got can have been paid.
            assert stored[0].state is State.SETTLED and stored[0].payment_hash == paid[0]["payment_hash"]
        world.db.close()
        if not died:
            assert stored[0].bound_to == "ada"
            return
    pytest.fail(f"disk and node are touched at more than {MOST_POINTS} points")


async def test_killed_anywhere_what_was_paid_is_known(tmp_path: Path) -> None:
    for at in range(MOST_POINTS):
        (tmp_path / str(at)).mkdir()
        world, died = Asking(tmp_path / str(at)), True
        killer = Countdown(at)
        killer.watch(world.db, "write", "read")
        killer.watch(world.node, "call")
        try:
            row = await world.requests.request(5, "lease:1", None, 600)
            preimage = world.pay(row.label)
            await world.requests.heard(row.label)
            await world.requests.verify(str(row.payment_hash), preimage, 5, "ada")
            died = False
        except Crash:
            pass
        killer.left = -1
        world.node.__dict__.pop("call", None)
        world.restart()
        await world.requests.settle()
        made, stored = list(world.node.own.values()), world.stored()
        assert len(made) <= len(stored) <= 1, at
        if made and made[0]["status"] == "paid":
            assert stored[0].state is State.SETTLED and stored[0].payment_hash == made[0]["payment_hash"]
        world.db.close()
        if not died:
            assert stored[0].bound_to == "ada"
            return
    pytest.fail(f"disk and node are touched at more than {MOST_POINTS} points")


async def test_an_invoice_with_a_macaroon_is_proved_by_both_for_its_agent_alone(world: Asking) -> None:
    agent = xonly_pubkey(Secret(b"\x03" * 32))
    row = await world.requests.request(500, "lease:7", None, 600, "l402", payer=agent)
    told = world.requests.told(row, agent)
    macaroon = str(told["macaroon"])
    assert told["invoice"] == row.target.invoice and told["payment_hash"] == row.payment_hash
    caveats = decode(macaroon).caveats
    assert caveats[:2] == (f"node={NODE_ID}", f"agent={agent}") and "max_actions=1" in caveats
    preimage = hashlib.sha256(row.label.encode()).hexdigest()
    verify = world.requests.verify_macaroon
    with pytest.raises(PaymentFailed, match="not_paid"):
        await verify(macaroon, preimage, 500, agent)
    assert world.pay(row.label) == preimage
    # An invoice of its own has no macaroon, and access that was sold is no payment of a sibling.
    plain = await world.requests.request(5, "lease:8", None, 600)
    sold = macaroon_of(Secret(b"\x4c" * 32), replace(row, payment_id="00" * 16), NODE_ID, agent)
    strange = macaroon_of(Secret(b"\x4d" * 32), row, NODE_ID, agent)
    edited = macaroon_of(Secret(b"\x4c" * 32), row, "03" + "cd" * 32, agent)
    narrowed = decode(macaroon).with_caveats(f"expires={world.now}").text()
    for text, proof, who, price, reason in (
        (macaroon, "00" * 32, agent, 500, "payment_invalid"),
        (macaroon, preimage, "ff" * 32, 500, "payment_invalid"),
        (strange, preimage, agent, 500, "payment_invalid"),
        (edited, preimage, agent, 500, "payment_invalid"),
        (narrowed, preimage, agent, 500, "payment_invalid"),
        ("AgEE", preimage, agent, 500, "payment_invalid"),
        (sold, preimage, agent, 500, "not_found"),
        (macaroon, preimage, agent, 501, "too_little"),
    ):
        with pytest.raises(PaymentFailed) as refused:
            await verify(text, proof, price, who)
        assert refused.value.symbol == reason, (text, refused.value)
    with pytest.raises(PaymentFailed, match="payment_invalid: the proof of this payment is its macaroon"):
        await world.requests.verify(str(row.payment_hash), preimage, 500, agent)
    assert await verify(macaroon, preimage, 500, npub_encode(agent)) == row.payment_id
    with pytest.raises(PaymentFailed, match="payment_replayed"):
        await verify(macaroon, preimage, 500, agent)
    assert "macaroon" not in world.requests.told(plain, None)
    with pytest.raises(FeatureDisabled):
        await world.requests.request(5, "lease:9", None, 600, "cashu")
