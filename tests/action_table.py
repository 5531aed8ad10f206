"""The table of actions that a test carries out on a node: how each is asked for, what the node must show
afterwards, and a twin with a wrong parameter that must change nothing (02 §4).

A schema brings a module with `ENTRIES`; `tests/e2e/test_every_action.py` lists the modules and runs every
entry by direct message and by hive-comms-rpc, through whatever approval its danger asks for.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal

from agent import Agent
from hive_devnet.world import World, until
from hive_shared.canonical import JsonValue
from hive_shared.crypto import Secret, schnorr_sign, xonly_pubkey
from hive_shared.envelope import approve_digest, command_digest, confirm_digest
from hive_shared.registry import find

CONTROL = "hive:control/v1"
_MOVES_STATE = {
    *(("hive:wallet/v1", name) for name in ("send_onchain", "sweep", "consolidate_utxos", "bump_fee")),
    *(("hive:wallet/v1", name) for name in ("freeze_utxos", "unfreeze_utxos")),
    *(("hive:config/v1", name) for name in ("set_config", "set_min_channel_size")),
    *(("hive:peer/v1", name) for name in ("ban", "unban")),
    *(("hive:plugin/v1", name) for name in ("configure", "start_approved", "stop")),
    ("hive:forwarding/v1", "disable_channel"),
    ("hive:channel/v1", "open"),
    ("hive:rebalance/v1", "circular_rebalance"),
}
"""Actions whose receipt has to show another state of the node afterwards (02 §9.1);
tests/integration/test_state_hash_of_writes.py says for every action which root."""
Way = Literal["dm", "rest"]
Answer = dict[str, Any]
Params = dict[str, JsonValue]


@dataclass
class Stage:
    """A world whose operator lets a fully trusted agent do everything that people can allow."""

    world: World
    approver: Secret = field(default_factory=lambda: Secret(os.urandom(32)))
    kept: dict[str, Any] = field(default_factory=dict)
    """What an entry's `params` leaves for its `check`."""

    async def open(self) -> Stage:
        """Set the policy: approvers for the highest dangers, and the raise of max_danger they need."""
        limits = dict.fromkeys(
            ("fee_changes_per_hour", "rebalances_per_day", "total_actions_per_day"), 10_000
        )
        overrides = {
            "approvers": ["local", xonly_pubkey(self.approver)],
            "rate_limits": limits,
            "max_fee_change_per_24h_pct": 1_000,
            "allow_private_hosts": True,
            "allow_push": True,
            "max_danger": 10,
            "approval_overrides": dict.fromkeys(
                ("wallet_sweep", "channel_close_all", "emergency_force_close_all"), "multi_sig_2_of_2"
            ),
        }
        await self.call("hive-client-policy", action="set-preset", preset="aggressive")
        await self.call("hive-client-policy", action="set", overrides=overrides)
        raised = {"max_danger": 10}
        await self.call("hive-client-policy", action="override", overrides=raised, duration="2h")
        return self

    async def call(self, method: str, **params: object) -> Answer:
        """A call of the operator at the managed node."""
        return await self.world.alice.call(method, params)

    async def agent(self, *critical: str) -> Agent:
        """A new agent who may ask for everything; `critical` are `schema#action` of danger 9 and 10."""
        agent = Agent(self.world.alice, self.world.relay.url)
        await agent.__aenter__()
        issued = await self.call(
            "hive-mgmt-credential-issue",
            agent_id=agent.npub,
            tier="admin",
            allowed_schemas_json=["*"],
            constraints_json={"grants_critical": list(critical)} if critical else {},
            trust="2.0",
        )
        agent.credential_id = str(issued["credential"]["credential_id"])
        return agent

    async def run(self, schema: str, action: str, params: Params) -> Answer:
        """Another agent's command that must succeed; its result."""
        agent = await self.agent()
        try:
            entry = Entry(schema, action, given(**params), _unchecked, given(**params))
            answer = await self.ask(agent, "rest", entry, params)
        finally:
            await agent.__aexit__()
        assert answer["status"] == 0, (action, answer)
        return dict(answer["result"])

    def pass_cooldowns(self) -> None:
        """A day goes by for what is remembered of earlier writes and spends."""
        with closing(sqlite3.connect(self.world.alice.net_dir / "cl_hive_comms.db", timeout=30)) as database:
            for table, column in (("fee_history", "ts"), ("action_counters", "at"), ("spend", "at")):
                database.execute(f"UPDATE comms_{table} SET {column} = {column} - 90000")
            database.commit()

    async def ask(self, agent: Agent, way: Way, entry: Entry, params: Params) -> Answer:
        """Ask for an action, get the approvals it needs, and return the last response."""
        document = agent.signed(entry.action, params, entry.schema)
        answer = await self._send(agent, way, document)
        if answer["status"] == 3 and answer.get("error", {}).get("slug") == "confirmation_required":
            await self._approve(agent, answer["error"]["data"], command_digest(document).hex())
            return await self._last(agent, document["nonce"])
        return answer

    async def _send(self, agent: Agent, way: Way, document: dict[str, Any]) -> Answer:
        if way == "rest":
            return await agent.rest(document)
        await agent.dm(document)
        return await agent.answer(document["nonce"], 60)

    async def _approve(self, agent: Agent, held: dict[str, Any], command_hash: str) -> None:
        action_id, workflow = held["action_id"], held["workflow"]
        if workflow == "multisig":
            signature = schnorr_sign(self.approver, approve_digest(command_hash, "approve"))
            name = xonly_pubkey(self.approver)
            await self.call("hive-client-approve", action_id=action_id, approver=name, signature=signature)
        await self.call("hive-client-approve", action_id=action_id)
        if workflow == "confirm":
            challenge = await self._challenge(agent, action_id)
            signature = schnorr_sign(
                agent.secret, confirm_digest(challenge["command_hash"], challenge["challenge"])
            )
            signed = {"command_id": action_id, "challenge_sig": signature}
            confirmed = await agent.rest(agent.signed("confirm", signed, CONTROL))
            assert confirmed["status"] == 0, confirmed

    async def _challenge(self, agent: Agent, action_id: str) -> dict[str, Any]:
        async def came() -> Any:
            for message in agent.inbox:
                payload = message.get("schema_payload", {})
                body = payload.get("params", {})
                if payload.get("action") == "confirm_challenge" and body["command_id"] == action_id:
                    return body
            return None

        return dict(await until(came, "the challenge", 60))

    async def _last(self, agent: Agent, nonce: int) -> Answer:
        """The response that ends the command; those of status 3 only tell where it is."""

        async def ended() -> Any:
            found = [each for each in agent.inbox if each.get("request_nonce") == nonce]
            return next((each for each in reversed(found) if each["status"] != 3), None)

        return dict(await until(ended, "the last response", 60))

    async def shown(self) -> dict[str, Any]:
        """What the node shows of everything that actions change."""
        channels, funds, peers, bans, plugins = await asyncio.gather(
            self.call("listpeerchannels"),
            self.call("listfunds"),
            self.call("listpeers"),
            self.call("hive-client-policy"),
            self.call("plugin", subcommand="list"),
        )
        return {
            "channels": sorted(
                (
                    row["channel_id"],
                    row["state"],
                    *(
                        row[name]
                        for name in (
                            *("to_us_msat", "fee_base_msat", "fee_proportional_millionths"),
                            *("minimum_htlc_out_msat", "maximum_htlc_out_msat"),
                        )
                    ),
                )
                for row in channels["channels"]
            ),
            "coins": sorted(
                (row["txid"], row["output"], row["status"], row.get("reserved_to_block", 0))
                for row in funds["outputs"]
            ),
            "peers": sorted((row["id"], row["connected"]) for row in peers["peers"]),
            "policy": bans["version"],
            "plugins": sorted(row["name"] for row in plugins["plugins"]),
        }

    async def at_rest(self) -> dict[str, Any]:
        """What it shows once what went before has settled: the same at two looks."""
        seen = [await self.shown()]

        async def twice() -> bool:
            seen.append(await self.shown())
            return seen[-1] == seen[-2]

        await until(twice, "the node to be at rest", pause=0.1)
        return seen[-1]


@dataclass(frozen=True)
class Entry:
    """One action. `params` brings the node to where the action can be asked for and gives the parameters,
    `check` looks at the node afterwards, `wrong` are parameters that must be refused with `slug`."""

    schema: str
    action: str
    params: Callable[[Stage], Awaitable[Params]]
    check: Callable[[Stage, Params, Answer], Awaitable[None]]
    wrong: Callable[[Stage], Awaitable[Params]]
    slug: str = "invalid_params"
    critical: bool = False
    """Whether its danger is 9 or 10, so that the credential has to name it."""
    answers: str = ""
    """The slug that also the right parameters end with: what becomes a proposal to the operator."""
    stirs: bool = False
    """Whether the node was down: its peers and coins come back one by one, so one look may find it moving by
    itself. What a refusal changes it changes each time it is asked for."""

    def __str__(self) -> str:
        return f"{self.schema.removeprefix('hive:').partition('/')[0]}-{self.action}"


async def carry_out(stage: Stage, entry: Entry, way: Way) -> None:
    """The action once, and its twin once."""
    spec = find(entry.schema, entry.action)
    names = (f"{entry.schema}#{entry.action}",) if entry.critical else ()
    agent = await stage.agent(*names)
    try:
        stage.pass_cooldowns()
        params = await entry.params(stage)
        answer = await stage.ask(agent, way, entry, params)
        assert answer["status"] == (2 if entry.answers else 0), (entry.action, params, answer)
        assert answer.get("error", {}).get("slug", "") == entry.answers, answer
        await entry.check(stage, params, answer["result"])
        if not spec.read_only:
            receipt = answer["receipt"]
            assert receipt["status"] == ("error" if entry.answers else "success"), answer
            if (entry.schema, entry.action) in _MOVES_STATE:
                assert receipt["state_hash_before"] != receipt["state_hash_after"], answer
        stage.pass_cooldowns()
        for left in reversed(range(3 if entry.stirs else 1)):
            wrong, before = await entry.wrong(stage), await stage.at_rest()
            refused = await stage.ask(agent, way, entry, wrong)
            assert refused.get("error", {}).get("slug") == entry.slug, (entry.action, wrong, refused)
            assert refused["error"]["message"]
            after = await stage.shown()
            if after == before:
                break
            changed = {name: (before[name], after[name]) for name in after if after[name] != before[name]}
            assert left, f"the refused {entry.action} changed the node: {changed}"
    finally:
        await agent.__aexit__()


async def _unchecked(_stage: Stage, _params: Params, _result: Answer) -> None:
    return


def given(**params: JsonValue) -> Callable[[Stage], Awaitable[Params]]:
    """Parameters that do not depend on the node."""

    async def constant(_stage: Stage) -> Params:
        return dict(params)

    return constant
