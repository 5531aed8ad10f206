"""Paying invoices over the node (docs/protocol/03-escrow-and-payments.md §7.4)."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from msgspec.structs import replace

from ..domain.lightning_invoice import Asked, Kind, plain
from ..domain.payment import NONE, RETRY_S, Found, Payment, Series
from ..services.ports_commands import Node

_ANSWER_S: Final = 75.0
"""How long an answer to a payment is waited for: the retries and what the last attempt takes."""


class Parts(Protocol):
    """The node's list of payment parts (services.executors.sent_parts.SentParts)."""

    async def by_hash(self, payment_hash: str) -> list[dict[str, Any]]: ...
    async def since(self, index: int) -> list[dict[str, Any]]: ...
    async def count(self) -> int: ...
    async def none_missing(self, since: int) -> bool: ...


class Bolt11:
    """Invoices of both kinds and keysends. `decoded` reads an invoice or offer of a kind, `offers` says
    whether the node has a call."""

    def __init__(
        self,
        node: Node,
        parts: Parts,
        decoded: Callable[[Kind, str], Awaitable[Asked]],
        offers: Callable[[str], bool],
        network: str,
    ) -> None:
        self._node, self._parts, self._decoded = node, parts, decoded
        self._offers, self._network = offers, network

    async def own_id(self) -> str:
        """The node's id."""
        return str((await self._node.getinfo())["id"])

    async def read(self, target: str) -> Asked:
        """What an invoice or offer asks for, read by the node. Raises InvalidParams, ClnError."""
        kind, text = plain(target, self._network)
        return await self._decoded(kind, text)

    async def count(self) -> int:
        """How many payment parts the node has ever made."""
        return await self._parts.count()

    async def none_missing(self, since: int) -> bool:
        """Whether every part made after that many were is still on the list."""
        return await self._parts.none_missing(since)

    async def pay(self, row: Payment) -> Found:
        """Tell the node to pay, once. Raises ClnError."""
        method, params = self._call(row)
        answer = await self._node.call(method, params, timeout=_ANSWER_S)
        preimage = str(answer["payment_preimage"])
        return Found(
            "complete",
            preimage,
            hashlib.sha256(bytes.fromhex(preimage)).hexdigest(),
            int(answer["amount_msat"]),
            int(answer["amount_sent_msat"]),
        )

    def _call(self, row: Payment) -> tuple[str, dict[str, object]]:
        params: dict[str, object] = {"maxfee": row.max_fee_msat, "retry_for": RETRY_S}
        target = row.target
        series = None if target.series is None else target.series.label
        # The node finds the period before by the label that all of a series have.
        label = {"label": series or row.label}
        if target.invoice is None:
            to = {"destination": target.payee, "amount_msat": row.amount_msat, **params, **label}
            if target.tlvs:
                to["extratlvs"] = dict(target.tlvs)
            return "xkeysend" if self._offers("xkeysend") else "keysend", to
        if target.amount_is_ours:
            params["amount_msat"] = row.amount_msat
        if not self._offers("xpay") or (series is not None and not self._offers("xkeysend")):
            return "pay", {"bolt11": target.invoice, **params, **label}
        # xpay and xkeysend learned of labels in the same release.
        named = label if self._offers("xkeysend") else {}
        return "xpay", {"invstring": target.invoice, **params, **named}

    async def look(self, row: Payment) -> Found:
        """What the node's list says. Raises ClnError."""
        since = row.sent_index or 0
        series = row.target.series
        if row.payment_hash is None and series is not None and series.label is not None:
            return await self._look_for_period(row, series)
        if row.payment_hash is None:
            return _found([part for part in await self._parts.since(since) if part.get("label") == row.label])
        parts = await self._parts.by_hash(row.payment_hash)
        # What failed before this payment began says nothing about it; what was paid before has paid it.
        found = _found([part for part in parts if part["created_index"] > since])
        if found.state == "complete":
            return found
        before = _found([part for part in parts if part["created_index"] <= since])
        if before.state == "complete":
            return Found(
                "complete", before.preimage, before.payment_hash, row.amount_msat, row.amount_msat, False
            )
        # The node refuses ours while another one is at this invoice; that one may still pay it.
        return before if before.state == "pending" else found

    async def _look_for_period(self, row: Payment, series: Series) -> Found:
        """What became of a period, whoever began to pay it: its invoice says which one it is for."""
        for part in await self._parts.since(0):
            text = part.get("bolt12")
            if part.get("label") != series.label or not isinstance(text, str):
                continue
            asked = await self.read(text)
            if asked.counter == series.counter:
                found = await self.look(replace(row, payment_hash=asked.payment_hash, sent_index=0))
                if found.state != "failed":
                    return replace(found, invoice=text)
        return NONE


def _found(parts: Sequence[Mapping[str, Any]]) -> Found:
    done = next((part for part in parts if part["status"] == "complete"), None)
    if done is not None:
        # With one part paid its preimage is out: the others of the same attempt can only follow.
        paid = [part for part in parts if part["groupid"] == done["groupid"] and part["status"] != "failed"]
        return Found(
            "complete",
            done.get("payment_preimage"),
            str(done["payment_hash"]),
            sum(int(part.get("amount_msat", part["amount_sent_msat"])) for part in paid),
            sum(int(part["amount_sent_msat"]) for part in paid),
        )
    if any(part["status"] == "pending" for part in parts):
        return Found("pending")
    return Found("failed") if parts else NONE
