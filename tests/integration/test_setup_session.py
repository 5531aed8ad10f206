"""Setup sessions over a real database, with a clock that can be moved (Protocol 08 §7 "Setup").

Killed at every write and every call of the node in the last step: all of it is done, or none."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.domain.emergency import Stop
from cl_hive_comms.domain.setup import State
from cl_hive_comms.options import PREFIX, option_specs
from cl_hive_comms.services.advisor_requests import Hire
from cl_hive_comms.services.policy_in_force import Limits
from cl_hive_comms.services.policy_record import PolicyRecord
from cl_hive_comms.services.policy_service import PolicyService
from cl_hive_comms.services.ports_setup import View
from cl_hive_comms.services.setup_questions import SetupQuestions
from cl_hive_comms.services.setup_service import SetupService
from cl_hive_comms.storage.policy_store import PolicyStore
from cl_hive_comms.storage.setup_store import SetupStore
from cl_hive_comms.storage.state_store import StateStore
from hiring_world import NOW, HiringWorld
from hive_shared.cln import ClnError, ClnTimeout
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import (
    Conflict,
    EmergencyStop,
    HiveError,
    InvalidParams,
    NotFound,
    SiblingUnavailable,
    Unsupported,
)
from hive_shared.nostr.keys import npub_encode

KEYS = [xonly_pubkey(Secret(bytes([n]) * 32)) for n in range(1, 5)]
NPUBS = [npub_encode(key) for key in KEYS]
HOOK = "https://alerts.example/secret-path"
ANSWERS = ("continue", "fees", "conservative", "max_fee_ppm=2500", "none", f"{NPUBS[1]} {HOOK}")
TO_THE_END = (*ANSWERS, f"{NPUBS[0]} fee doctor", "yes")


class Crash(BaseException):
    """The process ends here."""


class Options:
    """The node's options; `fails` is raised by the next ones that are set."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.fails: list[BaseException] = []

    def current(self, name: str) -> str:
        return self.values.get(name, "")

    def read(self, name: str, text: str) -> str:
        return str({spec.name: spec for spec in option_specs()}[PREFIX + name].parse(text))

    async def set(self, name: str, value: str) -> None:
        if self.fails:
            raise self.fails.pop(0)
        self.values[name] = value


class Health:
    async def run(self, fix: bool = False) -> dict[str, Any]:
        assert not fix, "nothing is repaired before the operator confirmed"
        bad = {"id": "relays", "status": "warn", "detail": "only one relay", "fix": "add a second"}
        return {"ok": True, "checks": [{"id": "node", "status": "ok", "detail": "", "fix": ""}, bad]}


class SetupWorld(HiringWorld):
    """With policy and setup; `restart` is the end of the process at any moment."""

    options: Options

    def build(self) -> None:
        super().build()
        if not hasattr(self, "options"):
            self.options = Options()
        now = lambda: self.now  # noqa: E731
        self.policy = PolicyService(
            self.db,
            PolicyStore(),
            StateStore(),
            record=PolicyRecord(self.receipts, self.alerts, now=now),
            alerts=self.alerts,
            limits=lambda: Limits(24, 4),
            now=now,
            random_bytes=os.urandom,
            log=self._note,
        )
        questions = SetupQuestions(
            policy=self.policy,
            advisors=self.service,
            aliases=self.aliases,
            options=self.options,
            selfcheck=Health,
        )
        self.setup = SetupService(
            self.db,
            SetupStore(),
            questions,
            policy=self.policy,
            advisors=self.service,
            receipts=self.receipts,
            alerts=self.alerts,
            options=self.options,
            now=now,
            random_bytes=os.urandom,
            log=self._note,
            fault=_no_fault,
        )

    async def start(self) -> SetupWorld:
        await super().start()
        await self.policy.load("moderate", "")
        return self

    async def answered(self, *answers: object, session: str = "") -> View:
        """The view after these answers, in a session that is begun for them."""
        name = session or (await self.setup.show()).session_id
        view = await self.setup.show(name)
        for answer in answers:
            view = await self.setup.answer(name, answer)
        return view

    async def effects(self) -> dict[str, Any]:
        """All that a setup may have done."""
        document = self.policy.snapshot().document
        return {
            "preset": document.preset,
            "limits": dict(document.overrides),
            "advisors": sorted(self.aliases.name_of(advisor) for advisor in self.credentials.advisors()),
            "credentials": len([row for row in self.credentials.rows() if row.status == "active"]),
            "trials": len(await self.contracts.trials()),
            "receipts": await self.actions(),
            "outbox": await self.count("comms_outbox"),
        }

    async def actions(self) -> list[str]:
        sql = "SELECT action FROM management_receipts ORDER BY receipt_id"
        return await self.db.read(lambda tx: [row[0] for row in tx.execute(sql)])

    async def count(self, table: str) -> int:
        return int(await self.db.read(lambda tx: tx.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]))


async def _no_fault(point: str) -> None:
    return None


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SetupWorld]:
    made = await SetupWorld(tmp_path).start()
    yield made
    made.db.close()


async def test_nothing_is_changed_before_the_last_step_and_everything_by_it(world: SetupWorld) -> None:
    before = await world.effects()
    view = await world.setup.show()
    for number, answer in enumerate(TO_THE_END):
        view = await world.setup.answer(view.session_id, answer)
        assert await world.effects() == before and world.options.values == {}, answer
        assert world.runes.made == 0
        assert (view.next_step is None) == (number == len(TO_THE_END) - 1)
    will = view.question.facts["will"]
    for word in ("conservative", "max_fee_ppm 2500", NPUBS[1], "fee doctor", NPUBS[0], "14 days"):
        assert any(word in line for line in will), (word, will)
    assert not any("secret-path" in line for line in will)
    done = await world.setup.answer(view.session_id, "confirm")
    assert (done.done, done.step, [part.state for part in done.report]) == (True, "done", ["done"] * 4)
    after = await world.effects()
    assert (after["preset"], after["limits"]) == ("conservative", {"max_fee_ppm": 2_500})
    assert (after["advisors"], after["credentials"], after["trials"]) == (["fee doctor"], 1, 1)
    assert sorted(after["receipts"]) == ["authorize", "policy_setup", "setup", "trial_start"]
    assert world.options.values == {"alert-nostr-dm": NPUBS[1], "alert-webhook": HOOK}
    # A confirm sent twice does nothing twice.
    assert (await world.setup.answer(view.session_id, "confirm")).report == done.report
    assert await world.effects() == after
    assert b"secret-path" not in await world.db.read(
        lambda tx: (
            tx.execute("SELECT group_concat(answers_json || report_json) FROM comms_setup")
            .fetchone()[0]
            .encode()
        )
    )
    assert (await world.receipts.verify()).ok


async def test_a_session_survives_a_restart_at_every_step(world: SetupWorld) -> None:
    view = await world.setup.show()
    for answer in TO_THE_END:
        view = await world.setup.answer(view.session_id, answer)
        await world.restart()
        assert await world.setup.show() == await world.setup.show(view.session_id) == view
    assert (await world.setup.answer(view.session_id, "confirm")).done
    assert (await world.effects())["credentials"] == 1


async def test_back_and_cancel(world: SetupWorld) -> None:
    before = await world.effects()
    last = await world.answered(*TO_THE_END)
    steps = [last.step]
    while steps[-1] != "self-check":
        steps.append((await world.setup.answer(last.session_id, "BACK")).step)
    assert steps == [
        *("confirm", "trial", "advisor", "alerts", "payment", "limits", "preset", "need", "self-check")
    ]
    with pytest.raises(InvalidParams, match="first step"):
        await world.setup.answer(last.session_id, "back")
    # What was answered is answered anew on the way forth.
    view = await world.answered("again", "continue", "monitoring", "keep", "keep", "none", "keep", "skip",
                                session=last.session_id)  # fmt: skip
    assert (view.step, view.question.facts["will"]) == ("confirm", [])
    assert (await world.setup.answer(view.session_id, "cancel")).step == "cancelled"
    assert await world.effects() == before
    for attempt in (world.setup.answer(view.session_id, "confirm"), world.setup.cancel(view.session_id)):
        with pytest.raises(Conflict) as caught:
            await attempt
        assert caught.value.reason == "setup_ended"
    with pytest.raises(NotFound, match="no setup is open"):
        await world.setup.cancel()


async def test_a_session_expires_half_an_hour_after_its_last_answer(world: SetupWorld) -> None:
    first = await world.answered(*TO_THE_END[:2])
    world.now += 1_799
    second = await world.setup.answer(first.session_id, "conservative")
    assert second.expires_at == world.now + 1_800
    world.now += 1_800
    await world.restart()
    shown = await world.setup.show(first.session_id)
    assert (shown.step, shown.done) == ("expired", True)
    with pytest.raises(Conflict, match="begin anew"):
        await world.setup.answer(first.session_id, "keep")
    fresh = await world.setup.show()
    assert fresh.session_id != first.session_id and fresh.step == "self-check"
    with pytest.raises(InvalidParams, match=fresh.session_id):
        await world.setup.answer("", "continue")
    with pytest.raises(NotFound, match=fresh.session_id):
        await world.setup.answer("s-00000000", "continue")
    # The address of a webhook is gone when the time is over, whoever asks or does not ask again.
    await world.answered(*ANSWERS, session=fresh.session_id)
    stored = "SELECT group_concat(answers_json) FROM comms_setup"
    assert HOOK in await world.db.read(lambda tx: tx.execute(stored).fetchone()[0])
    world.now += 1_800
    await world.setup.settle()
    assert HOOK not in await world.db.read(lambda tx: tx.execute(stored).fetchone()[0])
    # Ended sessions are forgotten after a month, when another one begins.
    world.now += 31 * 86_400
    await world.setup.show()
    assert await world.count("comms_setup") == 1


@pytest.mark.parametrize(
    ("answers", "bad", "error"),
    [
        ((), "fees", InvalidParams),
        (("continue",), "power", InvalidParams),
        (ANSWERS[:2], "reckless", InvalidParams),
        (ANSWERS[:3], "max_fee_ppm=10,min_fee_ppm=20", InvalidParams),
        (ANSWERS[:3], "max_fee_ppm=1000001", InvalidParams),
        (ANSWERS[:4], "cashu", Unsupported),
        (ANSWERS[:5], "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5", InvalidParams),
        (ANSWERS[:5], "http://alerts.example/x", InvalidParams),
        (ANSWERS, "1", NotFound),
        (ANSWERS, "stranger", NotFound),
        (ANSWERS, f"{NPUBS[0]} all", InvalidParams),
        (ANSWERS, f"{NPUBS[0]} 17", InvalidParams),
        (ANSWERS, NPUBS[0][:-1], InvalidParams),
        (ANSWERS, "did:cid:bagaaiera", SiblingUnavailable),
        (TO_THE_END[:-1], 6, InvalidParams),
        (TO_THE_END[:-1], "confirm", InvalidParams),
        (TO_THE_END, "yes", InvalidParams),
    ],
)
async def test_what_is_refused_leaves_the_question_open(
    world: SetupWorld, answers: tuple[str, ...], bad: object, error: type[HiveError]
) -> None:
    before = await world.answered(*answers)
    with pytest.raises(error) as caught:
        await world.setup.answer(before.session_id, bad)
    assert "nsec1" not in str(caught.value)
    assert await world.setup.show() == before


async def test_own_key_taken_names_and_look_alikes(world: SetupWorld) -> None:
    await world.service.authorize(Hire("fee doctor", npub=KEYS[2]))
    view = await world.answered(*ANSWERS)
    for bad, error in (
        (npub_encode(world.identity.pubkey), InvalidParams),
        (f"{NPUBS[0]} fee doctor", Conflict),
    ):
        with pytest.raises(error):
            await world.setup.answer(view.session_id, bad)
    asked = await world.setup.answer(view.session_id, f"{NPUBS[0]} fee d0ctor")
    assert "'fee doctor'" in asked.question.facts["warning_look_alike"]
    view = await world.setup.answer(view.session_id, "no")
    assert "'fee doctor'" in view.question.facts["warning_look_alike"]
    # Somebody who works here already is named by name, and cannot begin with a trial.
    await world.setup.answer(view.session_id, "back")
    await world.setup.answer(view.session_id, "back")
    asked = await world.setup.answer(view.session_id, "fee doctor")
    assert "works here already" in asked.question.prompt
    assert [choice.answer for choice in asked.question.choices] == ["no", "back", "cancel"]
    with pytest.raises(Conflict, match="works here already"):
        await world.setup.answer(view.session_id, "yes")
    view = await world.setup.answer(view.session_id, "no")
    assert any("replaces" in line for line in view.question.facts["will"])
    await world.setup.answer(view.session_id, "confirm")
    assert (await world.effects())["credentials"] == 1


async def test_a_policy_file_keeps_the_document_and_the_rest_goes_on(
    world: SetupWorld, tmp_path: Path
) -> None:
    file = tmp_path / "policy.json"
    file.write_text('{"policy_version": 1, "preset": "aggressive", "overrides": {}}')
    await world.policy.load("moderate", str(file))
    view = await world.answered("continue", "fees")
    assert "policy.json" in view.question.prompt
    with pytest.raises(Conflict):
        await world.setup.answer(view.session_id, "conservative")
    done = await world.answered(
        "keep", "keep", "none", "keep", NPUBS[0], "no", "confirm", session=view.session_id
    )
    assert done.done and [part.name for part in done.report] == ["advisor"]
    assert world.policy.snapshot().preset == "aggressive"


async def test_what_changed_meanwhile_refuses_all_of_it(world: SetupWorld) -> None:
    view = await world.answered(*TO_THE_END)
    await world.service.authorize(Hire(KEYS[3], "fees", trial_days=7))
    before = await world.effects()
    with pytest.raises(Conflict, match="trial"):
        await world.setup.answer(view.session_id, "confirm")
    assert await world.effects() == before and world.options.values == {}
    view = await world.answered("back", "no", session=view.session_id)
    switch = world.service._p.kill_switch
    switch.adopt(Stop(by="operator", since=NOW, reason=""))
    with pytest.raises(EmergencyStop):
        await world.setup.answer(view.session_id, "confirm")
    assert await world.effects() == before and world.options.values == {}
    switch.adopt(None)
    assert (await world.setup.answer(view.session_id, "confirm")).done


async def test_an_option_the_node_did_not_take_is_handed_over_later(world: SetupWorld) -> None:
    view = await world.answered(*TO_THE_END)
    world.options.fails = [ClnTimeout("setconfig", 30), ClnTimeout("setconfig", 30)]
    applying = await world.setup.answer(view.session_id, "confirm")
    assert (applying.step, applying.done) == ("applying", False)
    assert [part.state for part in applying.report] == ["done", "done", "owed", "owed"]
    assert (await world.effects())["credentials"] == 1
    # It is no open session any more, and while it lasts no other one begins.
    world.options.fails = [ClnTimeout("setconfig", 30), ClnTimeout("setconfig", 30)]
    assert (await world.setup.show()).session_id == view.session_id
    await world.restart()
    await world.setup.settle()
    assert world.options.values == {"alert-nostr-dm": NPUBS[1], "alert-webhook": HOOK}
    assert (await world.setup.show(view.session_id)).done
    assert (await world.setup.show()).session_id != view.session_id


async def test_an_option_the_node_refuses_is_told(world: SetupWorld) -> None:
    view = await world.answered(*TO_THE_END)
    world.options.fails = [ClnError("setconfig", -1_000, "cannot write the file")]
    done = await world.setup.answer(view.session_id, "confirm")
    assert (done.done, [part.state for part in done.report]) == (True, ["done", "done", "failed", "done"])
    assert "cannot write the file" in done.report[2].detail
    assert next(alert.code for alert in await world.alerts.recent()) == "setup_option_refused"


class Killer:
    """Ends the process at the n-th point: before and after each write and each call of the node."""

    def __init__(self, world: SetupWorld, at: int) -> None:
        self.left = at
        for owner, name in ((world.db, "write"), (world.runes, "offer"), (world.options, "set")):
            setattr(owner, name, self._watched(getattr(owner, name)))

    def _watched(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def watched(*args: Any, **named: Any) -> Any:
            self._point()
            answer = await call(*args, **named)
            self._point()
            return answer

        return watched

    def _point(self) -> None:
        # Once dead it stays dead: what would run afterwards in the same process does not.
        if self.left <= 0:
            raise Crash
        self.left -= 1


@pytest.mark.parametrize("answers", [TO_THE_END, (*ANSWERS, "skip")], ids=["with-advisor", "without"])
async def test_killed_anywhere_in_the_last_step_it_is_all_or_nothing(
    tmp_path: Path, answers: tuple[str, ...]
) -> None:
    whole: dict[str, Any] | None = None
    outcomes = set()
    for at in range(60):
        directory = tmp_path / str(at)
        directory.mkdir()
        world = await SetupWorld(directory).start()
        view = await world.answered(*answers)
        nothing = await world.effects()
        killer = Killer(world, at)
        try:
            await world.setup.answer(view.session_id, "confirm")
            died = False
        except Crash:
            died = True
        killer.left = 1_000
        node_took = dict(world.options.values)
        del world.options.set
        await world.restart()
        after = await world.effects()
        if after == nothing:
            assert node_took == {}, at
            assert (await world.setup.show(view.session_id)).step == "confirm"
        await world.setup.settle()
        shown = await world.setup.show(view.session_id)
        if after != nothing:
            assert shown.done, at
        # Confirmed again, whatever the first time came to: it is done, once.
        done = await world.setup.answer(view.session_id, "confirm")
        final = await world.effects()
        assert done.done and (after in (nothing, final)), at
        whole = whole or final
        assert final == whole, at
        assert world.options.values == {"alert-nostr-dm": NPUBS[1], "alert-webhook": HOOK}
        assert (await world.receipts.verify()).ok
        outcomes.add(after == nothing)
        world.db.close()
        if not died:
            break
    assert not died and outcomes == {True, False}


async def test_memory_follows_what_was_committed(world: SetupWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that went away while its transaction ran must not leave a policy that nobody applies."""
    view = await world.answered(*ANSWERS, "skip")
    original = world.db.write
    calls = 0

    async def gone(body: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        result = await original(body, **more)
        if calls == 1:
            raise Crash
        return result

    monkeypatch.setattr(world.db, "write", gone)
    with pytest.raises(Crash):
        await world.setup.answer(view.session_id, "confirm")
    assert world.policy.snapshot().preset == "conservative"
    assert (await world.setup.show(view.session_id)).step == State.APPLYING
