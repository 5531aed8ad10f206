"""The regtest chain that real nodes follow: bytes against published values, rules by example."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hive_devnet.lightningd import address as addresses
from hive_devnet.lightningd.chain import (
    COINBASE_MATURITY,
    FAUCET_SCRIPT,
    PREMINED_BLOCKS,
    ChainError,
    RegtestChain,
    TransactionRejected,
    genesis,
)
from hive_devnet.lightningd.serialize import (
    FINAL_SEQUENCE,
    MAX_MONEY,
    BlockHeader,
    DecodeError,
    OutPoint,
    Transaction,
    TxIn,
    TxOut,
    compact_size,
    decode_transaction,
    display_hash,
    merkle_root,
    parse_hash,
    sha256d,
)
from hypothesis import given, settings
from hypothesis import strategies as st

ALICE = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"
ALICE_SCRIPT = bytes.fromhex("0014751e76e8199196d454941c45d1b3a323f1433bd6")
START_TIME = 1_700_000_000


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[RegtestChain]:
    opened = RegtestChain(tmp_path / "chain.sqlite3", create=True, clock=lambda: START_TIME)
    yield opened
    opened.close()


def spend(txid: str, vout: int, amount_sat: int, **fields: int) -> Transaction:
    """A transaction of one input to Alice; `sequence`, `locktime` and `version` as asked."""
    txin = TxIn(OutPoint(parse_hash(txid), vout), sequence=fields.get("sequence", FINAL_SEQUENCE))
    output = TxOut(amount_sat, ALICE_SCRIPT)
    return Transaction(fields.get("version", 2), (txin,), (output,), fields.get("locktime", 0))


def block_transactions(raw: bytes) -> list[Transaction]:
    """Cut a block apart by trying where each transaction ends; an oracle that shares no parser state."""
    count, body, found = raw[80], raw[81:], []
    for _ in range(count):
        for end in range(60, len(body) + 1):
            try:
                found.append(decode_transaction(body[:end]))
            except DecodeError:
                continue
            body = body[end:]
            break
    assert not body
    return found


def test_genesis_is_the_one_of_regtest() -> None:
    header, coinbase = genesis()
    assert display_hash(header.hash()) == "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"
    assert display_hash(coinbase.txid()) == "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"
    assert header.has_work()


def test_new_chain_starts_with_mature_faucet_coins(chain: RegtestChain) -> None:
    assert chain.height() == PREMINED_BLOCKS
    assert chain.mempool() == []
    # Genesis pays 50 bitcoin that never became spendable.
    assert chain.unspent_total() == PREMINED_BLOCKS * 50 * 100_000_000


def test_headers_form_a_chain_with_work_and_rising_median_time(chain: RegtestChain) -> None:
    chain.mine(5)
    blocks = [chain.block_at(height) for height in range(chain.height() + 1)]
    times: list[int] = []
    previous = bytes(32)
    for block in blocks:
        assert block is not None
        head = block.raw[:80]
        assert head[4:36] == previous
        previous = sha256d(head)
        assert display_hash(previous) == block.hash
        assert int.from_bytes(previous, "little") <= 0x7FFFFF << (8 * (0x20 - 3))
        if times:
            window = sorted(times[-11:])
            assert block.time > window[len(window) // 2]
        times.append(block.time)


def test_coinbase_carries_its_height_as_bip34_says(chain: RegtestChain) -> None:
    chain.mine(150 - PREMINED_BLOCKS)
    for height, push in ((1, "51"), (16, "60"), (17, "0111"), (127, "017f"), (128, "028000")):
        block = chain.block_at(height)
        assert block is not None
        coinbase = block_transactions(block.raw)[0]
        assert coinbase.is_coinbase
        assert coinbase.inputs[0].script.startswith(bytes.fromhex(push))


def test_subsidy_halves_and_fees_go_to_the_miner(chain: RegtestChain) -> None:
    chain.mine(149 - PREMINED_BLOCKS)
    before = chain.unspent_total()
    chain.faucet(ALICE, 1_000_000)
    chain.mine(1)
    # The faucet's fee left the payer and reached the coinbase, so only the subsidy is new.
    assert chain.unspent_total() == before + 25 * 100_000_000


def test_faucet_payment_is_ordinary_confirmed_and_found(chain: RegtestChain) -> None:
    txid = chain.faucet(ALICE, 123_456)
    assert chain.mempool() == [txid]
    found = chain.transaction(txid)
    assert found is not None and found[1] is None
    assert not found[0].is_coinbase
    height = chain.mine(1)
    assert chain.mempool() == []
    confirmed = chain.transaction(txid)
    assert confirmed is not None and confirmed[1] == height
    assert chain.unspent_output(txid, 0) == TxOut(123_456, ALICE_SCRIPT)


def test_block_with_segwit_commits_to_witnesses_and_merkle_root(chain: RegtestChain) -> None:
    chain.faucet(ALICE, 5_000)
    chain.faucet(ALICE, 6_000)
    block = chain.block_at(chain.mine(1))
    assert block is not None
    coinbase, *others = block_transactions(block.raw)
    assert len(others) == 2
    witness_root = merkle_root([bytes(32), *(tx.wtxid() for tx in others)])
    commitment = sha256d(witness_root + coinbase.inputs[0].witness[0])
    assert coinbase.outputs[-1] == TxOut(0, bytes.fromhex("6a24aa21a9ed") + commitment)
    assert block.raw[36:68] == merkle_root([coinbase.txid(), *(tx.txid() for tx in others)])


def test_block_without_segwit_has_no_commitment(chain: RegtestChain) -> None:
    block = chain.block_at(chain.height())
    assert block is not None
    (coinbase,) = block_transactions(block.raw)
    assert not coinbase.has_witness
    assert [txout.script for txout in coinbase.outputs] == [FAUCET_SCRIPT]


def test_spent_output_is_gone_at_once_and_its_heir_known(chain: RegtestChain) -> None:
    parent = chain.faucet(ALICE, 10_000)
    child = chain.submit(spend(parent, 0, 9_000).encode())
    assert chain.unspent_output(parent, 0) is None
    assert chain.unspent_output(child, 0) == TxOut(9_000, ALICE_SCRIPT)
    assert chain.mempool() == [parent, child]


def test_known_transaction_is_accepted_again(chain: RegtestChain) -> None:
    raw = spend(chain.faucet(ALICE, 10_000), 0, 9_000).encode()
    txid = chain.submit(raw)
    assert chain.submit(raw) == txid
    chain.mine(1)
    assert chain.submit(raw) == txid


def test_double_spend_of_mempool_and_of_block_is_refused(chain: RegtestChain) -> None:
    parent = chain.faucet(ALICE, 10_000)
    chain.submit(spend(parent, 0, 9_000).encode())
    with pytest.raises(TransactionRejected, match=r"^txn-mempool-conflict: output .* is already spent by"):
        chain.submit(spend(parent, 0, 8_000).encode())
    chain.mine(1)
    with pytest.raises(TransactionRejected, match=r"^bad-txns-inputs-missingorspent"):
        chain.submit(spend(parent, 0, 8_000).encode())


def test_money_from_nothing_is_refused(chain: RegtestChain) -> None:
    parent = chain.faucet(ALICE, 10_000)
    with pytest.raises(TransactionRejected, match="bad-txns-in-belowout: outputs of 10001 sat exceed"):
        chain.submit(spend(parent, 0, 10_001).encode())
    with pytest.raises(TransactionRejected, match="bad-txns-inputs-missingorspent: no output"):
        chain.submit(spend("ab" * 32, 0, 1_000).encode())
    twice = spend(parent, 0, 15_000)
    with pytest.raises(TransactionRejected, match="bad-txns-inputs-duplicate"):
        chain.submit(replace(twice, inputs=twice.inputs * 2).encode())
    block = chain.block_at(1)
    assert block is not None
    with pytest.raises(TransactionRejected, match="coinbase: only a block"):
        chain.submit(genesis()[1].encode())


def test_coinbase_matures_after_a_hundred_blocks(chain: RegtestChain) -> None:
    def coinbase_at(height: int) -> str:
        block = chain.block_at(height)
        assert block is not None
        return display_hash(block_transactions(block.raw)[0].txid())

    mature = chain.height() + 1 - COINBASE_MATURITY
    with pytest.raises(TransactionRejected, match=r"premature-spend-of-coinbase: .* has depth 99"):
        chain.submit(spend(coinbase_at(mature + 1), 0, 1_000).encode())
    chain.submit(spend(coinbase_at(mature), 0, 1_000).encode())


def test_lock_times_by_height_and_by_time(chain: RegtestChain) -> None:
    parent = chain.faucet(ALICE, 10_000)
    chain.mine(1)
    height = chain.height()
    with pytest.raises(TransactionRejected, match=r"^non-final"):
        chain.submit(spend(parent, 0, 9_000, locktime=height + 1, sequence=0xFFFFFFFE).encode())
    with pytest.raises(TransactionRejected, match=r"^non-final"):
        chain.submit(spend(parent, 0, 9_000, locktime=START_TIME + 3600, sequence=0xFFFFFFFE).encode())
    # A commitment transaction hides its number in a lock time that reads as a date long past.
    chain.submit(spend(parent, 0, 9_000, locktime=0x20ABCDEF, sequence=0x80ABCDEF).encode())


def test_relative_lock_holds_until_the_depth_is_reached(chain: RegtestChain) -> None:
    parent = chain.faucet(ALICE, 10_000)
    delayed = spend(parent, 0, 9_000, sequence=3).encode()
    for depth in (0, 1, 2):
        with pytest.raises(TransactionRejected, match=f"^non-BIP68-final: .* has depth {depth}"):
            chain.submit(delayed)
        chain.mine(1)
    chain.submit(delayed)


@pytest.mark.parametrize("raw", [b"", b"\x00", b"\x02\x00\x00\x00", bytes(10), b"\xff" * 80])
def test_bytes_that_are_no_transaction_are_refused(chain: RegtestChain, raw: bytes) -> None:
    with pytest.raises(TransactionRejected, match=r"^TX decode failed"):
        chain.submit(raw)


def test_faucet_gathers_coins_and_says_when_it_is_dry(chain: RegtestChain) -> None:
    txid = chain.faucet(ALICE, 300 * 100_000_000)
    found = chain.transaction(txid)
    assert found is not None and len(found[0].inputs) == 7
    with pytest.raises(ChainError, match=r"the faucet holds .* mature sat"):
        chain.faucet(ALICE, 900 * 100_000_000)
    with pytest.raises(ChainError, match="below 546 sat"):
        chain.faucet(ALICE, 545)


def test_chain_file_survives_and_is_shared(chain: RegtestChain, tmp_path: Path) -> None:
    other = RegtestChain(tmp_path / "chain.sqlite3")
    txid = other.faucet(ALICE, 10_000)
    assert chain.mempool() == [txid]
    assert chain.mine(2) == other.height()
    other.close()
    again = RegtestChain(tmp_path / "chain.sqlite3", create=True)
    assert again.height() == PREMINED_BLOCKS + 2
    again.close()


def test_processes_that_pay_and_mine_at_once_do_not_collide(chain: RegtestChain, tmp_path: Path) -> None:
    def work(number: int) -> list[str]:
        mine_too = RegtestChain(tmp_path / "chain.sqlite3")
        try:
            return [mine_too.faucet(ALICE, 10_000 + number) for _ in range(10) if mine_too.mine(1)]
        finally:
            mine_too.close()

    with ThreadPoolExecutor(4) as pool:
        paid = [txid for txids in pool.map(work, range(4)) for txid in txids]
    assert len(set(paid)) == 40
    assert chain.mine(1) == PREMINED_BLOCKS + 41
    assert all(chain.unspent_output(txid, 0) is not None for txid in paid)


def test_missing_chain_is_named(tmp_path: Path) -> None:
    with pytest.raises(ChainError, match="no chain at"):
        RegtestChain(tmp_path / "none.sqlite3")


def test_rejected_transaction_leaves_no_trace(chain: RegtestChain) -> None:
    parent = chain.faucet(ALICE, 10_000)
    before = chain.unspent_total()
    with pytest.raises(TransactionRejected):
        chain.submit(spend(parent, 0, 20_000).encode())
    assert chain.unspent_total() == before
    assert chain.unspent_output(parent, 0) is not None


# Scripts of BIP 173 and BIP 350's valid vectors, under the regtest prefix.
@pytest.mark.parametrize(
    "script",
    [
        "0014751e76e8199196d454941c45d1b3a323f1433bd6",
        "00201863143c14c5166804bd19203356da136c985678cd4d27a1b8c6329604903262",
        "5128751e76e8199196d454941c45d1b3a323f1433bd6751e76e8199196d454941c45d1b3a323f1433bd6",
        "6002751e",
        "5210751e76e8199196d454941c45d1b3a323",
        "512079be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
    ],
)
def test_address_and_script_are_inverse(script: str) -> None:
    text = addresses.address_of_script(bytes.fromhex(script))
    assert text.startswith("bcrt1")
    assert addresses.script_of_address(text).hex() == script
    assert addresses.script_of_address(text.upper()).hex() == script


def test_published_regtest_address_decodes() -> None:
    assert addresses.script_of_address(ALICE) == ALICE_SCRIPT
    assert addresses.address_of_script(ALICE_SCRIPT) == ALICE


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "not of regtest"),
        (ALICE[:-1] + "q", "wrong checksum"),
        (ALICE[:8].upper() + ALICE[8:], "mixes upper and lower case"),
        ("bcrt1qbio", "bad length or character"),
        ("", "not of regtest"),
    ],
)
def test_bad_address_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(addresses.AddressError, match=reason):
        addresses.script_of_address(text)


_inputs = st.builds(
    TxIn,
    st.builds(OutPoint, st.binary(min_size=32, max_size=32), st.integers(0, 0xFFFFFFFF)),
    st.binary(max_size=300),
    st.integers(0, 0xFFFFFFFF),
    st.lists(st.binary(max_size=300), max_size=3).map(tuple),
)
_outputs = st.builds(TxOut, st.integers(0, MAX_MONEY), st.binary(max_size=40))
_transactions = st.builds(
    Transaction,
    st.integers(-(2**31), 2**31 - 1),
    st.lists(_inputs, min_size=1, max_size=4).map(tuple),
    st.lists(_outputs, min_size=1, max_size=4).map(tuple),
    st.integers(0, 0xFFFFFFFF),
)


@settings(max_examples=100, deadline=None)
@given(_transactions)
def test_transaction_survives_encoding(tx: Transaction) -> None:
    assert decode_transaction(tx.encode()) == tx


@settings(max_examples=100, deadline=None)
@given(_transactions, st.data())
def test_truncated_or_extended_transaction_is_refused(tx: Transaction, data: st.DataObject) -> None:
    raw = tx.encode()
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(DecodeError):
        decode_transaction(raw[:cut])
    with pytest.raises(DecodeError):
        decode_transaction(raw + b"\x00")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_decode_exactly_or_are_refused(raw: bytes) -> None:
    try:
        tx = decode_transaction(raw)
    except DecodeError:
        return
    assert tx.encode() == raw


@given(st.integers(0, 2**64 - 1))
def test_compact_size_is_shortest(value: int) -> None:
    size = len(compact_size(value))
    assert size == (1 if value < 253 else 3 if value < 2**16 else 5 if value < 2**32 else 9)


def test_header_below_target_has_no_work() -> None:
    header = BlockHeader(1, bytes(32), bytes(32), 0, 0x1D00FFFF, 0)
    assert not header.has_work()
