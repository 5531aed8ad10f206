"""The ledger on a real SQLite file: sats are conserved whatever happens, and a breach is rolled back."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hive_devnet.embedded import bech32
from hive_devnet.embedded.errors import RpcError
from hive_devnet.embedded.keys import NodeKeys
from hive_devnet.embedded.ledger import invoices, payments, runes
from hive_devnet.embedded.ledger.chain import Chain
from hive_devnet.embedded.ledger.channel import NORMAL, Policy
from hive_devnet.embedded.ledger.channels import Channels
from hive_devnet.embedded.ledger.database import ConservationError, Database
from hive_devnet.embedded.ledger.payments import NewPart, Payments
from hive_devnet.embedded.ledger.routing import Hop, Limits, find_route
from hive_devnet.embedded.ledger.wallet import Wallet
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

_POLICY = Policy(1000, 10, 0, 1 << 62, 6)


class _Ledger:
    def __init__(self, directory: Path) -> None:
        self.database = Database(directory / "ledger.sqlite3", "OFF")
        for schema in (invoices.SCHEMA, payments.SCHEMA, runes.SCHEMA):
            self.database.extend(schema)
        self.chain = Chain(self.database)
        self.channels = Channels(self.database, self.chain)
        self.payments = Payments(self.database, self.channels)
        self.keys = [NodeKeys(bytes([number]) * 32) for number in (1, 2, 3)]
        self.wallets = [Wallet(self.database, self.chain, keys) for keys in self.keys]
        self.ids = [keys.node_id for keys in self.keys]

    def fund(self, node: int, amount_sat: int) -> None:
        script = bech32.address_script(self.wallets[node].new_address())
        self.chain.faucet(script, amount_sat)
        self.chain.mine()

    def open(self, a: int, b: int, amount_sat: int, pushed_msat: int = 0) -> Any:
        script = bech32.segwit_script(0, b"\x07" * 32)
        with self.database.transaction():
            payment = self.wallets[a].pay(amount_sat, lambda: script, self.wallets[a].coins())
            self.chain.publish(payment.tx, payment.fee_sat, hidden_outputs=(0,))
            channel = self.channels.create(
                opener=self.ids[a],
                acceptor=self.ids[b],
                capacity_sat=amount_sat,
                pushed_msat=pushed_msat,
                funding=(payment.tx.txid, 0),
                announce=True,
                policies=(_POLICY, _POLICY),
                feerate_perkw=253,
                mindepth=1,
                funding_key=1,
            )
        self.chain.mine()
        self.channels.lock_in(channel)
        return self.channels.get(channel.id)


@pytest.fixture
def ledger(tmp_path: Path) -> _Ledger:
    return _Ledger(tmp_path)


def test_a_transaction_that_makes_money_is_rolled_back(ledger: _Ledger) -> None:
    ledger.fund(0, 1_000_000)
    channel = ledger.open(0, 1, 200_000)
    with pytest.raises(ConservationError), ledger.database.transaction():
        ledger.database.run("UPDATE channel SET opener_msat = opener_msat + 1")
    assert ledger.channels.get(channel.id).opener_msat == 200_000_000


def test_an_htlc_cannot_spend_what_is_not_there(ledger: _Ledger) -> None:
    ledger.fund(0, 1_000_000)
    channel = ledger.open(0, 1, 200_000)
    hop = Hop(channel.id, channel.scid, ledger.ids[0], ledger.ids[1], 200_000_001, 9)
    part = ledger.payments.add_part(_part(ledger, (hop,)))
    with pytest.raises(ValueError, match="has only 200000000 msat"):
        ledger.payments.add_htlc(part, hop, 200)
    assert ledger.payments.htlcs_of(part) == []


def _part(ledger: _Ledger, route: tuple[Hop, ...]) -> NewPart:
    amount = route[-1].amount_msat
    return NewPart(
        node_id=ledger.ids[0],
        groupid=1,
        partid=1,
        payment_hash="aa" * 32,
        payment_secret=None,
        destination=route[-1].target,
        amount_msat=amount,
        total_msat=amount,
        route=route,
    )


def test_a_route_is_cheap_and_within_limits(ledger: _Ledger) -> None:
    ledger.fund(0, 5_000_000)
    ledger.fund(1, 5_000_000)
    first, second = ledger.open(0, 1, 1_000_000), ledger.open(1, 2, 1_000_000)
    route = find_route(ledger.channels.usable(), ledger.ids[0], ledger.ids[2], 100_000_000, Limits(9))
    assert route is not None
    assert [hop.channel for hop in route] == [first.id, second.id]
    assert [hop.amount_msat for hop in route] == [100_000_000 + 1000 + 1000, 100_000_000]
    assert [hop.delay for hop in route] == [15, 9]
    closed = Limits(9, frozenset({(second.id, ledger.ids[1])}))
    assert find_route(ledger.channels.usable(), ledger.ids[0], ledger.ids[2], 1000, closed) is None
    assert find_route(ledger.channels.usable(), ledger.ids[0], ledger.ids[2], 1 << 40, Limits(9)) is None


class LedgerMachine(RuleBasedStateMachine):
    """Random payments, faucets, channels and HTLC endings; the sum never changes unnoticed."""

    channels = Bundle("channels")
    htlcs = Bundle("htlcs")

    @initialize()
    def start(self) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self.ledger = _Ledger(Path(self._directory.name))
        self.issued = 0
        self.resolved: set[int] = set()

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.database.close()
            self._directory.cleanup()

    @rule(node=st.integers(0, 2), amount=st.integers(10_000, 10_000_000))
    def faucet(self, node: int, amount: int) -> None:
        self.ledger.fund(node, amount)
        self.issued += amount

    @rule(
        node=st.integers(0, 2),
        other=st.integers(0, 2),
        amount=st.one_of(st.none(), st.integers(1, 2_000_000)),
    )
    def withdraw(self, node: int, other: int, amount: int | None) -> None:
        wallet = self.ledger.wallets[node]
        script = bech32.address_script(self.ledger.wallets[other].new_address())
        try:
            payment = wallet.pay(amount, lambda: script, wallet.coins(minconf=0))
        except RpcError:
            return
        self.ledger.chain.publish(payment.tx, payment.fee_sat)

    @rule(
        target=channels,
        ends=st.sampled_from([(0, 1), (1, 2), (2, 0)]),
        amount=st.integers(20_000, 3_000_000),
        share=st.integers(0, 1000),
    )
    def open(self, ends: tuple[int, int], amount: int, share: int) -> Any:
        try:
            return self.ledger.open(*ends, amount, amount * share)
        except RpcError:
            return None

    @rule(target=htlcs, channel=channels, forward=st.booleans(), amount=st.integers(1, 10**10))
    def offer(self, channel: Any, forward: bool, amount: int) -> Any:
        if channel is None or self.ledger.channels.get(channel.id).state != NORMAL:
            return None
        ends = (channel.opener, channel.acceptor)
        source, target = ends if forward else ends[::-1]
        hop = Hop(channel.id, channel.scid, source, target, amount, 9)
        part = self.ledger.payments.add_part(_part(self.ledger, (hop,)))
        try:
            self.ledger.payments.add_htlc(part, hop, 200)
        except ValueError:
            return None
        return self.ledger.payments.htlcs_of(part)[0]["id"]

    @rule(htlc=htlcs, settled=st.booleans())
    def resolve(self, htlc: Any, settled: bool) -> None:
        if htlc is None or htlc in self.resolved:
            return
        self.resolved.add(htlc)
        self.ledger.payments.resolve_htlc(htlc, settled)

    @invariant()
    def conserved(self) -> None:
        if not hasattr(self, "ledger"):
            return
        issued, present = self.ledger.database.totals_msat()
        assert issued == present == self.issued * 1000
        for channel in self.ledger.channels.live():
            flying = sum(row["amount_msat"] for row in self.ledger.channels.htlcs(channel))
            assert channel.opener_msat + channel.acceptor_msat + flying == channel.capacity_sat * 1000
            assert min(channel.opener_msat, channel.acceptor_msat) >= 0


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
