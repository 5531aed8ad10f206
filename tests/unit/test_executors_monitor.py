"""Reads of the node: pages, filters, redaction, totals (docs/protocol/02 §4 item 1, §16)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.services.executors.action import Caller
from cl_hive_comms.services.executors.channels import find_channel
from cl_hive_comms.services.executors.monitor import Monitor, redacted
from cl_hive_comms.services.executors.monitor_history import History
from cl_hive_comms.services.executors.pages import PAGE_BYTES, clean, cursor_number, page_of_list
from cl_hive_comms.services.node_backups import NodeBackups
from hive_shared.canonical import encode
from hive_shared.crypto import Secret
from hive_shared.errors import InvalidParams
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_world import NodeFake

CALLER = Caller("c", "aa" * 32, "adv", "cred", 1_000_000)


class Ledger(NodeFake):
    """A node with forwards and invoices that answers index, start and limit as CLN does."""

    def __init__(self, forwards: int = 0, invoices: int = 0) -> None:
        super().__init__(channels=3)
        self.asked = 0
        self.forwards = [
            {
                "created_index": n,
                "in_channel": "101x1x0",
                "out_channel": "102x1x0",
                "in_msat": 1_010,
                "out_msat": 1_000,
                "fee_msat": 10,
                "status": "settled" if n % 2 else "failed",
                "received_time": 900_000 + n + 0.25,
            }
            for n in range(1, forwards + 1)
        ]
        self.invoices = [
            {
                "created_index": n,
                "label": f"l{n}",
                "payment_hash": f"{n:064x}",
                "payment_preimage": "ff" * 32,
                "bolt11": "lnbcrt1" + "q" * 50,
                "status": "paid" if n % 2 else "unpaid",
            }
            for n in range(1, invoices + 1)
        ]

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, timeout: float = 30.0
    ) -> dict[str, Any]:
        tables = {"listforwards": ("forwards", self.forwards), "listinvoices": ("invoices", self.invoices)}
        if method not in tables or params is None:
            return await super().call(method, params, timeout=timeout)
        self.asked += 1
        key, rows = tables[method]
        start, limit = params["start"], params["limit"]
        assert isinstance(start, int) and isinstance(limit, int)
        wanted = [row for row in rows if row["created_index"] >= start]
        return {key: wanted[:limit]}


def monitor(node: NodeFake) -> Monitor:
    async def no_hash() -> dict[str, Any]:
        return {}

    async def none(path: Path, passphrase: Secret) -> None:
        raise AssertionError

    nowhere = NodeBackups(Path("no-such-directory"), none, lambda: None, bytes)
    return Monitor(node, no_hash, History(node).forward_totals, nowhere)


async def all_pages(read: Any, params: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """Follow next_cursor to the end: all items, and how many pages it took."""
    items: list[dict[str, Any]] = []
    pages = 0
    while True:
        result = await read(params, CALLER)
        assert result["count"] == len(result["items"])
        assert len(encode(result)) < PAGE_BYTES + 1_000
        items += result["items"]
        pages += 1
        if "next_cursor" not in result:
            return items, pages
        params = {**params, "cursor": result["next_cursor"]}


async def test_a_long_channel_list_comes_in_pages_of_24_kb() -> None:
    node = NodeFake(channels=200)
    items, pages = await all_pages(monitor(node).channel_list, {"limit": 1_000})
    assert len(items) == 200 and pages > 2
    assert len({item["channel_id"] for item in items}) == 200


async def test_limits_hold_and_the_last_page_has_no_cursor() -> None:
    items, pages = await all_pages(monitor(NodeFake(channels=5)).fee_report, {"limit": 2})
    assert (len(items), pages) == (5, 3)


async def test_filters_of_channel_list() -> None:
    node = NodeFake(channels=3)
    node.rows[1]["state"] = "ONCHAIN"
    by_state = await monitor(node).channel_list({"state": "ONCHAIN"}, CALLER)
    assert [item["channel"] for item in by_state["items"]] == ["102x1x0"]  # type: ignore[union-attr,index,call-overload]
    by_peer = await monitor(node).channel_list({"peer_id": node.rows[2]["peer_id"]}, CALLER)
    assert by_peer["count"] == 1


async def test_forwards_are_paged_by_created_index() -> None:
    node = Ledger(forwards=250)
    items, _ = await all_pages(History(node).forward_history, {"limit": 100})
    assert [item["created_index"] for item in items] == list(range(1, 251))
    assert items[0]["received_time"] == "900001.25"


async def test_invoices_show_no_preimage_and_filter_by_status() -> None:
    items, _ = await all_pages(History(Ledger(invoices=30)).invoice_list, {"limit": 7, "status": "paid"})
    assert [item["created_index"] for item in items] == list(range(1, 31, 2))
    assert "ff" * 32 not in str(items)


@pytest.mark.parametrize("count", [0, 1, 2, 999, 1_000, 1_001, 2_500])
async def test_totals_count_a_span_without_reading_what_lies_before(count: int) -> None:
    node = Ledger(forwards=count)
    since = 900_000 + max(1, count - 100)
    totals = await History(node).forward_totals(since, 2_000_000)
    inside = [row for row in node.forwards if int(row["received_time"]) >= since]  # type: ignore[call-overload]
    assert totals["count"] == len(inside) and totals["complete"] is True
    assert totals["fees_msat"] == 10 * sum(row["status"] == "settled" for row in inside)
    assert node.asked < 40


async def test_health_summary_brief_and_full() -> None:
    node = Ledger(forwards=10)
    full = await monitor(node).health_summary(
        {"format": "full", "include_forwards": True, "hours": 720}, CALLER
    )
    assert full["channels"]["count"] == 3  # type: ignore[index,call-overload]
    assert full["forwards"]["count"] == 10  # type: ignore[index,call-overload]
    brief = await monitor(node).health_summary({"format": "brief"}, CALLER)
    assert "channels" not in brief and brief["version"] == "v26.06"


@pytest.mark.parametrize(
    "form",
    ["102x1x0", "00102x1x0", str(102 << 40 | 1 << 16), f"{2:064x}", f"{1002:064x}:0", f"{1002:064x}:00000"],
)
def test_a_channel_is_found_by_every_form(form: str) -> None:
    assert find_channel(NodeFake(3).rows, form)["short_channel_id"] == "102x1x0"


@pytest.mark.parametrize("form", ["999x1x0", "", "0", "x", "ab" * 32, f"{1002:064x}:1", "102X1X0 "])
def test_a_channel_of_others_is_refused(form: str) -> None:
    with pytest.raises(InvalidParams):
        find_channel(NodeFake(3).rows, form)


@pytest.mark.parametrize(
    "line",
    [
        "rune=AbCdEf12345 used",
        "nsec1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq",
        "preimage: " + "ab" * 32,
        "paid lnbcrt10n1p" + "q" * 60,
        "file /var/lib/lightning/regtest/hsm_secret",
        "token=cashuBo2Ft macaroon = AgEL",
        "password hunter2 key: 0123",
    ],
)
def test_acceptance_02_25_what_could_be_a_secret_is_blanked(line: str) -> None:
    shown = redacted(line)
    for secret in (
        "AbCdEf12345",
        "nsec1qqqqqq",
        "abababab",
        "lnbcrt10n",
        "hsm_secret",
        "cashuB",
        "AgEL",
        "0123",
    ):
        assert secret not in shown


@settings(max_examples=100)
@given(st.text(max_size=300))
def test_redacting_any_text_gives_printable_text(text: str) -> None:
    assert all(c.isprintable() for c in redacted(text))


@settings(max_examples=100)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text(alphabet=st.characters(codec="utf-8")),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["a", "rune", "preimage", "b"]), inner)
        ),
        max_leaves=20,
    )
)
def test_anything_a_node_answers_can_be_signed_afterwards(value: Any) -> None:
    encode(clean(value))
    assert clean({"preimage": value, "rune": value}) == {}


@pytest.mark.parametrize("cursor", ["-1", "1.5", "abc", "9" * 16, ""])
def test_a_cursor_we_never_gave_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidParams):
        cursor_number(cursor)


def test_a_single_item_larger_than_a_page_still_arrives() -> None:
    assert page_of_list([{"x": "y" * 30_000}, {"x": "z"}], 10, None)["count"] == 1
