"""A node that splices channels in memory, for tests of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from channel_node import ChannelNode, channel_world
from hive_devnet.embedded.psbt import Psbt, read_psbt
from hive_devnet.embedded.transactions import Transaction, TxInput, TxOutput
from hive_shared.cln import ClnError, ClnTimeout
from pipeline_world import World

STEPS = (
    *("fundpsbt", "addpsbtoutput", "setpsbtversion", "splice_init", "splice_update", "signpsbt"),
    *("splice_signed", "abort_channels", "unreserveinputs", "utxopsbt", "listtransactions", "listpeers"),
)
FEATURES, WITHOUT = "800898880a8a59a1", "0898880a8a59a1"
NEW, CHANGE, THEIRS = b"\x00\x20" + b"\x01" * 32, b"\x51\x20" + b"\x02" * 32, b"\x00\x14" + b"\x03" * 20
FEE_SAT = 900


class SpliceNode(ChannelNode):
    """`signed` are the transactions that our signatures were given for; `refuse` makes a step fail with a
    code, `features` are the peers'. `changes` is how often the peer changes the transaction. `unsafe` tells
    of a splice that was called off after it was signed, which must never be."""

    def __init__(self) -> None:
        super().__init__()
        for row in self.rows:
            row |= {"spendable_msat": 480_000_000, "state_changes": []}
        self.features = FEATURES
        self.splicing: dict[str, dict[str, Any]] = {}
        self.signed: list[str] = []
        self.listed: set[str] = set()
        self.refuse: dict[str, int] = {}
        self.changes = 0
        self.unsafe = False

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, timeout: float = 30.0
    ) -> dict[str, Any]:
        if method not in STEPS:
            return await super().call(method, params, timeout=timeout)
        self._note(method)
        if method in self.refuse:
            raise ClnError(method, self.refuse[method], "the node said no at /var/lib/private-dir")
        answer: dict[str, Any] = getattr(self, f"_{method}")(dict(params or {}))
        if method in self.lose:
            raise ClnTimeout(method, timeout)
        return answer

    def row(self, channel_id: str = f"{1:064x}") -> dict[str, Any]:
        return next(row for row in self.rows if row["channel_id"] == channel_id)

    def hang_up(self, channel_id: str = f"{1:064x}") -> None:
        """The connection ends: what was only negotiated is gone on this side."""
        self.row(channel_id)["peer_connected"] = False
        self.splicing.pop(channel_id, None)

    def confirm(self) -> None:
        """The signed splices are in blocks."""
        for row in self.rows:
            for splice in row.pop("inflight", []):
                row |= {
                    "state": "CHANNELD_NORMAL",
                    "funding_txid": splice["funding_txid"],
                    "funding_outnum": splice["funding_outnum"],
                    "total_msat": splice["total_funding_msat"],
                    "to_us_msat": row["to_us_msat"] + splice["splice_amount"] * 1_000,
                }

    def _listfunds(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        rows = super()._listfunds(asked)["outputs"]
        held = [{"reserved_to_block": 172} if row["reserved"] else {} for row in rows]
        return {"outputs": [{**row, "blockheight": 90, **more} for row, more in zip(rows, held, strict=True)]}

    def _listpeers(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return {"peers": [{"id": asked["id"], "connected": True, "features": self.features}]}

    def _listtransactions(self, _asked: Mapping[str, Any]) -> dict[str, Any]:
        return {"transactions": [{"hash": txid, "rawtx": ""} for txid in sorted(self.listed)]}

    def _fundpsbt(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        assert asked["excess_as_change"] is True and str(asked["feerate"]).endswith("perkw")
        amount = int(str(asked["satoshi"]).removesuffix("sat"))
        free = {name: sat for name, sat in self.coins.items() if name not in self.reserved}
        chosen = next((name for name, sat in free.items() if sat > amount + FEE_SAT), None)
        if chosen is None:
            raise ClnError("fundpsbt", 301, "Could not afford")
        self.reserved.add(chosen)
        txid, _, vout = chosen.partition(":")
        coin = TxInput(txid, int(vout), free[chosen])
        change = TxOutput(free[chosen] - amount - FEE_SAT, CHANGE)
        return {"psbt": Psbt(Transaction((coin,), (change,)), (THEIRS,)).text()}

    def _addpsbtoutput(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        script = THEIRS if "destination" in asked else CHANGE
        output = TxOutput(int(str(asked["satoshi"]).removesuffix("sat")), script)
        return {"psbt": Psbt(Transaction((), (output,)), ()).text(), "outnum": 0}

    def _setpsbtversion(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        assert asked["version"] == 0
        return {"psbt": asked["psbt"]}

    def _splice_init(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        row, given = self.row(asked["channel_id"]), read_psbt(asked["initialpsbt"])
        if row["channel_id"] in self.splicing:
            raise ClnError("splice_init", 358, "Can't start two splices on the same channel at once.")
        if not row["peer_connected"]:
            raise ClnError("splice_init", 351, "Channel is disconnected")
        capacity = row["total_msat"] // 1_000
        old = TxInput(row["funding_txid"], 0, capacity, 0)
        new = TxOutput(capacity + asked["relative_amount"], NEW)
        tx = Transaction((*given.tx.inputs, old), (*given.tx.outputs, new))
        made = Psbt(tx, (*given.spent_scripts, NEW))
        self.splicing[row["channel_id"]] = {
            "amount": asked["relative_amount"],
            "told": 0,
            "psbt": made.text(),
        }
        return {"psbt": made.text()}

    def _splice_update(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        row = self.row(asked["channel_id"])
        found = self.splicing.get(row["channel_id"])
        if found is None:
            raise ClnError("splice_update", 358, "this channel hasn't begun a splice.")
        found["told"] += 1
        given = read_psbt(asked["psbt"])
        if found["told"] <= 1 + self.changes:
            tx = Transaction(given.tx.inputs, given.tx.outputs, locktime=found["told"])
            found["psbt"] = Psbt(tx, given.spent_scripts).text()
            return {"psbt": found["psbt"], "commitments_secured": False, "signatures_secured": False}
        assert given.tx.txid == read_psbt(found["psbt"]).tx.txid
        total = row["total_msat"] + found["amount"] * 1_000
        outnum = [output.script for output in given.tx.outputs].index(NEW)
        row["inflight"] = [
            {
                "funding_txid": given.tx.txid,
                "funding_outnum": outnum,
                "total_funding_msat": total,
                "splice_amount": found["amount"],
            }
        ]
        return {"psbt": asked["psbt"], "commitments_secured": True, "signatures_secured": True}

    def _signpsbt(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return {"signed_psbt": asked["psbt"]}

    def _splice_signed(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        row, txid = self.row(asked["channel_id"]), read_psbt(asked["psbt"]).tx.txid
        if row["channel_id"] not in self.splicing:
            raise ClnError("splice_signed", 358, "this channel hasn't begun a splice.")
        del self.splicing[row["channel_id"]]
        row["state"] = "CHANNELD_AWAITING_SPLICE"
        row["state_changes"].append({"new_state": row["state"]})
        self.signed.append(txid)
        return {"txid": txid, "outnum": row["inflight"][0]["funding_outnum"], "tx": "", "psbt": asked["psbt"]}

    def _abort_channels(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        for channel_id in asked["channel_ids"]:
            row = self.row(channel_id)
            if not row["peer_connected"]:
                raise ClnError("abort_channels", 351, "Channel is disconnected")
            self.unsafe |= row["state"] != "CHANNELD_NORMAL"
            self.splicing.pop(channel_id, None)
            row.pop("inflight", None)
        return {}

    def _unreserveinputs(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        for item in read_psbt(asked["psbt"]).tx.inputs:
            self.reserved.discard(f"{item.txid}:{item.vout}")
        return {"reservations": []}

    def _utxopsbt(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        assert asked["reserve"] == 0 and asked["reservedok"] is True
        (name,) = asked["utxos"]
        txid, _, vout = name.partition(":")
        return {"psbt": Psbt(Transaction((TxInput(txid, int(vout), 0),), ()), (CHANGE,)).text()}


def splice_world(directory: Path, **overrides: Any) -> World:
    """An agent that may splice by itself, and a node that does."""
    world = channel_world(directory, **{"approval_overrides": {"splice_*": "auto_execute"}, **overrides})
    world.node = SpliceNode()
    world.restart()
    return world
