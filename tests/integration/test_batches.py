"""Batches: every line checked first, sent in order, stopped by the first that does not run, each run once
over crashes too (11 §10, §18.11).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hive_advisor.advisor import Advisor
from hive_advisor.cli import output
from hive_advisor.cli.batch import send_batch
from hive_advisor.cli.context import Settings
from hive_advisor.cli.output import Terminal
from hive_advisor.guard_files import HaltFile
from hive_shared import envelope
from hive_shared.errors import ConfirmationRequired, Conflict, HiveError, InvalidParams, PolicyDenied
from hive_shared.store import Db
from plan_world import SCID, PlanWorld

OPEN = '[global]\nfee_step_pct = "off"\nfee_writes_3h = "off"\n'


class Desk(Settings):
    """The command line on the kit of a test."""

    def __init__(self, world: PlanWorld, *, yes: bool = False) -> None:
        super().__init__(world.paths, Terminal(as_json=True, quiet=True), 1, 1, yes, False, None, None)
        self.world = world

    @asynccontextmanager
    async def kit(self, *, online: bool) -> AsyncIterator[Advisor]:
        async with self.world.open() as kit:
            yield kit


@pytest.fixture
def world(tmp_path: Path) -> PlanWorld:
    made = PlanWorld(tmp_path / "w")
    made.guard(OPEN)
    return made


def line(ppm: int, **more: Any) -> dict[str, Any]:
    params = {"channel_id": SCID, "fee_ppm": ppm}
    return {"schema": "hive:fee-policy/v1", "action": "set_single", "params": params, **more}


def written(path: Path, *lines: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return str(path)


async def sent(
    desk: Desk, capsys: pytest.CaptureFixture[str], file: str, **options: Any
) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
    """Exit code, rows, summary."""
    given: dict[str, Any] = {"dry_run": False, "again": False, "retry_until": None, **options}
    batch_id = given.pop("batch_id", None)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        await send_batch(desk, file, "alice", batch_id, **given)
    *rows, last = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert last["schema"] == output.SCHEMA and last["ok"] is (ended.value.code == 0)
    return int(str(ended.value.code)), rows, last["data"]


def asked(world: PlanWorld) -> list[int]:
    """The fees that the node was asked for, in order."""
    return [int(str(dict(c.params)["fee_ppm"])) for c in world.heard if c.action == "set_single"]


async def test_lines_go_in_nonce_order_and_the_same_file_sends_nothing_again(
    world: PlanWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "fees", *(line(200 + n, note=f"step {n}") for n in range(4)))
    code, rows, told = await sent(Desk(world), capsys, file)
    assert (
        code == output.OK and (told["ran"], told["lines"]) == ([1, 2, 3, 4], 4) and "stopped_at" not in told
    )
    assert [(row["line"], row["state"], row["params"]["fee_ppm"]) for row in rows] == [
        (n + 1, "done", 200 + n) for n in range(4)
    ]
    assert asked(world) == [200, 201, 202, 203]
    nonces = [c.nonce for c in world.heard if c.action == "set_single"]
    assert nonces == sorted(nonces)
    code, rows, again = await sent(Desk(world), capsys, file)
    assert code == output.OK and all(row["ran_before"] for row in rows) and again["ran"] == told["ran"]
    assert again["batch_id"] == told["batch_id"] and len(asked(world)) == 4
    # Sent once more only under another id.
    code, rows, other = await sent(Desk(world), capsys, file, batch_id="second")
    assert code == output.OK and other["batch_id"] == "second" and len(asked(world)) == 8
    with pytest.raises(Conflict, match="'second' was used for another file"):
        await send_batch(
            Desk(world),
            written(tmp_path / "o", line(9)),
            "alice",
            "second",
            dry_run=False,
            again=False,
            retry_until=None,
        )


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        ({"params": {"channel_id": SCID}}, InvalidParams, "line 3"),
        ({"action": "no_such"}, HiveError, "line 3"),
        ({"client": "nobody"}, HiveError, "line 3: no client is called 'nobody'"),
        ({"schema": "hive:channel/v1", "action": "close_cooperative"}, InvalidParams, "line 3"),
    ],
)
async def test_every_line_is_checked_before_the_first_is_sent(
    world: PlanWorld, tmp_path: Path, wrong: dict[str, Any], kind: type[HiveError], said: str
) -> None:
    file = written(tmp_path / "f", line(210), line(211), {**line(212), **wrong})
    with pytest.raises(kind) as refused:
        await send_batch(Desk(world), file, "alice", None, dry_run=False, again=False, retry_until=None)
    assert said in refused.value.detail and refused.value.data["line"] == 3 and not world.heard
    async with world.open() as kit:
        assert await kit.commands.listed(None, None, 10) == []


async def test_what_the_guard_denies_is_found_first_and_a_dry_run_sends_nothing(
    world: PlanWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "f", line(210), line(211))
    code, rows, told = await sent(Desk(world), capsys, file, dry_run=True)
    assert code == output.OK and rows == [] and told["sent"] is False
    assert [(plan["line"], plan["guard"]["verdict"]) for plan in told["plans"]] == [
        (1, "allow"),
        (2, "allow"),
    ]
    world.guard(f'{OPEN}denied = ["hive:fee-policy/v1#set_single"]\n')
    with pytest.raises(PolicyDenied, match="line 1: the guard refuses"):
        await send_batch(Desk(world), file, "alice", None, dry_run=False, again=False, retry_until=None)
    assert not world.heard


async def test_a_refused_line_stops_the_rest_and_the_file_goes_on_from_it(
    world: PlanWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "f", *(line(210 + n) for n in range(4)))
    world.refusal = lambda c: (
        world.refused(c, "policy_blocked") if dict(c.params).get("fee_ppm") == 212 else None
    )
    code, rows, told = await sent(Desk(world), capsys, file)
    assert code == output.PARTIAL and (told["ran"], told["stopped_at"], told["not_begun"]) == ([1, 2], 3, [4])
    assert told["stopped_state"] == "rejected" and "the same file goes on with it" in told["go_on"]
    assert (rows[2]["slug"], rows[2]["line"]) == ("policy_blocked", 3)
    world.refusal = lambda _command: None
    code, rows, told = await sent(Desk(world), capsys, file)
    assert code == output.OK and told["ran"] == [1, 2, 3, 4]
    assert [row.get("ran_before", False) for row in rows] == [True, True, False, False]
    assert asked(world) == [210, 211, 212, 212, 213] and world.runs.total() == 4


async def test_the_first_line_that_fails_gives_its_own_exit_code(
    world: PlanWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.refusal = lambda c: world.refused(c, "policy_blocked")
    code, _, told = await sent(Desk(world), capsys, written(tmp_path / "a", line(210), line(211)))
    assert (code, told["ran"], told["not_begun"]) == (output.REFUSED, [], [2])
    world.refusal, world.down = lambda _command: None, True
    code, _, told = await sent(Desk(world), capsys, written(tmp_path / "b", line(220), line(221)))
    assert (code, told["stopped_state"]) == (output.UNKNOWN, "sent") and "has no end yet" in told["go_on"]
    # The node is back: the same bytes are answered, and the rest goes.
    world.down, world.now = False, world.now + 30
    code, _, told = await sent(Desk(world), capsys, str(tmp_path / "b"))
    assert code == output.OK and told["ran"] == [1, 2]
    assert len({c.command_id for c in world.heard if dict(c.params).get("fee_ppm") == 220}) == 1


async def test_what_may_have_changed_something_is_not_sent_again(
    world: PlanWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"code": 4016, "slug": "internal_error", "message": "broke in the middle"}
    world.refusal = lambda c: world._stamped(c, status=2, error=error) if c.action == "set_single" else None
    file = written(tmp_path / "f", line(210), line(211))
    for _ in range(2):
        code, _, told = await sent(Desk(world), capsys, file)
        assert (code, told["stopped_state"], told["not_begun"]) == (output.REFUSED, "error", [2])
        assert "as a file of their own" in told["go_on"]
    assert len(asked(world)) == 1


async def test_acceptance_11_11_a_halt_in_the_middle_of_a_batch_stops_the_rest_and_it_goes_on_after(
    world: PlanWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def halted_at_the_second(command: envelope.Command) -> None:
        if dict(command.params).get("fee_ppm") == 211:
            HaltFile(world.paths.halt).engage("stop", world.now)

    world.refusal = halted_at_the_second
    file = written(tmp_path / "f", *(line(210 + n) for n in range(4)))
    code, rows, told = await sent(Desk(world), capsys, file)
    assert code == output.PARTIAL and (told["ran"], told["stopped_at"], told["not_begun"]) == ([1, 2], 3, [4])
    assert rows[2]["state"] == "refused" and rows[2]["slug"] == "guard_denied"
    assert "halted" in rows[2]["message"] and asked(world) == [210, 211]
    HaltFile(world.paths.halt).release()
    world.refusal = lambda _command: None
    code, _, told = await sent(Desk(world), capsys, file)
    assert code == output.OK and asked(world) == [210, 211, 212, 213]


async def test_acceptance_11_11_the_21st_write_in_a_batch_is_held_and_stops_the_rest(
    world: PlanWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "f", *(line(200 + n) for n in range(22)))
    code, rows, told = await sent(Desk(world), capsys, file)
    assert (code, told["stopped_at"], told["not_begun"]) == (output.PARTIAL, 21, [22])
    assert rows[20]["state"] == "held" and world.runs.total() == 20
    # Still held when the file comes again; a human's word lets it and the rest go.
    code, _, told = await sent(Desk(world), capsys, file)
    assert (code, told["stopped_state"]) == (output.PARTIAL, "held") and world.runs.total() == 20
    async with world.open() as kit:
        (question,) = await kit.questions.listed(expired=False, limit=10)
        await kit.follow(await kit.plans.approve(question), 1)
    code, _, told = await sent(Desk(world, yes=True), capsys, file)
    assert code == output.OK and world.runs.total() == 22 and max(world.runs.values()) == 1


async def test_danger_from_5_on_wants_a_word_and_from_7_on_goes_alone(
    world: PlanWorld, tmp_path: Path
) -> None:
    async def refused(*lines: dict[str, Any], yes: bool = False) -> str:
        file = written(tmp_path / "f", *lines)
        with pytest.raises(ConfirmationRequired) as ended:
            await send_batch(
                Desk(world, yes=yes), file, "alice", None, dry_run=False, again=False, retry_until=None
            )
        return ended.value.detail

    stop = {"schema": "hive:emergency/v1", "action": "disable_forwarding", "params": {"reason": "x"}}
    assert "line 2 has danger 6: add --yes" in await refused(line(210), stop)
    peers = [{"peer_id": f"02{n:064x}", "amount_sats": 5_000_000} for n in (1, 2)]
    opens = {"schema": "hive:channel/v1", "action": "open_batch", "params": {"destinations": peers}}
    assert "goes by itself" in await refused(line(210), opens, yes=True)
    assert not world.heard


class Killed(BaseException):
    """The process is gone."""


async def test_killed_at_every_write_the_same_file_runs_each_line_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = -1

    def point() -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1

    write = Db.write

    async def watched(db: Db, body: Callable[[Any], Any], **options: Any) -> Any:
        def inside(tx: Any) -> Any:
            result = body(tx)
            point()
            return result

        point()
        result = await write(db, inside, **options)
        point()
        return result

    monkeypatch.setattr(Db, "write", watched)
    world = PlanWorld(tmp_path / "w")
    world.guard('[global]\nfee_step_pct = "off"\nfee_writes_3h = "off"\nfee_writes_24h = "off"\n')
    async with world.open():
        pass
    for at in range(200):
        # A minute later, so that our own pace is not what a line waits for.
        world.now += 60
        world.heard.clear()
        world.runs.clear()
        first = 210 + 2 * at
        file = written(tmp_path / "f", line(first), line(first + 1))
        left, died = at, True
        try:
            await sent(Desk(world), capsys, file)
            died = False
        except Killed:
            pass
        left = -1
        world.now += 30
        code, _, told = await sent(Desk(world), capsys, file)
        assert code == output.OK and told["ran"] == [1, 2], at
        assert sorted(world.runs.values()) == [1, 1] and world.fees[SCID] == (1_000, first + 1)
        assert list(dict.fromkeys(asked(world))) == [first, first + 1]
        if not died:
            break
    else:
        pytest.fail("it never came to its end")
    assert at >= 15, at
