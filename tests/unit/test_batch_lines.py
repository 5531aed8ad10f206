"""What a batch file may say, and what makes it one and the same (11 §10)."""

from __future__ import annotations

import json
import uuid

import pytest
from hive_advisor.domain.batch import MAX_LINES, check_id, command_id_of, digest_of, parse_batch
from hive_shared.errors import InvalidParams

LINE = {"client": "alice", "schema": "hive:fee-policy/v1", "action": "set_single", "params": {"fee_ppm": 1}}


def text(*lines: dict[str, object]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_lines_are_read_with_their_numbers_and_defaults() -> None:
    bare = {"schema": "fee-policy", "action": "set_single"}
    full = {**LINE, "note": "n", "if_root": "ab" * 32, "again": True}
    first, second = parse_batch(text(bare, full), "Bob")
    assert (first.number, first.client, first.schema, first.action) == (
        1,
        "Bob",
        "hive:fee-policy/v1",
        "set_single",
    )
    assert (first.params, first.note, first.if_root, first.again) == ({}, "", None, False)
    assert (second.number, second.client, second.note, second.again) == (2, "alice", "n", True)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "line 2: it is empty"),
        ("[1]", "line 2: expected a JSON object"),
        ("{", "line 2: not valid JSON"),
        ('{"schema":"a","schema":"b"}', "'schema' appears twice"),
        (json.dumps({**LINE, "paramz": {}}), "line 2: unknown key 'paramz'; known are client, schema"),
        (json.dumps({**LINE, "params": [1]}), 'line 2: "params" takes an object'),
        (json.dumps({**LINE, "again": 1}), '"again" takes true or false'),
        (json.dumps({**LINE, "client": 7}), '"client" takes a text'),
        (json.dumps({**LINE, "client": "npub1x"}), "line 2: alias 'npub1x'"),
        (json.dumps({**LINE, "schema": 7}), '"schema" takes a text'),
        (json.dumps({**LINE, "note": None}), '"note" is missing'),
        (json.dumps({"client": "a", "schema": "hive:x"}), '"action" is missing'),
        (json.dumps({"schema": "hive:x", "action": "y"}), 'no "client"'),
        (json.dumps({**LINE, "params": {"fee_ppm": 1.5}}), "line 2: "),
        (json.dumps({**LINE, "note": "x" * 70_000}), "larger than 65536"),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_read_past_it(line: str, said: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        parse_batch(f"{json.dumps(LINE)}\n{line}\n{json.dumps(LINE)}\n")
    assert said in refused.value.detail and refused.value.data["line"] == 2


def test_nothing_and_too_much_are_no_batch() -> None:
    for empty in ("", "\n", " \n \n"):
        with pytest.raises(InvalidParams, match="empty"):
            parse_batch(empty)
    assert len(parse_batch(text(*[LINE] * MAX_LINES))) == MAX_LINES
    with pytest.raises(InvalidParams, match=f"at most {MAX_LINES}"):
        parse_batch(text(*[LINE] * (MAX_LINES + 1)))


def test_a_batch_is_the_same_by_what_it_asks_for() -> None:
    spaced = json.dumps(LINE, indent=None, separators=(" , ", " : "))
    same = digest_of(parse_batch(text(LINE)))
    assert digest_of(parse_batch(spaced)) == same
    assert digest_of(parse_batch(text({k: v for k, v in LINE.items() if k != "client"}), "alice")) == same
    for other in ({"client": "bob"}, {"action": "set_bulk"}, {"params": {}}, {"note": "n"}, {"again": True}):
        assert digest_of(parse_batch(text({**LINE, **other}))) != same


def test_the_command_id_of_a_line_is_a_uuid_of_batch_line_and_client() -> None:
    made = command_id_of("b", 1, "c")
    assert made == command_id_of("b", 1, "c") and uuid.UUID(made).version == 4
    assert str(uuid.UUID(made)) == made and uuid.UUID(made).variant == uuid.RFC_4122
    others = {command_id_of("b", 2, "c"), command_id_of("b1", 1, "c"), command_id_of("b", 1, "d")}
    assert len(others | {made}) == 4


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "../x", "ä"])
def test_a_batch_id_is_plain(name: str) -> None:
    assert check_id("nightly-2026.11_22") == "nightly-2026.11_22"
    with pytest.raises(InvalidParams, match="1 to 64 letters"):
        check_id(name)
