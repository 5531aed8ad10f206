"""What a program is shown of the node itself (11 §11.3): pages, sums, and nothing that a node leaves out."""

from __future__ import annotations

from typing import Any

from hive_advisor.domain.node_reads import MAX_CHANNELS, NODE_READS


def channel(number: int, **more: Any) -> dict[str, Any]:
    return {
        "peer_id": "02" * 33,
        "state": "CHANNELD_NORMAL",
        "short_channel_id": f"{number}x1x0",
        "total_msat": 1_000,
        "to_us_msat": 400,
        "status": ["CHANNELD_NORMAL:Channel ready for use."],
        "htlcs": [{"id": 1}],
        **more,
    }


def channels(count: int, **given: Any) -> dict[str, Any]:
    said = {"channels": [channel(number) for number in range(count)]}
    return NODE_READS["listpeerchannels"].shape(said, given)


def test_channels_come_in_pages_that_follow_each_other() -> None:
    seen, offset = [], 0
    while True:
        page = channels(180, limit=MAX_CHANNELS, offset=offset)
        seen += [row["short_channel_id"] for row in page["items"]]
        assert page["total"] == 180 and page["count"] == len(page["items"])
        if "next_offset" not in page:
            break
        offset = page["next_offset"]
    assert seen == [f"{number}x1x0" for number in range(180)]
    assert channels(180)["count"] == 50 and channels(3, offset=9)["items"] == []


def test_a_channel_without_its_later_fields_is_shown_as_far_as_it_goes() -> None:
    young = {"peer_id": "02" * 33, "state": "CHANNELD_AWAITING_LOCKIN", "updates": {"local": {}}}
    page = NODE_READS["listpeerchannels"].shape({"channels": [young, channel(1)]}, {})
    assert page["items"][0] == {"peer_id": "02" * 33, "state": "CHANNELD_AWAITING_LOCKIN", "htlcs": 0}
    assert page["items"][1]["capacity_msat"] == 1_000 and page["items"][1]["htlcs"] == 1
    assert "status" not in page["items"][1]


def test_the_wallet_is_summed_by_state_and_what_is_reserved_stands_apart() -> None:
    outputs = [
        {"amount_msat": 5_000_999, "status": "confirmed", "reserved": False},
        {"amount_msat": 7_000_000, "status": "confirmed", "reserved": True},
        {"amount_msat": 2_000_000, "status": "unconfirmed", "reserved": False},
        {"amount_msat": 9_000_000, "status": "spent", "reserved": False},
        {"amount_msat": 1_000_000, "status": "immature"},
    ]
    said = {"outputs": outputs, "channels": [{"our_amount_msat": 400}, {"our_amount_msat": 5}]}
    assert NODE_READS["listfunds"].shape(said, {}) == {
        "confirmed_sats": 5_000,
        "reserved_sats": 7_000,
        "unconfirmed_sats": 2_000,
        "immature_sats": 1_000,
        "outputs": 5,
        "in_channels_msat": 405,
    }


def test_warnings_of_the_node_are_kept_and_its_directory_is_not() -> None:
    said = {"id": "02" * 33, "alias": "x", "lightning-dir": "somewhere", "warning_bitcoind_sync": "Syncing"}
    shown = NODE_READS["getinfo"].shape(said, {})
    assert shown == {"id": "02" * 33, "alias": "x", "warnings": ["Syncing"]}


def test_only_the_peer_is_passed_on_to_the_node() -> None:
    asked = NODE_READS["listpeerchannels"].ask
    assert asked({"limit": 5, "offset": 2}) == {}
    assert asked({"peer_id": "02ab", "limit": 5}) == {"id": "02ab"}
    assert NODE_READS["feerates"].ask({}) == {"style": "perkb"}
