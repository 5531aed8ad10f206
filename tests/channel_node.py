"""A node that opens and closes channels in memory, for tests of the pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hive_shared import crypto
from hive_shared.canonical import JsonValue, decode_object
from hive_shared.cln import ClnError, ClnTimeout
from hive_shared.credential import Credential
from hive_shared.envelope import confirm_digest
from hive_shared.registry import Tier
from pipeline_world import AGENT_KEY, NodeFake, View, World, issue

OWN, FOREIGN = "bcrt1qown0000000000000", "bcrt1qforeign000000000"
PEER = "02" + f"{9:064x}"
SECOND = "02" + f"{8:064x}"
EFFECTS = ("fundchannel", "multifundchannel", "close")
COINS = {f"{n:064x}:0": sat for n, sat in ((201, 300_000), (202, 700_000), (203, 2_000_000))}


class ChannelNode(NodeFake):
    """`hold`, when set, keeps `fundchannel` and `close` waiting after they were taken; `away` makes a close
    wait for the peer: the channel is shutting down and the call does not return. `absent` are the ids of
    channels whose peers are away, `refused` those the node does not close, each with its code."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__(channels)
        for row in self.rows:
            row["opener"] = "local"
        self.coins = dict(COINS)
        self.reserved: set[str] = set()
        self.closed: list[dict[str, Any]] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.hold: asyncio.Event | None = None
        self.away = False
        self.absent: set[str] = set()
        self.refused: dict[str, int] = {}

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, timeout: float = 30.0
    ) -> dict[str, Any]:
        asked: dict[str, Any] = dict(params or {})
        if method not in EFFECTS:
            known = getattr(self, f"_{method}", None)
            if known is None:
                return await super().call(method, params, timeout=timeout)
            self._note(method)
            return dict(known(asked))
        self._note(method)
        self.asked.append((method, asked))
        try:
            async with asyncio.timeout(timeout):
                return await self._act(method, asked)
        except TimeoutError:
            raise ClnTimeout(method, timeout) from None

    async def _act(self, method: str, asked: dict[str, Any]) -> dict[str, Any]:
        if self.hold is not None:
            await self.hold.wait()
        act: dict[str, Any] = {
            "fundchannel": self._fundchannel,
            "multifundchannel": self._multifundchannel,
            "close": self._close,
        }
        answer: dict[str, Any] = act[method](asked)
        if method == "close" and not answer:
            await asyncio.Event().wait()
        if method in self.lose:
            raise ClnTimeout(method, 30)
        return answer

    def _listfunds(self, _asked: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "outputs": [
                {
                    "txid": name[:64],
                    "output": 0,
                    "amount_msat": sat * 1_000,
                    "status": "confirmed",
                    "reserved": name in self.reserved,
                }
                for name, sat in self.coins.items()
            ]
        }

    def _feerates(self, _asked: Mapping[str, Any]) -> dict[str, Any]:
        estimates = [{"blockcount": blocks, "feerate": rate} for blocks, rate in ((6, 9_000), (12, 4_000))]
        return {"perkw": {"opening": 4_000, "floor": 253, "estimates": estimates}}

    def _listaddresses(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        if asked["address"] not in (OWN, FOREIGN):
            raise ClnError("listaddresses", -1, "address should be a valid address")
        return {"addresses": [{"keyidx": 1, "bech32": OWN}] if asked["address"] == OWN else []}

    def _connect(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": asked["id"], "direction": "out"}

    def _fundchannel(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        n = len(self.rows) + 1
        self.reserved.add(next(name for name in self.coins if name not in self.reserved))
        row = self._row(n) | {
            "peer_id": asked["id"],
            "state": "CHANNELD_AWAITING_LOCKIN",
            "opener": "local",
            "total_msat": asked["amount"] * 1_000,
            "to_us_msat": asked["amount"] * 1_000 - asked.get("push_msat", 0),
        }
        del row["short_channel_id"]
        self.rows.append(row)
        return {"txid": row["funding_txid"], "outnum": 0, "channel_id": row["channel_id"], "mindepth": 1}

    def _multifundchannel(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        made = [self._fundchannel(each) for each in asked["destinations"]]
        ids = [
            {"id": each["id"], "channel_id": one["channel_id"], "outnum": n}
            for n, (each, one) in enumerate(zip(asked["destinations"], made, strict=True))
        ]
        return {"txid": made[0]["txid"], "channel_ids": ids}

    def _close(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        row = next(row for row in self.rows if row["channel_id"] == asked["id"])
        if asked["id"] in self.refused:
            raise ClnError("close", self.refused[asked["id"]], "not now")
        if self.away or asked["id"] in self.absent:
            row["state"] = "CHANNELD_SHUTTING_DOWN"
            return {}
        row |= {"state": "CLOSINGD_COMPLETE", "closer": "local", "scratch_txid": "cc" * 32}
        row["state_changes"] = [{"new_state": "CLOSINGD_COMPLETE"}]
        return {"type": "mutual", "txids": ["cc" * 32], "txs": ["00"]}

    def _listclosedchannels(self, _asked: Mapping[str, Any]) -> dict[str, Any]:
        return {"closedchannels": self.closed}

    async def listpeerchannels(
        self, peer_id: str | None = None, short_channel_id: str | None = None
    ) -> list[dict[str, Any]]:
        self._note("listpeerchannels")
        return [
            dict(row)
            for row in self.rows
            if peer_id in (None, row["peer_id"]) and short_channel_id in (None, row.get("short_channel_id"))
        ]


def channel_world(directory: Path, **overrides: Any) -> World:
    """An agent that may open and close channels by itself, and a node that does."""
    directory.mkdir(parents=True, exist_ok=True)
    world = World(directory)
    world.node = ChannelNode()
    world.restart()
    world.credentials.add(View(everything(), "adv-1"))
    world.policies.override(
        "aggressive",
        **{
            "approval_overrides": {"channel_*": "auto_execute"},
            "max_danger": 8,
            **overrides,
        },
    )
    return world


def everything(**constraints: Any) -> Credential:
    """A credential for all schemas, closes included."""
    return issue(
        template="complete_management", tier=Tier.ADMIN, schemas=("*",), constraints=constraints or None
    )


async def agree(world: World, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Have operator and agent say yes to what waits for both; the answer to the agent's."""
    action_id = answer["error"]["data"]["action_id"]
    await world.pipeline.approvals.approve(action_id)
    challenges = [
        body["params"]
        for body in (decode_object(sent["content"]).get("schema_payload") for sent in world.out.sent)
        if isinstance(body, dict) and body["action"] == "confirm_challenge"
    ]
    challenge = challenges[-1]
    assert isinstance(challenge, dict)
    digest = confirm_digest(str(challenge["command_hash"]), str(challenge["challenge"]))
    signed: dict[str, JsonValue] = {
        "command_id": action_id,
        "challenge_sig": crypto.schnorr_sign(AGENT_KEY, digest),
    }
    return await world.ask("hive:control/v1", "confirm", signed)
