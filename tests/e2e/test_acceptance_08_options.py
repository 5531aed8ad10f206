"""Sheet 08 §13.22: an option is applied or refused with a reason; a bad policy file keeps the last good."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from agent import Agent
from cl_hive.options import TABLE as HIVE
from cl_hive_archon.options import TABLE as ARCHON
from cl_hive_comms.options import option_specs
from hive_devnet.node import DevnetRpcError
from hive_devnet.relay import RelayProcess
from hive_devnet.world import PLUGINS, World, until
from hive_shared.runtime_spec import OptionSpec, option_from_node

COMMS = "hive-comms-"
SPECS: dict[str, Sequence[OptionSpec]] = {
    "cl-hive-comms": option_specs(),
    "cl-hive-archon": ARCHON.specs,
    "cl-hive": HIVE.specs,
}
# Between them these hold a right and a wrong value for every kind of text option there is.
TEXTS = (
    "conservative",
    "aggressive",
    "ws://127.0.0.1:9",
    "https://example.org",
    "bolt12,bolt11",
    "cashu",
    "lightning",
    "leasing",
    "strict",
    "always",
    "hourly",
    "failsafe",
    "gossip",
    "0.25",
    "12h",
    "rep=0.5",
    "fleet=1/2",
    "1984",
    "02" + "ab" * 32,
    '{"hive:node":1.5}',
    "any",
    "hsm",
    "http://example.org",
    "\u0000",
    "0.1234567",
    "-5",
    "me@example.org",
    "smtps://mail.example.org",
)


async def config_value(world: World, name: str) -> Any:
    # An option without default that nobody set is not listed.
    shown = (await world.alice.call("listconfigs", {"config": name}))["configs"].get(name, {})
    return next((value for key, value in shown.items() if key.startswith(("value_", "values_"))), None)


async def set_option(world: World, name: str, value: Any) -> None:
    # As lightning-cli does: a word that starts with a brace goes out as JSON. CLN hands a string's escapes to
    # the plugin as they stand in the request.
    sent = json.loads(value) if isinstance(value, str) and value.startswith("{") else value
    await world.alice.call("setconfig", {"config": name, "val": sent})


async def refused(world: World, name: str, value: Any) -> DevnetRpcError:
    with pytest.raises(DevnetRpcError) as caught:
        await set_option(world, name, value)
    return caught.value


async def answering(world: World) -> bool:
    """Whether the plugin answers yet; right after a start it says `busy`, or the method is not there."""
    try:
        await world.alice.call("hive-client-status")
    except DevnetRpcError as error:
        if error.code not in (4021, -32601):
            raise
        return False
    return True


def candidates(spec: OptionSpec) -> Iterator[Any]:
    if spec.kind == "bool":
        yield from (not spec.default, spec.default)
    elif spec.kind == "int":
        assert isinstance(spec.default, int)
        yield from (spec.default + 1, spec.default - 1, -1, 2**62)
    else:
        yield from TEXTS


def reads(spec: OptionSpec, value: Any) -> bool:
    try:
        option_from_node(spec, value)
    except ValueError:
        return False
    return True


def dynamic(plugin: str, special: tuple[str, ...] = ()) -> list[OptionSpec]:
    return [
        spec for spec in SPECS[plugin] if spec.dynamic and not spec.deprecated and spec.name not in special
    ]


@pytest.mark.parametrize("plugin", SPECS)
async def test_acceptance_08_22_every_dynamic_option_is_applied_or_refused_with_a_reason(
    world: World, plugin: str
) -> None:
    if plugin != "cl-hive-comms":
        await world.alice.call("plugin", {"subcommand": "start", "plugin": str(PLUGINS[plugin])})
    # The file has tests of its own below: which path is good depends on what lies there.
    for spec in dynamic(plugin, (COMMS + "policy-file",)):
        # The one word that some options take is their default.
        others = (value for value in candidates(spec) if reads(spec, value) and value != spec.default)
        good = next(others, spec.default)
        before = await config_value(world, spec.name)
        await set_option(world, spec.name, [good] if spec.multi else good)
        after = await config_value(world, spec.name)
        if spec.kind != "string-conceal":
            assert good in (after, *(after if isinstance(after, list) else ())), (spec.name, good, after)
        for bad in (value for value in candidates(spec) if not reads(spec, value)):
            error = await refused(world, spec.name, bad)
            assert spec.name in error.message, (spec.name, bad, error)
            assert len(error.message) > len(spec.name) + 12, f"{spec.name}={bad!r} gave no reason: {error}"
            assert await config_value(world, spec.name) == after, spec.name
        if before is not None and not isinstance(before, list):
            # What is shown of a concealed one is not its value.
            await set_option(world, spec.name, spec.default if spec.kind == "string-conceal" else before)
            assert await config_value(world, spec.name) == before, spec.name


@pytest.mark.parametrize("plugin", SPECS)
async def test_acceptance_08_22_an_option_that_needs_a_restart_says_so(world: World, plugin: str) -> None:
    if plugin != "cl-hive-comms":
        await world.alice.call("plugin", {"subcommand": "start", "plugin": str(PLUGINS[plugin])})
    static = [spec for spec in SPECS[plugin] if not spec.dynamic and not spec.deprecated]
    assert static
    for spec in static:
        before = await config_value(world, spec.name)
        error = await refused(world, spec.name, next(candidates(spec)))
        assert error.code == -32602 and "dynamic" in error.message, (spec.name, error)
        assert await config_value(world, spec.name) == before


async def test_acceptance_08_22_what_is_not_served_is_kept_and_said(world: World) -> None:
    await set_option(world, COMMS + "liquidity-daily-limit", 20_000)
    status = await world.alice.call("hive-client-status")
    assert any(
        "liquidity-daily-limit" in warning and "not served" in warning for warning in status["warnings"]
    )
    checks = (await world.alice.call("hive-client-selfcheck"))["checks"]
    row = next(check for check in checks if check["id"] == "options")
    assert row["status"] == "warn" and "liquidity-daily-limit" in row["detail"], row
    await set_option(world, COMMS + "liquidity-daily-limit", 10_000)
    assert (await world.alice.call("hive-client-status"))["warnings"] == []


async def test_acceptance_08_22_relays_are_changed_while_it_runs(world: World) -> None:
    other = await RelayProcess.start()
    try:
        await set_option(world, COMMS + "nostr-relays", other.url)

        async def relays() -> dict[str, str]:
            rows = (await world.alice.call("hive-comms-transports"))["items"]
            return {row["url"]: row["state"] for row in rows[0]["relays"] if row["read"]}

        async def moved() -> bool:
            return await relays() == {other.url: "subscribed"}

        await until(moved, "the other relay")
        for bad, why in (
            ("wss://relay.example/path?query=1#part", ""),
            ("http://relay.example", "ws"),
            ("ws://relay.example", "wss"),
            ("relay.example", ""),
            (",".join(f"wss://r{number}.example" for number in range(9)), "at most 8"),
        ):
            error = await refused(world, COMMS + "nostr-relays", bad)
            assert why in error.message, (bad, error)
        assert await relays() == {other.url: "subscribed"}
        # And advisors reach the node there.
        async with Agent(world.alice, other.url) as agent:
            await agent.hired("monitoring")
            document = agent.signed("health_summary", {}, "hive:monitor/v1")
            await agent.dm(document)
            assert (await agent.answer(document["nonce"]))["status"] == 0
    finally:
        await other.stop()


async def test_acceptance_08_22_the_clock_tolerance_is_changed_while_it_runs(
    world: World, agent: Agent
) -> None:
    async def old_command() -> str | None:
        answer = await agent.rest(
            agent.signed("health_summary", {}, "hive:monitor/v1", timestamp=int(time.time()) - 100)
        )
        slug: str | None = answer.get("error", {}).get("slug")
        return slug

    assert await old_command() is None
    await set_option(world, COMMS + "transport-max-skew-seconds", 60)
    assert await old_command() == "stale_timestamp"
    for bad in (29, 901, "a minute"):
        await refused(world, COMMS + "transport-max-skew-seconds", bad)
    assert await old_command() == "stale_timestamp"
    await set_option(world, COMMS + "transport-max-skew-seconds", 300)
    assert await old_command() is None


async def test_acceptance_08_22_a_demanded_rune_is_demanded_from_now_on(world: World, agent: Agent) -> None:
    await set_option(world, COMMS + "rest-rune-required", True)
    restrictions = [["method=hive-comms-rpc"], [f"pnamesender={agent.key}"], ["rate=60"]]
    rune = (await world.alice.call("createrune", {"restrictions": restrictions}))["rune"]
    foreign = (await world.alice.call("createrune", {"restrictions": [["method=getinfo"]]}))["rune"]
    document = agent.signed("health_summary", {}, "hive:monitor/v1")
    for bad in ("", foreign, "no rune at all"):
        with pytest.raises(DevnetRpcError) as caught:
            await agent.rest(document, rune=bad)
        assert caught.value.code == 4003 and "rune" in caught.value.message, caught.value
        assert not bad or bad not in str(caught.value.message)
    assert (await agent.rest(document, rune=rune))["status"] == 0
    await set_option(world, COMMS + "rest-rune-required", False)
    assert (await agent.rest(document))["status"] == 0


async def test_acceptance_08_22_a_change_outlives_a_restart(world: World) -> None:
    await set_option(world, COMMS + "policy-preset", "conservative")
    await set_option(world, COMMS + "confirm-hours-low", 5)
    await world.alice.stop()
    await world.alice.start()

    await until(lambda: answering(world), "the restarted plugin")
    assert (await world.alice.call("hive-client-status"))["policy"]["preset"] == "conservative"
    assert await config_value(world, COMMS + "confirm-hours-low") == 5


# -- the policy ---------------------------------------------------------------------------------------


def document(**overrides: object) -> str:
    return json.dumps({"policy_version": 1, "preset": "aggressive", "overrides": overrides})


BAD_DOCUMENTS: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "JSON"),
    "unknown key": (document(max_dangre=5), "max_dangre"),
    "wrong type": (document(max_danger="5"), "max_danger"),
    "out of range": (document(max_danger=11), "max_danger"),
    "unknown preset": (
        '{"policy_version": 1, "preset": "reckless", "overrides": {}}',
        "preset",
    ),
    "unknown version": ('{"policy_version": 2, "preset": "moderate", "overrides": {}}', "policy_version"),
    "a key twice": ('{"policy_version": 1, "preset": "moderate", "preset": "aggressive"}', "twice"),
    "not an object": ("[]", "object"),
    "empty": ("", ""),
}


async def policy(world: World) -> dict[str, Any]:
    return await world.alice.call("hive-client-policy")


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.json"
    path.write_text(document(max_danger=5, max_fee_change_per_24h_pct=12))
    return path


async def test_acceptance_08_22_a_bad_policy_file_is_refused_by_the_option(
    world: World, policy_file: Path
) -> None:
    await set_option(world, COMMS + "policy-file", str(policy_file))
    good = (await policy(world))["effective"]
    assert (good["max_danger"], good["max_fee_change_per_24h_pct"]) == (5, 12)
    other = policy_file.with_name("other.json")
    for case, (text, word) in BAD_DOCUMENTS.items():
        other.write_text(text)
        error = await refused(world, COMMS + "policy-file", str(other))
        assert word in error.message and "other.json" in error.message, (case, error)
        assert await config_value(world, COMMS + "policy-file") == str(policy_file), case
        assert (await policy(world))["effective"] == good, case


@pytest.mark.parametrize("case", ["no JSON", "unknown key"])
async def test_acceptance_08_22_a_policy_file_that_turns_bad_keeps_the_last_good(
    world: World, policy_file: Path, case: str
) -> None:
    await set_option(world, COMMS + "policy-file", str(policy_file))
    good = (await policy(world))["effective"]
    text, word = BAD_DOCUMENTS[case]
    policy_file.write_text(text)

    async def noticed() -> bool:
        return any(word in each and str(policy_file) in each for each in await warnings(world))

    await until(noticed, "the warning about the policy file")
    assert (await policy(world))["effective"] == good
    policy_file.write_text(document(max_danger=4))

    async def repaired() -> bool:
        return bool((await policy(world))["effective"]["max_danger"] == 4)

    await until(repaired, "the repaired policy file")
    assert await warnings(world) == []


async def warnings(world: World) -> list[str]:
    return list((await world.alice.call("hive-client-status"))["warnings"])


async def test_acceptance_08_22_a_policy_file_that_is_missing_is_refused(
    world: World, tmp_path: Path
) -> None:
    before = await policy(world)
    error = await refused(world, COMMS + "policy-file", str(tmp_path / "nowhere.json"))
    assert "nowhere.json" in error.message and "No such file" in error.message, error
    error = await refused(world, COMMS + "policy-file", str(tmp_path))
    assert str(tmp_path) in error.message, error
    assert (await policy(world))["effective"] == before["effective"]


async def test_acceptance_08_22_unreadable_at_start_everything_but_reading_is_denied(
    world: World, agent: Agent, policy_file: Path
) -> None:
    await world.alice.call("setchannel", {"id": world.scid, "feebase": 1_000, "feeppm": 1_000})
    await set_option(world, COMMS + "policy-file", str(policy_file))
    rule = {"match": {"action": "set_zero_fee"}, "effect": "deny"}
    await world.alice.call("hive-client-policy", {"action": "add-rule", "rule": rule})
    policy_file.write_text(document(max_dangre=5))
    await world.alice.stop()
    await world.alice.start()

    await until(lambda: answering(world), "the restarted plugin")
    assert "locked" in (await world.alice.call("hive-client-status"))["policy"]
    change = {"channel_id": world.scid, "base_msat": 1_001}
    answer = await agent.rest(agent.signed("set_single", change))
    assert answer["error"]["slug"] == "policy_blocked", answer
    assert (await agent.rest(agent.signed("health_summary", {}, "hive:monitor/v1")))["status"] == 0
    status = await world.alice.call("hive-client-status")
    assert any(alert["level"] == "critical" for alert in status["alerts"]), status["alerts"]
    policy_file.write_text(document())

    async def unlocked() -> bool:
        return "locked" not in (await world.alice.call("hive-client-status"))["policy"]

    await until(unlocked, "the repaired policy")
    answer = await agent.rest(agent.signed("set_single", change))
    assert answer["status"] == 0, answer
    rules = (await policy(world))["rules"]
    assert [each["match"] for each in rules] == [rule["match"]], "the operator's rules came along"


CHANGES: tuple[Callable[[World], Any], ...] = (
    lambda world: world.alice.call("hive-client-policy", {"action": "set", "overrides": {"max_danger": 3}}),
    lambda world: world.alice.call("hive-client-policy", {"action": "set-preset", "preset": "moderate"}),
    lambda world: world.alice.call("hive-client-policy", {"action": "protect", "channels": world.scid}),
)


@pytest.mark.parametrize("change", CHANGES, ids=["set", "set-preset", "protect"])
async def test_acceptance_08_22_beside_a_file_the_document_is_changed_there(
    world: World, policy_file: Path, change: Callable[[World], Any]
) -> None:
    await set_option(world, COMMS + "policy-file", str(policy_file))
    with pytest.raises(DevnetRpcError) as caught:
        await change(world)
    assert caught.value.code == 4015 and str(policy_file) in caught.value.message, caught.value
    await set_option(world, COMMS + "policy-file", "")
    assert (await policy(world))["source"] == "stored"
    await change(world)
