"""Both kinds of node: derived secrets, message signatures, datastore, runes."""

from __future__ import annotations

from typing import Any

import pytest
from hive_devnet.embedded.runes import READONLY, Alternative, make_rune

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_makesecret_takes_text_or_hex_of_it(trio: Any) -> None:
    by_text = await trio.alice.call("makesecret", {"string": "x"})
    assert by_text == await trio.alice.call("makesecret", {"hex": "78"})
    assert by_text != await trio.bob.call("makesecret", {"string": "x"})
    assert len(by_text["secret"]) == 64


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "Must have either hex or string"),
        ({"hex": "78", "string": "x"}, "Cannot have both hex and string"),
    ],
)
async def test_makesecret_refuses(trio: Any, params: dict[str, Any], message: str) -> None:
    error = await trio.alice.error("makesecret", params)
    assert (error.code, error.message) == (-32602, message)


async def test_a_signature_verifies_by_key_and_by_graph(trio: Any) -> None:
    signed = await trio.alice.call("signmessage", {"message": "hi"})
    by_graph = await trio.bob.call("checkmessage", {"message": "hi", "zbase": signed["zbase"]})
    assert by_graph == {"pubkey": trio.alice.id, "verified": True}
    params = {"message": "hi", "zbase": signed["zbase"], "pubkey": trio.alice.id}
    assert (await trio.bob.call("checkmessage", params))["verified"] is True
    params["message"] = "ho"
    # Not held to the schema: that describes success only.
    assert (await trio.bob.handle.call("checkmessage", params))["verified"] is False


async def test_a_signature_by_a_stranger_is_reported(trio: Any) -> None:
    zbase = (
        "rd3csqj415ermwj9t8j1o7s7u5gzd1ex5zge4q9o9yt9f1wabmnu6d1nucdwys5pckkwcocykw893rucdimuw1jrhcc1amn"
        "rippdrg3g"
    )
    claimed = "02c941794a146f861fe39ba53f8621aa9d44b581d2c1748bf167602ecec6b537da"
    error = await trio.alice.error("checkmessage", {"message": "hi", "zbase": zbase})
    assert (error.code, error.message) == (1301, "pubkey not found in the graph")
    assert error.data == {"claimed_key": claimed}
    params = {"message": "hi", "zbase": zbase, "pubkey": claimed}
    assert (await trio.alice.call("checkmessage", params))["verified"] is True


async def test_signatures_have_limits(trio: Any) -> None:
    long = await trio.alice.error("signmessage", {"message": "x" * 65536})
    assert (long.code, long.message) == (-32602, "Message must be < 64k")
    bad = await trio.alice.error("checkmessage", {"message": "hi", "zbase": "aaaa"})
    assert (bad.code, bad.message) == (-32602, "zbase is not valid zbase32")


async def test_datastore_modes_and_generations(trio: Any) -> None:
    call, error = trio.alice.call, trio.alice.error
    made = await call("datastore", {"key": ["k", "l"], "string": "v1"})
    assert made == {"key": ["k", "l"], "generation": 0, "hex": "7631", "string": "v1"}
    assert (await error("datastore", {"key": ["k", "l"], "string": "v"})).code == 1202
    params: dict[str, Any] = {"key": ["k", "l"], "string": "v2", "mode": "must-replace"}
    assert (await error("datastore", params | {"generation": 7})).code == 1204
    assert (await call("datastore", params | {"generation": 0}))["generation"] == 1
    appended = await call("datastore", {"key": ["k", "l"], "string": "+", "mode": "must-append"})
    assert (appended["string"], appended["generation"]) == ("v2+", 2)
    assert (await error("datastore", {"key": ["k"], "string": "x"})).code == 1205
    assert (await error("datastore", {"key": ["k", "l", "m"], "string": "x"})).code == 1206
    assert (await error("datastore", {"key": ["z"], "string": "x", "mode": "must-append"})).code == 1203
    refused = await error("datastore", {"key": ["z"], "string": "x", "generation": 1})
    assert refused.message == "generation only valid with must-replace or must-append"
    listed = (await call("listdatastore", {"key": "k"}))["datastore"]
    assert listed == [{"key": ["k", "l"], "generation": 2, "hex": "76322b", "string": "v2+"}]
    assert {"key": ["k"]} in (await call("listdatastore"))["datastore"]
    assert (await error("deldatastore", {"key": ["k", "l"], "generation": 9})).code == 1201
    await call("deldatastore", {"key": ["k", "l"]})
    assert (await error("deldatastore", {"key": ["k", "l"]})).code == 1200


async def test_datastore_keeps_bytes_that_are_no_text(trio: Any) -> None:
    stored = await trio.alice.call("datastore", {"key": "f", "hex": "ff"})
    assert stored == {"key": ["f"], "generation": 0, "hex": "ff"}
    assert (await trio.alice.call("datastoreusage", {"key": "f"}))["datastoreusage"]["total_bytes"] == 2


async def _rune(node: Any, *restrictions: list[str]) -> str:
    return str((await node.call("createrune", {"restrictions": list(restrictions)}))["rune"])


async def test_a_rune_permits_what_its_restrictions_say(trio: Any) -> None:
    readonly = (await trio.alice.call("createrune", {"restrictions": "readonly"}))["rune"]
    assert await trio.alice.call("checkrune", {"rune": readonly, "method": "listpeers"}) == {"valid": True}
    error = await trio.alice.error("checkrune", {"rune": readonly, "method": "pay"})
    assert error.code == 1502
    assert error.message == (
        "Not permitted: method does not start with list AND method does not start with get"
        " AND method is not equal to summary"
    )
    hidden = await trio.alice.error("checkrune", {"rune": readonly, "method": "listdatastore"})
    assert hidden.message == "Not permitted: method is equal to listdatastore"


async def test_a_rune_looks_at_parameters(trio: Any) -> None:
    rune = await _rune(trio.alice, ["method=getinfo", "method^list"], [f"pnameid={trio.bob.id}"])
    params: dict[str, Any] = {"rune": rune, "method": "listpeers", "params": {"id": trio.bob.id}}
    assert await trio.alice.call("checkrune", params) == {"valid": True}
    params["params"] = {"id": trio.alice.id}
    error = await trio.alice.error("checkrune", params)
    assert error.message == f"Not permitted: parameter id is not equal to {trio.bob.id}"


@pytest.mark.parametrize(
    ("restriction", "asked", "complaint"),
    [
        ("pnum=1", {"params": ["a", "b"]}, "number of parameters is not equal to 1"),
        ("parr0^lnbc", {"params": ["x"]}, "parameter #0 does not start with lnbc"),
        (
            "pnameamount_msat<100",
            {"params": {"amount_msat": 100}},
            "parameter amount_msat is greater or equal to 100",
        ),
        ("pnameamountmsat>9", {"params": {"amount_msat": 9}}, "parameter amountmsat is less or equal to 9"),
        ("pnamex!", {"params": {"x": 1}}, "parameter x is present"),
        ("id=abc", {}, "id not present"),
        ("method/pay", {"method": "pay"}, "method is equal to pay"),
        ("method$info", {"method": "pay"}, "method does not end with info"),
        ("method~nf", {"method": "pay"}, "method does not contain nf"),
        ("method{a", {"method": "pay"}, "method is equal to or ordered after a"),
        ("method}z", {"method": "pay"}, "method is equal to or ordered before z"),
        ("time<1", {}, "time is greater or equal to 1"),
        ("pnamelabel<1", {"params": {"label": "x"}}, "parameter label is not an integer field"),
    ],
)
async def test_rune_conditions(trio: Any, restriction: str, asked: dict[str, Any], complaint: str) -> None:
    rune = await _rune(trio.alice, [restriction])
    error = await trio.alice.error("checkrune", {"rune": rune, **asked})
    assert (error.code, error.message) == (1502, f"Not permitted: {complaint}")


async def test_a_rate_limited_rune_is_refused_when_used_again_at_once(trio: Any) -> None:
    rune = await _rune(trio.alice, ["rate=2"], ["method=getinfo"])
    await trio.alice.call("checkrune", {"rune": rune, "method": "getinfo"})
    error = await trio.alice.error("checkrune", {"rune": rune, "method": "getinfo"})
    assert (error.code, error.message) == (1502, "Not permitted: too soon")


async def test_runes_are_made_of_the_nodes_own_secret(trio: Any) -> None:
    secret = bytes.fromhex((await trio.alice.call("makesecret", {"string": "commando"}))["secret"])
    made = await trio.alice.call("createrune", {"restrictions": "readonly"})
    identity = (Alternative("", "=", made["unique_id"]),)
    assert make_rune(secret, (identity, *READONLY)).encode() == made["rune"]
    further = await trio.alice.call("createrune", {"rune": made["rune"], "restrictions": [["time<1"]]})
    limited = make_rune(secret, (identity, *READONLY, (Alternative("time", "<", "1"),)))
    assert further["rune"] == limited.encode()


async def test_a_foreign_rune_is_not_authorised(trio: Any) -> None:
    rune = await _rune(trio.bob)
    error = await trio.alice.error("checkrune", {"rune": rune, "method": "getinfo"})
    assert (error.code, error.message) == (1501, "Not authorized: Not derived from master")


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("checkrune", {}, "missing required parameter: rune"),
        ("checkrune", {"rune": "zz"}, "rune: should be base64 string: invalid token '\"zz\"'"),
        (
            "createrune",
            {"restrictions": [["foo"]]},
            "restrictions: not a valid restriction (should be array): invalid token '[\"foo\"]'",
        ),
        ("blacklistrune", {"end": 3}, "Can not specify end without start"),
    ],
)
async def test_bad_rune_parameters(trio: Any, method: str, params: dict[str, Any], message: str) -> None:
    error = await trio.alice.error(method, params)
    assert (error.code, error.message) == (-32602, message)


async def test_blacklisted_runes_are_refused_until_relisted(trio: Any) -> None:
    made = await trio.carol.call("createrune", {"restrictions": [["method=getinfo"]]})
    number = int(made["unique_id"])
    assert (await trio.carol.call("blacklistrune", {"start": number}))["blacklist"] == [
        {"start": number, "end": number}
    ]
    error = await trio.carol.error("checkrune", {"rune": made["rune"], "method": "getinfo"})
    assert (error.code, error.message) == (1503, "Not authorized: Blacklisted rune")
    shown = (await trio.carol.call("showrunes", {"rune": made["rune"]}))["runes"]
    assert shown[0]["blacklisted"] is True
    assert shown[0]["restrictions_as_english"] == "method equal to getinfo"
    await trio.carol.call("blacklistrune", {"start": number, "relist": True})
    assert await trio.carol.call("checkrune", {"rune": made["rune"], "method": "getinfo"}) == {"valid": True}
    assert len((await trio.carol.call("showrunes"))["runes"]) == 1


async def test_an_unrestricted_rune_carries_a_warning(trio: Any) -> None:
    made = await trio.bob.call("createrune")
    assert made["warning_unrestricted_rune"].startswith("WARNING: This rune has no restrictions!")
