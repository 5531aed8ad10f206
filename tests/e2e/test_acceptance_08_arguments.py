"""Sheet 08 §4: wrong arguments to any method of the three plugins are refused with a sentence that helps.

Every method, every parameter: one that does not exist, one too many, a required one missing, values of
another type. The declarations that the plugins hand to lightningd say which parameters there are.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cl_hive.plugin.app import HivePlugin
from cl_hive_archon.plugin import ArchonPlugin
from cl_hive_comms.plugin.app import Comms
from hive_devnet.node import DevnetRpcError, NodeHandle
from hive_devnet.world import PLUGINS, World
from hive_shared.runtime_spec import MethodSpec, Param

pytestmark = pytest.mark.asyncio(loop_scope="module")

APPS = {"cl-hive-comms": Comms, "cl-hive-archon": ArchonPlugin, "cl-hive": HivePlugin}
WRONG: dict[str, tuple[Any, ...]] = {
    "str": (True, 1.5, ["x"], {"x": 1}),
    "int": ("seven", True, 1.5, [1], {"x": 1}, "1e3", "0x10"),
    "bool": ("perhaps", 2, ["x"], {"x": 1}),
    "json": ('{"half":', '{"a":1,"a":2}', "NaN"),
}


def methods(plugin: str) -> list[MethodSpec]:
    """What the plugin declares; class S is refused before its parameters are looked at."""
    declared: dict[str, MethodSpec] = APPS[plugin]().app._methods
    return [spec for spec in declared.values() if spec.klass != "S"]


@asynccontextmanager
async def all_plugins() -> AsyncIterator[NodeHandle]:
    """A node with the three plugins."""
    # Not tmp_path: with the test's long name in it, a socket's path exceeds what AF_UNIX takes.
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    world = await World.start(directory, plugins=tuple(PLUGINS))
    yield world.alice
    await world.close()
    shutil.rmtree(directory, ignore_errors=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def everything() -> AsyncIterator[NodeHandle]:
    """One node for all refusals: what is refused changes nothing for the next."""
    async with all_plugins() as node:
        yield node


def filled(spec: MethodSpec, but: str = "") -> dict[str, Any]:
    """Values that are right in form for every required parameter except one."""
    right = {"str": "x", "int": 1, "bool": False, "json": {}, "any": "x"}
    return {
        p.name: p.choices[0] if p.choices else right[p.kind]
        for p in spec.params
        if p.required and p.name != but
    }


async def complaint(node: NodeHandle, method: str, params: Any) -> str:
    """The sentence of the refusal, without its slug."""
    with pytest.raises(DevnetRpcError) as caught:
        await node.call(method, params)
    error = caught.value
    assert error.code == -32602, f"{method} {params}: {error}"
    slug, _, sentence = error.message.partition(": ")
    assert slug == "invalid_params", f"{method} {params}: {error}"
    assert len(sentence) > 12, f"{method} {params}: {error}"
    return sentence


@pytest.mark.parametrize("plugin", APPS)
async def test_a_parameter_that_does_not_exist_is_named_with_those_that_do(
    everything: NodeHandle, plugin: str
) -> None:
    for spec in methods(plugin):
        sentence = await complaint(everything, spec.name, {**filled(spec), "colour": "blue"})
        assert '"colour"' in sentence and spec.name in sentence, sentence
        for param in spec.params:
            assert param.name in sentence, sentence


@pytest.mark.parametrize("plugin", APPS)
async def test_one_positional_value_too_many_is_counted(everything: NodeHandle, plugin: str) -> None:
    for spec in methods(plugin):
        too_many = [None] * (len(spec.params) + 1)
        sentence = await complaint(everything, spec.name, too_many)
        assert sentence.startswith(f"{len(too_many)} parameter"), sentence
        assert spec.name in sentence, sentence


@pytest.mark.parametrize("plugin", APPS)
async def test_a_missing_required_parameter_is_named(everything: NodeHandle, plugin: str) -> None:
    for spec in methods(plugin):
        for param in (param for param in spec.params if param.required):
            for given in ({}, {param.name: None}):
                sentence = await complaint(everything, spec.name, {**filled(spec, param.name), **given})
                assert sentence == f"missing required parameter: {param.name}"


@pytest.mark.parametrize("plugin", APPS)
async def test_a_value_of_another_type_is_refused_with_the_parameters_name(
    everything: NodeHandle, plugin: str
) -> None:
    for spec in methods(plugin):
        for param in spec.params:
            for value in wrong_values(param):
                params = {**filled(spec, param.name), param.name: value}
                sentence = await complaint(everything, spec.name, params)
                assert sentence.startswith(param.name), (spec.name, params, sentence)


def wrong_values(param: Param) -> tuple[Any, ...]:
    values = WRONG.get(param.kind, ())
    if param.kind == "int" and param.minimum is not None:
        values += (param.minimum - 1,)
    if param.kind == "int" and param.maximum is not None:
        values += (param.maximum + 1,)
    if param.choices:
        values += ("no such word", "")
    return values


@pytest.mark.parametrize(
    ("method", "params", "words"),
    [
        ("hive-client-authorize", {}, ("advisor",)),
        ("hive-client-authorize", {"advisor": "npub1broken"}, ("npub", "copy it again")),
        ("hive-client-authorize", {"advisor": "someone"}, ("someone", "npub1")),
        ("hive-client-authorize", {"advisor": "ab" * 31}, ("64 hex", "62")),
        ("hive-client-authorize", {"advisor": "npub1x", "access": "everything and more"}, ("everything",)),
        ("hive-client-authorize", {"advisor": "{npub}", "access": "power"}, ("power", "monitoring", "fees")),
        ("hive-client-authorize", {"advisor": "{npub}", "access": "custom"}, ("allow",)),
        ("hive-client-authorize", {"advisor": "{npub}", "access": "fees", "allow": "fees"}, ("allow",)),
        ("hive-client-authorize", {"advisor": "{npub}", "access": "custom", "allow": "magic"}, ("magic",)),
        ("hive-client-authorize", {"advisor": "{npub}", "allow": {"fees": 1}}, ("allow",)),
        ("hive-client-authorize", {"advisor": "{npub}", "days": 731}, ("days", "730")),
        (
            "hive-client-authorize",
            {"advisor": "{npub}", "access": "fees", "template": "monitoring"},
            ("template",),
        ),
        ("hive-client-revoke", {}, ("advisor", "all")),
        ("hive-client-revoke", {"advisor": "x", "all": True}, ("advisor", "all")),
        ("hive-client-alias", {"action": "set"}, ("alias",)),
        ("hive-client-alias", {"action": "set", "alias": "x"}, ("target",)),
        ("hive-client-alias", {"action": "remove"}, ("alias",)),
        ("hive-client-identity", {"action": "set-relays"}, ("relays",)),
        ("hive-client-identity", {"action": "set-relays", "relays": "http://x"}, ("relays", "ws")),
        ("hive-client-identity", {"action": "set-relays", "relays": {"a": 1}}, ("relays",)),
        ("hive-client-identity", {"relays": "wss://x.example"}, ("relays", "set-relays")),
        ("hive-client-policy", {"action": "set"}, ("overrides",)),
        ("hive-client-policy", {"action": "set", "overrides": {}}, ("overrides",)),
        ("hive-client-policy", {"action": "set", "overrides": [1]}, ("overrides",)),
        ("hive-client-policy", {"action": "set", "overrides": {"max_dangre": 5}}, ("max_dangre",)),
        ("hive-client-policy", {"action": "set", "overrides": {"max_danger": "5"}}, ("max_danger",)),
        ("hive-client-policy", {"action": "set-preset"}, ("preset",)),
        (
            "hive-client-policy",
            {"action": "set-preset", "preset": "reckless"},
            ("preset", "reckless", "moderate"),
        ),
        ("hive-client-policy", {"action": "override", "overrides": {"max_danger": 7}}, ("duration",)),
        (
            "hive-client-policy",
            {"action": "override", "overrides": {"max_danger": 7}, "duration": "8d"},
            ("8d", "7"),
        ),
        (
            "hive-client-policy",
            {"action": "override", "overrides": {"max_danger": 7}, "duration": "soon"},
            ("soon",),
        ),
        ("hive-client-policy", {"action": "get", "rule": {}}, ("rule", "get")),
        ("hive-client-policy", {"action": "add-rule", "rule": {}}, ("rule.match",)),
        ("hive-client-policy", {"action": "add-rule", "rule": {"match": {}, "effect": "allow"}}, ("allow",)),
        ("hive-client-policy", {"action": "protect"}, ("channels",)),
        ("hive-client-policy", {"action": "protect", "channels": ""}, ("entry",)),
        ("hive-client-policy", {"action": "protect", "channels": "mine"}, ("mine",)),
        ("hive-client-policy", {"action": "forbid", "peers": "bob"}, ("bob",)),
        ("hive-client-receipts", {"cursor": "x"}, ("cursor",)),
        ("hive-client-receipts-verify", {"from_id": 5, "to_id": 2}, ("5", "2")),
        ("hive-client-receipts-verify", {"from_id": 99}, ("98",)),
        ("hive-schema-list", {"schema_id": "hive:magic/v1"}, ("hive:magic/v1",)),
        ("hive-comms-rpc", {"request": 7, "sender": "ab" * 32}, ("request",)),
        ("hive-comms-rpc", {"request": "{}", "sender": "bob the builder"}, ("sender", "bob the builder")),
        ("hive-client-approve", {"action_id": "x", "params_json": [1]}, ("params_json",)),
    ],
)
async def test_what_only_the_method_can_know_is_said_as_clearly(
    everything: NodeHandle, method: str, params: dict[str, Any], words: tuple[str, ...]
) -> None:
    from hive_shared.nostr.keys import npub_encode

    given = {name: npub_encode("ab" * 32) if value == "{npub}" else value for name, value in params.items()}
    with pytest.raises(DevnetRpcError) as caught:
        await everything.call(method, given)
    error = caught.value
    assert error.code in (-32602, 4001, 4013), error
    for word in words:
        assert word in error.message, error


async def test_a_question_about_wrong_parameters_is_answered_not_refused(everything: NodeHandle) -> None:
    question = {"schema_id": "hive:fee-policy/v1", "action": "set_single"}
    for params, word in (
        ({"channel_id": 1, "fee_ppm": 5}, "channel_id"),
        ([], "params"),
        ({"channel_id": "1x1x1", "colour": 1}, "colour"),
    ):
        answer = await everything.call("hive-schema-validate", {**question, "params": params})
        assert answer["valid"] is False and word in answer["message"], answer


async def test_the_refusals_read_aloud() -> None:
    """No refusal shows Python: no class names, no tracebacks, no reprs of bytes or None."""
    # A node of its own: some of these values are accepted.
    async with all_plugins() as node:
        for spec in (spec for plugin in APPS for spec in methods(plugin)):
            for param in spec.params:
                for value in (*wrong_values(param), "x" * 5_000, "\u0000", "🦄", -1, 2**70, [], {}):
                    await reads_well(node, spec.name, {**filled(spec, param.name), param.name: value})


async def reads_well(node: NodeHandle, method: str, params: dict[str, Any]) -> None:
    """Whether it is taken or refused, nothing of the program's insides is shown."""
    try:
        await node.call(method, params)
    except DevnetRpcError as error:
        text = error.message
        assert error.code != 4020, (method, params, text)
        assert len(text) < 700, (method, params, text)
        for ugly in ("Traceback", "<class", "object at 0x", "Error:", "NoneType", "b'"):
            assert ugly not in text, (method, params, text)
