"""hive:htlc-mgmt/v1, its reads (docs/protocol/02-fleet-management.md §4 item 15)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import HiveError, from_symbol

from ...domain.htlc_seen import HtlcKey, keys_of
from .action import Caller, Params
from .channels import channel_key, find_channel
from .indexed import indexed_page
from .monitor import ReadNode, limit_of
from .pages import page_of_list, pick

_FIELDS: Final = (
    "created_index",
    "short_channel_id",
    "id",
    "direction",
    "amount_msat",
    "expiry",
    "payment_hash",
    "state",
)
_UNKNOWN_PARAMETER: Final = -32602
Seen = Callable[[], Awaitable[Mapping[HtlcKey, int]]]
"""When each HTLC in flight was first seen, unix seconds."""
Row = Mapping[str, Any]


class HtlcReads:
    """Looks at HTLCs. Each action method is one action's `read`."""

    def __init__(self, node: ReadNode, seen: Seen) -> None:
        self._node, self._seen = node, seen

    async def list_htlcs(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """`list_htlcs`: every HTLC the node remembers, in order of creation, also settled ones."""
        filters: dict[str, object] = {}
        if channel := params.get("channel_id"):
            filters["id"] = find_channel(await self._node.listpeerchannels(), str(channel))["channel_id"]
        try:
            found = await indexed_page(self._node, "listhtlcs", "htlcs", filters, params, _FIELDS)
        except ClnError as error:
            if error.code != _UNKNOWN_PARAMETER:
                raise
            # CLN before v25.05 takes no index: it gives all of them.
            rows = (await self._node.call("listhtlcs", filters))["htlcs"]
            found = page_of_list([pick(r, _FIELDS) for r in rows], limit_of(params), params.get("cursor"))
        for item in found["items"] if isinstance(found["items"], list) else ():
            if isinstance(item, dict):
                item["htlc_id"] = f"{item['short_channel_id']}:{item['id']}:{item['direction']}"
        return found

    async def list_stuck(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """`list_stuck`: HTLCs in flight for at least so long, the oldest first. The node does not tell their
        age: it counts from when this plugin first saw them, at most five minutes late."""
        least = params["min_age_seconds"]
        assert isinstance(least, int)
        rows, seen = await self._node.listpeerchannels(), await self._seen()
        height = int((await self._node.getinfo())["blockheight"])
        details = params.get("include_details") is True
        found: list[tuple[int, dict[str, JsonValue]]] = []
        for row in rows:
            for key, htlc in _live(row).items():
                since = seen.get(key, caller.now)
                if caller.now - since >= least:
                    item = _in_flight(row, htlc, key, height, details=details)
                    found.append((since, item | _age(caller, since)))
        items = [item for _, item in sorted(found, key=lambda each: (each[0], str(each[1]["htlc_id"])))]
        return page_of_list(items, limit_of(params), params.get("cursor"))

    async def inspect(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """`inspect`: one HTLC by `scid:id[:in|out]`, in flight or settled.

        Raises InvalidParams for one that the node does not have, and for an id both directions have.
        """
        scid, number, *direction = str(params["htlc_id"]).split(":")
        rows = await self._node.listpeerchannels()
        channel = find_channel(rows, scid, "htlc_id")
        asked = {"id": channel["channel_id"]}
        found = [
            htlc
            for htlc in (await self._node.call("listhtlcs", asked))["htlcs"]
            if int(htlc["id"]) == int(number) and direction in ([], [htlc["direction"]])
        ]
        if not found:
            raise _no_such(params, "an HTLC of that channel; list_htlcs shows them")
        if len(found) > 1:
            raise _no_such(params, "told apart by :in or :out: the channel has that id in both directions")
        key = HtlcKey(channel_key(channel), str(found[0]["direction"]), int(number))
        result: dict[str, JsonValue] = {"htlc_id": key.text, **pick(found[0], _FIELDS)}
        result["peer_id"] = str(channel["peer_id"])
        live = _live(channel)
        result["in_flight"] = key in live
        if key in live:
            height = int((await self._node.getinfo())["blockheight"])
            since = (await self._seen()).get(key, caller.now)
            result |= _in_flight(channel, live[key], key, height, details=True) | _age(caller, since)
        if params.get("include_onion") is True:
            result["onion"] = "not available: the node gives onions to no plugin but at their arrival"
        return result


def _live(row: Row) -> dict[HtlcKey, Row]:
    return dict(zip(keys_of([row]), row.get("htlcs", ()), strict=True))


def _in_flight(row: Row, htlc: Row, key: HtlcKey, height: int, *, details: bool) -> dict[str, JsonValue]:
    item: dict[str, JsonValue] = {
        "htlc_id": key.text,
        "channel": key.scid,
        "peer_id": str(row["peer_id"]),
        "peer_connected": row.get("peer_connected") is True,
        "direction": key.direction,
        "amount_msat": int(htlc["amount_msat"]),
        "expiry": int(htlc["expiry"]),
        "blocks_left": int(htlc["expiry"]) - height,
    }
    if details:
        item |= pick(htlc, ("payment_hash", "state", "local_trimmed", "status"))
    return item


def _age(caller: Caller, since: int) -> dict[str, JsonValue]:
    return {"first_seen": since, "age_seconds": caller.now - since}


def _no_such(params: Params, expected: str) -> HiveError:
    return from_symbol(
        "invalid_params",
        f"htlc_id {params['htlc_id']} must be {expected}",
        param="htlc_id",
        expected=expected,
    )
