"""A pipeline over a node with a ring of channels, for rebalances."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hive_shared.cln import ClnError, ClnTimeout
from hive_shared.registry import REBALANCE, Tier
from node_with_wallet import NodeWithWallet
from pipeline_world import NODE_ID, NOW, View, World, issue
from wallet_world import Case

OUT, HOME, THIRD = "101x1x0", "102x1x0", "103x1x0"
FAR = "900x1x0"
"""A channel between the peers of `OUT` and `HOME`; another one like it is 901x1x0."""
PREIMAGE = "5a" * 32
HASH = hashlib.sha256(bytes.fromhex(PREIMAGE)).hexdigest()
FEE_MSAT = 21_500


class RingNode(NodeWithWallet):
    """Three channels. `ends` says how the next attempts end: `complete`, `pending`, `failed` (at FAR, then at
    the channel beside it), `refused` (by us, at the end), `local` (at our first channel), `gone` (the call
    itself finds no such peer); the last word goes on. `version` is the node's."""

    def __init__(self) -> None:
        super().__init__(3)
        for row in self.rows:
            row |= {"spendable_msat": 490_000_000, "receivable_msat": 480_000_000}
        self.ends = ["complete"]
        self.version = "v26.06.6"
        self.layers: dict[str, dict[str, Any]] = {}
        self.own: dict[str, str] = {}
        self.parts: list[dict[str, Any]] = []
        self.made = 0
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.no_route: int | None = None
        self.spoil: dict[str, Any] = {}

    async def getinfo(self) -> dict[str, Any]:
        return {**await super().getinfo(), "version": self.version}

    def row(self, scid: str) -> dict[str, Any]:
        return next(row for row in self.rows if row["short_channel_id"] == scid)

    def moved(self) -> list[int]:
        """Msat that went through, by attempt."""
        return [row["amount_msat"] for row in self.parts if row["status"] == "complete"]

    def end(self, status: str) -> None:
        """What was pending ends."""
        for row in self.parts:
            if row["status"] == "pending":
                row["status"] = status
                if status == "complete":
                    self._settle(row)

    def left(self) -> tuple[list[str], list[str]]:
        """Layers, and invoices that are not paid."""
        return list(self.layers), [label for label, status in self.own.items() if status != "paid"]

    def _settle(self, part: dict[str, Any]) -> None:
        for label in self.own:
            self.own[label] = "paid"
        self.row(OUT)["to_us_msat"] -= part["amount_sent_msat"]
        self.row(HOME)["to_us_msat"] += part["amount_msat"]

    # -- calls --------------------------------------------------------------------------------------

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, timeout: float = 30.0
    ) -> dict[str, Any]:
        self.asked.append((method, dict(params or {})))
        name = method.replace("-", "_")
        return await super().call(name if name.startswith("askrene") else method, params, timeout=timeout)

    def _wait(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"subsystem": "sendpays", "created": self.made}

    def _invoice(self, params: dict[str, Any]) -> dict[str, Any]:
        self.own[params["label"]] = "unpaid"
        return {
            "payment_hash": HASH,
            "payment_secret": "5e" * 32,
            "bolt11": "lnbcrt1",
            "expires_at": NOW + 600,
        }

    def _delinvoice(self, params: dict[str, Any]) -> dict[str, Any]:
        status = self.own.get(params["label"])
        if status is None:
            raise ClnError("delinvoice", 905, "Unknown invoice")
        if status != params["status"]:
            data = {"current_status": status, "expected_status": params["status"]}
            raise ClnError("delinvoice", 906, f"Invoice status is {status}", data)
        del self.own[params["label"]]
        return {}

    def _askrene_create_layer(self, params: dict[str, Any]) -> dict[str, Any]:
        self.layers[params["layer"]] = {"closed": [], "nodes": [], "informed": []}
        return {"layers": []}

    def _layer(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["layer"] not in self.layers:
            raise ClnError("askrene", -32602, "layer: Unknown layer")
        return self.layers[params["layer"]]

    def _askrene_update_channel(self, params: dict[str, Any]) -> dict[str, Any]:
        assert params["enabled"] is False
        self._layer(params)["closed"].append(params["short_channel_id_dir"])
        return {}

    def _askrene_disable_node(self, params: dict[str, Any]) -> dict[str, Any]:
        self._layer(params)["nodes"].append(params["node"])
        return {}

    def _askrene_inform_channel(self, params: dict[str, Any]) -> dict[str, Any]:
        assert params["inform"] == "constrained"
        self._layer(params)["informed"].append((params["short_channel_id_dir"], params["amount_msat"]))
        return {"constraints": []}

    def _askrene_remove_layer(self, params: dict[str, Any]) -> dict[str, Any]:
        self._layer(params)
        del self.layers[params["layer"]]
        return {}

    def _getroutes(self, params: dict[str, Any]) -> dict[str, Any]:
        layer = self.layers[params["layers"][1]]
        if self.no_route is not None:
            raise ClnError("getroutes", self.no_route, "no path over /var/lib/private-dir")
        source, amount = params["source"], params["amount_msat"]
        between = FAR if not layer["informed"] else "901x1x0"
        home_peer = self.row(HOME)["peer_id"]
        last = f"{HOME}/{0 if home_peer < NODE_ID else 1}"
        first = f"{between}/{0 if source < home_peer else 1}"
        came = amount + FEE_MSAT
        hops = (
            {"scid": first, "to": home_peer, "in": came, "out": amount + 500, "due": 36, "left": 30},
            {"scid": last, "to": NODE_ID, "in": amount + 500, "out": amount, "due": 30, "left": 24},
        )
        path = [
            {
                "short_channel_id_dir": hop["scid"],
                "next_node_id": hop["to"],
                "amount_msat": hop["in"],
                "delay": hop["due"],
                **(
                    {
                        "node_id_out": hop["to"],
                        "amount_in_msat": hop["in"],
                        "amount_out_msat": hop["out"],
                        "cltv_in": hop["due"],
                        "cltv_out": hop["left"],
                    }
                    if self.version >= "v26"
                    else {}
                ),
            }
            for hop in hops
        ]
        path[-1] |= {key: value for key, value in self.spoil.items() if key in path[-1]}
        route = {"amount_msat": amount, "final_cltv": params["final_cltv"], "path": path}
        return {"probability_ppm": 900_000, "routes": [route] * self.spoil.get("routes", 1)}

    def _sendpay(self, params: dict[str, Any]) -> dict[str, Any]:
        end = self.ends[0]
        if end == "gone":
            data = {"erring_index": 0, "failcode": 16394, "failcodename": "WIRE_UNKNOWN_NEXT_PEER"}
            raise ClnError("sendpay", 204, "No connection to first peer found", data)
        assert not any(row["status"] != "failed" for row in self.parts)
        self.made += 1
        first, last = params["route"][0], params["route"][-1]
        amount = "amount_out_msat" if "amount_out_msat" in first else "amount_msat"
        row = {
            "created_index": self.made,
            "groupid": self.made,
            "payment_hash": params["payment_hash"],
            "amount_msat": last[amount],
            "amount_sent_msat": first[amount],
            "label": params["label"],
            "status": "failed" if end in ("failed", "refused", "local") else end,
        }
        self.parts.append(row)
        # An invoice that is gone takes nothing.
        if end == "complete":
            if params["label"] in self.own:
                self._settle(row)
            else:
                row["status"] = "failed"
        return {**row, "status": "pending"}

    def _waitsendpay(self, params: dict[str, Any]) -> dict[str, Any]:
        end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
        (row,) = [row for row in self.parts if row["groupid"] == self.made]
        if row["status"] == "pending":
            raise ClnError("waitsendpay", 200, "Timed out while waiting")
        if row["status"] == "complete":
            return {**row, "payment_preimage": PREIMAGE}
        layer = next(iter(self.layers.values()), {"informed": []})
        between = FAR if not layer["informed"] else "901x1x0"
        peers = [self.row(scid)["peer_id"] for scid in (OUT, HOME)]
        where: dict[str, Any] = {"erring_index": 1, "erring_channel": between}
        where["erring_direction"] = 0 if peers[0] < peers[1] else 1
        code, name = 204, "WIRE_TEMPORARY_CHANNEL_FAILURE"
        if end == "local":
            where = {"erring_index": 0, "erring_channel": OUT, "erring_direction": 0}
        if end == "refused":
            code, name, where = 203, "WIRE_INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS", {"erring_index": 3}
        raise ClnError("waitsendpay", code, f"failed: {name}", {**where, "failcodename": name})

    def _listsendpays(self, params: dict[str, Any]) -> dict[str, Any]:
        rows = [row for row in self.parts if row["created_index"] >= params.get("start", 0)]
        wanted = params.get("payment_hash")
        return {"payments": [dict(row) for row in rows if wanted in (None, row["payment_hash"])]}


class Ring(World):
    """A world whose node can rebalance."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, channels=0)
        self.node: RingNode = RingNode()
        self.restart()

    def shown(self) -> Any:
        """What a rebalance changes."""
        return self.node.moved()


ASKED = {"from_channel": OUT, "to_channel": HOME, "amount_sats": 50_000, "max_fee_ppm": 500}
CASES = {(REBALANCE, "circular_rebalance"): Case(ASKED, "sendpay")}


def ring(directory: Path, **overrides: Any) -> Ring:
    """An agent that may rebalance by itself."""
    directory.mkdir(parents=True, exist_ok=True)
    world = Ring(directory)
    issued = issue(template="complete_management", tier=Tier.ADVANCED)
    world.credentials.add(View(issued, "adv-1"))
    words = {"approval_overrides": {"rebalance_*": "auto_execute"}}
    world.policies.override("aggressive", **{**words, **overrides})
    return world


def lost(method: str) -> ClnError:
    """An answer that never came."""
    return ClnTimeout(method, 30)
