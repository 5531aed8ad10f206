"""Both kinds of node: which commands take a text decoded, and which as it stands in the request."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio
from cln_contract import Probe

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPTION = {"name": "text-option", "type": "string", "description": "d", "default": "", "dynamic": True}
MULTI = {"name": "text-list", "type": "string", "description": "d", "dynamic": True, "multi": True}
ACCEPTING: dict[str, Any] = {"manifest": {"options": [OPTION, MULTI]}, "answers": {"setconfig": {}}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def probe(trio: Any, tmp_path_factory: pytest.TempPathFactory) -> Probe:
    # Started once and never stopped: see docs/decisions/0021 for what setconfig of a gone option does to CLN.
    started = Probe(tmp_path_factory.mktemp("plugin"), "text.py", **ACCEPTING)
    await trio.alice.call("plugin", ["start", str(started.path)])
    return started


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        ("plain", "plain"),
        ('a"b', 'a\\"b'),
        ("a\\b", "a\\\\b"),
        ("é\n", "é\\n"),
        ({"hive:node": [1, 2]}, '{"hive:node":[1,2]}'),
        (True, "true"),
        (7, "7"),
    ],
)
async def test_setconfig_takes_a_value_as_it_stands_in_the_request(
    trio: Any, probe: Probe, sent: object, taken: str
) -> None:
    params = {"config": "text-option", "val": sent, "transient": True}
    result = await trio.alice.handle.call("setconfig", params)
    assert probe.received("setconfig")[-1]["params"]["val"] == taken
    assert result["config"]["value_str"] == taken


async def test_setconfig_takes_a_list_so_too(trio: Any, probe: Probe) -> None:
    params = {"config": "text-list", "val": ['a"b', {"k": 1}, 5], "transient": True}
    await trio.alice.handle.call("setconfig", params)
    assert probe.received("setconfig")[-1]["params"]["val"] == ['a\\"b', '{"k":1}', "5"]


async def test_setconfig_escapes_the_refusal_of_a_plugin_once_more(trio: Any, probe: Probe) -> None:
    refusal = {"__error__": {"code": -32602, "message": 'try {"a":1}'}}
    probe.set(**(ACCEPTING | {"answers": {"setconfig": refusal}}))
    error = await trio.alice.error("setconfig", {"config": "text-option", "val": "x", "transient": True})
    probe.set(**ACCEPTING)
    assert (error.code, error.message) == (-32602, 'try {\\"a\\":1}')


@pytest.mark.parametrize(
    ("text", "same_as"), [("plain", "plain"), ('q"q', 'q\\"q'), ("\n", "\\n"), ("é", "é")]
)
async def test_makesecret_derives_from_the_escaped_text(trio: Any, text: str, same_as: str) -> None:
    by_text = await trio.alice.call("makesecret", {"string": text})
    by_hex = await trio.alice.call("makesecret", {"hex": same_as.encode().hex()})
    assert by_text == by_hex


async def test_datastore_and_invoice_decode_their_text(trio: Any) -> None:
    stored = await trio.alice.call("datastore", {"key": "text", "string": 'q"q\n'})
    assert stored["hex"] == b'q"q\n'.hex()
    made = await trio.bob.call("invoice", {"amount_msat": 1, "label": "text", "description": 'q"q'})
    assert (await trio.alice.call("decode", {"string": made["bolt11"]}))["description"] == 'q"q'


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("datastore", {"key": "number", "string": 5}, "string"),
        ("datastore", {"key": "number", "string": {"a": 1}}, "string"),
        ("invoice", {"amount_msat": 1, "label": "number", "description": 5}, "description"),
    ],
)
async def test_they_want_a_string_then(trio: Any, method: str, params: dict[str, Any], name: str) -> None:
    error = await trio.alice.error(method, params)
    assert error.code == -32602
    assert error.message.startswith(f"{name}: should be a string (without \\u): invalid token ")
