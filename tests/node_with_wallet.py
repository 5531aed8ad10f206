"""A node in memory with peers and a wallet, for tests of actions that are not about channels."""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Mapping
from typing import Any

from hive_shared.cln import ClnError, ClnTimeout
from pipeline_world import NodeFake

STRANGER = "03" + "cd" * 32


FOREIGN = "bcrt1qforeign0000000000000000000000000000"
OWN = "bcrt1qown00000000000000000000000000000000"
COINS = ("a1" * 32 + ":0", "a2" * 32 + ":1", "a3" * 32 + ":0")
UNCONFIRMED = "b1" * 32 + ":0"


def raw_tx(inputs: list[str], outputs: list[int]) -> str:
    """A serialised transaction without witnesses."""
    parts = [struct.pack("<i", 2), bytes([len(inputs)])]
    for outpoint in inputs:
        txid, _, vout = outpoint.partition(":")
        parts.append(bytes.fromhex(txid)[::-1] + struct.pack("<I", int(vout)) + b"\0" + b"\xfd\xff\xff\xff")
    parts.append(bytes([len(outputs)]))
    parts += [struct.pack("<q", amount) + b"\x16\x00\x14" + b"\x07" * 20 for amount in outputs]
    return (b"".join(parts) + b"\0" * 4).hex()


class NodeWithWallet(NodeFake):
    """`peers` are those connected. A call named in `lose` acts and its answer is lost. `coins` are amount and
    confirmation height (0: none), `reserved` the block until which one is set aside, `published` what the
    network has, by txid."""

    def __init__(self, channels: int = 0) -> None:
        super().__init__(channels)
        self.peers: dict[str, bool] = {row["peer_id"]: True for row in self.rows} | {STRANGER: True}
        self.height = 200
        self.coins: dict[str, tuple[int, int]] = dict.fromkeys(COINS, (100_000, 150))
        self.coins[UNCONFIRMED] = (50_000, 0)
        self.reserved: dict[str, int] = {}
        self.unreleased: dict[str, tuple[list[str], str]] = {}
        self.published: dict[str, str] = {}
        self._serial = itertools.count(1)

    async def getinfo(self) -> dict[str, Any]:
        return {**await super().getinfo(), "blockheight": self.height}

    def restart(self) -> None:
        """The node ended: what was only prepared is forgotten, what is set aside stays so."""
        self.unreleased.clear()

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, timeout: float = 30.0
    ) -> dict[str, Any]:
        answer = getattr(self, f"_{method}", None)
        if answer is None:
            return await super().call(method, params, timeout=timeout)
        self._note(method)
        result: dict[str, Any] = answer(dict(params or {}))
        if method in self.lose:
            raise ClnTimeout(method, timeout)
        return result

    def _listpeers(self, params: dict[str, Any]) -> dict[str, Any]:
        rows = [{"id": key, "connected": there} for key, there in self.peers.items()]
        return {"peers": [row for row in rows if params.get("id") in (None, row["id"])]}

    def _connect(self, params: dict[str, Any]) -> dict[str, Any]:
        self.peers[params["id"]] = True
        return {"id": params["id"], "direction": "out", "address": {"type": "ipv4", "address": "8.8.8.8"}}

    def _disconnect(self, params: dict[str, Any]) -> dict[str, Any]:
        if not self.peers.get(params["id"]):
            raise ClnError("disconnect", -1, "Peer not connected")
        self.peers[params["id"]] = False
        return {}

    def _listfunds(self, params: dict[str, Any]) -> dict[str, Any]:
        rows = []
        for name, (amount, block) in self.coins.items():
            txid, _, vout = name.partition(":")
            row: dict[str, Any] = {"txid": txid, "output": int(vout), "amount_msat": amount * 1_000}
            until = self.reserved.get(name, 0)
            row |= {"status": "confirmed" if block else "unconfirmed", "reserved": until > self.height}
            if block:
                row["blockheight"] = block
            if until > self.height:
                row["reserved_to_block"] = until
            rows.append(row)
        return {"outputs": rows, "channels": []}

    def _listaddresses(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["address"] not in (FOREIGN, OWN):
            raise ClnError("listaddresses", -1, "Could not parse destination address")
        return {"addresses": [{"keyidx": 1, "bech32": OWN}] if params["address"] == OWN else []}

    def _feerates(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"perkw": {"opening": 500, "floor": 253}}

    def _newaddr(self, params: dict[str, Any]) -> dict[str, Any]:
        return {params["addresstype"]: OWN}

    def _txprepare(self, params: dict[str, Any]) -> dict[str, Any]:
        ((_, amount),) = params["outputs"][0].items()
        free = [name for name, (_, block) in self.coins.items() if block and not self._held(name)]
        chosen = list(params.get("utxos") or ())
        wanted = 10**9 if amount == "all" else int(amount[:-3]) + 300
        while not params.get("utxos") and free and sum(self.coins[name][0] for name in chosen) < wanted:
            chosen.append(free.pop(0))
        if any(self._held(name) for name in chosen):
            raise ClnError("txprepare", -32602, f"UTXO {chosen[0]} already reserved")
        total = sum(self.coins[name][0] for name in chosen)
        outputs = [total - 300] if amount == "all" else [int(amount[:-3]), total - int(amount[:-3]) - 300]
        if min(outputs) < 0:
            raise ClnError("txprepare", 301, "Could not afford")
        raw = raw_tx(chosen, outputs)
        txid = hashlib.sha256(f"{raw}{next(self._serial)}".encode()).hexdigest()
        self.unreleased[txid] = (chosen, raw)
        self.reserved |= dict.fromkeys(chosen, self.height + 72)
        return {"txid": txid, "unsigned_tx": raw, "psbt": "cHNidP8="}

    def _held(self, name: str) -> bool:
        return self.reserved.get(name, 0) > self.height

    def _take(self, method: str, params: dict[str, Any]) -> tuple[list[str], str]:
        if params["txid"] not in self.unreleased:
            raise ClnError(method, -32602, f"not an unreleased txid '{params['txid']}'")
        return self.unreleased.pop(params["txid"])

    def _txsend(self, params: dict[str, Any]) -> dict[str, Any]:
        _, raw = self._take("txsend", params)
        self.published[params["txid"]] = raw
        return {"txid": params["txid"], "tx": raw}

    def _txdiscard(self, params: dict[str, Any]) -> dict[str, Any]:
        chosen, raw = self._take("txdiscard", params)
        for name in chosen:
            del self.reserved[name]
        return {"txid": params["txid"], "unsigned_tx": raw}

    def _listtransactions(self, params: dict[str, Any]) -> dict[str, Any]:
        known = {
            "b1" * 32: raw_tx(["a0" * 32 + ":0"], [50_000]),
            "a0" * 32: raw_tx(["00" * 32 + ":0"], [50_200]),
        }
        rows = {**known, **self.published}
        return {"transactions": [{"hash": txid, "rawtx": raw} for txid, raw in rows.items()]}

    def _utxopsbt(self, params: dict[str, Any]) -> dict[str, Any]:
        (name,) = params["utxos"]
        if params["reserve"]:
            self.reserved[name] = max(self.reserved.get(name, 0), self.height) + params["reserve"]
        return {"psbt": name}

    def _unreserveinputs(self, params: dict[str, Any]) -> dict[str, Any]:
        self.reserved[params["psbt"]] -= params["reserve"]
        return {"reservations": []}
