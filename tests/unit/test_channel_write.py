"""What a change of channels takes for what the node did: the answer of `setchannel`, else a listing
(docs/protocol/02-fleet-management.md §5.3, docs/decisions/0350)."""

from __future__ import annotations

from typing import Any

import pytest
from cl_hive_comms.services.executors.action import Caller, Outcome
from cl_hive_comms.services.executors.channel_write import ChannelWriter, FeeTarget, undo_of
from cl_hive_comms.services.executors.channels import merged
from hive_shared.cln import ClnTimeout
from pipeline_world import NodeFake

CALLER = Caller("c", "aa" * 32, "adv", "cred", 1_000_000)


class Node(NodeFake):
    """Answers `setchannel` with `said` of the resulting row, or with that row bent by `bent`."""

    def __init__(self, channels: int = 1, *, without: str = "", **bent: Any) -> None:
        super().__init__(channels=channels)
        self.without, self.bent = without, bent

    async def setchannel(self, id: str, **options: Any) -> list[dict[str, Any]]:  # type: ignore[override]
        (row,) = await super().setchannel(id, **options)
        return [{name: value for name, value in {**row, **self.bent}.items() if name != self.without}]


async def change(node: NodeFake, ppm: int = 120) -> Outcome:
    targets = [FeeTarget.of(row, (None, ppm)) for row in node.rows]
    return await ChannelWriter(node, lambda: False).run(undo_of(targets, 600), CALLER)


async def test_an_answer_with_all_values_is_the_look_at_the_channel() -> None:
    node = Node(3)
    outcome = await change(node)
    assert (outcome.state, outcome.result["applied"]) == ("success", 3)
    assert node.calls == ["setchannel"] * 3
    assert {row["fee_proportional_millionths"] for row in outcome.after.values()} == {120}


@pytest.mark.parametrize(
    "without",
    [
        "channel_id",
        "fee_base_msat",
        "fee_proportional_millionths",
        "minimum_htlc_out_msat",
        "maximum_htlc_out_msat",
    ],
)
async def test_an_answer_that_does_not_tell_all_has_the_channel_listed(without: str) -> None:
    node = Node(without=without)
    assert (await change(node)).state == "success"
    assert node.calls == ["setchannel", "listpeerchannels"]


async def test_an_answer_about_another_channel_tells_nothing_of_this_one() -> None:
    node = Node(channel_id="77" * 32, fee_proportional_millionths=999)
    outcome = await change(node)
    assert outcome.state == "success" and node.calls == ["setchannel", "listpeerchannels"]


async def test_an_answer_with_other_values_than_were_set_is_no_success() -> None:
    outcome = await change(Node(fee_proportional_millionths=999))
    assert outcome.state == "indeterminate" and outcome.result["now"] == {"base_msat": 1_000, "fee_ppm": 999}
    outcome = await change(Node(fee_proportional_millionths=100))
    assert outcome.state == "error" and not outcome.fee_writes


async def test_only_what_has_no_answer_is_listed() -> None:
    node = Node(3)
    listed: list[str | None] = []
    listing, setting, lost = node.listpeerchannels, node.setchannel, node.rows[1]["channel_id"]

    async def listpeerchannels(
        peer_id: str | None = None, short_channel_id: str | None = None
    ) -> list[dict[str, Any]]:
        listed.append(short_channel_id)
        return await listing(peer_id, short_channel_id)

    async def setchannel(id: str, **options: Any) -> list[dict[str, Any]]:
        rows = await setting(id, **options)
        if id == lost:
            raise ClnTimeout("setchannel", 30)
        return rows

    node.listpeerchannels, node.setchannel = listpeerchannels, setchannel  # type: ignore[method-assign, assignment]
    outcome = await change(node)
    assert (outcome.state, outcome.result["applied"]) == ("success", 3)
    assert listed == [node.rows[1]["short_channel_id"]]


def test_what_the_answer_does_not_tell_stays_as_listed_before() -> None:
    before = [{"channel_id": "aa", "state": "CHANNELD_NORMAL", "to_us_msat": 5, "fee_base_msat": 1}]
    (row,) = merged(before, {"aa": {"channel_id": "aa", "fee_base_msat": 2}})
    assert row == {**before[0], "fee_base_msat": 2}
