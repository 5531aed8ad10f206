"""What the guard measures by, our pace towards a node, its clock, an old database (11 §4, §5.1, §5.2)."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hive_advisor.advisor import MIGRATIONS
from hive_advisor.domain import pace
from hive_advisor.domain.clock import median, with_sample
from hive_advisor.domain.command_machine import CommandState
from hive_advisor.domain.observed import observe
from hive_advisor.domain.rows import StoredCommand
from hive_advisor.storage.command_store import CommandStore
from hive_shared.crypto import Sealer, Secret
from hive_shared.store import Db
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

NOW = 1_770_000_000
CHANNEL_ID = "ab" * 32


def command(schema: str, action: str, **fields: Any) -> StoredCommand:
    made = StoredCommand(
        command_id=fields.pop("command_id", "c-1"),
        client_id="cl-1",
        credential_id="cred-1",
        schema=schema,
        action=action,
        params=fields.pop("params", {}),
        danger=fields.pop("danger", (2,)),
        origin="lib",
        nonce=fields.pop("nonce", 5),
        timestamp=NOW,
        command_hash="",
        envelope={"sender": "bb" * 32},
        state=fields.pop("state", CommandState.DONE),
        created=fields.pop("created", NOW),
        updated=fields.pop("updated", NOW),
    )
    return replace(made, **fields)


def read(at: int, ppm: int = 200, **fields: Any) -> StoredCommand:
    item = {"channel": "1x1x1", "channel_id": CHANNEL_ID}
    item |= {"fee_base_msat": 1_000, "fee_proportional_millionths": ppm}
    response = {"result": {"items": [item, {"channel": "2x2x2"}, "odd"]}}
    return command("hive:monitor/v1", "fee_report", created=at, response=response, **fields)


def wrote(at: int, state: CommandState, name: str = "1x1x1", **fields: Any) -> StoredCommand:
    params = {"channel_id": name, "fee_ppm": 230}
    return command(
        "hive:fee-policy/v1", "set_single", created=at, updated=at, state=state, params=params, **fields
    )


DONE = {"result": {"new": {"base_msat": 1_000, "fee_ppm": 230}}}


def test_a_read_counts_under_both_names_from_when_it_was_asked() -> None:
    seen = observe([read(NOW - 600, updated=NOW)])
    for name in ("1x1x1", CHANNEL_ID):
        found = seen.fee(name, NOW)
        assert found is not None and (found.base_msat, found.ppm) == (1_000, 200)
        assert seen.fee(name, NOW + 1) is None
    assert seen.fee("2x2x2", NOW) is None
    assert observe([read(NOW, state=CommandState.ERROR)]).fees == {}
    assert observe([read(NOW, 200), read(NOW - 5, 300)]).fees["1x1x1"].ppm == 200


@pytest.mark.parametrize("name", ["1x1x1", CHANNEL_ID])
def test_a_write_since_makes_it_unknown_unless_its_answer_tells(name: str) -> None:
    before = read(NOW - 60)
    for state in (CommandState.READY, CommandState.SENT, CommandState.PENDING, CommandState.INDETERMINATE):
        assert observe([before, wrote(NOW - 30, state, name)]).fees == {}, state
    # What is still open may run after the read too, however long ago it was sent.
    assert observe([wrote(NOW - 3_600, CommandState.PENDING, name), before]).fees == {}
    told = observe([before, wrote(NOW - 30, CommandState.DONE, name, response=DONE)])
    assert {told.fees["1x1x1"].ppm, told.fees[CHANNEL_ID].ppm} == {230}
    assert observe([before, wrote(NOW - 30, CommandState.DONE, name, response={"result": {}})]).fees == {}
    other = {"result": {"new": DONE["result"]["new"], "now": {"base_msat": 1, "fee_ppm": 1}}}
    assert observe([before, wrote(NOW - 30, CommandState.DONE, name, response=other)]).fees == {}
    for state in (CommandState.REJECTED, CommandState.LOST, CommandState.EXPIRED, CommandState.HELD):
        assert observe([before, wrote(NOW - 30, state, name)]).fees["1x1x1"].ppm == 200, state
    assert observe([before, wrote(NOW - 30, CommandState.ERROR, name, slug="busy")]).fees
    assert not observe([before, wrote(NOW - 30, CommandState.ERROR, name, slug="node_error")]).fees
    assert observe([wrote(NOW - 90, CommandState.DONE, name), before]).fees["1x1x1"].ppm == 200


def test_other_writes_make_unknown_what_they_may_change() -> None:
    balance = {"result": {"by_status": {"confirmed": 900_000_999}, "reserved_msat": 100_000_000}}
    wallet = command("hive:monitor/v1", "onchain_balance", created=NOW - 60, response=balance)
    assert observe([wallet]).onchain(NOW) == 800_000
    assert observe([wallet]).onchain(NOW + 541) is None
    opened = command("hive:channel/v1", "open", updated=NOW - 5, state=CommandState.PENDING)
    assert observe([wallet, opened]).onchain(NOW) is None
    assert observe([wallet, replace(opened, schema="hive:peer/v1", action="connect")]).onchain(NOW) == 800_000
    spike = command("hive:emergency/v1", "fee_spike", updated=NOW - 5)
    assert observe([read(NOW - 60), spike]).fees == {}
    for odd in ({}, {"by_status": []}, {"by_status": {"confirmed": True}, "reserved_msat": 1}, None):
        strange = replace(wallet, response={"result": odd})
        assert observe([strange]).onchain(NOW) is None


# -- pace ----------------------------------------------------------------------------------------------


def ready(
    nonce: int = 100, danger: int = 3, schema: str = "hive:fee-policy/v1", action: str = "set_single"
) -> StoredCommand:
    return command(schema, action, nonce=nonce, danger=(danger,), state=CommandState.READY)


def flown(count: int, **fields: Any) -> list[StoredCommand]:
    row = command("hive:fee-policy/v1", "set_single", state=CommandState.SENT, nonce=1)
    return [replace(row, **fields)] * count


def sends(
    count: int, ago: int, danger: int = 3, schema: str = "hive:fee-policy/v1"
) -> list[tuple[str, str, int, int]]:
    action = "fee_report" if schema == "hive:monitor/v1" else "set_single"
    return [(schema, action, danger, NOW - ago)] * count


def test_at_most_eight_wait_for_an_answer_and_dead_ones_do_not_count() -> None:
    assert pace.wait_until(ready(), 0, flown(7), [], NOW) is None
    assert pace.wait_until(ready(), 0, flown(8), [], NOW) == NOW + 1
    assert pace.wait_until(ready(), NOW, flown(8), [], NOW) is None
    assert pace.wait_until(ready(), 0, flown(8, schema="hive:control/v1"), [], NOW) is None


def test_numbers_go_in_order() -> None:
    assert pace.wait_until(ready(100), 0, [ready(99)], [], NOW) == NOW + 1
    assert pace.wait_until(ready(100), 0, [ready(100), ready(101)], [], NOW) is None


def test_fifty_a_minute_four_dangerous_ones_4500_reads_a_day() -> None:
    assert pace.wait_until(ready(), 0, [], sends(49, 10), NOW) is None
    assert pace.wait_until(ready(), 0, [], sends(50, 10), NOW) == NOW + 50
    assert pace.wait_until(ready(), 0, [], sends(50, 60), NOW) is None
    assert pace.wait_until(ready(danger=5), 0, [], sends(3, 10, 5) + sends(20, 5, 4), NOW) is None
    assert pace.wait_until(ready(danger=5), 0, [], sends(4, 10, 5), NOW) == NOW + 50
    assert pace.wait_until(ready(danger=4), 0, [], sends(4, 10, 5), NOW) is None
    look = ready(schema="hive:monitor/v1", action="fee_report")
    reads = sends(4_499, 3_600, 1, "hive:monitor/v1")
    assert pace.wait_until(look, 0, [], reads + sends(500, 3_600), NOW) is None
    assert pace.wait_until(look, 0, [], [*reads, reads[0]], NOW) == NOW + 82_800
    assert pace.wait_until(ready(), 0, [], [*reads, reads[0]], NOW) is None


# -- clock ---------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=9))
def test_the_median_lies_among_the_last_five(samples: list[int]) -> None:
    kept: tuple[int, ...] = ()
    for sample in samples:
        kept = with_sample(kept, sample)
    assert kept == tuple(samples[-5:])
    assert min(kept) <= median(kept) <= max(kept)
    if len(kept) == 5:
        assert median(kept) == sorted(kept)[2]
        # Two liars of five move it no further than the honest ones.
        assert min(kept[:3]) <= median((*kept[:3], 10**9, 10**9)) <= max(kept[:3])
    assert median(()) == 0


# -- an old database -----------------------------------------------------------------------------------


async def test_commands_of_an_older_kit_are_all_there_after_the_upgrade(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for file in MIGRATIONS.glob("*.sql"):
        if int(file.name[:4]) < _number("guard"):
            shutil.copy(file, old)
    file = tmp_path / "advisor.db"
    Db.open(file, old).close()
    with sqlite3.connect(file) as tx:
        tx.execute(
            "INSERT INTO adv_clients (client_id, alias, alias_key, node_key, node_id, network, relays_json,"
            " max_skew_s, state, created, updated)"
            " VALUES ('cl', 'alice', 'alice', 'aa', '02', 'regtest', '[]', 300, 'active', 1, 1)"
        )
        for number, state in enumerate(("sent", "done", "pending", "lost")):
            tx.execute(
                "INSERT INTO adv_commands (command_id, client_id, credential_id, schema, action, params_json,"
                " danger_json, origin, note, nonce, timestamp, command_hash, envelope_json, state, sends,"
                " challenge, confirmed_danger, resigned, created, updated) VALUES"
                " (?, 'cl', 'cred', 'hive:fee-policy/v1', 'set_single', '{\"fee_ppm\": 7}', '[2, 3]', 'cli',"
                " 'note', ?, 9, 'hash', ?, ?, 2, 'ch', 3, 1, 4, 5)",
                (f"c-{number}", 100 + number, json.dumps({"sender": "bb"}), state),
            )
    tx.close()
    db = Db.open(file, MIGRATIONS)
    try:
        rows = await db.read(
            lambda tx: CommandStore(Sealer({1: Secret(b"k" * 32)}, 1)).listed(tx, "cl", None, 10)
        )
    finally:
        db.close()
    assert [(row.command_id, row.nonce, str(row.state)) for row in reversed(rows)] == [
        ("c-0", 100, "sent"),
        ("c-1", 101, "done"),
        ("c-2", 102, "pending"),
        ("c-3", 103, "lost"),
    ]
    first = rows[-1]
    assert (first.params, first.danger, first.note, first.sends) == ({"fee_ppm": 7}, (2, 3), "note", 2)
    assert (first.envelope, first.challenge, first.confirmed_danger) == ({"sender": "bb"}, "ch", 3)
    assert (first.resigned, first.passed, first.sent_at, first.retry_until) == (1, "guard", 4, None)


def _number(name: str) -> int:
    (found,) = MIGRATIONS.glob(f"*_{name}.sql")
    return int(found.name[:4])
