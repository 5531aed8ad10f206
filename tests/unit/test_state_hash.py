"""The state hash: what changes which root, and what it hides (02 §9.3)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import pytest
from cl_hive_comms.domain import state_hash
from cl_hive_comms.domain.state_hash import StateRoots
from hive_shared.crypto import sha256
from hive_shared.receipts import merkle_root

KEY = b"k" * 32


def channel(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "channel_id": f"{number:064x}",
        "short_channel_id": f"{number}x1x0",
        "peer_id": "02" + "aa" * 32,
        "state": "CHANNELD_NORMAL",
        "fee_base_msat": 1,
        "fee_proportional_millionths": 100,
        "minimum_htlc_out_msat": 0,
        "maximum_htlc_out_msat": 990_000_000,
        "to_us_msat": 500_000_000,
        "total_msat": 1_000_000_000,
        **changes,
    }


def policy_root(channels: Iterable[Any]) -> str:
    return state_hash.channels_root(channels, state_hash.policy_leaf)


def roots(*channels: dict[str, Any], **changes: Any) -> StateRoots:
    given: dict[str, Any] = {
        "outputs": [{"txid": "ab" * 32, "output": 1, "amount_msat": 5_000, "reserved": False}],
        "configs": {"min-capacity-sat": {"value_int": 10_000, "source": "default", "dynamic": True}},
        "plugins": [{"name": "/usr/bin/bcli", "active": True, "dynamic": False}],
        "bans": [],
        "disabled": [],
        "policy_version": 1,
        "key": KEY,
        **changes,
    }
    return StateRoots(
        policy=policy_root(channels),
        balance=state_hash.channels_root(channels, lambda row: state_hash.balance_leaf(row, given["key"])),
        wallet=state_hash.wallet_root(given["outputs"], given["key"]),
        config=state_hash.config_root(
            given["configs"],
            bans=given["bans"],
            disabled=given["disabled"],
            policy_version=given["policy_version"],
        ),
        plugins=state_hash.plugins_root(given["plugins"]),
    )


def differing(before: StateRoots, after: StateRoots) -> set[str]:
    names = ("policy", "balance", "wallet", "config", "plugins")
    changed = {name for name in names if getattr(before, name) != getattr(after, name)}
    assert (before.hash != after.hash) == bool(changed)
    return changed


def test_acceptance_02_01_a_fee_change_moves_the_policy_root_only() -> None:
    before = roots(channel(1), channel(2))
    assert differing(before, roots(channel(1), channel(2, fee_proportional_millionths=150))) == {"policy"}
    assert differing(before, roots(channel(1), channel(2, maximum_htlc_out_msat=1))) == {"policy"}
    assert differing(before, roots(channel(1), channel(2, to_us_msat=1))) == {"balance"}
    assert differing(before, roots(channel(1))) == {"policy", "balance"}


def test_every_part_has_its_own_root() -> None:
    before = roots(channel())
    output = {"txid": "ab" * 32, "output": 1, "amount_msat": 5_000, "reserved": True}
    assert differing(before, roots(channel(), outputs=[output])) == {"wallet"}
    dynamic = {"min-capacity-sat": {"value_int": 20_000, "source": "default", "dynamic": True}}
    assert differing(before, roots(channel(), configs=dynamic)) == {"config"}
    for change in ({"bans": ["02"]}, {"disabled": ["1x1x0"]}, {"policy_version": 2}):
        assert differing(before, roots(channel(), **change)) == {"config"}
    stopped = [{"name": "/usr/bin/bcli", "active": False, "dynamic": False}]
    assert differing(before, roots(channel(), plugins=stopped)) == {"plugins"}


def test_order_and_what_is_not_state_do_not_matter() -> None:
    before = roots(channel(1), channel(2))
    assert roots(channel(2), channel(1)) == before
    assert roots(channel(1, in_payments_offered=7), channel(2, peer_connected=False)) == before
    static = {
        "min-capacity-sat": {"value_int": 10_000, "source": "setconfig", "dynamic": True},
        "alias": {"value_str": "x"},
    }
    assert roots(channel(1), channel(2), configs=static) == before


def test_amounts_are_keyed() -> None:
    one, two = roots(channel()), roots(channel(), key=b"other" * 8)
    assert differing(one, two) == {"balance", "wallet"}


def test_the_hash_is_that_of_tag_and_roots() -> None:
    each = roots(channel())
    joined = b"".join(
        bytes.fromhex(root) for root in (each.policy, each.balance, each.wallet, each.config, each.plugins)
    )
    assert each.hash == sha256(b"hive-state/v1" + joined).hex()
    assert each.to_doc()["state_hash"] == each.hash


def test_leaves_are_canonical_rows_of_text_numbers() -> None:
    row = (
        '{"feebase":"1","htlcmax":"990000000","htlcmin":"0","id":"'
        + f"{1:064x}"
        + '","ppm":"100","scid":"1x1x0","state":"CHANNELD_NORMAL"}'
    )
    assert policy_root([channel()]) == merkle_root([sha256(row.encode()).hex()])


def test_a_channel_that_is_not_open_yet_has_a_leaf_too() -> None:
    young = {"peer_id": "02" + "aa" * 32, "state": "OPENINGD"}
    assert policy_root([young]) != policy_root([])


@pytest.mark.parametrize("count", [1_000])
def test_a_thousand_channels_are_hashed_quickly(count: int) -> None:
    """02 §16 asks for 150 ms with the node call; the bound here is loose, shared machines are slow."""
    channels = [channel(number) for number in range(count)]
    start = time.process_time()
    roots(*channels)
    assert time.process_time() - start < 1
